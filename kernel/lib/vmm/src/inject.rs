//! What a vCPU takes at its next entry: [`decide`].
//!
//! After SDM vol. 3, Priority Among Concurrent Events, as far as they concern a hypervisor: the event that an exit
//! interrupted and faults of the instruction that exited come first, since they belong to what has begun; debug
//! traps, raised the same way, come before NMIs, and NMIs before external interrupts. INIT and start-up IPIs are
//! not events of the IDT; [`Pending::note`] deals with them before. SMIs do not exist in a virtual machine.

use arch::{Rflags, Vector};
use machine::Level;
use machine::devices::lapic::{Lapic, Lint, PendingInterrupt};

use crate::cpu::{Blocking, Cpu};
use crate::fault::Event;
use crate::pending::Pending;

/// What a vCPU is doing (SDM vol. 3, Guest Non-Register State: activity state). Kept by software: the vCPU is
/// entered in the active state only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activity {
    /// It executes instructions.
    Active,
    /// It waits for an event, after HLT.
    Halted,
    /// It waits for a start-up IPI; nothing else reaches it but INIT.
    WaitingForStartUp,
}

/// Who brings the local APIC's interrupts to the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// Injection.
    Software,
    /// Virtual-interrupt delivery; only the 8259A's interrupts are injected.
    Hardware,
}

/// The answer of the 8259A to an INTA cycle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PicAnswer {
    /// The interrupt.
    pub vector: Vector,
    /// The INTR wire after that. Whoever answers also tells the mailbox
    /// ([`PostedInterrupts::set_intr`](machine::devices::lapic::PostedInterrupts::set_intr)), where the next drain
    /// looks it up.
    pub intr: Level,
}

/// What is to be done at an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Decision {
    /// To be injected.
    pub event: Option<Event>,
    /// The guest is to exit as soon as it can take an external interrupt.
    pub want_interrupt_window: bool,
    /// The guest is to exit as soon as it can take an NMI.
    pub want_nmi_window: bool,
    /// The vCPU was halted, and is active from now on.
    pub wake_from_halt: bool,
}

/// Decides what the vCPU takes next, and takes it out of where it waited. What has been taken must be injected,
/// so this comes right before the entry.
///
/// `acknowledge_pic` is called at most once, when the 8259A's interrupt is taken. With nothing pending, the CPU
/// is asked for nothing.
#[inline]
pub fn decide<C: Cpu>(
    pending: &mut Pending,
    cpu: &mut C,
    lapic: &mut Lapic,
    activity: Activity,
    delivery: Delivery,
    acknowledge_pic: impl FnOnce() -> PicAnswer,
) -> Decision {
    if activity == Activity::WaitingForStartUp {
        return Decision::default();
    }
    let mut decision = Decision {
        event: pending.take_first(),
        ..Decision::default()
    };
    if let Some(event) = decision.event {
        unblock(event, cpu);
    }
    if pending.nmis() != 0 {
        nmi(pending, cpu, &mut decision);
    }
    let mut waits = waiting_interrupt(lapic, activity, delivery);
    let mut hardware_wakes = false;
    if let Some(interrupt) = waits
        && decision.event.is_none()
        && can_take_interrupt(cpu)
    {
        waits = None;
        match (interrupt, delivery) {
            (PendingInterrupt::Apic(_), Delivery::Hardware) => hardware_wakes = true,
            (PendingInterrupt::Apic(_), Delivery::Software) => {
                decision.event = lapic.acknowledge().map(Event::Interrupt);
            }
            (PendingInterrupt::Pic, _) => {
                let answer = acknowledge_pic();
                lapic.pic_acknowledged();
                lapic.set_lint(Lint::Lint0, answer.intr);
                decision.event = Some(Event::Interrupt(answer.vector));
                waits = waiting_interrupt(lapic, Activity::Active, delivery);
            }
        }
    }
    // The hardware needs no window for the interrupts that it delivers.
    decision.want_interrupt_window |= match delivery {
        Delivery::Software => waits.is_some(),
        Delivery::Hardware => waits == Some(PendingInterrupt::Pic),
    };
    decision.wake_from_halt =
        activity == Activity::Halted && (decision.event.is_some() || hardware_wakes);
    decision
}

/// Ends the blocking that is over once an event is delivered, or that would forbid to deliver it again.
///
/// The shadow of STI or MOV SS ends with the exception that an instruction in it raises. Left in place, it would make the
/// entry fail where TF is set: pending debug exceptions would have to tell of a single step then (SDM vol. 3, Checks on
/// Guest Non-Register State).
fn unblock<C: Cpu>(event: Event, cpu: &mut C) {
    let mut over = Blocking::STI.union(Blocking::MOV_SS);
    if event == Event::Nmi {
        // Its first delivery has blocked NMIs, which would forbid the second (SDM vol. 3, Handling VM Exits Due to
        // Exceptions).
        over |= Blocking::NMI;
    }
    let blocking = cpu.blocking();
    if blocking.intersects(over) {
        cpu.set_blocking(blocking - over);
    }
}

/// Takes an NMI, or arranges for an exit when one can be taken.
#[cold]
fn nmi<C: Cpu>(pending: &mut Pending, cpu: &C, decision: &mut Decision) {
    let blocking = cpu.blocking();
    // A re-injected NMI blocks the ones that wait.
    if blocking.contains(Blocking::NMI) || decision.event == Some(Event::Nmi) {
        pending.merge_nmis();
    }
    if decision.event.is_none() && blocking.is_empty() {
        decision.event = Some(Event::Nmi);
        pending.take_nmi();
    }
    if pending.nmis() == 0 {
        return;
    }
    if decision.event.is_none() && blocking == Blocking::STI {
        // Processors differ in whether the NMI window is open in the shadow of STI, but not in whether an NMI may be
        // injected there. The interrupt window opens right behind it, as IF is set.
        decision.want_interrupt_window = true;
    } else {
        decision.want_nmi_window = true;
    }
}

/// What waits for the CPU's IF, as far as it is software's business. With virtual-interrupt delivery the local
/// APIC's interrupts are that only for a halted vCPU, which is not in the hardware's hands.
#[inline]
fn waiting_interrupt(
    lapic: &Lapic,
    activity: Activity,
    delivery: Delivery,
) -> Option<PendingInterrupt> {
    match (delivery, activity) {
        (Delivery::Hardware, Activity::Active) => {
            lapic.pic_is_pending().then_some(PendingInterrupt::Pic)
        }
        _ => lapic.pending_interrupt(),
    }
}

/// SDM vol. 3, Masking Maskable Hardware Interrupts; Masking Exceptions and Interrupts When Switching Stacks.
#[inline]
fn can_take_interrupt<C: Cpu>(cpu: &C) -> bool {
    cpu.rflags().contains(Rflags::IF)
        && !cpu
            .blocking()
            .intersects(Blocking::STI.union(Blocking::MOV_SS))
}

#[cfg(test)]
mod tests;
