//! The boot loader's memory map, as [`host::MemoryMap`].

use bootloader_api::BootInfo;
use bootloader_api::info::MemoryRegionKind;
use host::{Kind, MemoryMap, Region};
use memory::{HostPhys, PageSize, Range};

/// Copies the map, since it lies in memory that is given away later. Page 0 is reserved from the start: its
/// address is too easily one by mistake.
pub(crate) fn from_boot_info(boot_info: &BootInfo) -> MemoryMap {
    let mut map = MemoryMap::new();
    for region in boot_info.memory_regions.iter() {
        let kind = match region.kind {
            MemoryRegionKind::Usable => Kind::Usable,
            MemoryRegionKind::Bootloader => Kind::Loader,
            // UEFI specification, Memory Type Usage: 11 and 12 are memory-mapped I/O, 8 is broken, 0
            // unknown.
            MemoryRegionKind::UnknownUefi(kind) if !matches!(kind, 0 | 8 | 11 | 12) => {
                Kind::Firmware
            }
            // ACPI specification, Address Range Types: 3 and 4 are the firmware's tables.
            MemoryRegionKind::UnknownBios(3 | 4) => Kind::Firmware,
            _ => Kind::Other,
        };
        let range = Range {
            start: HostPhys::new(region.start),
            end: HostPhys::new(region.end),
        };
        if map.add(Region { range, kind }).is_err() {
            log::warn!(target: "memory", "the memory map is too long; {range} and what follows is not used");
            break;
        }
    }
    reserve(
        &mut map,
        Range {
            start: HostPhys::new(0),
            end: HostPhys::new(PageSize::Size4K.bytes()),
        },
    );
    map
}

/// Keeps `range` out of the frame allocator.
pub(crate) fn reserve(map: &mut MemoryMap, range: Range<HostPhys>) {
    // The image and the bundle are a handful of pieces; to go on without a reservation would be to
    // overwrite something.
    assert!(
        map.reserve(range).is_ok(),
        "too many separate pieces of memory are in use"
    );
}
