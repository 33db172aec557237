//! What is done about each exit.
//!
//! [`handle`] is one exhaustive match. A handler either finishes the instruction, and then [`complete`]
//! moves RIP past it, the only place that does so, or returns the [`GuestFault`] that real hardware would
//! raise, with the state as it was before the instruction.

pub(crate) mod apic;
mod bios;
pub(crate) mod control_register;
mod cpuid;
mod debug_register;
pub(crate) mod descriptor_table;
mod exception;
mod hypercall;
mod misc;
mod msr;
mod port;
mod task_switch;

use arch::{AccessRights, DebugCtl, Dr6, Efer, Exception, Rflags, SegmentName};
use machine::devices::lapic::Armed;
use memory::GuestPhys;

use crate::cpu::{Blocking, Cpu};
use crate::emulate::emulate;
use crate::exit::{MemoryAccess, VmExit};
use crate::fault::{Event, GuestFault, VmError};
use crate::machine::Machine;
use crate::state::VcpuState;

/// Where the page of the local APIC is unless the guest moves it.
const APIC_PAGE_AT_RESET: GuestPhys = GuestPhys::new(0xfee0_0000);

/// How the vCPU goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Enters the guest again.
    Resume,
    /// Sleeps until an interrupt, an NMI, INIT or a debug exception is pending.
    Halt,
    /// Spins: another vCPU of the VM had better run.
    Yield,
    /// Enters the guest again with this event, which it was about to take when it exited.
    Inject(Event),
    /// Ends with its whole VM.
    Stop(VmError),
}

/// What lasts for one instruction.
const SHADOW: Blocking = Blocking::STI.union(Blocking::MOV_SS);

/// Does what an exit asks for.
///
/// Exits that concern the host only (its interrupts, NMIs and timers, a full dirty log, machine checks that the guest
/// survives) and windows that the
/// injection had asked for need nothing here: the run loop has dealt with them, or does so next.
///
/// # Errors
/// The exception to raise in the guest. State and RIP are then as the exception's handler has to find them:
/// before the instruction for a fault, behind it for a trap.
#[inline(always)]
pub fn handle<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &mut VcpuState,
    machine: &mut M,
    exit: VmExit,
) -> Result<Next, GuestFault> {
    match exit {
        VmExit::Cpuid => {
            cpuid::cpuid(cpu, vcpu);
            complete(cpu, Next::Resume)
        }
        VmExit::PortIo(access) => port::access(cpu, vcpu, machine, access),
        VmExit::ReadMsr => {
            msr::read(cpu, vcpu, machine)?;
            complete(cpu, Next::Resume)
        }
        VmExit::WriteMsr => {
            msr::write(cpu, vcpu, machine)?;
            complete(cpu, Next::Resume)
        }
        VmExit::Hlt => complete(cpu, Next::Halt),
        VmExit::Hypercall => {
            if let Some(after) = bios::serve(cpu, machine) {
                let next = complete(cpu, Next::Resume);
                if let bios::After::At(offset) = after {
                    cpu.set_rip(u64::from(offset));
                }
                return next;
            }
            hypercall::hypercall(cpu, vcpu, machine);
            complete(cpu, Next::Resume)
        }
        VmExit::ControlRegister(access) => control_register::access(cpu, vcpu, machine, access),
        VmExit::DebugRegister(access) => debug_register::access(cpu, access),
        VmExit::Pause => complete(cpu, Next::Yield),
        // No device of the host is the guest's, so that no cache of its memory is ever out of date.
        VmExit::Invd | VmExit::Wbinvd => complete(cpu, Next::Resume),
        VmExit::Invlpg(gva) => {
            cpu.flush_address(gva);
            complete(cpu, Next::Resume)
        }
        VmExit::Xsetbv => {
            misc::xsetbv(cpu, vcpu)?;
            complete(cpu, Next::Resume)
        }
        VmExit::Rdtsc => {
            misc::rdtsc(cpu);
            complete(cpu, Next::Resume)
        }
        VmExit::Rdtscp => {
            misc::rdtscp(cpu);
            complete(cpu, Next::Resume)
        }
        // CPUID shows no performance counter, so that every index is a wrong one.
        VmExit::Rdpmc => Err(GuestFault::GP0),
        // CPUID shows none of these.
        VmExit::Monitor | VmExit::Mwait | VmExit::Random | VmExit::NoSuchInstruction => {
            Err(GuestFault::InvalidOpcode)
        }
        VmExit::Exception(info) => exception::reflect(cpu, info),
        VmExit::ApicWrite { offset } => Ok(apic::complete_write(cpu, vcpu, machine, offset)),
        VmExit::ApicEoi(vector) => Ok(apic::hardware_ended(vcpu, machine, vector)),
        VmExit::TaskSwitch(switch) => task_switch::task_switch(cpu, vcpu, machine, switch),
        VmExit::Memory(access) => emulate(cpu, vcpu, machine, access),
        VmExit::ApicAccess { offset, kind } => {
            let page = vcpu.lapic.mmio_base().unwrap_or(APIC_PAGE_AT_RESET);
            let gpa = page.wrapping_add(u64::from(offset));
            let access = MemoryAccess {
                gpa,
                gva: None,
                kind,
                during_page_walk: false,
            };
            emulate(cpu, vcpu, machine, access)
        }
        VmExit::DescriptorTable(access) => descriptor_table::access(cpu, vcpu, machine, access),
        VmExit::TprBelowThreshold
        | VmExit::InterruptWindow
        | VmExit::NmiWindow
        | VmExit::SingleStep
        | VmExit::HostInterrupt(_)
        | VmExit::HostNmi
        | VmExit::HostTimer
        | VmExit::HostInit
        | VmExit::HostSmi
        | VmExit::DirtyLogFull
        | VmExit::MemoryMapped => Ok(Next::Resume),
        VmExit::HostMachineCheck | VmExit::EntryMachineCheck => {
            Ok(Next::Stop(VmError::MachineCheck))
        }
        VmExit::TripleFault => Ok(Next::Stop(VmError::TripleFault)),
        VmExit::MemoryMisconfigured(gpa) => Ok(Next::Stop(VmError::MemoryMisconfigured(gpa))),
        VmExit::EntryRefused { code } => Ok(Next::Stop(VmError::EntryRefused(code))),
        VmExit::Unexpected { code } => Ok(Next::Stop(VmError::UnexpectedExit(code))),
    }
}

/// Ends the instruction that exited: moves RIP past it, ends the shadow of STI or MOV SS and of RF, and
/// traps where TF is set.
#[inline(always)]
fn complete<C: Cpu>(cpu: &mut C, next: Next) -> Result<Next, GuestFault> {
    complete_with_length(cpu, cpu.instruction_length(), next)
}

/// [`complete`] for an instruction whose length the hardware does not tell.
#[inline(always)]
pub(crate) fn complete_with_length<C: Cpu>(
    cpu: &mut C,
    length: u8,
    next: Next,
) -> Result<Next, GuestFault> {
    let rip = cpu.rip();
    let mut behind = rip.wrapping_add(u64::from(length));
    if (rip ^ behind) >> 32 != 0 && !in_64_bit_mode(cpu) {
        behind &= 0xffff_ffff;
    }
    cpu.set_rip(behind);
    finish(cpu, next)
}

/// Ends the instruction that exited if nothing ends with it but itself: no shadow, no RF, no trap, no end of an address
/// space of 32 bits. Else nothing has happened yet.
#[inline(always)]
fn complete_if_plain<C: Cpu>(cpu: &mut C) -> bool {
    let rip = cpu.rip();
    let behind = rip.wrapping_add(u64::from(cpu.instruction_length()));
    let is_plain = (rip ^ behind) >> 32 == 0
        && !cpu.blocking().intersects(SHADOW)
        && !cpu.rflags().intersects(Rflags::RF | Rflags::TF);
    if is_plain {
        cpu.set_rip(behind);
    }
    is_plain
}

/// The short way for the WRMSR that guests execute most: a new deadline for the local APIC's timer. What has come of it,
/// or `None` if it is to go the usual way.
#[inline(always)]
pub fn write_deadline<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &mut VcpuState,
    machine: &M,
) -> Option<Armed> {
    (msr::is_deadline(cpu) && complete_if_plain(cpu))
        .then(|| msr::write_deadline(cpu, vcpu, machine))
}

/// The part of [`complete`] that has nothing to do with RIP.
#[inline(always)]
pub(crate) fn finish<C: Cpu>(cpu: &mut C, next: Next) -> Result<Next, GuestFault> {
    let blocking = cpu.blocking();
    let mut held = 0;
    if blocking.intersects(SHADOW) {
        cpu.set_blocking(blocking - SHADOW);
        if blocking.contains(Blocking::MOV_SS) {
            held = cpu.take_held_breakpoints();
        }
    }
    let rflags = cpu.rflags();
    if held != 0 || rflags.intersects(Rflags::RF | Rflags::TF) {
        return finish_with_traps(cpu, rflags, held, next);
    }
    Ok(next)
}

/// Ends an instruction that RF or TF was set for, or for which breakpoints of MOV SS were held back.
#[cold]
fn finish_with_traps<C: Cpu>(
    cpu: &mut C,
    rflags: Rflags,
    held: u64,
    next: Next,
) -> Result<Next, GuestFault> {
    if rflags.contains(Rflags::RF) {
        cpu.set_rflags(rflags - Rflags::RF);
    }
    let branches_only = cpu
        .hardware_msr(arch::msr::IA32_DEBUGCTL)
        .is_some_and(|value| value & DebugCtl::BTF.bits() != 0);
    let step = if rflags.contains(Rflags::TF) && !branches_only {
        Dr6::BS.bits()
    } else {
        0
    };
    match next {
        Next::Resume | Next::Halt | Next::Yield if held | step != 0 => {
            Err(GuestFault::Debug { dr6: held | step })
        }
        _ => Ok(next),
    }
}

/// Whether the CPU is in 64-bit mode (SDM vol. 3, IA-32e Mode Operation).
pub(crate) fn in_64_bit_mode<C: Cpu>(cpu: &C) -> bool {
    cpu.efer().contains(Efer::LMA)
        && cpu
            .access_rights(SegmentName::Cs)
            .contains(AccessRights::LONG)
}

/// The event that delivers an exception that exited before its delivery.
fn exception_event(exception: Exception, error_code: Option<u32>, length: u8) -> Event {
    match exception {
        Exception::Breakpoint | Exception::Overflow => {
            Event::SoftwareException { exception, length }
        }
        _ => Event::Exception {
            exception,
            error_code,
        },
    }
}

#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;
