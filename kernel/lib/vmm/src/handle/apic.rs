//! The local APIC, wherever the guest reaches it: MSRs, CR8, its page, and writes that the hardware has done.

use arch::{Vector, Width};
use machine::devices::lapic::{ApicAction, Clock, InvalidAccess};

use super::Next;
use crate::cpu::Cpu;
use crate::fault::GuestFault;
use crate::machine::Machine;
use crate::state::VcpuState;

/// The two clocks of a vCPU: its TSC and the time of its VM.
pub(crate) struct VcpuClock<'a, C, M> {
    cpu: &'a C,
    machine: &'a M,
}

impl<'a, C: Cpu, M: Machine> VcpuClock<'a, C, M> {
    pub(crate) const fn new(cpu: &'a C, machine: &'a M) -> Self {
        Self { cpu, machine }
    }
}

impl<C: Cpu, M: Machine> Clock for VcpuClock<'_, C, M> {
    #[inline]
    fn guest_tsc(&self) -> u64 {
        self.cpu.guest_tsc()
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        self.machine.now_ns()
    }
}

impl From<InvalidAccess> for GuestFault {
    fn from(InvalidAccess: InvalidAccess) -> Self {
        Self::GP0
    }
}

/// Does outside the local APIC what a write to it asks for.
#[inline]
pub(crate) fn act<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &VcpuState,
    machine: &mut M,
    action: ApicAction,
) {
    match action {
        ApicAction::None => {}
        ApicAction::Send(ipi) => machine.send(ipi),
        ApicAction::EndOfInterrupt(vector) => machine.end_of_interrupt(vector),
        ApicAction::Rerouted => machine.reroute(vcpu.lapic.route()),
        ApicAction::ModeChanged => {
            machine.reroute(vcpu.lapic.route());
            cpu.apic_mode_changed(&vcpu.lapic);
        }
    }
}

/// Before anybody looks at the local APIC, or changes it: the guest may have ended an interrupt without telling it.
#[inline]
fn collect_end<M: Machine>(vcpu: &mut VcpuState, machine: &M) {
    vcpu.unsettled = true;
    vcpu.paravirt
        .eoi()
        .collect(machine.memory(), &mut vcpu.lapic);
}

/// RDMSR of an x2APIC register.
#[inline]
pub(super) fn read_msr<C: Cpu, M: Machine>(
    cpu: &C,
    vcpu: &mut VcpuState,
    machine: &M,
    index: u32,
) -> Result<u64, GuestFault> {
    collect_end(vcpu, machine);
    Ok(vcpu.lapic.read_msr(index, &VcpuClock::new(cpu, machine))?)
}

/// WRMSR of an x2APIC register.
#[inline]
pub(super) fn write_msr<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &mut VcpuState,
    machine: &mut M,
    index: u32,
    value: u64,
) -> Result<(), GuestFault> {
    collect_end(vcpu, machine);
    let action = vcpu
        .lapic
        .write_msr(index, value, &VcpuClock::new(cpu, machine))?;
    act(cpu, vcpu, machine, action);
    Ok(())
}

/// WRMSR of IA32_APIC_BASE.
pub(super) fn write_base<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &mut VcpuState,
    machine: &mut M,
    value: u64,
) -> Result<(), GuestFault> {
    collect_end(vcpu, machine);
    let action = vcpu.lapic.write_base(value)?;
    act(cpu, vcpu, machine, action);
    Ok(())
}

/// MOV to CR8.
pub(super) fn write_cr8(vcpu: &mut VcpuState, value: u64) -> Result<(), GuestFault> {
    match value {
        0..=15 => {
            vcpu.lapic.set_cr8(value as u8);
            Ok(())
        }
        _ => Err(GuestFault::GP0),
    }
}

/// Acts upon a register that the hardware has written in the virtual-APIC page.
pub(super) fn complete_write<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &mut VcpuState,
    machine: &mut M,
    offset: u16,
) -> Next {
    let action = vcpu
        .lapic
        .complete_write(offset, &VcpuClock::new(cpu, machine));
    act(cpu, vcpu, machine, action);
    Next::Resume
}

/// The hardware has done an EOI that the I/O APIC waits for.
pub(super) fn hardware_ended<M: Machine>(
    vcpu: &mut VcpuState,
    machine: &mut M,
    vector: Vector,
) -> Next {
    vcpu.lapic.hardware_ended(vector);
    machine.end_of_interrupt(vector);
    Next::Resume
}

/// Reads the register page at this offset, in xAPIC mode.
pub(crate) fn read_page<C: Cpu, M: Machine>(
    cpu: &C,
    vcpu: &mut VcpuState,
    machine: &M,
    offset: u16,
    width: Width,
) -> u64 {
    collect_end(vcpu, machine);
    vcpu.lapic
        .read_mmio(offset, width, &VcpuClock::new(cpu, machine))
}

/// Writes the register page at this offset, in xAPIC mode.
pub(crate) fn write_page<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &mut VcpuState,
    machine: &mut M,
    offset: u16,
    width: Width,
    value: u64,
) {
    collect_end(vcpu, machine);
    let action = vcpu
        .lapic
        .write_mmio(offset, width, value, &VcpuClock::new(cpu, machine));
    act(cpu, vcpu, machine, action);
}
