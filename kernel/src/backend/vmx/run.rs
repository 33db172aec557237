//! Around the world switch: the timer before it, the decoded exit and the interrupted event after it.
//!
//! The VMX-preemption timer ends a guest's run, or the local APIC's where that is not to be used. A guest that nothing
//! is to end runs without either: the longest time of the first is a matter of seconds.

use core::fmt;

use machine::A20Gate;
use machine::devices::lapic::Lapic;
use memory::TlbEffect;
use vmm::exit::{AccessKind, MemoryAccess};
use vmm::inject::Delivery;
use vmm::monitor::command::EntryPart;
use vmm::{Event, VmExit};
use vmx::event::{EntryEvent, InterruptionInfo};
use vmx::exit::{self, ExitFields};
use vmx::exit_reason::ExitReason;
use vmx::host_timer::Order;
use vmx::instruction_error::InstructionError;
use vmx::private_view::Filled;
use vmx::{EptPointer, PinControls, entry_checks, fields};

use super::entry::{Outcome, enter};
use super::loaded::{BLOCKING_BY_NMI, VmxLoaded};
use super::tlb::flush_ept;
use super::vmcs::CurrentVmcs;
use super::{VmxVcpu, private};
use crate::backend::{ExitVisitor, LoadedVcpu, Pauses, Windows};
use crate::cpu::{apic, nmi};

/// The reasons of exits that there are most of. An entry that failed late has another bit set beside its number.
const CPUID: u32 = ExitReason::Cpuid as u32;
const HLT: u32 = ExitReason::Hlt as u32;
const VMCALL: u32 = ExitReason::Vmcall as u32;
const IO: u32 = ExitReason::Io as u32;
const RDMSR: u32 = ExitReason::Rdmsr as u32;
const WRMSR: u32 = ExitReason::Wrmsr as u32;
const EPT_VIOLATION: u32 = ExitReason::EptViolation as u32;
const PREEMPTION_TIMER: u32 = ExitReason::PreemptionTimer as u32;

impl LoadedVcpu for VmxLoaded<'_> {
    #[inline(always)]
    fn enter<V: ExitVisitor<Self>>(
        &mut self,
        now_tsc: u64,
        deadline_tsc: u64,
        visitor: V,
    ) -> V::Outcome {
        if self
            .vcpu
            .pin
            .contains(PinControls::ACTIVATE_PREEMPTION_TIMER)
        {
            self.set_preemption_timer(now_tsc, deadline_tsc);
        } else {
            self.set_other_timer(now_tsc, deadline_tsc);
        }
        // SAFETY: this vCPU's VMCS is current and complete (`setup`), its host state is this CPU's (`move_in`),
        // the frame is borrowed uniquely through `self`, and the run loop keeps interrupts off.
        let outcome = unsafe { enter(&raw mut self.vcpu.frame) };
        if outcome != Outcome::Exited {
            return self.not_entered(outcome, visitor);
        }
        let reason = self.vmcs.read(fields::EXIT_REASON);
        match reason {
            CPUID => visitor.visit(self, VmExit::Cpuid),
            HLT => visitor.visit(self, VmExit::Hlt),
            VMCALL => visitor.visit(self, VmExit::Hypercall),
            IO => {
                let exit = exit::io(reason, &self.vmcs);
                visitor.visit(self, exit)
            }
            RDMSR => visitor.visit(self, VmExit::ReadMsr),
            WRMSR => visitor.visit(self, VmExit::WriteMsr),
            EPT_VIOLATION if !self.vcpu.may_lack_rights => {
                let access = exit::ept_violation(&self.vmcs);
                self.block_nmis_again(reason);
                visitor.visit(self, VmExit::Memory(access))
            }
            EPT_VIOLATION => self.violated(reason, visitor),
            PREEMPTION_TIMER => visitor.visit(self, VmExit::HostTimer),
            _ => self.exited(reason, visitor),
        }
    }

    #[inline]
    fn hold_until(&mut self, tsc: u64) {
        self.vcpu.frame.hold_until(tsc);
    }

    #[inline]
    fn ready_tsc(&self) -> u64 {
        self.vcpu.frame.ready_tsc()
    }

    #[inline]
    fn host_tsc_at(&self, guest_tsc: u64, now_tsc: u64) -> u64 {
        self.vcpu.tsc.host_tsc_at(guest_tsc, now_tsc)
    }

    #[inline]
    fn guest_tsc_at(&self, host_tsc: u64) -> u64 {
        self.vcpu.tsc.at(host_tsc)
    }

    fn move_tsc_origin(&mut self, from_tsc: u64, to_tsc: u64) {
        self.vcpu.tsc.move_origin(from_tsc, to_tsc);
        self.vmcs.write(fields::TSC_OFFSET, self.vcpu.tsc.offset());
    }

    #[inline]
    fn interrupted_event(&self) -> Option<Event> {
        exit::interrupted_event(&self.vmcs)
    }

    #[inline]
    fn exiting_event(&self) -> Option<Event> {
        exit::exiting_event(&self.vmcs)
    }

    fn inject(&mut self, event: Event) {
        let event = EntryEvent::from(event);
        if let Some(code) = event.error_code {
            self.vmcs.write(fields::ENTRY_EXCEPTION_ERROR_CODE, code);
        }
        if let Some(length) = event.instruction_length {
            self.vmcs.write(fields::ENTRY_INSTRUCTION_LENGTH, length);
        }
        // The processor clears the valid bit of this field at the exit that follows.
        self.vmcs
            .write(fields::ENTRY_INTERRUPTION_INFO, event.info.0);
    }

    #[cold]
    fn set_a20(&mut self, gate: A20Gate) {
        if self.vcpu.peculiarity.gate != gate {
            self.vcpu.peculiarity.gate = gate;
            self.choose_view();
        }
    }

    #[inline]
    fn delivery(&self) -> Delivery {
        self.apic_delivery()
    }

    #[inline(always)]
    fn present(&mut self, lapic: &mut Lapic) {
        self.present_apic(lapic);
    }

    #[inline]
    fn open_posts(&mut self) {
        self.open_posts_here();
    }

    #[inline]
    fn close_posts(&mut self) {
        self.close_posts_here();
    }

    #[inline]
    fn request_windows(&mut self, windows: Windows) {
        if windows != self.vcpu.windows {
            self.vcpu.windows = windows;
            self.write_primary_controls();
        }
    }

    #[cold]
    fn watch_pauses(&mut self, pauses: Pauses) {
        let control = self.vcpu.vmx.controls.pauses;
        self.vcpu.primary.set(control, pauses == Pauses::Exit);
        self.write_primary_controls();
    }

    fn spoil(&mut self, part: EntryPart) {
        match part {
            // Bit 1 has to be set (SDM vol. 3, Checks on Guest RIP, RFLAGS, and SSP).
            EntryPart::State => self.vmcs.write(fields::GUEST_RFLAGS, 0),
            // No processor has more than four (SDM vol. 3, Checks on VM-Execution Control Fields).
            EntryPart::Controls => self.vmcs.write(fields::CR3_TARGET_COUNT, u32::MAX),
        }
    }

    fn explain(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(
            out,
            "exit reason {:#x}, qualification {:#x}, guest-physical {:#x}, guest-linear {:#x}",
            self.vmcs.read(fields::EXIT_REASON),
            self.vmcs.read(fields::EXIT_QUALIFICATION),
            self.vmcs.read(fields::GUEST_PHYSICAL_ADDRESS),
            self.vmcs.read(fields::GUEST_LINEAR_ADDRESS),
        )?;
        let error = InstructionError(self.vmcs.read(fields::VM_INSTRUCTION_ERROR));
        if error.meaning().is_some() {
            writeln!(out, "VM-instruction error: {error}")?;
        }
        for violation in entry_checks::check(&self.vmcs, &self.vcpu.vmx.capabilities) {
            writeln!(out, "entry rule broken: {violation}")?;
        }
        Ok(())
    }
}

impl VmxLoaded<'_> {
    /// Has the preemption timer, which is on, end the guest's run at this time.
    #[inline(always)]
    fn set_preemption_timer(&mut self, now_tsc: u64, deadline_tsc: u64) {
        let was_last = || self.vmcs.read(fields::EXIT_REASON) == PREEMPTION_TIMER;
        let timer = self.vcpu.vmx.preemption_timer;
        match timer.value_until(deadline_tsc, now_tsc, was_last) {
            Some(value) => self.vmcs.write(fields::PREEMPTION_TIMER_VALUE, value),
            None => self.switch_preemption_timer_off(),
        }
    }

    #[cold]
    #[inline(never)]
    fn switch_preemption_timer_off(&mut self) {
        self.change_pin(PinControls::ACTIVATE_PREEMPTION_TIMER, PinControls::empty());
    }

    /// The preemption timer is off, for nothing was to end the guest's run; or it is never to be used, and the host's own
    /// timer does it, as an interrupt.
    #[inline(never)]
    fn set_other_timer(&mut self, now_tsc: u64, deadline_tsc: u64) {
        let timer = PinControls::ACTIVATE_PREEMPTION_TIMER;
        if self.vcpu.vmx.controls.pin.contains(timer) {
            if deadline_tsc != u64::MAX {
                self.change_pin(timer, timer);
                self.set_preemption_timer(now_tsc, deadline_tsc);
            }
        } else {
            match self.vcpu.host_timer.arm(deadline_tsc) {
                Order::Keep => {}
                Order::Set => apic::set_timer(deadline_tsc),
                Order::Stop => apic::stop_timer(),
            }
        }
    }

    /// All other exits.
    #[inline(never)]
    fn exited<V: ExitVisitor<Self>>(&mut self, reason: u32, visitor: V) -> V::Outcome {
        let exit = exit::decode(reason, &self.vmcs);
        match exit {
            VmExit::Exception(_) | VmExit::HostMachineCheck => self.block_nmis_again(reason),
            // With a flag beside its number.
            VmExit::Memory(_) => return self.violated(reason, visitor),
            VmExit::DirtyLogFull => {
                self.vcpu.drain_log(&self.vmcs);
                self.block_nmis_again(reason);
            }
            VmExit::HostNmi => nmi::take_after_exit(),
            // Where it was the timer, it is to be set again.
            VmExit::HostInterrupt(_) => self.vcpu.host_timer.is_anybodys(),
            VmExit::EntryRefused { .. } | VmExit::EntryMachineCheck => {
                self.vcpu.frame.was_refused();
            }
            _ => {}
        }
        visitor.visit(self, exit)
    }

    /// The guest was not entered, but some of its state may have been loaded.
    #[cold]
    #[inline(never)]
    fn not_entered<V: ExitVisitor<Self>>(&mut self, outcome: Outcome, visitor: V) -> V::Outcome {
        self.vcpu.vmx.guard.enable_here();
        if outcome == Outcome::TurnedBack {
            let event = entry_event(&self.vmcs);
            self.vmcs.write(fields::ENTRY_INTERRUPTION_INFO, 0);
            return visitor.turned_back(event);
        }
        self.vcpu.frame.was_refused();
        let code = self.vmcs.read(fields::VM_INSTRUCTION_ERROR);
        visitor.visit(self, VmExit::EntryRefused { code })
    }

    /// An EPT violation where the tables may just lack a page, if they are the vCPU's own, or the right to execute one. In
    /// a function of its own: where they never do, this is not to take registers from the rest.
    #[inline(never)]
    fn violated<V: ExitVisitor<Self>>(&mut self, reason: u32, visitor: V) -> V::Outcome {
        let access = exit::ept_violation(&self.vmcs);
        self.block_nmis_again(reason);
        if access.kind == AccessKind::Execute || self.vcpu.private.is_some() {
            let exit = self.mend(access);
            return self.mended(exit, visitor);
        }
        visitor.visit(self, VmExit::Memory(access))
    }

    #[cold]
    #[inline(never)]
    fn mended<V: ExitVisitor<Self>>(&mut self, exit: VmExit, visitor: V) -> V::Outcome {
        visitor.visit(self, exit)
    }

    /// Does what is missing, if that is all.
    #[cold]
    fn mend(&mut self, access: MemoryAccess) -> VmExit {
        let VmxVcpu {
            private,
            space,
            vmx,
            ..
        } = &mut *self.vcpu;
        let Some(view) = private else {
            if access.kind == AccessKind::Execute && space.allow_fetch(access.gpa) {
                // Once for a page and CPU: what else is cached of the large page would bring as many violations as there
                // are linear addresses that lead there.
                let pointer = EptPointer::from_u64(self.vmcs.read(fields::EPT_POINTER));
                flush_ept(vmx.tlb, pointer);
                return VmExit::MemoryMapped;
            }
            return VmExit::Memory(access);
        };
        match view.fill(space.pieces(), space.large_pages(), &access) {
            Ok(Filled::Mapped(seen, effect)) => {
                space.page_was_written(seen);
                if effect == TlbEffect::Stale {
                    flush_ept(vmx.tlb, view.pointer());
                }
                VmExit::MemoryMapped
            }
            Ok(Filled::NoRam(gpa)) => VmExit::Memory(MemoryAccess { gpa, ..access }),
            Err(error) => private::impossible(error),
        }
    }

    /// Where an IRET had ended the blocking of NMIs and then exited, it will be repeated: it must find them
    /// blocked again (SDM vol. 3, Information About NMI Unblocking Due to IRET).
    fn block_nmis_again(&mut self, reason: u32) {
        if exit::iret_unblocked_nmis(reason, &self.vmcs) {
            let state = self.vmcs.read(fields::GUEST_INTERRUPTIBILITY);
            self.vmcs
                .write(fields::GUEST_INTERRUPTIBILITY, state | BLOCKING_BY_NMI);
        }
    }
}

/// What the next entry would inject.
fn entry_event(vmcs: &CurrentVmcs) -> Option<Event> {
    InterruptionInfo(vmcs.read(fields::ENTRY_INTERRUPTION_INFO)).event(
        || vmcs.read(fields::ENTRY_EXCEPTION_ERROR_CODE),
        || vmcs.read(fields::ENTRY_INSTRUCTION_LENGTH),
    )
}

impl ExitFields for CurrentVmcs {
    #[inline]
    fn qualification(&self) -> u64 {
        self.read(fields::EXIT_QUALIFICATION)
    }

    #[inline]
    fn guest_linear(&self) -> u64 {
        self.read(fields::GUEST_LINEAR_ADDRESS)
    }

    #[inline]
    fn guest_physical(&self) -> u64 {
        self.read(fields::GUEST_PHYSICAL_ADDRESS)
    }

    #[inline]
    fn interruption_info(&self) -> u32 {
        self.read(fields::EXIT_INTERRUPTION_INFO)
    }

    #[inline]
    fn interruption_error_code(&self) -> u32 {
        self.read(fields::EXIT_INTERRUPTION_ERROR_CODE)
    }

    #[inline]
    fn idt_vectoring_info(&self) -> u32 {
        self.read(fields::IDT_VECTORING_INFO)
    }

    #[inline]
    fn idt_vectoring_error_code(&self) -> u32 {
        self.read(fields::IDT_VECTORING_ERROR_CODE)
    }

    #[inline]
    fn instruction_length(&self) -> u32 {
        self.read(fields::EXIT_INSTRUCTION_LENGTH)
    }

    #[inline]
    fn instruction_info(&self) -> u32 {
        self.read(fields::EXIT_INSTRUCTION_INFO)
    }
}
