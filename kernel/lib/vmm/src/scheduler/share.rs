//! [`Share`]: what the scheduler knows of one vCPU.

use alloc::sync::Arc;

use super::account::{Account, Bounds, Place, Unclaimed};
use super::spinning::Spins;
use super::{BORROW_ROUNDS, CATCH_UP_ROUNDS, Cap, Elsewhere, ROUND_NS, VirtualTime, Weight};

/// It travels with the vCPU from queue to queue.
#[derive(Debug)]
pub struct Share {
    /// Its own for now: that of its VM, or a part.
    pub(super) weight: Weight,
    pub(super) cap: Option<Arc<Cap>>,
    pub(super) virtual_time: VirtualTime,
    /// Run time that may still be on borrowed time.
    pub(super) borrowing_ns: u64,
    /// What nobody had wanted of its CPU when it last ran there.
    unclaimed: Option<VirtualTime>,
    /// That of its VM, where it is one of several.
    vm: Option<Arc<Account>>,
    /// It has told the account that it wants a CPU.
    is_awake: bool,
    /// What its VM had been forgiven when it fell asleep.
    forgiven_before: VirtualTime,
    /// What it is ahead by, or behind, because its CPU is, and not because of what its VM has had.
    abroad: i64,
    pub(super) spins: Spins,
}

impl Share {
    /// The only vCPU of a VM, which has not run yet.
    pub const fn new(weight: Weight, cap: Option<Arc<Cap>>) -> Self {
        Self {
            weight,
            cap,
            virtual_time: VirtualTime(0),
            borrowing_ns: 0,
            unclaimed: None,
            vm: None,
            is_awake: false,
            forgiven_before: VirtualTime(0),
            abroad: 0,
            spins: Spins::NONE,
        }
    }

    /// One of several vCPUs of a VM.
    pub fn of_several(vm: &Arc<Account>, cap: Option<Arc<Cap>>) -> Self {
        Self {
            vm: Some(Arc::clone(vm)),
            ..Self::new(vm.weight(), cap)
        }
    }

    /// Its virtual time.
    pub const fn virtual_time(&self) -> VirtualTime {
        self.virtual_time
    }

    /// Whether both work for the same VM.
    pub(super) fn is_sibling(&self, other: &Self) -> bool {
        match (&self.vm, &other.vm) {
            (Some(mine), Some(theirs)) => Arc::ptr_eq(mine, theirs),
            _ => false,
        }
    }

    /// Whether it may exchange its place with a sibling that waits for another CPU: not where that CPU is at quite another time.
    pub(super) fn is_of_one_time_with(&self, sibling: &Self) -> bool {
        self.vm
            .as_ref()
            .is_none_or(|vm| vm.are_of_one_time(self.virtual_time, sibling.virtual_time))
    }

    /// The virtual time that decides its turn in a queue with such rounds.
    pub(super) fn effective(&self, round: VirtualTime) -> VirtualTime {
        if self.borrowing_ns > 0 {
            self.virtual_time.saturating_sub(round.times(BORROW_ROUNDS))
        } else {
            self.virtual_time
        }
    }

    /// It leaves its CPU. What nobody wants there is no longer its business.
    pub const fn leave(&mut self) {
        self.unclaimed = None;
    }

    /// It wants no CPU until it is queued again: what is due to it is its siblings' until then.
    pub fn sleep(&mut self) {
        if let Some(vm) = &self.vm
            && self.is_awake
        {
            self.forgiven_before = vm.sleep(self.virtual_time, self.abroad);
            self.is_awake = false;
        }
    }

    /// It wants a CPU of whose time nobody has wanted so much up to now.
    pub(super) fn wake(&mut self, bounds: &Bounds, unclaimed: VirtualTime) {
        let since = self
            .unclaimed
            .take()
            .map(|then| unclaimed.saturating_sub(then));
        let Some(vm) = &self.vm else {
            // What somebody is ahead of the others is paid back as well by his letting a CPU to one who has it to himself.
            let paid = since.unwrap_or_default();
            let its = self.virtual_time.saturating_sub(paid);
            self.virtual_time = its.min(bounds.most).max(bounds.passed);
            return;
        };
        let unclaimed = since.map(|since| Unclaimed {
            since,
            forgiven_before: self.forgiven_before,
        });
        self.is_awake = true;
        let (place, abroad) = vm.wake(bounds, unclaimed);
        self.abroad = abroad;
        self.set_place(place);
    }

    /// Whether it has to be woken before it is queued.
    pub(super) const fn is_asleep(&self) -> bool {
        self.vm.is_some() && !self.is_awake
    }

    fn set_place(&mut self, Place { virtual_time, part }: Place) {
        self.virtual_time = virtual_time;
        self.weight = part;
    }

    /// It has run, and is to be charged for some of that. So much was nobody's on its CPU up to now.
    pub(super) fn charge(&mut self, ran_ns: u64, charged_ns: u64, unclaimed: VirtualTime) {
        self.unclaimed = Some(unclaimed);
        self.borrowing_ns = self.borrowing_ns.saturating_sub(ran_ns);
        match &self.vm {
            None => {
                let ran = VirtualTime::of(charged_ns, self.weight);
                self.virtual_time = self.virtual_time.saturating_add(ran);
            }
            Some(vm) => self.set_place(vm.charge(self.virtual_time, charged_ns)),
        }
    }

    /// Pays what it is ahead of the others by time that nobody wanted. Of several vCPUs of a VM one pays only while nobody
    /// runs elsewhere: those who do have all that they can use and may still have lost to a sibling that now sleeps.
    pub(super) fn give_back(
        &mut self,
        unclaimed_ns: u64,
        passed: VirtualTime,
        elsewhere: &Elsewhere,
    ) {
        if unclaimed_ns == 0 || self.vm.is_some() && !elsewhere.is_deserted() {
            return;
        }
        let most = VirtualTime::of(unclaimed_ns, self.weight);
        let least = self.virtual_time.saturating_sub(most).max(passed);
        let paid = self.virtual_time.saturating_sub(least);
        self.virtual_time = self.virtual_time.saturating_sub(paid);
        if let Some(vm) = &self.vm {
            vm.gives_back(paid, most);
        }
    }

    /// It goes to another place in virtual time.
    pub(super) fn move_to(&mut self, virtual_time: VirtualTime) {
        if virtual_time == self.virtual_time {
            return;
        }
        if let Some(vm) = &self.vm {
            self.abroad = vm.moves(self.virtual_time, virtual_time, self.abroad);
        }
        self.virtual_time = virtual_time;
    }

    /// One of a greater weight than a whole CPU is worth does not get what he is due, and the rest is lost: who comes
    /// later does not make up for it. All others, here and elsewhere, have `reached` this time.
    pub(super) fn lift(&mut self, reached: VirtualTime, round: VirtualTime) {
        let round = round.min(VirtualTime::of(ROUND_NS, self.weight));
        let least = reached.saturating_sub(round.times(CATCH_UP_ROUNDS));
        self.move_to(self.virtual_time.max(least));
    }
}
