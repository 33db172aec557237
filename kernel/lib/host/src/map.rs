//! The machine's memory map, and what of it is in use before the frame allocator gets it.

use arrayvec::ArrayVec;
use memory::{HostPhys, PageSize, Range};

/// Regions of a memory map, neighbours of one kind counted as one. UEFI of large machines reports some hundreds.
pub const MAX_REGIONS: usize = 512;
/// Separate ranges that can be in use.
pub const MAX_RESERVED: usize = 128;

/// What may be done with a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Free RAM.
    Usable,
    /// RAM that the boot loader has used: free once nothing of the loader is needed any more.
    Loader,
    /// RAM that belongs to the firmware: its tables and run-time code.
    Firmware,
    /// Not RAM, or nobody knows.
    Other,
}

/// A region of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// Where it is.
    pub range: Range<HostPhys>,
    /// What it is.
    pub kind: Kind,
}

/// There is no room for another region or range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooMany;

/// All that is known of physical memory. It is large (some 14 KiB).
#[derive(Debug, Default)]
pub struct MemoryMap {
    regions: ArrayVec<Region, MAX_REGIONS>,
    /// Whole pages, in any order; they may overlap.
    reserved: ArrayVec<Range<HostPhys>, MAX_RESERVED>,
}

impl MemoryMap {
    /// A map of nothing.
    pub const fn new() -> Self {
        Self {
            regions: ArrayVec::new_const(),
            reserved: ArrayVec::new_const(),
        }
    }

    /// Adds a region; an empty one is ignored, and one right behind the last becomes a part of that.
    ///
    /// # Errors
    /// [`TooMany`]; the region is not added.
    pub fn add(&mut self, region: Region) -> Result<(), TooMany> {
        if region.range.is_empty() {
            return Ok(());
        }
        if let Some(last) = self.regions.last_mut()
            && last.kind == region.kind
            && last.range.end == region.range.start
        {
            last.range.end = region.range.end;
            return Ok(());
        }
        self.regions.try_push(region).map_err(|_| TooMany)
    }

    /// Keeps `range`, rounded to whole pages, from being free.
    ///
    /// # Errors
    /// [`TooMany`]; nothing has changed then.
    pub fn reserve(&mut self, range: Range<HostPhys>) -> Result<(), TooMany> {
        let start = range.start.align_down(PageSize::Size4K);
        let end = range.end.align_up(PageSize::Size4K).unwrap_or(range.end);
        if let Some(last) = self.reserved.last_mut()
            && last.end == start
        {
            last.end = end;
            return Ok(());
        }
        self.reserved
            .try_push(Range { start, end })
            .map_err(|_| TooMany)
    }

    /// The regions, in the order in which they were added.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The RAM that there is, in use or not.
    pub fn ram_bytes(&self) -> u64 {
        let ram = self
            .regions
            .iter()
            .filter(|region| region.kind != Kind::Other);
        ram.map(|region| region.range.len()).sum()
    }

    /// Whether every byte of `range` is in regions of these kinds.
    pub fn is_all(&self, kinds: &[Kind], range: Range<HostPhys>) -> bool {
        let mut at = range.start;
        while at < range.end {
            let mut regions = self.regions.iter();
            match regions.find(|region| kinds.contains(&region.kind) && region.range.contains(at)) {
                Some(region) => at = region.range.end,
                None => return false,
            }
        }
        true
    }

    /// Calls `take` with each run of whole pages in regions of this kind that is not reserved: what matters most first,
    /// as there may be more than can be managed. That is what lies where CPUs start, and then what is large.
    pub fn for_each_free(&self, kind: Kind, mut take: impl FnMut(Range<HostPhys>)) {
        const LOW: HostPhys = HostPhys::new(1 << 20);
        const BYTES: [u64; 5] = [u64::MAX, 1 << 30, 1 << 24, 1 << 18, 0];
        for [below, from] in BYTES.array_windows() {
            self.for_each_run(kind, |run| {
                let bytes = if run.start < LOW { 1 << 30 } else { run.len() };
                if (*from..*below).contains(&bytes) {
                    take(run);
                }
            });
        }
    }

    /// The same, by address.
    fn for_each_run(&self, kind: Kind, mut take: impl FnMut(Range<HostPhys>)) {
        for region in self.regions.iter().filter(|region| region.kind == kind) {
            let end = region.range.end.align_down(PageSize::Size4K);
            let mut start = region.range.start.align_up(PageSize::Size4K).unwrap_or(end);
            while start < end {
                let next = self
                    .reserved
                    .iter()
                    .filter(|reserved| reserved.end > start && reserved.start < end)
                    .min_by_key(|reserved| reserved.start);
                let free_end = next.map_or(end, |reserved| reserved.start.max(start));
                if start < free_end {
                    take(Range {
                        start,
                        end: free_end,
                    });
                }
                start = next.map_or(end, |reserved| reserved.end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const fn range(start: u64, end: u64) -> Range<HostPhys> {
        Range {
            start: HostPhys::new(start),
            end: HostPhys::new(end),
        }
    }

    fn free(map: &MemoryMap, kind: Kind) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        map.for_each_free(kind, |free| {
            found.push((free.start.as_u64(), free.end.as_u64()))
        });
        found.sort_unstable();
        found
    }

    fn pc() -> MemoryMap {
        let mut map = MemoryMap::new();
        for (start, end, kind) in [
            (0, 0x9_fc00, Kind::Usable),
            (0xf_0000, 0x10_0000, Kind::Other),
            (0x10_0000, 0x80_0000, Kind::Loader),
            (0x80_0000, 0x1ff0_0000, Kind::Usable),
            (0x1ff0_0000, 0x2000_0000, Kind::Firmware),
        ] {
            map.add(Region {
                range: range(start, end),
                kind,
            })
            .unwrap();
        }
        map
    }

    #[test]
    fn what_is_reserved_is_not_free() {
        let mut map = pc();
        map.reserve(range(0, 0x1000)).unwrap();
        map.reserve(range(0x1000_0800, 0x1000_0801)).unwrap();
        map.reserve(range(0x90_0000, 0xa0_0000)).unwrap();
        assert_eq!(
            free(&map, Kind::Usable),
            [
                (0x1000, 0x9_f000),
                (0x80_0000, 0x90_0000),
                (0xa0_0000, 0x1000_0000),
                (0x1000_1000, 0x1ff0_0000)
            ]
        );
        assert_eq!(free(&map, Kind::Loader), [(0x10_0000, 0x80_0000)]);
    }

    #[test]
    fn the_many_small_pieces_of_uefi_leave_room_for_the_large_ones() {
        let mut map = MemoryMap::new();
        let mut add = |start, end, kind| {
            map.add(Region {
                range: range(start, end),
                kind,
            })
            .unwrap();
        };
        add(0x1000, 0x9_f000, Kind::Usable);
        // Code and data of boot services in turn, and now and then a page of the firmware's.
        for page in 0..4000 {
            let kind = if page % 20 == 0 {
                Kind::Firmware
            } else {
                Kind::Usable
            };
            add(0x10_0000 + (page << 12), 0x10_1000 + (page << 12), kind);
        }
        add(0x1_0000_0000, 0x10_0000_0000, Kind::Usable);
        let mut first = Vec::new();
        map.for_each_free(Kind::Usable, |free| first.push(free.start.as_u64()));
        assert_eq!(first.len(), 202);
        assert_eq!(first[..2], [0x1000, 0x1_0000_0000]);
    }

    #[test]
    fn a_range_over_a_hole_is_not_all_memory() {
        let map = pc();
        assert!(map.is_all(&[Kind::Usable, Kind::Loader], range(0x70_0000, 0x90_0000)));
        assert!(!map.is_all(&[Kind::Usable], range(0x70_0000, 0x90_0000)));
        assert!(!map.is_all(&[Kind::Usable, Kind::Loader], range(0x9_0000, 0x11_0000)));
        assert!(!map.is_all(&[Kind::Usable], range(0x2_0000_0000, 0x2_0000_1000)));
        assert_eq!(map.ram_bytes(), 0x1ff9_fc00);
    }

    #[test]
    fn pages_in_a_row_need_one_entry() {
        let mut map = MemoryMap::new();
        for page in 0..4 * MAX_RESERVED as u64 {
            map.reserve(range(page << 12, (page + 1) << 12)).unwrap();
        }
        for page in 1..MAX_RESERVED as u64 {
            map.reserve(range(page << 40, (page << 40) + 1)).unwrap();
        }
        assert_eq!(map.reserve(range(1 << 62, (1 << 62) + 1)), Err(TooMany));
    }

    proptest! {
        #[test]
        fn every_page_is_free_once_or_reserved(reserved in prop::collection::vec((0u64..64, 0u64..8), 0..12)) {
            let mut map = MemoryMap::new();
            map.add(Region { range: range(0x800, 48 << 12), kind: Kind::Usable }).unwrap();
            for &(start, pages) in &reserved {
                map.reserve(range(start << 12, (start + pages) << 12)).unwrap();
            }
            let mut count = [0; 64];
            for (start, end) in free(&map, Kind::Usable) {
                (start >> 12..end >> 12).for_each(|page| count[page as usize] += 1);
            }
            for page in 0..64 {
                let taken = reserved.iter().any(|&(start, pages)| (start..start + pages).contains(&page));
                let expected = u64::from((1..48).contains(&page) && !taken);
                prop_assert_eq!(count[page as usize], expected, "page {}", page);
            }
        }
    }
}
