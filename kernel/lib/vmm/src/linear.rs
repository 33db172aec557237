//! A guest's memory by its own linear addresses, for instructions that are carried out in software.
//!
//! [`Linear`] takes the registers that decide translation once and then serves any number of accesses. What
//! lies at the physical address, RAM or a device, is found out per access. A fault is that of the first byte
//! that faults, and nothing is written before the last byte is known to be writable.

use arch::cpuid::{ExtendedEdx, Leaf1Edx};
use arch::linear::{CpuMode, LinearWidth, SegmentFault, Segmentation};
use arch::walk::{
    AccessKind, GuestPaging, PageFaultCode, PagingMode, Privilege, WalkFault, WalkFeatures,
};
use arch::{Cr0, Cr4, Rflags, Segment, SegmentName, Width};
use memory::{GuestMemory, GuestPhys, GuestVirt, PageSize};

use crate::cpu::Cpu;
use crate::cpuid::CpuidTable;
use crate::fault::GuestFault;
use crate::machine::Machine;

/// Why an access was not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessError {
    /// The exception that it raises.
    Fault(GuestFault),
    /// Another vCPU kept changing the tables; the instruction has to start anew.
    Retry,
}

impl From<GuestFault> for AccessError {
    fn from(fault: GuestFault) -> Self {
        Self::Fault(fault)
    }
}

/// An operand is at most so long.
const MAX_BYTES: usize = 4096;

/// The registers of one vCPU that decide what an address means.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    paging: GuestPaging,
    segmentation: Segmentation,
    alignment_checks: bool,
    /// On whose behalf an instruction's own accesses are.
    pub privilege: Privilege,
}

impl Linear {
    /// As the registers are now.
    #[inline]
    pub fn new<C: Cpu>(cpu: &C, cpuid: &CpuidTable) -> Self {
        let (cr0, cr4, efer, rflags) = (cpu.cr0(), cpu.cr4(), cpu.efer(), cpu.rflags());
        let cs = cpu.segment(SegmentName::Cs).access;
        let mode = CpuMode::new(cr0, efer, rflags, cs);
        let cpl = match mode {
            CpuMode::Real => 0,
            _ => cpu.cpl(),
        };
        let mut features = WalkFeatures::empty();
        if cpuid.extended_1_edx().contains(ExtendedEdx::PAGES_1G) {
            features |= WalkFeatures::PAGES_1G;
        }
        if cpuid.leaf_1_edx().contains(Leaf1Edx::PSE36) {
            features |= WalkFeatures::PSE36;
        }
        let paging = GuestPaging {
            cr0,
            cr3: cpu.cr3(),
            cr4,
            efer,
            rflags,
            pkru: if cr4.contains(Cr4::PKE) {
                cpu.pkru()
            } else {
                0
            },
            // Only PAE paging has them, and they are four reads of the VMCS.
            pdptes: match PagingMode::new(cr0, cr4, efer) {
                PagingMode::Pae => cpu.pdptes(),
                _ => [0; 4],
            },
            physical_bits: cpuid.physical_address_bits(),
            features,
        };
        Self {
            paging,
            segmentation: Segmentation {
                mode,
                width: LinearWidth::new(cr4),
            },
            alignment_checks: cpl == 3 && cr0.contains(Cr0::AM) && rflags.contains(Rflags::AC),
            privilege: Privilege::of_cpl(cpl),
        }
    }

    /// The mode that the CPU is in.
    pub const fn mode(&self) -> CpuMode {
        self.segmentation.mode
    }

    /// The linear address of an operand of this width at `offset`, cut to the address size, in a segment.
    ///
    /// # Errors
    /// #GP(0) or #SS(0) by segmentation, #AC where alignment is checked.
    #[inline]
    pub fn operand<C: Cpu>(
        &self,
        cpu: &C,
        name: SegmentName,
        offset: u64,
        width: Width,
        kind: AccessKind,
    ) -> Result<GuestVirt, GuestFault> {
        let segment = match (self.segmentation.mode, name) {
            (CpuMode::Long, SegmentName::Fs | SegmentName::Gs) => cpu.segment(name),
            // In 64-bit mode nothing of the others counts, and reading them has its price.
            (CpuMode::Long, _) => Segment::UNUSABLE,
            _ => cpu.segment(name),
        };
        let bytes = width.bytes() as u64;
        let gva = self
            .segmentation
            .linear(name, &segment, offset, bytes, kind)
            .map_err(|fault| match fault {
                SegmentFault::GeneralProtection => GuestFault::GP0,
                SegmentFault::Stack => GuestFault::StackFault(0),
            })?;
        if self.alignment_checks && !gva.as_u64().is_multiple_of(bytes) {
            return Err(GuestFault::AlignmentCheck);
        }
        Ok(gva)
    }

    /// The physical address behind a linear one. Accesses that cross a page ask once for each.
    ///
    /// A paging structure outside RAM reads as all ones, as memory does that is not there, and thereby has
    /// reserved bits set.
    ///
    /// # Errors
    /// #PF.
    #[inline]
    pub fn translate<G: GuestMemory>(
        &self,
        memory: &G,
        gva: GuestVirt,
        kind: AccessKind,
        privilege: Privilege,
    ) -> Result<GuestPhys, AccessError> {
        let error_code = match self.paging.translate(memory, gva, kind, privilege) {
            Ok(gpa) => return Ok(memory.on_bus(gpa)),
            Err(WalkFault::PageFault { error_code }) => error_code,
            Err(WalkFault::Unbacked(_)) => {
                let mut code = PageFaultCode::PRESENT | PageFaultCode::RESERVED;
                code.set(PageFaultCode::WRITE, kind == AccessKind::Write);
                code.set(PageFaultCode::USER, privilege == Privilege::User);
                code
            }
            Err(WalkFault::Contended) => return Err(AccessError::Retry),
        };
        let fault = GuestFault::PageFault {
            address: gva,
            error_code: error_code.bits(),
        };
        Err(AccessError::Fault(fault))
    }

    /// [`translate`](Self::translate) where nothing speaks against it at first sight, and `None` otherwise; `visit`
    /// sees the entries on the way. To be asked in 64-bit mode.
    #[inline]
    pub(crate) fn translate_simply<G: GuestMemory>(
        &self,
        memory: &G,
        gva: u64,
        kind: AccessKind,
        visit: impl FnMut(GuestPhys, u64),
    ) -> Option<GuestPhys> {
        if self.paging.cr4.contains(Cr4::LA57) {
            return None;
        }
        self.paging
            .walk_four_levels(memory, gva, kind, self.privilege, visit)
    }

    /// Reads `buffer.len()` bytes, at most a page, from `gva` on.
    ///
    /// # Errors
    /// #PF.
    pub fn read<M: Machine>(
        &self,
        machine: &mut M,
        gva: GuestVirt,
        buffer: &mut [u8],
        privilege: Privilege,
    ) -> Result<(), AccessError> {
        let pieces = self.pieces(machine, gva, buffer.len(), AccessKind::Read, privilege)?;
        let (first, second) = buffer.split_at_mut(pieces.first_bytes.min(buffer.len()));
        read_physical(machine, pieces.first, first);
        read_physical(machine, pieces.second, second);
        Ok(())
    }

    /// Writes `bytes`, at most a page, from `gva` on.
    ///
    /// # Errors
    /// #PF; nothing is written then.
    pub fn write<M: Machine>(
        &self,
        machine: &mut M,
        gva: GuestVirt,
        bytes: &[u8],
        privilege: Privilege,
    ) -> Result<(), AccessError> {
        let pieces = self.pieces(machine, gva, bytes.len(), AccessKind::Write, privilege)?;
        let (first, second) = bytes.split_at(pieces.first_bytes.min(bytes.len()));
        write_physical(machine, pieces.first, first);
        write_physical(machine, pieces.second, second);
        Ok(())
    }

    /// The start of the page behind the one that holds the address.
    pub(crate) fn next_page(&self, gva: GuestVirt) -> GuestVirt {
        let next = gva
            .align_down(PageSize::Size4K)
            .wrapping_add(PageSize::Size4K.bytes());
        match self.segmentation.mode {
            CpuMode::Long => next,
            _ => GuestVirt::new(next.as_u64() & 0xffff_ffff),
        }
    }

    /// Translates the one or two pages of an access.
    pub(crate) fn pieces<M: Machine>(
        &self,
        machine: &M,
        gva: GuestVirt,
        bytes: usize,
        kind: AccessKind,
        privilege: Privilege,
    ) -> Result<Pieces, AccessError> {
        debug_assert!(bytes <= MAX_BYTES, "an operand spans two pages at most");
        let first = self.translate(machine.memory(), gva, kind, privilege)?;
        let room = (PageSize::Size4K.bytes() - gva.page_offset(PageSize::Size4K)) as usize;
        let second = if bytes > room {
            self.translate(machine.memory(), self.next_page(gva), kind, privilege)?
        } else {
            first
        };
        Ok(Pieces {
            first,
            first_bytes: room,
            second,
        })
    }
}

/// Where an access goes: `first_bytes` bytes to `first`, what is left to `second`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pieces {
    pub(crate) first: GuestPhys,
    pub(crate) first_bytes: usize,
    pub(crate) second: GuestPhys,
}

/// Reads what lies at a physical address, RAM or devices.
pub fn read_physical<M: Machine>(machine: &mut M, gpa: GuestPhys, buffer: &mut [u8]) {
    if buffer.is_empty() || machine.memory().read(gpa, buffer).is_ok() {
        return;
    }
    let (mut at, mut rest) = (gpa, buffer);
    while let Some(width) = largest_access(at, rest.len()) {
        let (now, later) = rest.split_at_mut(width.bytes());
        if machine.memory().read(at, now).is_err() {
            let value = machine.read_mmio(at, width).to_le_bytes();
            for (byte, value) in now.iter_mut().zip(value) {
                *byte = value;
            }
        }
        (at, rest) = (at.wrapping_add(width.bytes() as u64), later);
    }
}

/// Writes what lies at a physical address, RAM or devices.
pub fn write_physical<M: Machine>(machine: &mut M, gpa: GuestPhys, bytes: &[u8]) {
    if bytes.is_empty() || machine.memory().write(gpa, bytes).is_ok() {
        return;
    }
    let (mut at, mut rest) = (gpa, bytes);
    while let Some(width) = largest_access(at, rest.len()) {
        let (now, later) = rest.split_at(width.bytes());
        if machine.memory().write(at, now).is_err() {
            let mut value = [0; 8];
            for (slot, byte) in value.iter_mut().zip(now) {
                *slot = *byte;
            }
            machine.write_mmio(at, width, u64::from_le_bytes(value));
        }
        (at, rest) = (at.wrapping_add(width.bytes() as u64), later);
    }
}

/// The widest single access that is aligned at `gpa` and not longer than what is left.
pub(crate) fn largest_access(gpa: GuestPhys, left: usize) -> Option<Width> {
    [Width::Qword, Width::Dword, Width::Word, Width::Byte]
        .into_iter()
        .find(|width| width.bytes() <= left && gpa.as_u64().is_multiple_of(width.bytes() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeCpu, FakeMachine, vcpu};

    const ROOT: u64 = 0x10_0000;

    fn long_mode() -> (FakeCpu, FakeMachine) {
        let machine = FakeMachine::new(0x40_0000);
        machine.memory.identity_map_long_mode(ROOT);
        (FakeCpu::long_mode(ROOT), machine)
    }

    /// Maps the page at linear 8 GiB to `first` and the one behind it to `second`, an entry each.
    fn map_two_pages(machine: &FakeMachine, first: u64, second: u64) {
        machine
            .memory
            .put_u64(ROOT + 0x1000 + 8 * 8, (ROOT + 0x3000) | 3);
        machine.memory.put_u64(ROOT + 0x3000, (ROOT + 0x4000) | 3);
        machine.memory.put_u64(ROOT + 0x4000, first);
        machine.memory.put_u64(ROOT + 0x4008, second);
    }

    #[test]
    fn an_access_across_two_pages_finds_both() {
        let (cpu, mut machine) = long_mode();
        map_two_pages(&machine, 0x20_0003, 0x30_0003);
        let linear = Linear::new(&cpu, &vcpu().cpuid);
        let gva = GuestVirt::new(0x2_0000_0ffe);
        linear
            .write(&mut machine, gva, &[1, 2, 3, 4], linear.privilege)
            .unwrap();
        assert_eq!(machine.memory.get(0x20_0ffe), [1, 2]);
        assert_eq!(machine.memory.get(0x30_0000), [3, 4]);
        let mut bytes = [0; 4];
        linear
            .read(&mut machine, gva, &mut bytes, linear.privilege)
            .unwrap();
        assert_eq!(bytes, [1, 2, 3, 4]);
    }

    #[test]
    fn a_fault_in_the_second_page_names_its_start_and_writes_nothing() {
        let (cpu, mut machine) = long_mode();
        map_two_pages(&machine, 0x20_0003, 0);
        let linear = Linear::new(&cpu, &vcpu().cpuid);
        let result = linear.write(
            &mut machine,
            GuestVirt::new(0x2_0000_0ffe),
            &[1, 2, 3, 4],
            linear.privilege,
        );
        let address = GuestVirt::new(0x2_0000_1000);
        let fault = GuestFault::PageFault {
            address,
            error_code: 2,
        };
        assert_eq!(result, Err(AccessError::Fault(fault)));
        assert_eq!(machine.memory.get(0x20_0ffe), [0, 0]);
    }

    #[test]
    fn tables_outside_ram_have_reserved_bits_set() {
        let (mut cpu, mut machine) = long_mode();
        cpu.cr3 = 0x4000_0000;
        let linear = Linear::new(&cpu, &vcpu().cpuid);
        let gva = GuestVirt::new(0x5000);
        let result = linear.write(&mut machine, gva, &[1], Privilege::User);
        let fault = GuestFault::PageFault {
            address: gva,
            error_code: 0b1111,
        };
        assert_eq!(result, Err(AccessError::Fault(fault)));
    }

    #[test]
    fn what_is_not_ram_is_reached_by_aligned_accesses() {
        let (_, mut machine) = long_mode();
        machine.mmio.insert(0xfec0_0004, 0x4433_2211);
        machine.mmio.insert(0xfec0_0008, 0x66);
        let mut bytes = [0; 5];
        read_physical(&mut machine, GuestPhys::new(0xfec0_0004), &mut bytes);
        assert_eq!(bytes, [0x11, 0x22, 0x33, 0x44, 0x66]);
        assert_eq!(
            machine.mmio_reads,
            [(0xfec0_0004, Width::Dword), (0xfec0_0008, Width::Byte)]
        );
        write_physical(&mut machine, GuestPhys::new(0xfec0_0010), &[1; 8]);
        assert_eq!(
            machine.mmio_writes,
            [(0xfec0_0010, Width::Qword, 0x0101_0101_0101_0101)]
        );
    }

    #[test]
    fn ring_3_is_checked_for_alignment_where_it_asked_for_it() {
        let (cpu, _) = long_mode();
        let mut cpu = cpu.in_ring_3();
        cpu.cr0 |= Cr0::AM;
        cpu.rflags |= Rflags::AC;
        let linear = Linear::new(&cpu, &vcpu().cpuid);
        let at =
            |offset, width| linear.operand(&cpu, SegmentName::Ds, offset, width, AccessKind::Read);
        assert_eq!(at(0x1002, Width::Dword), Err(GuestFault::AlignmentCheck));
        assert_eq!(at(0x1002, Width::Word), Ok(GuestVirt::new(0x1002)));
        assert_eq!(at(0x1003, Width::Byte), Ok(GuestVirt::new(0x1003)));
    }
}
