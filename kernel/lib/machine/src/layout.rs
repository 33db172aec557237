//! [`MachineLayout`]: where things lie in a guest's physical address space.
//!
//! | addresses                 | what                                                        |
//! |---------------------------|-------------------------------------------------------------|
//! | 0 to 640 KiB              | RAM; the last KiB is kept as firmware keeps its data area   |
//! | 640 KiB to 896 KiB        | where a PC has its display and option ROMs                  |
//! | 896 KiB to 1 MiB          | where a PC has its BIOS: ACPI and SMBIOS                    |
//! | 1 MiB to 3 GiB at most    | RAM                                                         |
//! | 0xc000_0000               | window for the memory of PCI devices                        |
//! | 0xe000_0000               | PCI Express configuration space (ECAM)                      |
//! | 0xf000_0000               | second window for PCI devices                               |
//! | 0xfec0_0000, 0xfee0_0000  | I/O APIC, local APICs                                       |
//! | from 4 GiB                | the rest of RAM                                             |

use arrayvec::ArrayVec;
use memory::{GuestPhys, PageSize, Range};

const fn range(start: u64, end: u64) -> Range<GuestPhys> {
    Range {
        start: GuestPhys::new(start),
        end: GuestPhys::new(end),
    }
}

/// The last KiB of conventional memory, which firmware keeps for itself (EBDA).
pub const EBDA: Range<GuestPhys> = range(0x9_fc00, 0xa_0000);
/// Display memory and option ROMs.
pub const DISPLAY: Range<GuestPhys> = range(0xa_0000, 0xe_0000);
/// Where a PC has its BIOS; here the ACPI tables are, and the RSDP where a search for it starts.
pub const BIOS: Range<GuestPhys> = range(0xe_0000, 0x10_0000);
/// Everything from the end of low RAM to 4 GiB: no RAM, only devices.
pub const DEVICES: Range<GuestPhys> = range(LOW_RAM_LIMIT, HIGH_RAM);
/// The first window for the memory of PCI devices.
pub const PCI_WINDOW_LOW: Range<GuestPhys> = range(0xc000_0000, 0xe000_0000);
/// PCI Express configuration space: 1 MiB for each of 256 buses.
pub const ECAM: Range<GuestPhys> = range(0xe000_0000, 0xf000_0000);
/// The second window for the memory of PCI devices.
pub const PCI_WINDOW_HIGH: Range<GuestPhys> = range(0xf000_0000, 0xfec0_0000);
/// The I/O APIC.
pub const IOAPIC: Range<GuestPhys> = range(0xfec0_0000, 0xfec0_1000);
/// The local APICs, where IA32_APIC_BASE has them after a reset.
pub const LOCAL_APIC: Range<GuestPhys> = range(0xfee0_0000, 0xfee0_1000);

/// RAM below this address; what does not fit goes above 4 GiB.
const LOW_RAM_LIMIT: u64 = 0xc000_0000;
/// Where the rest of RAM starts.
const HIGH_RAM: u64 = 0x1_0000_0000;

/// What a range of the memory map is, numbered as E820 and PVH number it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum RegionKind {
    /// RAM that is free to use.
    Ram = 1,
    /// Not to be touched.
    Reserved = 2,
}

/// One range of the memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// Where.
    pub range: Range<GuestPhys>,
    /// What.
    pub kind: RegionKind,
}

/// The memory map that a guest is told, sorted by address, without overlap.
pub type MemoryMap = ArrayVec<Region, 8>;

/// The size of a machine, and what follows from it for the address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MachineLayout {
    ram_bytes: u64,
    cpus: u32,
}

impl MachineLayout {
    /// A machine with this much RAM, rounded down to whole pages, and this many CPUs.
    pub const fn new(ram_bytes: u64, cpus: u32) -> Self {
        Self {
            ram_bytes: ram_bytes & !(PageSize::Size4K.bytes() - 1),
            cpus,
        }
    }

    /// Bytes of RAM.
    pub const fn ram_bytes(&self) -> u64 {
        self.ram_bytes
    }

    /// Number of CPUs; their APIC IDs count from 0.
    pub const fn cpus(&self) -> u32 {
        self.cpus
    }

    /// RAM below 4 GiB, from 0 on. All of it is backed by memory, the parts that the memory map reserves
    /// included.
    pub const fn low_ram(&self) -> Range<GuestPhys> {
        range(
            0,
            if self.ram_bytes < LOW_RAM_LIMIT {
                self.ram_bytes
            } else {
                LOW_RAM_LIMIT
            },
        )
    }

    /// RAM above 4 GiB; may be empty.
    pub const fn high_ram(&self) -> Range<GuestPhys> {
        range(
            HIGH_RAM,
            HIGH_RAM.saturating_add(self.ram_bytes.saturating_sub(LOW_RAM_LIMIT)),
        )
    }

    /// The memory map that the guest is told.
    pub fn memory_map(&self) -> MemoryMap {
        let mut map = MemoryMap::new();
        let low_end = self.low_ram().end.as_u64();
        let candidates = [
            (range(0, EBDA.start.as_u64().min(low_end)), RegionKind::Ram),
            (EBDA, RegionKind::Reserved),
            (BIOS, RegionKind::Reserved),
            (range(BIOS.end.as_u64(), low_end), RegionKind::Ram),
            (ECAM, RegionKind::Reserved),
            (self.high_ram(), RegionKind::Ram),
        ];
        for (range, kind) in candidates {
            if !range.is_empty() {
                map.push(Region { range, kind });
            }
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn ram(layout: &MachineLayout) -> u64 {
        layout
            .memory_map()
            .iter()
            .filter(|region| region.kind == RegionKind::Ram)
            .map(|region| region.range.len())
            .sum()
    }

    #[test]
    fn a_small_machine_has_all_its_ram_below_the_hole() {
        let layout = MachineLayout::new(512 * MIB, 1);
        assert_eq!(layout.low_ram().len(), 512 * MIB);
        assert!(layout.high_ram().is_empty());
        // What is lost lies between 640 KiB - 1 KiB and 1 MiB.
        assert_eq!(ram(&layout), 512 * MIB - (MIB - 0x9fc00));
    }

    #[test]
    fn a_large_machine_has_the_rest_above_4_gib() {
        let layout = MachineLayout::new(5 * GIB, 1);
        assert_eq!(layout.low_ram().end, GuestPhys::new(3 * GIB));
        assert_eq!(layout.high_ram().start, GuestPhys::new(4 * GIB));
        assert_eq!(layout.high_ram().end, GuestPhys::new(6 * GIB));
    }

    #[test]
    fn the_map_is_sorted_and_free_of_overlap() {
        for bytes in [
            4096,
            MIB,
            2 * MIB,
            3 * GIB,
            3 * GIB + 4096,
            64 * GIB,
            u64::MAX,
        ] {
            let map = MachineLayout::new(bytes, 1).memory_map();
            for pair in map.windows(2) {
                assert!(
                    pair[0].range.end <= pair[1].range.start,
                    "{bytes:#x}: {map:?}"
                );
            }
        }
    }
}
