//! The allocator against a model that remembers each frame.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn range(start: u64, end: u64) -> Range<HostPhys> {
    Range {
        start: HostPhys::new(start),
        end: HostPhys::new(end),
    }
}

fn with_regions(regions: &[(u64, u64)]) -> FrameAllocator<'static> {
    let mut frames = FrameAllocator::new();
    for &(start, end) in regions {
        let region = range(start, end);
        let metadata = vec![u64::MAX; FrameAllocator::metadata_words(region)].leak();
        frames.add_region(region, metadata).expect("a region");
    }
    frames
}

#[test]
fn metadata_is_a_small_part_of_the_memory() {
    let words = FrameAllocator::metadata_words(range(0, 64 * GIB)) as u64;
    assert!(words * 8 < 64 * GIB / 8192);
}

#[test]
fn pages_of_each_size_are_aligned_to_it() {
    let mut frames = with_regions(&[(0x1000, 0x9f000), (MIB, 4 * GIB)]);
    for size in PageSize::LARGEST_FIRST {
        let page = frames.allocate(size, Placement::Anywhere).expect("a page");
        assert!(page.is_aligned(size));
        assert_eq!(frames.free(page, size), Ok(()));
    }
}

#[test]
fn low_memory_is_given_out_last_and_can_be_asked_for() {
    let mut frames = with_regions(&[(0x1000, 0x9f000), (MIB, 2 * MIB)]);
    let low = frames.allocate(PageSize::Size4K, Placement::Below(HostPhys::new(MIB)));
    assert!(low.expect("low memory").as_u64() < 0x9f000);
    for _ in 0..256 {
        let page = frames
            .allocate(PageSize::Size4K, Placement::Anywhere)
            .expect("a page");
        assert!(page.as_u64() >= MIB);
    }
    let page = frames
        .allocate(PageSize::Size4K, Placement::Anywhere)
        .expect("low memory");
    assert!(page.as_u64() < MIB);
}

#[test]
fn a_run_below_a_limit_may_come_from_a_block_that_crosses_it() {
    let mut frames = with_regions(&[(4 * GIB, 8 * GIB)]);
    let limit = HostPhys::new(4 * GIB + 16 * MIB);
    let run = frames.allocate_run(12 * MIB, PageSize::Size2M, Placement::Below(limit));
    assert_eq!(run, Some(HostPhys::new(4 * GIB)));
    assert_eq!(
        frames.allocate_run(16 * MIB, PageSize::Size4K, Placement::Below(limit)),
        None,
        "only 4 MiB are left there"
    );
}

#[test]
fn what_a_run_does_not_need_stays_free() {
    let mut frames = with_regions(&[(0, 16 * MIB)]);
    let run = frames
        .allocate_run(5 * MIB, PageSize::Size4K, Placement::Anywhere)
        .expect("a run");
    assert_eq!(frames.statistics().free, 11 * 256);
    assert_eq!(frames.free_run(run, 5 * MIB), Ok(()));
    assert_eq!(
        frames.statistics().free_blocks[12],
        1,
        "all joined to one block of 16 MiB"
    );
}

#[test]
fn a_double_free_is_an_error_and_changes_nothing() {
    let mut frames = with_regions(&[(0, 4 * MIB)]);
    let page = frames
        .allocate(PageSize::Size2M, Placement::Anywhere)
        .expect("a page");
    assert_eq!(frames.free_run(page.wrapping_add(0x5000), 0x1000), Ok(()));
    let before = *frames.statistics();
    assert_eq!(
        frames.free(page.wrapping_add(0x5000), PageSize::Size4K),
        Err(FreeError::NotAllocated(page.wrapping_add(0x5000)))
    );
    assert_eq!(
        frames.free(page, PageSize::Size2M),
        Err(FreeError::NotAllocated(page))
    );
    assert_eq!(*frames.statistics(), before);
}

#[test]
fn foreign_frames_are_refused() {
    let mut frames = with_regions(&[(MIB, 2 * MIB), (2 * MIB, 3 * MIB)]);
    let free = |frames: &mut FrameAllocator<'_>, start, bytes| {
        frames.free_run(HostPhys::new(start), bytes)
    };
    assert_eq!(
        free(&mut frames, 0, 0x1000),
        Err(FreeError::Foreign(HostPhys::new(0)))
    );
    assert_eq!(
        free(&mut frames, 3 * MIB, 0x1000),
        Err(FreeError::Foreign(HostPhys::new(3 * MIB)))
    );
    assert_eq!(
        free(&mut frames, 2 * MIB - 0x1000, 0x2000),
        Err(FreeError::Foreign(HostPhys::new(2 * MIB)))
    );
    assert_eq!(
        free(&mut frames, MIB + 8, 0x1000),
        Err(FreeError::Misaligned(HostPhys::new(MIB + 8)))
    );
    assert_eq!(
        free(&mut frames, u64::MAX - 0xfff, u64::MAX),
        Err(FreeError::Foreign(HostPhys::new(u64::MAX - 0xfff)))
    );
}

#[test]
fn overlapping_regions_and_short_metadata_are_refused() {
    let mut frames = with_regions(&[(MIB, 2 * MIB)]);
    let mut add = |start, end, words| frames.add_region(range(start, end), vec![0; words].leak());
    assert_eq!(
        add(MIB + 0x1000, MIB + 0x2000, 100),
        Err(RegionError::Overlap)
    );
    assert_eq!(add(0, MIB + 0x1000, 100), Err(RegionError::Overlap));
    assert_eq!(add(0, 4 * MIB, 100), Err(RegionError::Overlap));
    assert_eq!(add(0, MIB, 1), Err(RegionError::MetadataTooSmall));
    assert_eq!(add(0x10, 0xfff, 0), Ok(()), "no whole frame: nothing to do");
    assert_eq!(add(0, MIB, 100), Ok(()));
}

#[derive(Clone, Debug)]
enum Step {
    Allocate {
        bytes: u64,
        alignment: PageSize,
        placement: Placement,
    },
    Free {
        which: usize,
    },
    FreePart {
        which: usize,
        from: u64,
        bytes: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![Just(1u64), 0x1000u64..0x8000, Just(2 * MIB), MIB..3 * MIB];
    let size = prop_oneof![Just(PageSize::Size4K), Just(PageSize::Size2M)];
    let placement = prop_oneof![
        3 => Just(Placement::Anywhere),
        1 => (0u64..12 * MIB).prop_map(|limit| Placement::Below(HostPhys::new(limit)))
    ];
    prop_oneof![
        4 => (bytes, size, placement)
            .prop_map(|(bytes, alignment, placement)| Step::Allocate { bytes, alignment, placement }),
        3 => any::<usize>().prop_map(|which| Step::Free { which }),
        1 => (any::<usize>(), any::<u64>(), any::<u64>())
            .prop_map(|(which, from, bytes)| Step::FreePart { which, from, bytes }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn nothing_overlaps_nothing_leaks_and_all_of_it_coalesces(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let regions = [(0x3000, 0x9f000), (MIB, 5 * MIB + 0x7000), (6 * MIB, 22 * MIB)];
        let mut frames = with_regions(&regions);
        let fresh = *frames.statistics();
        // Start and length of each live run; lengths are whole frames.
        let mut live: BTreeMap<u64, u64> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Allocate { bytes, alignment, placement } => {
                    let Some(run) = frames.allocate_run(bytes, alignment, placement) else {
                        continue;
                    };
                    let (start, bytes) = (run.as_u64(), bytes.next_multiple_of(0x1000));
                    prop_assert!(run.is_aligned(alignment));
                    if let Placement::Below(limit) = placement {
                        prop_assert!(start + bytes <= limit.as_u64());
                    }
                    prop_assert!(
                        regions.iter().any(|&(first, end)| first <= start && start + bytes <= end)
                    );
                    let before = live.range(..=start).next_back();
                    prop_assert!(before.is_none_or(|(&first, &length)| first + length <= start));
                    let after = live.range(start..).next();
                    prop_assert!(after.is_none_or(|(&first, _)| start + bytes <= first));
                    live.insert(start, bytes);
                }
                Step::Free { which } => {
                    let Some((&start, &bytes)) = live.iter().nth(which % live.len().max(1)) else {
                        continue;
                    };
                    live.remove(&start);
                    prop_assert_eq!(frames.free_run(HostPhys::new(start), bytes), Ok(()));
                    prop_assert!(frames.free_run(HostPhys::new(start), bytes).is_err());
                }
                Step::FreePart { which, from, bytes } => {
                    let Some((&start, &length)) = live.iter().nth(which % live.len().max(1)) else {
                        continue;
                    };
                    let from = (from % length) & !0xfff;
                    let part = ((bytes % (length - from)) & !0xfff).max(0x1000);
                    live.remove(&start);
                    if from > 0 {
                        live.insert(start, from);
                    }
                    if from + part < length {
                        live.insert(start + from + part, length - from - part);
                    }
                    prop_assert_eq!(frames.free_run(HostPhys::new(start + from), part), Ok(()));
                }
            }
            let used: u64 = live.values().sum();
            prop_assert_eq!(frames.statistics().free, fresh.total - used / 0x1000);
            let in_blocks: u64 =
                frames.statistics().free_blocks.iter().enumerate().map(|(order, n)| n << order).sum();
            prop_assert_eq!(frames.statistics().free, in_blocks);
        }
        let runs: Vec<_> = live.into_iter().collect();
        for (start, bytes) in runs {
            prop_assert_eq!(frames.free_run(HostPhys::new(start), bytes), Ok(()));
        }
        prop_assert_eq!(*frames.statistics(), fresh);
    }
}
