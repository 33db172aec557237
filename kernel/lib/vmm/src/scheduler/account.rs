//! [`Account`]: the virtual time of a VM with several vCPUs, each of which has one of its own.
//!
//! A VM's weight is that of those of its vCPUs that are *awake*, that is want a CPU, together. One that has run is charged
//! as many times what it ran as are awake: so they share the weight evenly, wherever they are queued, and one that is awake
//! alone has all of it. That by itself would not be exact: one that wakes up runs at once, and may sleep again before
//! its siblings have had anything in return. A VM whose vCPUs take turns at that would get a part of its weight for each.
//! So the VM has a virtual time, too, which passes by what all of them run, over the whole weight: that is what the VM has had.
//! The mean of those who are awake is to be the same, and is as long as nobody comes or goes. Whoever wakes up begins at it.
//! Whoever falls asleep ahead of it, or behind, leaves that to those who stay, as in EEVDF one who leaves the
//! competition leaves his lag to the others (Ion Stoica, Hussein Abdel-Wahab, Kevin Jeffay, Sanjoy K. Baruah, Johannes
//! E. Gehrke and C. Greg Plaxton, "A Proportional Share Resource Allocation Algorithm for Real-Time, Time-Shared Systems",
//! RTSS 1996). It is kept here as what they *owe*, and each takes its part of it at the end of its next turn.
//!
//! Thus no queue has to hear of a sibling on another CPU that falls asleep or wakes up, and what counts in the end does not
//! depend on when somebody looks how many are awake: that is about siblings only. A queue of queues would be as exact on one
//! CPU, but costs a second choice for each turn, and has to be told which part of a VM is on which CPU.
//!
//! All of this takes for granted that the CPUs are at about the same time, as they are while vCPUs may move between them. Where
//! most may not, one CPU's time may be hours ahead of another's. What a vCPU gains or loses by going from the one to the other
//! nobody has had, so nobody owes it: it is remembered as what that vCPU is *abroad* by, and left out of all sums.
//!
//! Behind a lock, which the CPUs that run this VM take at the end of its vCPUs' turns and when they wake up, for a few
//! instructions. Lock order: the queue's, then this one.

use spin::Mutex;

use super::{AHEAD_ROUNDS, CATCH_UP_ROUNDS, ROUND_NS, VirtualTime, Weight};

/// What the vCPUs of one VM share.
#[derive(Debug)]
pub struct Account {
    weight: Weight,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How many vCPUs want a CPU.
    awake: u32,
    /// What the VM has had.
    virtual_time: VirtualTime,
    /// What those that are awake are to be charged yet, all together: the virtual time of the VM times their number, less the
    /// sum of theirs, each without what it is abroad by.
    owed: i64,
    /// What the VM had to be forgiven in its life, since nobody wanted it.
    forgiven: VirtualTime,
}

/// A vCPU's place in virtual time, and the part of the weight that is its own for now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) virtual_time: VirtualTime,
    pub(super) part: Weight,
}

/// Where one that wakes up may begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Where its CPU is: no VM that has slept is behind that.
    pub(super) passed: VirtualTime,
    /// One whose siblings have not slept may have to catch up.
    pub(super) least: VirtualTime,
    pub(super) most: VirtualTime,
}

/// What nobody has wanted of a CPU since one left it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unclaimed {
    pub(super) since: VirtualTime,
    /// What the VM had been forgiven when it left.
    pub(super) forgiven_before: VirtualTime,
}

impl State {
    fn part(&self, weight: Weight) -> Weight {
        weight.divided(self.awake)
    }

    /// Whether it may be by what a vCPU or its siblings had that two times are so far apart, not by where they were.
    pub(super) fn is_of_one_time(&self, apart: i64, weight: Weight) -> bool {
        let round = VirtualTime::of(ROUND_NS, self.part(weight));
        let most = round.times(CATCH_UP_ROUNDS + AHEAD_ROUNDS);
        apart.unsigned_abs() <= most.0
    }

    /// Each of those awake has another time: the VM has, too.
    fn forgive(&mut self, paid: VirtualTime, forgiven: VirtualTime) {
        self.virtual_time = self.virtual_time.saturating_sub(paid);
        self.forgiven = self.forgiven.saturating_add(forgiven);
    }
}

impl Account {
    /// Of a VM of this weight, all of whose vCPUs sleep.
    pub const fn new(weight: Weight) -> Self {
        Self {
            weight,
            state: Mutex::new(State {
                awake: 0,
                virtual_time: VirtualTime(0),
                owed: 0,
                forgiven: VirtualTime(0),
            }),
        }
    }

    /// Its weight.
    pub const fn weight(&self) -> Weight {
        self.weight
    }

    /// One that has slept wants a CPU. Returns what it is abroad by, too.
    pub(super) fn wake(&self, bounds: &Bounds, unclaimed: Option<Unclaimed>) -> (Place, i64) {
        let mut state = self.state.lock();
        let mut abroad = 0;
        let virtual_time = if state.awake == 0 {
            // What it let others have was the VM's. A sibling may have been forgiven some of it already.
            if let Some(Unclaimed {
                since,
                forgiven_before,
            }) = unclaimed
            {
                let already = state.forgiven.saturating_sub(forgiven_before);
                let paid = since.saturating_sub(already);
                state.forgive(paid, paid);
            }
            state.virtual_time = state.virtual_time.min(bounds.most).max(bounds.passed);
            state.virtual_time
        } else {
            let begins = state.virtual_time.min(bounds.most).max(bounds.least);
            let behind = state.virtual_time.ahead_of(begins);
            if state.is_of_one_time(behind, self.weight) {
                state.owed = state.owed.saturating_add(behind);
                begins
            } else {
                // Neither has it been ahead there, nor behind.
                abroad = bounds.passed.ahead_of(state.virtual_time);
                bounds.passed
            }
        };
        state.awake += 1;
        let place = Place {
            virtual_time,
            part: state.part(self.weight),
        };
        (place, abroad)
    }

    /// One that was awake wants none any more. Returns what the VM has been forgiven by now.
    pub(super) fn sleep(&self, its: VirtualTime, abroad: i64) -> VirtualTime {
        let mut state = self.state.lock();
        state.awake = state.awake.saturating_sub(1);
        let left = its.ahead_of(state.virtual_time).saturating_sub(abroad);
        if state.awake == 0 {
            state.owed = 0;
        } else if state.is_of_one_time(left, self.weight) {
            state.owed = state.owed.saturating_add(left);
        }
        state.forgiven
    }

    /// One has run for so long that is to be charged.
    pub(super) fn charge(&self, its: VirtualTime, charged_ns: u64) -> Place {
        let mut state = self.state.lock();
        let awake = state.awake.max(1);
        let ran = VirtualTime::of(charged_ns, self.weight);
        state.virtual_time = state.virtual_time.saturating_add(ran);
        let owed = state.owed / i64::from(awake);
        state.owed -= owed;
        let its = its.saturating_add(ran.times(awake.into()));
        Place {
            virtual_time: its.saturating_add_signed(owed),
            part: state.part(self.weight),
        }
    }

    /// One moves to another place in virtual time. What it gains by that its siblings lose, and the other way round,
    /// as far as the VM is not behind as a whole: that is lost to it. Returns what it is abroad by after that.
    #[must_use]
    pub(super) fn moves(&self, from: VirtualTime, to: VirtualTime, abroad: i64) -> i64 {
        let mut state = self.state.lock();
        let own = to.ahead_of(from);
        if !state.is_of_one_time(own, self.weight) {
            return abroad.saturating_add(own);
        }
        let awake = state.awake.max(1);
        let at_home = |time: VirtualTime| time.saturating_add_signed(abroad.saturating_neg());
        let beyond = at_home(to).saturating_sub(at_home(from).max(state.virtual_time));
        let lost = beyond.fraction(awake.into());
        state.virtual_time = state.virtual_time.saturating_add(lost);
        let lost_by_all = lost.times(awake.into()).ahead_of(VirtualTime(0));
        state.owed = state.owed.saturating_sub(own).saturating_add(lost_by_all);
        abroad
    }

    /// Whether two times of vCPUs of this VM are so near each other that they are of one time, wherever they were.
    pub(super) fn are_of_one_time(&self, one: VirtualTime, other: VirtualTime) -> bool {
        let state = self.state.lock();
        state.is_of_one_time(one.ahead_of(other), self.weight)
    }

    /// One is forgiven, of its own, `paid`, and might have been forgiven so much.
    pub(super) fn gives_back(&self, paid: VirtualTime, most: VirtualTime) {
        let mut state = self.state.lock();
        let awake = state.awake.max(1).into();
        state.forgive(paid.fraction(awake), most.fraction(awake));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ns: u64) -> VirtualTime {
        VirtualTime::of(ns, Weight::DEFAULT)
    }

    /// Of a CPU that is there.
    fn bounds(passed_ns: u64) -> Bounds {
        Bounds {
            passed: at(passed_ns),
            least: at(passed_ns.saturating_sub(30 * MS)),
            most: at(passed_ns + 80 * MS),
        }
    }

    /// One with so many vCPUs awake, all of which are at 0.
    fn account(awake: u32) -> Account {
        let account = Account::new(Weight::DEFAULT);
        for _ in 0..awake {
            assert_eq!(account.wake(&bounds(0), None).0.virtual_time, at(0));
        }
        account
    }

    #[test]
    fn each_of_several_pays_for_all_that_are_awake_and_one_alone_for_itself() {
        assert_eq!(account(4).charge(at(0), MS).virtual_time, at(4 * MS));
        let account = account(1);
        let place = account.charge(at(0), MS);
        assert_eq!((place.virtual_time, place.part), (at(MS), Weight::DEFAULT));
    }

    #[test]
    fn who_sleeps_right_after_it_ran_leaves_what_that_was_to_its_sibling() {
        let account = account(2);
        let its = account.charge(at(0), MS).virtual_time;
        account.sleep(its, 0);
        // The other has waited meanwhile, and the VM has had both milliseconds.
        assert_eq!(account.charge(at(0), MS).virtual_time, at(2 * MS));
        // Whoever wakes up begins where the VM is.
        assert_eq!(account.wake(&bounds(0), None).0.virtual_time, at(2 * MS));
    }

    #[test]
    fn what_a_sleeper_leaves_is_borne_by_all_who_stay() {
        let account = account(3);
        let its = account.charge(at(0), 3 * MS).virtual_time;
        account.sleep(its, 0);
        // It was six ahead of the three that the VM has had: three for each of the others.
        assert_eq!(account.charge(at(0), 0).virtual_time, at(3 * MS));
        let other = account.charge(at(0), 0).virtual_time;
        assert!(
            other >= at(MS) && other < at(3 * MS),
            "the rest comes with its next turns"
        );
    }

    #[test]
    fn a_vm_that_has_slept_is_not_behind_and_one_that_has_not_may_catch_up() {
        let account = account(1);
        assert_eq!(
            account.wake(&bounds(50 * MS), None).0.virtual_time,
            at(20 * MS)
        );
        account.sleep(at(20 * MS), 0);
        account.sleep(at(0), 0);
        assert_eq!(
            account.wake(&bounds(50 * MS), None).0.virtual_time,
            at(50 * MS)
        );
    }

    #[test]
    fn time_that_a_vm_let_others_have_is_forgiven_once_however_many_vcpus_it_has() {
        let account = account(1);
        let its = account.charge(at(0), 40 * MS).virtual_time;
        let forgiven_before = account.sleep(its, 0);
        let unclaimed = Some(Unclaimed {
            since: at(10 * MS),
            forgiven_before,
        });
        assert_eq!(
            account.wake(&bounds(0), unclaimed).0.virtual_time,
            at(30 * MS)
        );
        account.sleep(at(30 * MS), 0);
        // A sibling that has slept for as long.
        assert_eq!(
            account.wake(&bounds(0), unclaimed).0.virtual_time,
            at(30 * MS)
        );
    }

    #[test]
    fn who_is_lifted_alone_gains_for_its_sibling_and_all_together_lose() {
        let account = account(2);
        let ran = account.charge(at(0), 10 * MS).virtual_time;
        assert_eq!(ran, at(20 * MS));
        // The other is ten behind the VM: that is given to the one that is ahead.
        assert_eq!(account.moves(at(0), at(10 * MS), 0), 0);
        assert_eq!(account.charge(ran, 0).virtual_time, at(15 * MS));
        // The VM as a whole is behind the queue: it goes on from there.
        let other = self::account(1);
        assert_eq!(other.moves(at(0), at(10 * MS), 0), 0);
        assert_eq!(other.charge(at(10 * MS), MS).virtual_time, at(11 * MS));
    }

    #[test]
    fn nobody_owes_what_a_sibling_is_ahead_by_because_its_cpu_is() {
        let hour = 3_600_000 * MS;
        for [first, second] in [[0, hour], [hour, 0]] {
            let account = Account::new(Weight::DEFAULT);
            let (here, _) = account.wake(&bounds(first), None);
            let (there, abroad) = account.wake(&bounds(second), None);
            let ran = account.charge(here.virtual_time, MS);
            assert_eq!(ran.virtual_time, at(first + 2 * MS));
            // What it ran it leaves to its sibling when it sleeps, and no more.
            let its = account.charge(there.virtual_time, 3 * MS);
            account.sleep(its.virtual_time, abroad);
            let ran = account.charge(ran.virtual_time, 0);
            assert_eq!(ran.virtual_time, at(first + 4 * MS));
        }
    }

    #[test]
    fn nobody_owes_what_a_sibling_has_come_to_be_ahead_by_while_both_were_awake() {
        let account = account(2);
        // One works for an hour where the other has no turn, since its CPU has other things to do.
        let its = account.charge(at(0), 3_600_000 * MS);
        account.sleep(its.virtual_time, 0);
        assert_eq!(account.charge(at(0), MS).virtual_time, at(MS));
    }

    #[test]
    fn who_moves_to_a_cpu_of_another_time_takes_nothing_from_its_sibling() {
        let hour = 3_600_000 * MS;
        let account = account(2);
        let abroad = account.moves(at(0), at(hour), 0);
        assert_eq!(account.charge(at(0), MS).virtual_time, at(2 * MS));
        // And back.
        assert_eq!(account.moves(at(hour), at(0), abroad), 0);
        assert_eq!(account.charge(at(2 * MS), 0).virtual_time, at(2 * MS));
    }
}
