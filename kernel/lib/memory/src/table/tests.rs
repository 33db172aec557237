//! The tables against a model map, and against a walker that looks at every intermediate state.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

/// A format of its own: bit 0 present, bit 1 leaf, bits 2 and 3 flags, frame from bit 12.
#[derive(Debug)]
struct Toy;

impl Format for Toy {
    type Flags = u8;
    const LEVELS: u8 = 4;
    const UPPER_BITS: UpperBits = UpperBits::SignExtended;

    fn table_entry(table: HostPhys) -> u64 {
        table.as_u64() | 1
    }

    fn leaf_entry(frame: HostPhys, size: PageSize, flags: u8) -> u64 {
        assert!(frame.is_aligned(size));
        frame.as_u64() | 3 | u64::from(flags & 3) << 2
    }

    fn decode(entry: u64, level: u8) -> Entry<u8> {
        let frame = HostPhys::new(entry & !0xfff);
        match entry & 3 {
            0 => Entry::Empty,
            1 => {
                assert!(level > 1, "a table below level 1");
                Entry::Table(frame)
            }
            _ => Entry::Leaf {
                frame,
                flags: (entry >> 2 & 3) as u8,
            },
        }
    }
}

/// Tables in a map, with a log of all writes.
#[derive(Clone, Default)]
struct Fake {
    tables: BTreeMap<u64, Vec<u64>>,
    next: u64,
    limit: usize,
    log: Vec<(u64, usize, u64)>,
}

impl Fake {
    fn new() -> Self {
        Self {
            limit: usize::MAX,
            next: 0x1000,
            ..Self::default()
        }
    }
}

impl TableMemory for Fake {
    fn read_entry(&self, table: HostPhys, index: usize) -> u64 {
        self.tables[&table.as_u64()][index]
    }

    fn write_entry(&mut self, table: HostPhys, index: usize, entry: u64) {
        self.log.push((table.as_u64(), index, entry));
        self.tables.get_mut(&table.as_u64()).expect("a live table")[index] = entry;
    }

    fn allocate_table(&mut self) -> Option<HostPhys> {
        if self.tables.len() >= self.limit {
            return None;
        }
        let table = self.next;
        self.next += 0x1000;
        self.tables.insert(table, vec![0; ENTRIES]);
        Some(HostPhys::new(table))
    }

    fn free_table(&mut self, table: HostPhys) {
        self.tables
            .remove(&table.as_u64())
            .expect("freed once, and a table");
    }
}

/// Replays a log of writes over a start state in which freed tables stay readable and new ones are zero,
/// and calls `look` after each.
fn replay(before: &Fake, after: &Fake, mut look: impl FnMut(&Fake)) {
    let mut state = before.clone();
    for table in (before.next..after.next).step_by(0x1000) {
        state.tables.insert(table, vec![0; ENTRIES]);
    }
    for &(table, index, entry) in &after.log[before.log.len()..] {
        state.tables.get_mut(&table).expect("a table")[index] = entry;
        look(&state);
    }
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn hpa(address: u64) -> HostPhys {
    HostPhys::new(address)
}

#[test]
fn the_largest_page_that_alignment_allows_is_used() {
    let mut memory = Fake::new();
    let mut tables = Tables::<Toy>::new(&mut memory).unwrap();
    let start = GIB - 2 * MIB - 0x1000;
    let effect = tables
        .map(&mut memory, start, hpa(start), 2 * GIB, 1, PageSize::Size1G)
        .expect("mapped");
    assert_eq!(effect, TlbEffect::None);
    let size = |address| tables.translate(&memory, address).unwrap().size;
    assert_eq!(size(start), PageSize::Size4K);
    assert_eq!(size(GIB - 2 * MIB), PageSize::Size2M);
    assert_eq!(size(GIB), PageSize::Size1G);
    assert_eq!(size(2 * GIB), PageSize::Size2M);
    assert_eq!(size(start + 2 * GIB - 1), PageSize::Size4K);
    assert_eq!(tables.translate(&memory, start + 2 * GIB), None);
    assert_eq!(tables.translate(&memory, start - 1), None);
}

#[test]
fn every_page_is_shown_once_with_its_size_frame_and_flags() {
    let mut memory = Fake::new();
    let mut tables = Tables::<Toy>::new(&mut memory).unwrap();
    let top = u64::MAX - 0xfff;
    for (start, frame, bytes, flags) in [
        (
            GIB - 2 * MIB - 0x1000,
            2 * GIB - 2 * MIB - 0x1000,
            GIB + 2 * MIB + 0x1000,
            1,
        ),
        (top, 0x7000, 0x1000, 2),
    ] {
        let mapped = tables.map(
            &mut memory,
            start,
            hpa(frame),
            bytes,
            flags,
            PageSize::Size1G,
        );
        assert_eq!(mapped, Ok(TlbEffect::None));
    }
    let mut seen = vec![];
    tables.for_each_page(&memory, |page| {
        seen.push((page.address, page.frame.as_u64(), page.size, page.flags));
    });
    assert_eq!(
        seen,
        [
            (
                GIB - 2 * MIB - 0x1000,
                2 * GIB - 2 * MIB - 0x1000,
                PageSize::Size4K,
                1
            ),
            (GIB - 2 * MIB, 2 * GIB - 2 * MIB, PageSize::Size2M, 1),
            (GIB, 2 * GIB, PageSize::Size1G, 1),
            (top, 0x7000, PageSize::Size4K, 2),
        ]
    );
}

#[test]
fn a_frame_that_is_not_aligned_like_its_address_gets_small_pages() {
    let mut memory = Fake::new();
    let mut tables = Tables::<Toy>::new(&mut memory).unwrap();
    let effect = tables.map(&mut memory, 0, hpa(0x1000), 4 * MIB, 0, PageSize::Size1G);
    assert_eq!(effect, Ok(TlbEffect::None));
    let found = tables.translate(&memory, 2 * MIB + 0x123).unwrap();
    assert_eq!(found.size, PageSize::Size4K);
    assert_eq!(found.address, hpa(2 * MIB + 0x1123));
}

#[test]
fn the_caller_can_forbid_large_pages() {
    let mut memory = Fake::new();
    let mut tables = Tables::<Toy>::new(&mut memory).unwrap();
    let effect = tables.map(&mut memory, 0, hpa(0), GIB, 0, PageSize::Size2M);
    assert_eq!(effect, Ok(TlbEffect::None));
    assert_eq!(tables.translate(&memory, 0).unwrap().size, PageSize::Size2M);
}

#[test]
fn mapping_the_same_again_leaves_tlbs_valid() {
    let mut memory = Fake::new();
    let mut tables = Tables::<Toy>::new(&mut memory).unwrap();
    let map = |tables: &mut Tables<Toy>, memory: &mut Fake, flags| {
        tables.map(memory, 4 * MIB, hpa(0), 2 * MIB, flags, PageSize::Size2M)
    };
    assert_eq!(map(&mut tables, &mut memory, 1), Ok(TlbEffect::None));
    assert_eq!(map(&mut tables, &mut memory, 1), Ok(TlbEffect::None));
    assert_eq!(map(&mut tables, &mut memory, 2), Ok(TlbEffect::Stale));
}

#[test]
fn the_last_page_of_the_address_space_can_be_mapped() {
    let mut memory = Fake::new();
    let mut tables = Tables::<Toy>::new(&mut memory).unwrap();
    let top = u64::MAX - 0xfff;
    let effect = tables.map(
        &mut memory,
        top - 0x1000,
        hpa(0x7000),
        0x2000,
        3,
        PageSize::Size1G,
    );
    assert_eq!(effect, Ok(TlbEffect::None));
    assert_eq!(
        tables.translate(&memory, u64::MAX).unwrap().address,
        hpa(0x8fff)
    );
    assert_eq!(
        tables.unmap(&mut memory, top - 0x1000, 0x2000),
        Ok(TlbEffect::Stale)
    );
    assert_eq!(memory.tables.len(), 1, "only the root is left");
}

#[test]
fn what_cannot_be_mapped_is_refused() {
    let mut memory = Fake::new();
    let mut tables = Tables::<Toy>::new(&mut memory).unwrap();
    let mut map = |address, frame, bytes| {
        tables.map(&mut memory, address, hpa(frame), bytes, 0, PageSize::Size1G)
    };
    assert_eq!(map(0x800, 0, 0x1000), Err(TableError::Misaligned));
    assert_eq!(map(0, 0x10, 0x1000), Err(TableError::Misaligned));
    assert_eq!(map(0, 0, 0x1001), Err(TableError::Misaligned));
    assert_eq!(map(1 << 47, 0, 0x1000), Err(TableError::OutOfRange));
    assert_eq!(
        map((1 << 47) - 0x1000, 0, 0x2000),
        Err(TableError::OutOfRange)
    );
    assert_eq!(
        map(u64::MAX - 0xfff, 0, 0x2000),
        Err(TableError::OutOfRange)
    );
    assert_eq!(
        map(0, u64::MAX - 0xfff, 0x2000),
        Err(TableError::OutOfRange)
    );
    assert_eq!(map(0, 0, 0), Ok(TlbEffect::None));
}

#[test]
fn running_out_of_tables_is_an_error_and_loses_no_table() {
    for limit in 1..6 {
        let mut memory = Fake::new();
        memory.limit = limit;
        let mut tables = Tables::<Toy>::new(&mut memory).unwrap();
        let result = tables.map(
            &mut memory,
            2 * MIB - 0x1000,
            hpa(0),
            0x2000,
            0,
            PageSize::Size4K,
        );
        assert_eq!(result.is_ok(), limit == 5, "root, 3, 2 and two of level 1");
        tables.destroy(&mut memory);
        assert!(memory.tables.is_empty());
    }
}

#[test]
fn protecting_one_page_of_a_gigabyte_splits_just_two_large_pages() {
    let mut memory = Fake::new();
    let mut tables = Tables::<Toy>::new(&mut memory).unwrap();
    let effect = tables.map(&mut memory, 0, hpa(0), GIB, 1, PageSize::Size1G);
    assert_eq!(effect, Ok(TlbEffect::None));
    let before = memory.tables.len();
    assert_eq!(
        tables.protect(&mut memory, 5 * MIB, 0x1000, |_| 2),
        Ok(TlbEffect::Stale)
    );
    assert_eq!(memory.tables.len(), before + 2);
    let at = |address| tables.translate(&memory, address).unwrap();
    assert_eq!((at(5 * MIB).flags, at(5 * MIB).size), (2, PageSize::Size4K));
    assert_eq!(
        (at(5 * MIB + 0x1000).flags, at(5 * MIB + 0x1000).size),
        (1, PageSize::Size4K)
    );
    assert_eq!((at(8 * MIB).flags, at(8 * MIB).size), (1, PageSize::Size2M));
}

#[test]
fn protecting_with_the_flags_that_are_there_changes_nothing() {
    let mut memory = Fake::new();
    let mut tables = Tables::<Toy>::new(&mut memory).unwrap();
    let effect = tables.map(&mut memory, 0, hpa(0), GIB, 1, PageSize::Size1G);
    assert_eq!(effect, Ok(TlbEffect::None));
    let writes = memory.log.len();
    assert_eq!(
        tables.protect(&mut memory, 0, 0x1000, |flags| flags),
        Ok(TlbEffect::None)
    );
    assert_eq!(memory.log.len(), writes);
}

#[derive(Clone, Debug)]
enum Step {
    Map {
        page: u64,
        frame: u64,
        pages: u64,
        flags: u8,
        largest: PageSize,
    },
    Unmap {
        page: u64,
        pages: u64,
    },
    Protect {
        page: u64,
        pages: u64,
        flags: u8,
    },
}

/// Page numbers near the edges of 2 MiB and 1 GiB pages, where everything happens.
fn pages() -> impl Strategy<Value = u64> {
    (0u64..3, 0u64..4, -2i64..3)
        .prop_map(|(gib, mib, page)| (gib * 512 * 512 + mib * 512).saturating_add_signed(page))
}

fn lengths() -> impl Strategy<Value = u64> {
    prop_oneof![
        1u64..4,
        Just(511),
        Just(512),
        Just(1024),
        Just(513),
        Just(512 * 512)
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![
        Just(PageSize::Size4K),
        Just(PageSize::Size2M),
        Just(PageSize::Size1G)
    ];
    let step = prop_oneof![
        (
            pages(),
            prop_oneof![pages(), pages().prop_map(|p| p & !511)],
            lengths(),
            0u8..4,
            size
        )
            .prop_map(|(page, frame, pages, flags, largest)| Step::Map {
                page,
                frame,
                pages,
                flags,
                largest
            }),
        (pages(), lengths()).prop_map(|(page, pages)| Step::Unmap { page, pages }),
        (pages(), lengths(), 0u8..4).prop_map(|(page, pages, flags)| Step::Protect {
            page,
            pages,
            flags
        }),
    ];
    prop::collection::vec(step, 1..8)
}

/// The translation of a page by the model: runs of pages, later runs win.
#[derive(Clone, Default)]
struct Model(Vec<(u64, u64, Change)>);

#[derive(Clone)]
enum Change {
    Map(u64, u8),
    Unmap,
    Protect(u8),
}

impl Model {
    fn at(&self, page: u64) -> Option<(u64, u8)> {
        let mut now = None;
        for (first, pages, change) in &self.0 {
            if (*first..first + pages).contains(&page) {
                now = match change {
                    Change::Map(frame, flags) => Some((frame + page - first, *flags)),
                    Change::Unmap => None,
                    Change::Protect(flags) => now.map(|(frame, _)| (frame, *flags)),
                };
            }
        }
        now
    }

    /// Pages on both sides of every edge that any run has.
    fn probes(&self) -> Vec<u64> {
        let mut probes = Vec::new();
        for &(first, pages, _) in &self.0 {
            for edge in [first, first + pages / 2, first + pages] {
                for at in [edge, edge & !511, (edge & !511) + 512] {
                    probes.extend([at.saturating_sub(1), at, at + 1]);
                }
            }
        }
        probes.sort_unstable();
        probes.dedup();
        probes
    }
}

fn page_of(tables: &Tables<Toy>, memory: &Fake, page: u64) -> Option<(u64, u8)> {
    let found = tables.translate(memory, page << 12)?;
    Some((found.address.as_u64() >> 12, found.flags))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn tables_agree_with_a_model_and_a_walker_never_sees_a_half_made_state(steps in steps()) {
        let mut memory = Fake::new();
        let mut tables = Tables::<Toy>::new(&mut memory).unwrap();
        let mut model = Model::default();
        for step in steps {
            let before = memory.clone();
            let old = model.clone();
            let effect = match step {
                Step::Map { page, frame, pages, flags, largest } => {
                    model.0.push((page, pages, Change::Map(frame, flags)));
                    tables.map(&mut memory, page << 12, hpa(frame << 12), pages << 12, flags, largest)
                }
                Step::Unmap { page, pages } => {
                    model.0.push((page, pages, Change::Unmap));
                    tables.unmap(&mut memory, page << 12, pages << 12)
                }
                Step::Protect { page, pages, flags } => {
                    model.0.push((page, pages, Change::Protect(flags)));
                    tables.protect(&mut memory, page << 12, pages << 12, |_| flags)
                }
            }.expect("enough tables");

            let probes = model.probes();
            for &page in &probes {
                let new = model.at(page);
                prop_assert_eq!(page_of(&tables, &memory, page), new, "page {:#x}", page);
                if old.at(page).is_some() && old.at(page) != new {
                    prop_assert_eq!(effect, TlbEffect::Stale);
                }
            }
            // A walker between any two stores. Long logs are sampled; their ends are always looked at.
            let stores = memory.log.len() - before.log.len();
            let mut store = 0;
            let mut torn = None;
            replay(&before, &memory, |state| {
                store += 1;
                if stores > 64 && store % (stores / 32) != 0 && stores - store > 4 && store > 4 {
                    return;
                }
                for &page in &probes {
                    let seen = page_of(&tables, state, page);
                    if seen != old.at(page) && seen != model.at(page) {
                        torn = Some((store, page, seen));
                    }
                }
            });
            prop_assert_eq!(torn, None);
        }
        let everything = 512 * GIB;
        prop_assert!(tables.unmap(&mut memory, 0, everything).is_ok());
        prop_assert_eq!(memory.tables.len(), 1, "empty tables are given back");
        tables.destroy(&mut memory);
        prop_assert!(memory.tables.is_empty());
    }
}

fn mapped(memory: &mut Fake, pages: &[(u64, u64, u64)]) -> Tables<Toy> {
    let mut tables = Tables::<Toy>::new(memory).unwrap();
    for &(address, frame, bytes) in pages {
        let mapped = tables.map(memory, address, hpa(frame), bytes, 1, PageSize::Size1G);
        assert_eq!(mapped, Ok(TlbEffect::None));
    }
    tables
}

#[test]
fn a_split_page_leads_where_it_led_whatever_a_cpu_sees_meanwhile() {
    for (address, bytes, small) in [
        (6 * MIB, 2 * MIB, PageSize::Size4K),
        (3 * GIB, GIB, PageSize::Size2M),
    ] {
        let mut memory = Fake::new();
        let mut tables = mapped(&mut memory, &[(address, 2 * address, bytes)]);
        let before = memory.clone();
        let page = tables.split(&mut memory, address + 0x12_3456, |flags| flags | 2);
        let page = page.expect("enough tables").expect("a large page");
        assert_eq!((page.address, page.flags), (address, 1));
        assert_eq!(page.frame, hpa(2 * address));
        let probes: Vec<_> = (0..512)
            .map(|part| address + part * small.bytes() + 0xabc)
            .collect();
        replay(&before, &memory, |state| {
            for &probe in &probes {
                let seen = tables.translate(state, probe).expect("never unmapped");
                assert_eq!(seen.address, hpa(probe + address));
                assert!(seen.flags == 1 || (seen.flags, seen.size) == (3, small));
            }
        });
        let now = tables.translate(&memory, address).expect("mapped");
        assert_eq!((now.flags, now.size), (3, small));
    }
}

#[test]
fn only_a_large_page_is_split_and_only_while_there_are_tables() {
    let mut memory = Fake::new();
    let mut tables = mapped(&mut memory, &[(2 * MIB, 2 * MIB, 2 * MIB), (0, 0, 0x1000)]);
    memory.limit = memory.tables.len();
    let writes = memory.log.len();
    for address in [0, 0x1000, GIB, 1 << 47, u64::MAX] {
        assert_eq!(tables.split(&mut memory, address, |flags| flags), Ok(None));
    }
    assert_eq!(
        tables.split(&mut memory, 2 * MIB, |flags| flags),
        Err(TableError::OutOfTables)
    );
    assert_eq!(memory.log.len(), writes, "nothing was changed");
}

#[test]
fn borrowed_tables_show_what_their_owner_maps_later_and_outlive_the_borrower() {
    let mut memory = Fake::new();
    let mut owner = mapped(
        &mut memory,
        &[(0, 4 * GIB, 4 * MIB), (600 * GIB, 8 * GIB, 0x1000)],
    );
    let owners = memory.tables.len();
    let mut borrower = mapped(&mut memory, &[(3 * GIB, 0x5000, 0x1000)]);
    borrower.borrow(&mut memory, &owner).expect("apart");
    assert_eq!(memory.tables.len(), owners + 4, "no table of RAM is copied");
    assert!(owner.split(&mut memory, 2 * MIB, |_| 3).unwrap().is_some());
    for address in [0, 2 * MIB + 0x5123, 600 * GIB + 1] {
        let there = owner.translate(&memory, address);
        assert!(there.is_some());
        assert_eq!(borrower.translate(&memory, address), there);
    }
    let own = |tables: &Tables<Toy>, memory: &Fake| {
        let found = tables.translate(memory, 3 * GIB);
        found.map(|found| found.address.as_u64())
    };
    assert_eq!(own(&borrower, &memory), Some(0x5000));
    assert_eq!(own(&owner, &memory), None);

    borrower.give_back(&mut memory, &owner);
    borrower.destroy(&mut memory);
    assert_eq!(memory.tables.len(), owners + 1, "and the one of the split");
    let found = owner.translate(&memory, 2 * MIB + 0x5123).expect("mapped");
    assert_eq!(found.address, hpa(4 * GIB + 2 * MIB + 0x5123));
    owner.destroy(&mut memory);
    assert!(memory.tables.is_empty());
}

#[test]
fn what_lies_in_one_lowest_table_or_large_page_cannot_be_in_common() {
    for (mine, owners) in [
        ((0, 0, 0x1000), (0x1000, 0x1000, 0x1000)),
        ((2 * MIB, 0, 0x1000), (2 * MIB, 2 * MIB, 2 * MIB)),
        ((2 * MIB, 2 * MIB, 2 * MIB), (2 * MIB, 0, 0x1000)),
    ] {
        let mut memory = Fake::new();
        let owner = mapped(&mut memory, &[owners]);
        let mut borrower = mapped(&mut memory, &[mine]);
        assert_eq!(
            borrower.borrow(&mut memory, &owner),
            Err(TableError::OutOfRange)
        );
    }
}
