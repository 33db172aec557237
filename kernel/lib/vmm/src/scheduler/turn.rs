//! [`Turn`]: a vCPU has the CPU for a while.

use super::{BORROW_ROUNDS, Share, VirtualTime, Weight};

/// Whether the vCPU that runs is to make way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Preemption {
    /// The new one goes first: choose again.
    Now,
    /// Its turn is shorter now that there is one more to share with.
    Within {
        /// What is left of it.
        ns: u64,
    },
    /// Its turn ends when it would have ended.
    NotNow,
}

/// How long a turn lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slice {
    /// So many nanoseconds.
    Ns(u64),
    /// Until it sleeps: the CPU is its own.
    Unlimited,
}

/// A vCPU that was chosen.
#[derive(Debug)]
pub struct Turn<T> {
    /// The vCPU.
    pub vcpu: T,
    /// The scheduler's part of it.
    pub share: Share,
    /// How long it may run.
    pub slice: Slice,
    pub(super) began_ns: u64,
    /// What its cap has granted, and when.
    pub(super) granted: Option<Granted>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Granted {
    pub(super) ns: u64,
    pub(super) taken_ns: u64,
}

impl<T> Turn<T> {
    /// What passed before this was the switch to the vCPU, and is nobody's fault: the scheduler wanted it. Charged, it
    /// would cost those most whose turns are short. Not for one that ends its turn by itself, to sleep or to spin:
    /// by doing so all the time it would make others pay.
    pub const fn forgive_switch(&mut self, entered_ns: u64) {
        self.began_ns = entered_ns;
    }
}

/// The part of the running vCPU that the queue has to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    pub(super) began_ns: u64,
    /// Since when anybody else wants the CPU; until then nobody is charged.
    pub(super) charged_from_ns: Option<u64>,
    pub(super) virtual_time: VirtualTime,
    pub(super) borrowing_ns: u64,
    pub(super) weight: Weight,
    /// The virtual time that has decided its turn.
    pub(super) key: VirtualTime,
    pub(super) slice: Slice,
}

impl Running {
    pub(super) fn virtual_time(&self, now_ns: u64) -> VirtualTime {
        let charged_ns = self
            .charged_from_ns
            .map_or(0, |from_ns| now_ns.saturating_sub(from_ns));
        self.virtual_time
            .saturating_add(VirtualTime::of(charged_ns, self.weight))
    }

    /// Somebody else wants the CPU from now on. Returns the virtual time that nobody has wanted.
    pub(super) fn is_wanted_from(&mut self, now_ns: u64) -> VirtualTime {
        if self.charged_from_ns.is_some() {
            return VirtualTime(0);
        }
        self.charged_from_ns = Some(now_ns);
        VirtualTime::of(now_ns.saturating_sub(self.began_ns), self.weight)
    }

    pub(super) fn effective(&self, now_ns: u64, round: VirtualTime) -> VirtualTime {
        let borrows = now_ns.saturating_sub(self.began_ns) < self.borrowing_ns;
        let rounds = if borrows { BORROW_ROUNDS } else { 0 };
        self.virtual_time(now_ns)
            .saturating_sub(round.times(rounds))
    }
}
