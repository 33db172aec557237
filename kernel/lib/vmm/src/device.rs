//! Guest-physical addresses that are not RAM: the vCPU's own local APIC, or a device of its machine.

use arch::Width;
use memory::{GuestMemory, GuestPhys, PageSize};

use crate::cpu::Cpu;
use crate::handle::apic;
use crate::linear::largest_access;
use crate::machine::Machine;
use crate::state::VcpuState;

/// The offset in the page of the local APIC's registers, where the address lies in it. The local APIC comes
/// before whatever else lies there, RAM included.
#[inline(always)]
pub fn apic_page_offset(vcpu: &VcpuState, gpa: GuestPhys) -> Option<u16> {
    let offset = gpa.offset_from(vcpu.lapic.mmio_base()?)?;
    (offset < PageSize::Size4K.bytes()).then_some(offset as u16)
}

/// Reads what is not RAM; all ones where nothing is.
#[inline]
pub fn read_device<C: Cpu, M: Machine>(
    cpu: &C,
    vcpu: &mut VcpuState,
    machine: &mut M,
    gpa: GuestPhys,
    width: Width,
) -> u64 {
    match apic_page_offset(vcpu, gpa) {
        Some(offset) => apic::read_page(cpu, vcpu, machine, offset, width),
        None => machine.read_mmio(gpa, width),
    }
}

/// Writes what is not RAM; ignored where nothing is.
#[inline]
pub fn write_device<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &mut VcpuState,
    machine: &mut M,
    gpa: GuestPhys,
    width: Width,
    value: u64,
) {
    match apic_page_offset(vcpu, gpa) {
        Some(offset) => apic::write_page(cpu, vcpu, machine, offset, width, value),
        None => machine.write_mmio(gpa, width, value),
    }
}

/// Reads what lies in one page, RAM or a device.
pub(crate) fn read_physical<C: Cpu, M: Machine>(
    cpu: &C,
    vcpu: &mut VcpuState,
    machine: &mut M,
    gpa: GuestPhys,
    buffer: &mut [u8],
) {
    let is_apic = apic_page_offset(vcpu, gpa).is_some();
    if buffer.is_empty() || !is_apic && machine.memory().read(gpa, buffer).is_ok() {
        return;
    }
    let (mut at, mut rest) = (gpa, buffer);
    while let Some(width) = largest_access(at, rest.len()) {
        let (now, later) = rest.split_at_mut(width.bytes());
        let value = read_device(cpu, vcpu, machine, at, width).to_le_bytes();
        for (byte, value) in now.iter_mut().zip(value) {
            *byte = value;
        }
        (at, rest) = (at.wrapping_add(width.bytes() as u64), later);
    }
}

/// Writes what lies in one page, RAM or a device.
pub(crate) fn write_physical<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &mut VcpuState,
    machine: &mut M,
    gpa: GuestPhys,
    bytes: &[u8],
) {
    let is_apic = apic_page_offset(vcpu, gpa).is_some();
    if bytes.is_empty() || !is_apic && machine.memory().write(gpa, bytes).is_ok() {
        return;
    }
    let (mut at, mut rest) = (gpa, bytes);
    while let Some(width) = largest_access(at, rest.len()) {
        let (now, later) = rest.split_at(width.bytes());
        let mut value = [0; 8];
        for (slot, byte) in value.iter_mut().zip(now) {
            *slot = *byte;
        }
        write_device(cpu, vcpu, machine, at, width, u64::from_le_bytes(value));
        (at, rest) = (at.wrapping_add(width.bytes() as u64), later);
    }
}

#[cfg(test)]
mod tests {
    use machine::devices::lapic::ApicAction;

    use super::*;
    use crate::testing::{FakeCpu, FakeMachine, vcpu};

    const VERSION: u64 = 0xfee0_0030;

    #[test]
    fn the_page_of_the_local_apic_is_its_registers() {
        let (mut cpu, mut vcpu, mut machine) = (FakeCpu::long_mode(0), vcpu(), FakeMachine::new(0));
        let gpa = GuestPhys::new(VERSION);
        assert_eq!(
            read_device(&cpu, &mut vcpu, &mut machine, gpa, Width::Dword),
            0x0005_0014
        );
        // The task priority.
        let gpa = GuestPhys::new(0xfee0_0080);
        write_device(&mut cpu, &mut vcpu, &mut machine, gpa, Width::Dword, 0x30);
        assert_eq!(vcpu.lapic.task_priority(), 0x30);
        assert!(machine.mmio_reads.is_empty() && machine.mmio_writes.is_empty());
    }

    #[test]
    fn all_else_is_the_machines() {
        let (mut cpu, mut vcpu, mut machine) = (FakeCpu::long_mode(0), vcpu(), FakeMachine::new(0));
        for gpa in [0xfedf_ffff, 0xfee0_1000, 0xd000_0000] {
            let gpa = GuestPhys::new(gpa);
            assert_eq!(
                read_device(&cpu, &mut vcpu, &mut machine, gpa, Width::Byte),
                0xff
            );
            write_device(&mut cpu, &mut vcpu, &mut machine, gpa, Width::Byte, 1);
        }
        assert_eq!(
            (machine.mmio_reads.len(), machine.mmio_writes.len()),
            (3, 3)
        );
    }

    #[test]
    fn in_x2apic_mode_there_is_no_page() {
        let (cpu, mut vcpu, mut machine) = (FakeCpu::long_mode(0), vcpu(), FakeMachine::new(0));
        let changed = Ok(ApicAction::ModeChanged);
        assert_eq!(vcpu.lapic.write_base(0xfee0_0d00), changed);
        let gpa = GuestPhys::new(VERSION);
        assert_eq!(
            read_device(&cpu, &mut vcpu, &mut machine, gpa, Width::Dword),
            0xffff_ffff
        );
    }

    #[test]
    fn the_page_follows_its_base() {
        let (cpu, mut vcpu, mut machine) = (FakeCpu::long_mode(0), vcpu(), FakeMachine::new(0));
        let changed = Ok(ApicAction::ModeChanged);
        assert_eq!(vcpu.lapic.write_base(0xd000_0900), changed);
        let gpa = GuestPhys::new(0xd000_0030);
        assert_eq!(
            read_device(&cpu, &mut vcpu, &mut machine, gpa, Width::Dword),
            0x0005_0014
        );
    }
}
