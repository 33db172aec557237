//! Guest memory over a vector, for the tests of the loaders.

use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use memory::{GuestMemory, GuestPhys, Range, Unbacked};

use crate::layout::{MachineLayout, RegionKind};

/// RAM from 0 on; every write outside it is refused.
pub(crate) struct FakeMemory {
    bytes: RefCell<Vec<u8>>,
    /// Where writes are taken; anywhere if empty.
    writable: Vec<Range<GuestPhys>>,
}

impl FakeMemory {
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            bytes: RefCell::new(vec![0; bytes]),
            writable: Vec::new(),
        }
    }

    /// That of a machine, which takes no writes to what its memory map reserves.
    pub(super) fn of(layout: &MachineLayout) -> Self {
        let map = layout.memory_map();
        let ram = map.iter().filter(|region| region.kind == RegionKind::Ram);
        Self {
            writable: ram.map(|region| region.range).collect(),
            ..Self::new(layout.ram_bytes() as usize)
        }
    }

    pub(crate) fn bytes(&self, at: u64, count: usize) -> Vec<u8> {
        self.bytes.borrow()[at as usize..][..count].to_vec()
    }

    /// The zero-terminated string at an address.
    pub(super) fn string(&self, at: u64) -> Vec<u8> {
        self.bytes.borrow()[at as usize..]
            .iter()
            .copied()
            .take_while(|&byte| byte != 0)
            .collect()
    }
}

impl GuestMemory for FakeMemory {
    fn read(&self, gpa: GuestPhys, buffer: &mut [u8]) -> Result<(), Unbacked> {
        let memory = self.bytes.borrow();
        let from = memory.get(gpa.as_u64() as usize..).ok_or(Unbacked(gpa))?;
        buffer.copy_from_slice(from.get(..buffer.len()).ok_or(Unbacked(gpa))?);
        Ok(())
    }

    fn write(&self, gpa: GuestPhys, bytes: &[u8]) -> Result<(), Unbacked> {
        let count = bytes.len() as u64;
        let mut writable = self.writable.iter();
        if !self.writable.is_empty() && !writable.any(|ram| ram.contains_span(gpa, count)) {
            return Err(Unbacked(gpa));
        }
        let mut memory = self.bytes.borrow_mut();
        let to = memory
            .get_mut(gpa.as_u64() as usize..)
            .ok_or(Unbacked(gpa))?;
        to.get_mut(..bytes.len())
            .ok_or(Unbacked(gpa))?
            .copy_from_slice(bytes);
        Ok(())
    }

    fn compare_exchange_u64(
        &self,
        gpa: GuestPhys,
        current: u64,
        new: u64,
    ) -> Result<u64, Unbacked> {
        let old = self.read_u64(gpa)?;
        if old == current {
            self.write(gpa, &new.to_le_bytes())?;
        }
        Ok(old)
    }

    fn compare_exchange_u32(
        &self,
        gpa: GuestPhys,
        current: u32,
        new: u32,
    ) -> Result<u32, Unbacked> {
        let old = self.read_u32(gpa)?;
        if old == current {
            self.write(gpa, &new.to_le_bytes())?;
        }
        Ok(old)
    }
}

/// One segment of an ELF file that [`elf`] makes.
pub(super) struct FakeSegment<'a> {
    pub(super) kind: u32,
    pub(super) virtual_address: u64,
    pub(super) physical_address: u64,
    pub(super) memory_bytes: u64,
    pub(super) contents: &'a [u8],
}

/// An ELF file of class 1 (32 bits) or 2 (64 bits).
pub(super) fn elf(class: u8, entry: u64, segments: &[FakeSegment<'_>]) -> Vec<u8> {
    let (word, header_bytes, entry_bytes) = if class == 1 { (4, 52, 32) } else { (8, 64, 56) };
    let mut file = b"\x7fELF".to_vec();
    file.extend([class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let machine: u16 = if class == 1 { 3 } else { 62 };
    file.extend([2, 0]);
    file.extend(machine.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    for value in [entry, header_bytes, 0] {
        file.extend(&value.to_le_bytes()[..word]);
    }
    file.extend([0; 4]);
    for value in [header_bytes, entry_bytes, segments.len() as u64, 0, 0, 0] {
        file.extend((value as u16).to_le_bytes());
    }
    let mut at = header_bytes + entry_bytes * segments.len() as u64;
    for segment in segments {
        let size = segment.contents.len() as u64;
        let [virt, phys, mem] = [
            segment.virtual_address,
            segment.physical_address,
            segment.memory_bytes,
        ];
        file.extend(segment.kind.to_le_bytes());
        if class == 1 {
            for value in [at, virt, phys, size, mem, 7, 4] {
                file.extend((value as u32).to_le_bytes());
            }
        } else {
            file.extend(7u32.to_le_bytes());
            for value in [at, virt, phys, size, mem, 4] {
                file.extend(value.to_le_bytes());
            }
        }
        at += size;
    }
    for segment in segments {
        file.extend(segment.contents);
    }
    file
}
