//! The machine's memory map, and what of it is in use before the frame allocator gets it.
//!
//! [`MemoryMap::from_boot_info`] copies what the boot loader says, since that lies in memory that is given away later.

use arrayvec::ArrayVec;
use bootloader_api::BootInfo;
use bootloader_api::info::MemoryRegionKind;
use memory::{HostPhys, PageSize, Range};

/// Regions of a memory map. Firmware of large machines reports some dozens.
const MAX_REGIONS: usize = 256;
/// Ranges that are in use.
const MAX_RESERVED: usize = 128;

/// What may be done with a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    /// Where it is.
    pub(crate) range: Range<HostPhys>,
    /// What it is.
    pub(crate) kind: Kind,
}

/// All that is known of physical memory.
pub(crate) struct MemoryMap {
    regions: ArrayVec<Region, MAX_REGIONS>,
    reserved: ArrayVec<Range<HostPhys>, MAX_RESERVED>,
}

impl MemoryMap {
    /// Copies the boot loader's map. Page 0 is reserved from the start: its address is too easily one by mistake.
    pub(crate) fn from_boot_info(boot_info: &BootInfo) -> Self {
        let mut map = Self { regions: ArrayVec::new(), reserved: ArrayVec::new() };
        for region in boot_info.memory_regions.iter() {
            let kind = match region.kind {
                MemoryRegionKind::Usable => Kind::Usable,
                MemoryRegionKind::Bootloader => Kind::Loader,
                // UEFI specification, Memory Type Usage: 11 and 12 are memory-mapped I/O, 8 is broken, 0 unknown.
                MemoryRegionKind::UnknownUefi(kind) if !matches!(kind, 0 | 8 | 11 | 12) => {
                    Kind::Firmware
                }
                // ACPI specification, Address Range Types: 3 and 4 are the firmware's tables.
                MemoryRegionKind::UnknownBios(3 | 4) => Kind::Firmware,
                _ => Kind::Other,
            };
            let range =
                Range { start: HostPhys::new(region.start), end: HostPhys::new(region.end) };
            if !range.is_empty() && map.regions.try_push(Region { range, kind }).is_err() {
                log::warn!(
                    "the memory map has more than {MAX_REGIONS} regions; {range} and what follows is not used"
                );
                break;
            }
        }
        map.reserve(Range {
            start: HostPhys::new(0),
            end: HostPhys::new(PageSize::Size4K.bytes()),
        });
        map
    }

    /// The regions as the firmware and the loader reported them.
    pub(crate) fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The RAM that was found, in use or not.
    pub(crate) fn ram_bytes(&self) -> u64 {
        self.regions
            .iter()
            .filter(|region| region.kind != Kind::Other)
            .map(|region| region.range.len())
            .sum()
    }

    /// Whether every byte of `range` is in regions of these kinds.
    pub(crate) fn is_all(&self, kinds: &[Kind], range: Range<HostPhys>) -> bool {
        let mut at = range.start;
        while at < range.end {
            let region = self
                .regions
                .iter()
                .find(|region| kinds.contains(&region.kind) && region.range.contains(at));
            match region {
                Some(region) => at = region.range.end,
                None => return false,
            }
        }
        true
    }

    /// Keeps `range` out of the frame allocator, rounded to whole pages.
    pub(crate) fn reserve(&mut self, range: Range<HostPhys>) {
        let end = range.end.align_up(PageSize::Size4K).unwrap_or(range.end);
        let range = Range { start: range.start.align_down(PageSize::Size4K), end };
        if let Some(last) = self.reserved.last_mut()
            && last.end == range.start
        {
            last.end = range.end;
            return;
        }
        assert!(
            self.reserved.try_push(range).is_ok(),
            "more than {MAX_RESERVED} separate pieces of memory in use"
        );
    }

    /// Calls `take` with each run of whole pages in regions of this kind that nobody uses.
    pub(crate) fn for_each_free(&self, kind: Kind, mut take: impl FnMut(Range<HostPhys>)) {
        for region in self.regions.iter().filter(|region| region.kind == kind) {
            let mut start =
                region.range.start.align_up(PageSize::Size4K).unwrap_or(region.range.end);
            let end = region.range.end.align_down(PageSize::Size4K);
            while start < end {
                // The first reserved range at or behind `start`; those may be in any order.
                let next = self
                    .reserved
                    .iter()
                    .filter(|reserved| reserved.end > start && reserved.start < end)
                    .min_by_key(|reserved| reserved.start);
                let free_end = next.map_or(end, |reserved| reserved.start.max(start));
                if start < free_end {
                    take(Range { start, end: free_end });
                }
                start = next.map_or(end, |reserved| reserved.end);
            }
        }
    }
}
