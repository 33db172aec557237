//! [`Mailbox`]: how others reach one vCPU, wherever it is.
//!
//! Fixed, edge-triggered interrupts for a vCPU that runs go past the hypervisor where the hardware has a way for
//! that ([`DirectPosts`]); all else lies in the mailbox of its local APIC until it looks.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use machine::devices::lapic::{Kick, Lapic, PostedInterrupts, Signals};
use machine::{DeliveryMode, InterruptMessage, TriggerMode};
use vmm::scheduler::Slot;

use crate::backend::{Backend, DirectPosts, Posted};
use crate::cpu::PcpuId;
use crate::doorbell;

/// How others reach a vCPU.
pub(crate) struct Mailbox<B: Backend> {
    posted: PostedInterrupts,
    direct: Option<Arc<B::Posts>>,
    /// A packed [`Whereabouts`]. Written by whoever has the vCPU, and by the one that wakes it up.
    whereabouts: AtomicU64,
}

/// Where a vCPU is, for those that have left something in its mailbox.
///
/// Whoever has the vCPU says where it is and then looks into the mailbox; a poster fills the mailbox and then looks
/// where the vCPU is. All four are sequentially consistent, so one of the two sees the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Whereabouts {
    /// It waits for its turn, and will look before it runs or sleeps: nobody has to be told.
    Waiting,
    /// It runs there: an interrupt makes it look.
    Running(PcpuId),
    /// It sleeps there: the first to find it so has it woken up.
    Asleep(PcpuId, Slot),
}

impl Whereabouts {
    const RUNNING: u64 = 1 << 62;
    const ASLEEP: u64 = 1 << 63;

    const fn pack(self) -> u64 {
        match self {
            Self::Waiting => 0,
            Self::Running(cpu) => Self::RUNNING | cpu.0 as u64,
            Self::Asleep(cpu, slot) => Self::ASLEEP | (slot.0 as u64) << 16 | cpu.0 as u64,
        }
    }

    const fn unpack(word: u64) -> Self {
        let cpu = PcpuId(word as u16 as u32);
        if word & Self::ASLEEP != 0 {
            Self::Asleep(cpu, Slot((word >> 16) as u32))
        } else if word & Self::RUNNING != 0 {
            Self::Running(cpu)
        } else {
            Self::Waiting
        }
    }
}

impl<B: Backend> Mailbox<B> {
    /// Of a vCPU that waits for its first turn.
    pub(super) fn new(direct: Option<Arc<B::Posts>>) -> Self {
        Self {
            posted: PostedInterrupts::new(),
            direct,
            whereabouts: AtomicU64::new(Whereabouts::Waiting.pack()),
        }
    }

    /// The way past the hypervisor, if there is one.
    pub(crate) fn direct(&self) -> Option<&Arc<B::Posts>> {
        self.direct.as_ref()
    }

    /// What lies in the mailbox of its local APIC.
    #[inline]
    pub(crate) fn posted(&self) -> &PostedInterrupts {
        &self.posted
    }

    /// Whether it was sent anything that it has not taken yet.
    pub(crate) fn is_called(&self) -> bool {
        let is_pending = |direct: &Arc<B::Posts>| direct.is_pending();
        self.posted.is_outstanding() || self.direct.as_ref().is_some_and(is_pending)
    }

    /// Hands everything to the local APIC, and what is not for that to the caller.
    #[inline]
    pub(crate) fn drain(&self, lapic: &mut Lapic) -> Signals {
        if let Some(direct) = &self.direct {
            direct.drain(lapic);
        }
        self.posted.drain(lapic)
    }

    /// Says where the vCPU is from now on. To be called by whoever has it.
    pub(super) fn set_whereabouts(&self, whereabouts: Whereabouts) {
        self.whereabouts.store(whereabouts.pack(), Ordering::SeqCst);
    }

    /// Where the vCPU is.
    pub(super) fn whereabouts(&self) -> Whereabouts {
        Whereabouts::unpack(self.whereabouts.load(Ordering::SeqCst))
    }

    /// Sends it a message.
    #[inline]
    pub(super) fn send(&self, message: &InterruptMessage) {
        let kick = match &self.direct {
            None => self.posted.post(message),
            Some(direct) => self.send_past(direct, message),
        };
        if kick == Kick::Needed {
            self.kick();
        }
    }

    /// Sends a message past the hypervisor, if it is one of that kind and the vCPU runs.
    fn send_past(&self, direct: &Arc<B::Posts>, message: &InterruptMessage) -> Kick {
        let is_fixed = matches!(
            message.delivery_mode,
            DeliveryMode::Fixed | DeliveryMode::LowestPriority
        );
        // Whether a vector is level-triggered is the hypervisor's business, and so is a change of that.
        if !is_fixed
            || message.trigger_mode == TriggerMode::Level
            || self.posted.is_level(message.vector)
            || !direct.is_open()
        {
            return self.posted.post(message);
        }
        match direct.post(message.vector) {
            Posted::Delivered => Kick::NotNeeded,
            // Its turn has ended meanwhile: it has to look.
            Posted::Left => self.posted.nudge(),
        }
    }

    /// Makes the vCPU look into its mailbox.
    pub(super) fn kick(&self) {
        let found = self.whereabouts.load(Ordering::SeqCst);
        match Whereabouts::unpack(found) {
            Whereabouts::Waiting => {}
            Whereabouts::Running(cpu) => doorbell::interrupt(cpu),
            Whereabouts::Asleep(cpu, slot) => {
                // Of several that find it asleep one has it woken up.
                let waiting = Whereabouts::Waiting.pack();
                if self
                    .whereabouts
                    .compare_exchange(found, waiting, Ordering::SeqCst, Ordering::Relaxed)
                    .is_ok()
                {
                    doorbell::wake(cpu, slot);
                }
            }
        }
    }
}
