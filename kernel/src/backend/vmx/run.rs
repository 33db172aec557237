//! Around the world switch: the timer before it, the decoded exit and the interrupted event after it.

use core::fmt;

use machine::devices::lapic::Lapic;
use vmm::inject::Delivery;
use vmm::{Event, VmExit};
use vmx::event::EntryEvent;
use vmx::exit::{self, ExitFields};
use vmx::instruction_error::InstructionError;
use vmx::{PinControls, PrimaryControls, entry_checks, fields};

use super::Residence;
use super::entry::{Entry, Outcome, enter};
use super::loaded::{BLOCKING_BY_NMI, VmxLoaded};
use super::vmcs::CurrentVmcs;
use crate::backend::{LoadedVcpu, Windows};
use crate::cpu::apic;

impl LoadedVcpu for VmxLoaded<'_> {
    #[inline]
    fn enter(&mut self, now_tsc: u64, deadline_tsc: u64) -> VmExit {
        let vmx = self.vcpu.vmx;
        if vmx
            .controls
            .pin
            .contains(PinControls::ACTIVATE_PREEMPTION_TIMER)
        {
            let value = vmx.preemption_timer.value_until(deadline_tsc, now_tsc);
            self.vmcs.write(fields::PREEMPTION_TIMER_VALUE, value);
        } else if deadline_tsc != self.vcpu.armed_tsc {
            // The host's own timer ends the guest's turn, as an interrupt.
            self.vcpu.armed_tsc = deadline_tsc;
            apic::set_timer(deadline_tsc);
        }
        let Residence::Cpu { entry, .. } = &mut self.vcpu.residence else {
            unreachable!("a loaded vCPU resides on its CPU")
        };
        // SAFETY: this vCPU's VMCS is current and complete (`setup`), its host state is this CPU's (`move_in`),
        // the frame is borrowed uniquely through `self`, and the run loop keeps interrupts off.
        let outcome = unsafe { enter(&raw mut self.vcpu.frame, *entry) };
        if outcome != Outcome::Exited {
            vmx.guard.enable_here();
            return VmExit::EntryRefused {
                code: self.vmcs.read(fields::VM_INSTRUCTION_ERROR),
            };
        }
        entry.insert(Entry::RESUME);
        let reason = self.vmcs.read(fields::EXIT_REASON);
        let exit = exit::decode(reason, &self.vmcs);
        match exit {
            VmExit::Memory(_) | VmExit::Exception(_) => self.block_nmis_again(reason),
            VmExit::EntryRefused { .. } => self.entry_kind().remove(Entry::RESUME),
            _ => {}
        }
        exit
    }

    #[inline]
    fn host_tsc_at(&self, guest_tsc: u64) -> u64 {
        guest_tsc.wrapping_sub(self.vcpu.tsc_offset)
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

    #[inline]
    fn delivery(&self) -> Delivery {
        self.apic_delivery()
    }

    #[inline]
    fn present(&mut self, lapic: &mut Lapic) {
        self.present_apic(lapic);
    }

    #[inline]
    fn request_windows(&mut self, windows: Windows) {
        if windows != self.vcpu.windows {
            let mut primary = self.vcpu.primary;
            primary.set(
                PrimaryControls::INTERRUPT_WINDOW_EXITING,
                windows.contains(Windows::INTERRUPT),
            );
            primary.set(
                PrimaryControls::NMI_WINDOW_EXITING,
                windows.contains(Windows::NMI),
            );
            self.vmcs.write(fields::PRIMARY_CONTROLS, primary.bits());
            self.vcpu.windows = windows;
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
    /// Where an IRET had ended the blocking of NMIs and then exited, it will be repeated: it must find them
    /// blocked again (SDM vol. 3, Information About NMI Unblocking Due to IRET).
    fn block_nmis_again(&mut self, reason: u32) {
        if exit::iret_unblocked_nmis(reason, &self.vmcs) {
            let state = self.vmcs.read(fields::GUEST_INTERRUPTIBILITY);
            self.vmcs
                .write(fields::GUEST_INTERRUPTIBILITY, state | BLOCKING_BY_NMI);
        }
    }

    fn entry_kind(&mut self) -> &mut Entry {
        match &mut self.vcpu.residence {
            Residence::Cpu { entry, .. } => entry,
            Residence::Memory { .. } => unreachable!("a loaded vCPU resides on its CPU"),
        }
    }
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
