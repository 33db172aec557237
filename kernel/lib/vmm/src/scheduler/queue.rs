//! [`RunQueue`]: the vCPUs that are ready on one CPU, and the one that runs there. Here they come and go; their turns
//! are given in `turns.rs`.

mod turns;

use alloc::vec::Vec;
use arrayvec::ArrayVec;

use super::account::Bounds;
use super::balance::{Theft, should_steal};
use super::heap::Heap;
use super::spinning::Spins;
use super::turn::{Preemption, Running, Slice};
use super::waiting::{Favoured, Ready, Throttled};
use super::{
    AHEAD_ROUNDS, ALONE_NS, BALANCE_NS, BORROW_LIMIT_NS, CATCH_UP_ROUNDS, Elsewhere, MIN_SLICE_NS,
    Occupied, ROUND_NS, Share, Summary, VirtualTime,
};

/// Why a vCPU joins a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// It is new.
    New,
    /// It has slept, and something has woken it.
    Woken,
    /// Its turn is over and it wants another one.
    Again,
    /// It comes from another CPU's queue.
    Moved,
}

/// Who uses a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// Many vCPUs take turns.
    Shared,
    /// It is the property of one vCPU, whose turns have no end.
    Dedicated,
}

/// The vCPUs that are ready on one CPU; `T` is whatever owns one.
///
/// One CPU owns it; others that want to add or take vCPUs hold its lock, which is the owner's business.
#[derive(Debug)]
pub struct RunQueue<T> {
    cpu_use: Use,
    /// How long a turn lasts that nobody waits for.
    alone_ns: u64,
    pub(super) ready: Heap<Ready<T>>,
    /// Those whose VM has used up its cap.
    throttled: Vec<Throttled<T>>,
    /// The earliest end of a wait among them.
    next_release_ns: u64,
    running: Option<Running>,
    elsewhere: Elsewhere,
    /// Of the ready ones and the running one.
    pub(super) total_weight: u64,
    /// The virtual time that all have passed; never falls.
    passed: VirtualTime,
    /// What vCPUs have run here, in their virtual time, that nobody else wanted and nobody was charged for.
    unclaimed: VirtualTime,
    pub(super) arrivals: u64,
    pub(super) favoured: Option<Favoured>,
    /// There may be some that spin.
    pub(super) has_spinners: bool,
}

impl<T> RunQueue<T> {
    /// An empty queue.
    pub const fn new(cpu_use: Use) -> Self {
        Self {
            cpu_use,
            alone_ns: BALANCE_NS,
            ready: Heap::new(),
            throttled: Vec::new(),
            next_release_ns: u64::MAX,
            running: None,
            elsewhere: Elsewhere::NOWHERE,
            total_weight: 0,
            passed: VirtualTime(0),
            unclaimed: VirtualTime(0),
            arrivals: 0,
            favoured: None,
            has_spinners: false,
        }
    }

    /// The same where there is no other CPU that might have too much to do.
    #[must_use]
    pub fn of_only_cpu(mut self) -> Self {
        self.alone_ns = ALONE_NS;
        self
    }

    /// Who uses the CPU.
    pub const fn cpu_use(&self) -> Use {
        self.cpu_use
    }

    /// Who uses the CPU from now on.
    pub const fn set_use(&mut self, cpu_use: Use) {
        self.cpu_use = cpu_use;
    }

    /// Makes room, so that up to this many vCPUs join without an allocation.
    pub fn reserve(&mut self, vcpus: usize) {
        self.ready.reserve(vcpus.saturating_sub(self.ready.len()));
        self.throttled
            .reserve(vcpus.saturating_sub(self.throttled.len()));
    }

    /// How many vCPUs wait for their turn.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Whether there is none, neither ready nor waiting for its cap. The running one is not counted.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.throttled.is_empty()
    }

    /// When the queue has to be looked at again though nobody joins: a cap's period ends.
    pub fn next_event_ns(&self) -> Option<u64> {
        (self.next_release_ns != u64::MAX).then_some(self.next_release_ns)
    }

    /// What other CPUs should know.
    pub fn summary(&self, now_ns: u64) -> Summary {
        let next_waiting = self.ready.peek().map(|ready| ready.share.virtual_time);
        let running = self.running.map(|running| running.virtual_time(now_ns));
        Summary {
            waiting: self.ready.len(),
            occupied: if running.is_some() {
                Occupied::Yes
            } else {
                Occupied::No
            },
            next_waiting,
            furthest_behind: match (next_waiting, running) {
                (Some(waiting), Some(running)) => Some(waiting.min(running)),
                (waiting, running) => waiting.or(running),
            },
            round: self.round(),
        }
    }

    /// By how much virtual time advances in a round.
    pub(super) fn round(&self) -> VirtualTime {
        VirtualTime::over(ROUND_NS, self.total_weight)
    }

    /// What the CPU has seen of the others, before it chooses.
    pub const fn set_elsewhere(&mut self, elsewhere: Elsewhere) {
        self.elsewhere = elsewhere;
    }

    /// A vCPU becomes ready.
    pub fn enqueue(
        &mut self,
        vcpu: T,
        mut share: Share,
        arrival: Arrival,
        now_ns: u64,
    ) -> Preemption {
        if arrival != Arrival::Again {
            self.prepare_for_one_more(now_ns);
        }
        match arrival {
            Arrival::Woken => {
                self.wake(&mut share);
                share.borrowing_ns = BORROW_LIMIT_NS;
                share.spins = Spins::NONE;
            }
            _ if share.is_asleep() => self.wake(&mut share),
            Arrival::Again => {
                let _: bool = self.goes_on(&mut share);
            }
            Arrival::New => share.move_to(self.passed),
            Arrival::Moved => {
                let Bounds { least, most, .. } = self.bounds(&share);
                share.move_to(share.virtual_time().min(most).max(least));
            }
        }
        let key = self.push(vcpu, share, VirtualTime(0));
        let Some(running) = self.running else {
            return Preemption::NotNow;
        };
        if arrival == Arrival::Woken && key < running.effective(now_ns, self.round()) {
            return Preemption::Now;
        }
        self.shorten(running, now_ns)
    }

    /// Somebody comes who has not been here: who has the CPU to himself pays for it from now on.
    fn prepare_for_one_more(&mut self, now_ns: u64) {
        match &mut self.running {
            Some(running) => {
                let unclaimed = running.is_wanted_from(now_ns);
                self.unclaimed = self.unclaimed.saturating_add(unclaimed);
            }
            // Virtual time has not stood still while the CPU was idle.
            None if self.ready.is_empty() => {
                self.passed = self
                    .passed
                    .max(self.elsewhere.reached().unwrap_or_default());
            }
            None => {}
        }
        self.advance(now_ns);
    }

    /// One has not wanted a CPU for a while: it is not behind the others, since sleep saves nothing up.
    fn wake(&self, share: &mut Share) {
        share.wake(&self.bounds(share), self.unclaimed);
    }

    /// Where one may be that comes from elsewhere: not far behind, and not far ahead, since nobody is to wait for
    /// long for what he ran where he was alone.
    fn bounds(&self, share: &Share) -> Bounds {
        let round = self.round();
        let turns = VirtualTime::of(2 * MIN_SLICE_NS, share.weight);
        let ahead = round.times(AHEAD_ROUNDS).max(turns);
        Bounds {
            passed: self.passed,
            least: self.passed.saturating_sub(round.times(CATCH_UP_ROUNDS)),
            most: self.passed.saturating_add(ahead),
        }
    }

    /// Whether a vCPU whose turn is over will be chosen once more when it joins [`Again`](Arrival::Again).
    pub fn goes_on(&mut self, share: &mut Share) -> bool {
        share.spins = Spins::NONE;
        self.draw_on_spinners(share);
        let key = share.effective(self.round());
        self.ready.peek().is_none_or(|next| key < next.key)
    }

    /// One more is ready: rounds are shorter, and so is the turn that has begun.
    fn shorten(&mut self, running: Running, now_ns: u64) -> Preemption {
        let slice_ns = self.slice(running.key, running.weight, running.borrowing_ns);
        let ran_ns = now_ns.saturating_sub(running.began_ns);
        match running.slice {
            Slice::Ns(old_ns) if slice_ns.saturating_add(MIN_SLICE_NS) > old_ns => {
                Preemption::NotNow
            }
            _ if ran_ns >= slice_ns => Preemption::Now,
            _ => {
                self.running = Some(Running {
                    slice: Slice::Ns(slice_ns),
                    ..running
                });
                Preemption::Within {
                    ns: slice_ns - ran_ns,
                }
            }
        }
    }

    /// Queues a vCPU whose turn comes not before `earliest`, though it may be further behind in time. That is not
    /// charged to it.
    pub(super) fn push(&mut self, vcpu: T, share: Share, earliest: VirtualTime) -> VirtualTime {
        let weight = u64::from(share.weight.parts());
        let round = VirtualTime::over(ROUND_NS, self.total_weight + weight);
        let key = share.effective(round).max(earliest);
        self.push_at(key, vcpu, share);
        key
    }

    /// Queues a vCPU whose turn comes then, whatever its own time is.
    pub(super) fn push_at(&mut self, key: VirtualTime, vcpu: T, share: Share) {
        self.total_weight += u64::from(share.weight.parts());
        let order = self.arrivals;
        self.arrivals = self.arrivals.wrapping_add(1);
        self.ready.push(Ready {
            key,
            order,
            vcpu,
            share,
        });
    }

    /// Brings the virtual time that all have passed up to now. One who has the CPU to himself does not move it where
    /// nobody waits elsewhere either; where somebody does, it is no later than what is reached there: who comes from
    /// there is not to be taken for one that is behind.
    pub(super) fn advance(&mut self, now_ns: u64) {
        let waiting = match self.ready.peek() {
            // One on borrowed time says nothing about those behind it.
            Some(first) if first.share.borrowing_ns > 0 => return,
            Some(first) => Some(first.share.virtual_time),
            None => None,
        };
        let running = self.running.map(|running| running.virtual_time(now_ns));
        let least = match (waiting, running) {
            (Some(waiting), Some(running)) => waiting.min(running),
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => return,
        };
        let are_several = self.ready.len() + usize::from(running.is_some()) > 1;
        let least = match (self.elsewhere, self.elsewhere.reached()) {
            (Elsewhere::Waiting { .. }, Some(reached)) => least.min(reached),
            _ if are_several => least,
            _ => return,
        };
        self.passed = self.passed.max(least);
    }

    /// Takes the waiting vCPU out that is furthest behind among the first few for which `may_move` holds, for a CPU with
    /// `own` to do, if this queue is still behind that.
    pub fn steal_for(
        &mut self,
        own: &Summary,
        may_move: impl Fn(&T) -> bool,
        now_ns: u64,
    ) -> Theft<(T, Share)> {
        if !should_steal(own, &self.summary(now_ns)) {
            return Theft::TooLate;
        }
        let Some(ready) = self.take_among_first(may_move) else {
            return Theft::Bound;
        };
        let Ready {
            vcpu, mut share, ..
        } = ready;
        self.total_weight -= u64::from(share.weight.parts());
        share.leave();
        Theft::Done((vcpu, share))
    }

    /// Takes the first vCPU out of the heap that is meant, if it is among the first few. The weights are the
    /// caller's business.
    fn take_among_first(&mut self, is_meant: impl Fn(&T) -> bool) -> Option<Ready<T>> {
        /// How many are looked at before giving up.
        const LOOKED_AT: usize = 8;
        let mut passed_over = ArrayVec::<_, LOOKED_AT>::new();
        let mut found = None;
        while !passed_over.is_full()
            && let Some(ready) = self.ready.pop()
        {
            if is_meant(&ready.vcpu) {
                found = Some(ready);
                break;
            }
            passed_over.push(ready);
        }
        for ready in passed_over {
            self.ready.push(ready);
        }
        found
    }

    /// The vCPU whose turn is next.
    pub fn next(&self) -> Option<&T> {
        self.ready.peek().map(|ready| &ready.vcpu)
    }

    /// All that wait, for their turn or for their cap, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let ready = self.ready.iter().map(|ready| &ready.vcpu);
        ready.chain(self.throttled.iter().map(|throttled| &throttled.vcpu))
    }

    /// Takes all out for which `is_meant` holds, such as those of a VM that is being stopped. The running one is
    /// not among them. Looks at every one.
    pub fn remove(&mut self, is_meant: impl Fn(&T) -> bool) -> Vec<(T, Share)> {
        let mut removed = Vec::new();
        for Ready { vcpu, share, .. } in self.ready.remove_all(|ready| is_meant(&ready.vcpu)) {
            self.total_weight -= u64::from(share.weight.parts());
            removed.push((vcpu, share));
        }
        let mut at = 0;
        while let Some(throttled) = self.throttled.get(at) {
            if is_meant(&throttled.vcpu) {
                let Throttled { vcpu, share, .. } = self.throttled.swap_remove(at);
                removed.push((vcpu, share));
            } else {
                at += 1;
            }
        }
        removed
    }
}
