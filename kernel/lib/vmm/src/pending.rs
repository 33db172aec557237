//! [`Pending`]: the events that a vCPU has yet to take, and what becomes of two that meet.
//!
//! There is one slot for the event that comes before all others: one whose delivery an exit interrupted, or an
//! exception that the hypervisor raises. Where both meet, the second happened while the first was being
//! delivered (SDM vol. 3, Interrupt 8: Double Fault Exception). NMIs are counted, since a processor can have one
//! in delivery and one more remembered. External interrupts wait in the local APIC. [`inject`](crate::inject)
//! decides which of all these goes first.

use arch::{Cr0, DebugCtl, Dr6, Dr7, Exception, Rflags, Vector};
use machine::devices::lapic::{Role, Signals};

use crate::cpu::Cpu;
use crate::fault::{Event, GuestFault, VmError};
use crate::inject::Activity;

/// The events that one vCPU has yet to take.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    first: Option<Event>,
    nmis: u8,
}

/// A vCPU starts anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restart {
    /// The state after INIT. A bootstrap processor goes on from its reset vector, the others wait for a start-up
    /// IPI.
    Init,
    /// The state after INIT, and then this start-up IPI.
    InitThenStartUp(Vector),
    /// A start-up IPI to a vCPU that waits for one: 16-bit code at the page with this number.
    StartUp(Vector),
}

/// The classes of the double-fault table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

impl Class {
    const fn of(event: Event) -> Self {
        let Event::Exception { exception, .. } = event else {
            return Self::Benign;
        };
        match exception {
            Exception::DoubleFault => Self::DoubleFault,
            Exception::PageFault | Exception::Virtualization => Self::PageFault,
            exception if exception.is_contributory() => Self::Contributory,
            _ => Self::Benign,
        }
    }
}

/// What becomes of an event that meets an exception during its delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Meeting {
    /// The second is delivered. The first comes again if its instruction is executed again.
    Second,
    DoubleFault,
    Shutdown,
}

/// SDM vol. 3, Interrupt 8: Double Fault Exception: conditions for generating a double fault.
const fn meet(first: Class, second: Class) -> Meeting {
    match (first, second) {
        (Class::Benign, _) | (_, Class::Benign) => Meeting::Second,
        (Class::Contributory, Class::PageFault) => Meeting::Second,
        (Class::Contributory, Class::Contributory)
        | (Class::PageFault, Class::Contributory | Class::PageFault) => Meeting::DoubleFault,
        (Class::DoubleFault, Class::Contributory | Class::PageFault) => Meeting::Shutdown,
        // #DF comes from this table only, so nothing has it as its second event.
        (_, Class::DoubleFault) => Meeting::Second,
    }
}

impl Pending {
    /// None at all.
    pub const fn new() -> Self {
        Self {
            first: None,
            nmis: 0,
        }
    }

    /// After each exit: the event whose delivery it interrupted, which is delivered again unless something is
    /// raised instead.
    #[inline]
    pub const fn interrupted(&mut self, event: Option<Event>) {
        self.first = event;
    }

    /// The handler of an exit has found a fault, or a debug trap. Sets what the processor sets besides the
    /// delivery, which an injection does not do: CR2, DR6, DR7.GD, IA32_DEBUGCTL and RF.
    ///
    /// # Errors
    /// [`VmError::TripleFault`] if it met a double fault in delivery.
    #[cold]
    pub fn raise(&mut self, fault: GuestFault, cpu: &mut impl Cpu) -> Result<(), VmError> {
        if is_fault_class(fault) {
            cpu.set_rflags(cpu.rflags() | Rflags::RF);
        }
        match fault {
            GuestFault::PageFault { address, .. } => cpu.set_cr2(address.as_u64()),
            GuestFault::Debug { dr6 } => set_debug_state(dr6, cpu),
            _ => {}
        }
        let error_code = fault.error_code().filter(|_| cpu.cr0().contains(Cr0::PE));
        self.reflect(
            Event::Exception {
                exception: fault.exception(),
                error_code,
            },
            cpu,
        )
    }

    /// An exception has exited before its delivery and is the guest's own after all.
    ///
    /// # Errors
    /// [`VmError::TripleFault`] if it met a double fault in delivery.
    pub fn reflect(&mut self, event: Event, cpu: &impl Cpu) -> Result<(), VmError> {
        let meeting = match self.first {
            None => Meeting::Second,
            Some(first) => meet(Class::of(first), Class::of(event)),
        };
        self.first = match meeting {
            Meeting::Second => Some(event),
            Meeting::DoubleFault => Some(Event::Exception {
                exception: Exception::DoubleFault,
                error_code: cpu.cr0().contains(Cr0::PE).then_some(0),
            }),
            Meeting::Shutdown => return Err(VmError::TripleFault),
        };
        Ok(())
    }

    /// Takes what other CPUs and the pins of the local APIC want of this CPU. A start-up IPI to a CPU that does
    /// not wait for one is ignored.
    #[inline]
    pub fn note(&mut self, signals: Signals, activity: Activity, role: Role) -> Option<Restart> {
        if signals.is_empty() {
            return None;
        }
        self.nmis = self.nmis.saturating_add(signals.nmis()).min(2);
        if signals.init() {
            *self = Self::new();
            return Some(match (signals.start_up(), role) {
                (Some(vector), Role::Application) => Restart::InitThenStartUp(vector),
                (Some(_), Role::Bootstrap) | (None, _) => Restart::Init,
            });
        }
        match activity {
            Activity::WaitingForStartUp => signals.start_up().map(Restart::StartUp),
            Activity::Active | Activity::Halted => None,
        }
    }

    /// The event that comes before all others.
    pub(crate) const fn first(&self) -> Option<Event> {
        self.first
    }

    /// Takes the event that comes before all others.
    #[inline]
    pub(crate) const fn take_first(&mut self) -> Option<Event> {
        self.first.take()
    }

    /// How many NMIs wait.
    #[inline]
    pub(crate) const fn nmis(&self) -> u8 {
        self.nmis
    }

    /// NMIs are blocked: however many came meanwhile, one is remembered.
    pub(crate) fn merge_nmis(&mut self) {
        self.nmis = self.nmis.min(1);
    }

    /// One NMI is delivered.
    pub(crate) const fn take_nmi(&mut self) {
        self.nmis = self.nmis.saturating_sub(1);
    }
}

/// Whether the processor pushes RFLAGS with RF set: all faults but instruction breakpoints, and no traps
/// (SDM vol. 3, Restarting a Program or Task After an Exception or Interrupt).
const fn is_fault_class(fault: GuestFault) -> bool {
    match fault {
        GuestFault::Debug { dr6 } => {
            dr6 & Dr6::BD.bits() != 0 && dr6 & Dr6::BREAKPOINTS.bits() == 0
        }
        _ => true,
    }
}

/// SDM vol. 3, Debug Status Register (DR6); Debug Control Register (DR7); Last Branch, Interrupt, and Exception
/// Recording: what a debug exception changes.
fn set_debug_state(dr6: u64, cpu: &mut impl Cpu) {
    let old = cpu.debug_register(6);
    cpu.set_debug_register(6, old | dr6);
    let dr7 = cpu.debug_register(7);
    if dr7 & Dr7::GD.bits() != 0 {
        cpu.set_debug_register(7, dr7 & !Dr7::GD.bits());
    }
    if let Some(control) = cpu.hardware_msr(arch::msr::IA32_DEBUGCTL)
        && control & DebugCtl::all().bits() != 0
    {
        cpu.set_hardware_msr(arch::msr::IA32_DEBUGCTL, control & !DebugCtl::all().bits());
    }
}
