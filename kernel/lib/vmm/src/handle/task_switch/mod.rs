//! The hardware task switch of 32-bit mode, which VMX leaves to software (SDM vol. 3, Task Switching).
//!
//! It has two halves. Up to the commit, a fault finds the old task as it was. After it, the new task is
//! current, its segment registers hold selectors without descriptors, and a fault is the new task's.

mod tss;

use arch::descriptor::TableIndicator;
use arch::walk::{AccessKind, Privilege};
use arch::{
    AccessRights, Cr0, Descriptor, Dr6, Dr7, Exception, Gpr, Rflags, Segment, SegmentName,
    Selector, Width,
};
use memory::GuestVirt;

use super::control_register::{is_pae_paging, load_pdptes};
use super::{Next, SHADOW};
use crate::cpu::{Blocking, Cpu};
use crate::exit::{TaskSwitch, TaskSwitchCause};
use crate::fault::{Event, GuestFault};
use crate::linear::{AccessError, Linear};
use crate::machine::Machine;
use crate::segments::{External, Loader, Purpose};
use crate::state::VcpuState;
use tss::{Format, MAX_BYTES, TaskState};

/// The bits of EFLAGS that a TSS can load.
const EFLAGS_DEFINED: u64 = 0x003f_7fd5;

/// The task to come, as far as it is known before the commit.
struct NewTask {
    selector: Selector,
    descriptor: Descriptor,
    format: Format,
    state: TaskState,
}

/// Switches tasks.
pub(super) fn task_switch<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &mut VcpuState,
    machine: &mut M,
    switch: TaskSwitch,
) -> Result<Next, GuestFault> {
    let event = match switch.cause {
        TaskSwitchCause::Gate => vcpu.pending.first(),
        TaskSwitchCause::Call | TaskSwitchCause::Iret | TaskSwitchCause::Jump => None,
    };
    let mut loader = Loader {
        linear: Linear::new(cpu, &vcpu.cpuid),
        machine,
        purpose: Purpose::TaskSwitch(External::of(event)),
    };
    let new = match leave_old_task(cpu, &mut loader, switch, event) {
        Ok(new) => new,
        Err(AccessError::Fault(fault)) => return Err(fault),
        // The instruction starts anew, or the event is delivered anew.
        Err(AccessError::Retry) => return Ok(Next::Resume),
    };
    match enter_new_task(cpu, vcpu, &mut loader, switch, event, &new) {
        Ok(()) => {}
        Err(AccessError::Fault(fault)) => return Err(fault),
        // Too late to start anew. Losing a race over page tables looks like an entry that was not present.
        Err(AccessError::Retry) => {
            let address = GuestVirt::new(cpu.gdtr().base);
            return Err(GuestFault::PageFault {
                address,
                error_code: 0,
            });
        }
    }
    if switch.cause == TaskSwitchCause::Gate {
        vcpu.pending.take_first();
    }
    if new.state.trap {
        return Err(GuestFault::Debug {
            dr6: Dr6::BT.bits(),
        });
    }
    Ok(Next::Resume)
}

/// The first half: finds the new task, saves the old one, and moves the busy flags.
fn leave_old_task<C: Cpu, M: Machine>(
    cpu: &mut C,
    loader: &mut Loader<'_, M>,
    switch: TaskSwitch,
    event: Option<Event>,
) -> Result<NewTask, AccessError> {
    let selector = Selector(switch.selector);
    let nested = matches!(switch.cause, TaskSwitchCause::Call | TaskSwitchCause::Gate);
    let (new_at, descriptor, format) = find_tss(cpu, loader, selector, switch.cause)?;
    let new_base = GuestVirt::new(descriptor.base());

    let old = cpu.segment(SegmentName::Tr);
    let old_selector = Selector(old.selector);
    let old_fault = GuestFault::InvalidTss(loader.purpose.error_code(old_selector));
    let old_format = arch::descriptor::SystemType::from_number(old.access.kind())
        .and_then(Format::of)
        .filter(|format| old.limit >= format.min_limit())
        .ok_or(old_fault)?;
    let old_base = GuestVirt::new(old.base & 0xffff_ffff);

    // Everything is read, and known to be writable where it will be written, before anything changes.
    let system = Privilege::ImplicitSupervisor;
    let mut old_bytes = [0; MAX_BYTES];
    let mut new_bytes = [0; MAX_BYTES];
    let read = |loader: &mut Loader<'_, M>, base, bytes: &mut [u8; MAX_BYTES], format: Format| {
        let bytes = bytes.get_mut(..format.bytes()).unwrap_or(&mut []);
        loader.linear.read(loader.machine, base, bytes, system)
    };
    read(loader, old_base, &mut old_bytes, old_format)?;
    read(loader, new_base, &mut new_bytes, format)?;
    let writable = |loader: &mut Loader<'_, M>, at, bytes| {
        loader
            .linear
            .pieces(loader.machine, at, bytes, AccessKind::Write, system)
            .map(drop)
    };
    writable(loader, old_base, old_format.bytes())?;
    if nested {
        writable(loader, new_base, 2)?;
    }
    let releases_old = matches!(switch.cause, TaskSwitchCause::Jump | TaskSwitchCause::Iret);
    let old_at = if releases_old {
        let at = loader
            .descriptor_address(cpu, old_selector)
            .ok_or(old_fault)?;
        writable(loader, at, 8)?;
        Some((at, loader.read(at)?))
    } else {
        None
    };
    if switch.cause != TaskSwitchCause::Iret {
        writable(loader, new_at, 8)?;
    }

    let old_state = current_state(cpu, switch.cause, event);
    old_format.store(&old_state, &mut old_bytes);
    let part = old_format.dynamic_part();
    let at = GuestVirt::new(old_base.as_u64().wrapping_add(part.start as u64) & 0xffff_ffff);
    let bytes = old_bytes.get(part).unwrap_or(&[]);
    loader.linear.write(loader.machine, at, bytes, system)?;
    if let Some((at, descriptor)) = old_at {
        loader.write_type(cpu, at, descriptor.with_type(old_format.available()))?;
    }
    // A task that switches to itself has been saved meanwhile.
    if new_base == old_base {
        read(loader, new_base, &mut new_bytes, format)?;
    }
    if nested {
        loader.linear.write(
            loader.machine,
            new_base,
            &old_selector.0.to_le_bytes(),
            system,
        )?;
    }
    if switch.cause != TaskSwitchCause::Iret {
        loader.write_type(cpu, new_at, descriptor.with_type(format.busy()))?;
    }
    Ok(NewTask {
        selector,
        descriptor,
        format,
        state: format.load(&new_bytes),
    })
}

/// The descriptor of the new TSS: where it is, what it is, and which format it has.
fn find_tss<C: Cpu, M: Machine>(
    cpu: &C,
    loader: &mut Loader<'_, M>,
    selector: Selector,
    cause: TaskSwitchCause,
) -> Result<(GuestVirt, Descriptor, Format), AccessError> {
    let code = loader.purpose.error_code(selector);
    let wrong = match cause {
        TaskSwitchCause::Iret => GuestFault::InvalidTss(code),
        TaskSwitchCause::Call | TaskSwitchCause::Jump | TaskSwitchCause::Gate => {
            GuestFault::GeneralProtection(code)
        }
    };
    if selector.is_null() || selector.table() != TableIndicator::Gdt {
        return Err(wrong.into());
    }
    let at = loader.descriptor_address(cpu, selector).ok_or(wrong)?;
    let descriptor = loader.read(at)?;
    let kind = descriptor.system_type().ok_or(wrong)?;
    let format = Format::of(kind).ok_or(wrong)?;
    let expected = match cause {
        TaskSwitchCause::Iret => format.busy(),
        TaskSwitchCause::Call | TaskSwitchCause::Jump | TaskSwitchCause::Gate => format.available(),
    };
    if kind != expected {
        return Err(wrong.into());
    }
    if !descriptor.access().contains(AccessRights::PRESENT) {
        return Err(GuestFault::SegmentNotPresent(code).into());
    }
    if descriptor.limit() < format.min_limit() {
        return Err(GuestFault::InvalidTss(code).into());
    }
    Ok((at, descriptor, format))
}

/// What is saved of the old task.
fn current_state<C: Cpu>(cpu: &C, cause: TaskSwitchCause, event: Option<Event>) -> TaskState {
    let length = match (cause, event) {
        (TaskSwitchCause::Call | TaskSwitchCause::Iret | TaskSwitchCause::Jump, _) => {
            cpu.instruction_length()
        }
        (
            TaskSwitchCause::Gate,
            Some(
                Event::SoftwareInterrupt { length, .. }
                | Event::SoftwareException { length, .. }
                | Event::PrivilegedSoftwareException { length },
            ),
        ) => length,
        (TaskSwitchCause::Gate, _) => 0,
    };
    let mut eflags = cpu.rflags();
    eflags.set(Rflags::RF, restarts_with_rf(event));
    if cause == TaskSwitchCause::Iret {
        eflags.remove(Rflags::NT);
    }
    let mut state = TaskState {
        eip: cpu.rip().wrapping_add(length.into()) as u32,
        eflags: eflags.bits() as u32,
        ..TaskState::default()
    };
    for (value, register) in state.gprs.iter_mut().zip(Gpr::ALL) {
        *value = cpu.gpr(register) as u32;
    }
    for (selector, name) in state.selectors.iter_mut().zip(SegmentName::ALL) {
        *selector = cpu.segment(name).selector;
    }
    state
}

/// Whether the saved EFLAGS have RF set: after a fault, so that its instruction can be executed again.
const fn restarts_with_rf(event: Option<Event>) -> bool {
    match event {
        Some(Event::Exception { exception, .. }) => !matches!(
            exception,
            Exception::Debug
                | Exception::Breakpoint
                | Exception::Overflow
                | Exception::DoubleFault
                | Exception::MachineCheck
        ),
        _ => false,
    }
}

/// The second half: loads everything, and pushes the error code of an exception.
fn enter_new_task<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &VcpuState,
    loader: &mut Loader<'_, M>,
    switch: TaskSwitch,
    event: Option<Event>,
    new: &NewTask,
) -> Result<(), AccessError> {
    let state = &new.state;
    let busy = new.descriptor.with_type(new.format.busy());
    cpu.set_segment(SegmentName::Tr, busy.load(new.selector));
    let cr0 = cpu.cr0() | Cr0::TS;
    cpu.set_cr0(cr0);
    let dr7 = cpu.debug_register(7);
    if dr7 & Dr7::LOCAL.bits() != 0 {
        cpu.set_debug_register(7, dr7 & !Dr7::LOCAL.bits());
    }
    settle_blocking(cpu, switch.cause, event);

    let mut eflags =
        Rflags::from_bits_retain(u64::from(state.eflags) & EFLAGS_DEFINED) | Rflags::ONE;
    if matches!(switch.cause, TaskSwitchCause::Call | TaskSwitchCause::Gate) {
        eflags.insert(Rflags::NT);
    }
    let virtual_8086 = eflags.contains(Rflags::VM);
    cpu.set_rflags(eflags);
    cpu.set_rip(state.eip.into());
    for (value, register) in state.gprs.into_iter().zip(Gpr::ALL) {
        cpu.set_gpr(register, value.into());
    }
    let cpl = if virtual_8086 {
        3
    } else {
        Selector(state.at(SegmentName::Cs)).rpl()
    };
    for (selector, name) in state.selectors.into_iter().zip(SegmentName::ALL) {
        let segment = if virtual_8086 {
            virtual_8086_segment(selector)
        } else {
            Segment {
                selector,
                ..unloaded(name, cpl)
            }
        };
        cpu.set_segment(name, segment);
    }
    if let Some(cr3) = state.cr3
        && cr0.contains(Cr0::PG)
    {
        if is_pae_paging(cr0, cpu.cr4(), cpu.efer()) {
            load_pdptes(cpu, vcpu, loader.machine.memory(), cr3.into())?;
        }
        cpu.set_cr3(cr3.into());
        cpu.flush_all();
    }
    loader.linear = Linear::new(cpu, &vcpu.cpuid);

    loader.load_ldt(cpu, Selector(state.ldt))?;
    if !virtual_8086 {
        // The stack first: the exceptions that the others raise are delivered on it.
        loader.load_stack(cpu, Selector(state.at(SegmentName::Ss)), cpl)?;
        for name in [
            SegmentName::Ds,
            SegmentName::Es,
            SegmentName::Fs,
            SegmentName::Gs,
        ] {
            loader.load_data(cpu, name, Selector(state.at(name)), cpl)?;
        }
        loader.load_code(cpu, Selector(state.at(SegmentName::Cs)))?;
    }
    if let Some(Event::Exception {
        error_code: Some(code),
        ..
    }) = event
    {
        push(cpu, vcpu, loader, new.format, code)?;
    }
    if state.eip > cpu.segment(SegmentName::Cs).limit {
        return Err(GuestFault::GP0.into());
    }
    Ok(())
}

impl TaskState {
    fn at(&self, name: SegmentName) -> u16 {
        self.selectors.get(name as usize).copied().unwrap_or(0)
    }
}

/// A switch ends the shadow of STI and MOV SS; an NMI blocks NMIs until the IRET, which may be a task switch
/// itself.
fn settle_blocking<C: Cpu>(cpu: &mut C, cause: TaskSwitchCause, event: Option<Event>) {
    let old = cpu.blocking();
    let mut new = old - SHADOW;
    if event == Some(Event::Nmi) {
        new.insert(Blocking::NMI);
    }
    if cause == TaskSwitchCause::Iret {
        new.remove(Blocking::NMI);
    }
    if new != old {
        cpu.set_blocking(new);
    }
}

/// A segment register between the load of its selector and that of its descriptor. CS and SS keep what makes
/// the CPU's privilege level, so that a fault is delivered from it.
fn unloaded(name: SegmentName, cpl: u8) -> Segment {
    let dpl = AccessRights::from_bits_retain(u32::from(cpl) << 5);
    let present = AccessRights::PRESENT | AccessRights::CODE_OR_DATA | AccessRights::ACCESSED;
    let access = match name {
        SegmentName::Cs => {
            present | AccessRights::CODE | AccessRights::WRITABLE | AccessRights::DEFAULT_BIG | dpl
        }
        SegmentName::Ss => AccessRights::UNUSABLE | AccessRights::DEFAULT_BIG | dpl,
        _ => AccessRights::UNUSABLE,
    };
    Segment {
        selector: 0,
        base: 0,
        limit: 0,
        access,
    }
}

/// A segment register in virtual-8086 mode.
fn virtual_8086_segment(selector: u16) -> Segment {
    let segment = Segment::real_mode(selector);
    Segment {
        access: segment.access | AccessRights::DPL,
        ..segment
    }
}

/// Pushes the error code on the new task's stack, as wide as its TSS.
fn push<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &VcpuState,
    loader: &mut Loader<'_, M>,
    format: Format,
    code: u32,
) -> Result<(), AccessError> {
    let width = match format {
        Format::Bits16 => Width::Word,
        Format::Bits32 => Width::Dword,
    };
    let stack = cpu.segment(SegmentName::Ss);
    let stack_width = if stack.access.contains(AccessRights::DEFAULT_BIG) {
        Width::Dword
    } else {
        Width::Word
    };
    let linear = Linear::new(cpu, &vcpu.cpuid);
    let pointer = cpu.gpr(Gpr::Rsp).wrapping_sub(width.bytes() as u64);
    let offset = stack_width.truncate(pointer);
    let gva = linear.operand(cpu, SegmentName::Ss, offset, width, AccessKind::Write)?;
    let bytes = code.to_le_bytes();
    let bytes = bytes.get(..width.bytes()).unwrap_or(&[]);
    linear.write(loader.machine, gva, bytes, linear.privilege)?;
    cpu.write_gpr(Gpr::Rsp, stack_width, pointer);
    Ok(())
}

#[cfg(test)]
mod tests;
