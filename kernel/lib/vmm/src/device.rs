//! Guest-physical addresses that are not RAM: the vCPU's own local APIC, or a device of its machine.

use arch::Width;
use memory::{GuestPhys, PageSize};

use crate::cpu::Cpu;
use crate::handle::apic;
use crate::machine::Machine;
use crate::state::VcpuState;

/// The offset in the page of the local APIC's registers, where the address lies in it. The local APIC comes
/// before whatever else lies there, RAM included.
#[inline]
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
