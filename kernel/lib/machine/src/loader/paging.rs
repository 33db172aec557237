//! Identity-mapping page tables for kernels that are entered in 64-bit mode.

use memory::{GuestMemory, GuestPhys};

use super::LoadError;
use super::space::{BELOW_4G, From, Space};

const PAGE: u64 = 0x1000;
const ENTRIES: u64 = 512;
/// Page directories: 1 GiB each.
const DIRECTORIES: u64 = 4;
const PRESENT_WRITABLE: u64 = 0x3;
/// Present, writable, 2 MiB page.
const LARGE: u64 = 0x83;
const LARGE_BYTES: u64 = 2 << 20;

/// Maps the first 4 GiB to themselves and returns the address for CR3. 2 MiB pages, since not every guest CPU
/// has larger ones.
pub(super) fn identity_map(
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<GuestPhys, LoadError> {
    let bytes = (2 + DIRECTORIES) * PAGE;
    let tables = space
        .place("the first page tables", bytes, PAGE, BELOW_4G, From::Bottom)?
        .start;
    let pointers = tables.wrapping_add(PAGE);
    let directories = pointers.wrapping_add(PAGE);
    memory.zero(tables, 2 * PAGE)?;
    let write = |at: GuestPhys, index: u64, entry: u64| {
        memory.write(at.wrapping_add(8 * index), &entry.to_le_bytes())
    };
    write(tables, 0, pointers.as_u64() | PRESENT_WRITABLE)?;
    for index in 0..DIRECTORIES {
        write(
            pointers,
            index,
            (directories.as_u64() + index * PAGE) | PRESENT_WRITABLE,
        )?;
    }
    for index in 0..DIRECTORIES * ENTRIES {
        write(directories, index, (index * LARGE_BYTES) | LARGE)?;
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeMemory;
    use super::*;
    use crate::layout::MachineLayout;

    #[test]
    fn every_address_below_4_gib_maps_to_itself() {
        let memory = FakeMemory::new(1 << 20);
        memory
            .write(GuestPhys::new(0x1000), &[0xff; 0x6000])
            .unwrap();
        let mut space = Space::new(&MachineLayout::new(1 << 20, 1));
        let cr3 = identity_map(&memory, &mut space).unwrap();
        let entry = |table: u64, index: u64| {
            memory
                .read_u64(GuestPhys::new((table & !0xfff) + 8 * index))
                .unwrap()
        };
        for address in [0u64, 0x1234_5678, 0xffff_ffff, 0x8000_0000] {
            let pml4e = entry(cr3.as_u64(), address >> 39);
            let pdpte = entry(pml4e, address >> 30 & 511);
            let pde = entry(pdpte, address >> 21 & 511);
            assert_eq!((pml4e & 0xfff, pdpte & 0xfff, pde & 0xfff), (3, 3, 0x83));
            assert_eq!(pde & !0xfff | address & 0x1f_ffff, address);
        }
        assert_eq!(entry(cr3.as_u64(), 1), 0);
        assert_eq!(entry(entry(cr3.as_u64(), 0), 4), 0);
    }
}
