//! [`Cap`]: the most that the vCPUs of one VM use together.
//!
//! Time is cut into periods, each with a budget. A turn takes its slice out of the budget beforehand and gives
//! back what it did not use, so that several CPUs together do not exceed it. What a turn uses beyond its slice,
//! since a vCPU cannot be stopped to the nanosecond, is a debt that the next periods pay. Nothing is saved up but a rest
//! that is not worth a turn, which the next period has in addition.
//!
//! Any CPU may call any method at any time; all state is one word.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::MIN_SLICE_NS;

/// Length of a period.
const PERIOD_NS: u64 = 10_000_000;
/// Budgets end here: a VM may have 400 CPUs of a machine, which is no limit for it.
const MAX_BUDGET_NS: u64 = u32::MAX as u64 - NOTHING_USED;
/// A grant is at least so long, or the turn waits for the next period: a switch has its price.
const MIN_GRANT_NS: u64 = MIN_SLICE_NS;

/// A limit in percent of one CPU.
#[derive(Debug)]
pub struct Cap {
    budget_ns: u64,
    /// The number of the period, and what it has used, as [`State`] has it: 32 bits each.
    state: AtomicU64,
}

/// What a vCPU gets that wants to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grant {
    /// It may run for so long.
    Run {
        /// Nanoseconds, taken out of the budget already.
        ns: u64,
    },
    /// Its VM has used up its budget.
    Wait {
        /// When there will be more.
        until_ns: u64,
    },
}

#[derive(Clone, Copy)]
struct State {
    period: u32,
    /// What it has used in nanoseconds, from [`NOTHING_USED`] on: less where something is left of the period before.
    used_ns: u32,
}

const NOTHING_USED: u64 = MIN_GRANT_NS;

/// By how many periods a CPU's clock may be behind another's.
const BACKWARDS_AT_MOST: u32 = 100;

impl State {
    const fn unpack(word: u64) -> Self {
        Self {
            period: (word >> 32) as u32,
            used_ns: word as u32,
        }
    }

    const fn pack(self) -> u64 {
        (self.period as u64) << 32 | self.used_ns as u64
    }

    /// The state in a period, debts of earlier ones included. Time that runs backwards, as it may by what one CPU's clock is behind
    /// another's, stands still; by more than that it does not, however long ago the last period was.
    const fn in_period(self, period: u32, budget_ns: u64) -> Self {
        let passed = period.wrapping_sub(self.period);
        if passed == 0 || passed > u32::MAX - BACKWARDS_AT_MOST {
            return self;
        }
        let used_ns = (self.used_ns as u64).saturating_sub(budget_ns.saturating_mul(passed as u64));
        // A rest that was worth a turn could have been used.
        let rest_ns = NOTHING_USED.saturating_sub(used_ns);
        let is_saved = passed == 1 && rest_ns < least_grant(budget_ns);
        let used_ns = if used_ns < NOTHING_USED && !is_saved {
            NOTHING_USED
        } else {
            used_ns
        };
        Self {
            period,
            used_ns: used_ns as u32,
        }
    }
}

const fn least_grant(budget_ns: u64) -> u64 {
    if budget_ns < MIN_GRANT_NS {
        budget_ns
    } else {
        MIN_GRANT_NS
    }
}

/// The number of the period that a time lies in. It wraps after more than a year.
const fn period_of(now_ns: u64) -> u32 {
    (now_ns / PERIOD_NS) as u32
}

impl Cap {
    /// A limit; 100 is one CPU, 250 two and a half. At least one percent.
    pub const fn percent(percent: u32) -> Self {
        let percent = if percent == 0 { 1 } else { percent as u64 };
        let budget = percent * (PERIOD_NS / 100);
        let budget_ns = if budget > MAX_BUDGET_NS {
            MAX_BUDGET_NS
        } else {
            budget
        };
        Self {
            budget_ns,
            state: AtomicU64::new(NOTHING_USED),
        }
    }

    /// Takes up to `wanted_ns` out of the budget of the present period.
    pub fn take(&self, now_ns: u64, wanted_ns: u64) -> Grant {
        let least = least_grant(self.budget_ns).min(wanted_ns);
        let mut granted = 0;
        self.update(now_ns, |used| {
            let left = (self.budget_ns + NOTHING_USED).saturating_sub(used);
            granted = if left < least { 0 } else { left.min(wanted_ns) };
            used.saturating_add(granted)
        });
        if granted == 0 {
            let next = (now_ns / PERIOD_NS).saturating_add(1);
            return Grant::Wait {
                until_ns: next.saturating_mul(PERIOD_NS),
            };
        }
        Grant::Run { ns: granted }
    }

    /// Settles a turn that was granted `granted_ns` at `taken_ns` and ran for `ran_ns`.
    pub fn settle(&self, taken_ns: u64, granted_ns: u64, ran_ns: u64, now_ns: u64) {
        let same_period = period_of(taken_ns) == period_of(now_ns);
        self.update(now_ns, |used| {
            if ran_ns >= granted_ns {
                used.saturating_add(ran_ns - granted_ns)
            } else if same_period {
                used.saturating_sub(granted_ns - ran_ns)
            } else {
                // What was not used of a period that has passed is gone with it.
                used
            }
        });
    }

    fn update(&self, now_ns: u64, mut change: impl FnMut(u64) -> u64) {
        let period = period_of(now_ns);
        let mut word = self.state.load(Relaxed);
        loop {
            let state = State::unpack(word).in_period(period, self.budget_ns);
            let used_ns = change(state.used_ns.into()).min(u32::MAX.into()) as u32;
            let new = State { used_ns, ..state }.pack();
            match self
                .state
                .compare_exchange_weak(word, new, Relaxed, Relaxed)
            {
                Ok(_) => return,
                Err(found) => word = found,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_budget_is_spent_and_comes_back_with_the_next_period() {
        let cap = Cap::percent(25);
        assert_eq!(cap.take(0, 2 * MS), Grant::Run { ns: 2 * MS });
        assert_eq!(cap.take(2 * MS, 2 * MS), Grant::Run { ns: MS / 2 });
        assert_eq!(cap.take(3 * MS, MS), Grant::Wait { until_ns: 10 * MS });
        assert_eq!(cap.take(10 * MS, 5 * MS), Grant::Run { ns: 5 * MS / 2 });
    }

    #[test]
    fn what_was_not_used_can_be_taken_again_in_its_period_only() {
        let cap = Cap::percent(20);
        assert_eq!(cap.take(0, 2 * MS), Grant::Run { ns: 2 * MS });
        cap.settle(0, 2 * MS, MS, MS);
        assert_eq!(cap.take(MS, 2 * MS), Grant::Run { ns: MS });
        cap.settle(MS, MS, MS / 2, 11 * MS);
        assert_eq!(cap.take(11 * MS, 5 * MS), Grant::Run { ns: 2 * MS });
    }

    #[test]
    fn a_debt_is_paid_by_the_periods_that_follow() {
        let cap = Cap::percent(10);
        assert_eq!(cap.take(0, MS), Grant::Run { ns: MS });
        cap.settle(0, MS, 4 * MS, 4 * MS);
        // Three milliseconds too many: three periods without anything.
        for period in 1..4 {
            let until_ns = (period + 1) * 10 * MS;
            assert_eq!(cap.take(period * 10 * MS, MS), Grant::Wait { until_ns });
        }
        assert_eq!(cap.take(40 * MS, 2 * MS), Grant::Run { ns: MS });
    }

    #[test]
    fn a_cap_of_several_cpus_is_shared_by_them() {
        let cap = Cap::percent(250);
        for _ in 0..2 {
            assert_eq!(cap.take(0, 10 * MS), Grant::Run { ns: 10 * MS });
        }
        assert_eq!(cap.take(0, 10 * MS), Grant::Run { ns: 5 * MS });
        assert_eq!(cap.take(0, 10 * MS), Grant::Wait { until_ns: 10 * MS });
    }

    #[test]
    fn a_rest_that_is_not_worth_a_turn_is_kept_for_one_period() {
        let cap = Cap::percent(10);
        assert_eq!(cap.take(0, MS - 10_000), Grant::Run { ns: MS - 10_000 });
        assert_eq!(cap.take(MS, MS), Grant::Wait { until_ns: 10 * MS });
        assert_eq!(cap.take(10 * MS, 5 * MS), Grant::Run { ns: MS + 10_000 });
        // It is used up now.
        assert_eq!(cap.take(20 * MS, 5 * MS), Grant::Run { ns: MS });
        cap.settle(20 * MS, MS, MS - 10_000, 21 * MS);
        assert_eq!(cap.take(40 * MS, 5 * MS), Grant::Run { ns: MS });
        // What could have been used is not kept.
        cap.settle(40 * MS, MS, MS / 2, 41 * MS);
        assert_eq!(cap.take(50 * MS, 5 * MS), Grant::Run { ns: MS });
    }

    #[test]
    fn a_refund_goes_to_the_period_that_paid_or_to_none() {
        let cap = Cap::percent(20);
        // It takes its time at the end of one period, and the guest is entered in the next.
        assert_eq!(cap.take(10 * MS - 1000, 2 * MS), Grant::Run { ns: 2 * MS });
        cap.settle(10 * MS - 1000, 2 * MS, MS, 11 * MS);
        assert_eq!(cap.take(11 * MS, 5 * MS), Grant::Run { ns: 2 * MS });
    }

    #[test]
    fn a_vm_that_was_idle_for_most_of_a_year_has_its_budget() {
        const DAY: u64 = 86_400_000 * MS;
        for days in [200, 300, 400, 496, 600] {
            let cap = Cap::percent(10);
            assert_eq!(cap.take(0, MS), Grant::Run { ns: MS });
            let now_ns = days * DAY;
            for period in 0..10 {
                let now_ns = now_ns + period * 10 * MS;
                assert_eq!(cap.take(now_ns, MS), Grant::Run { ns: MS }, "{days}");
            }
        }
    }

    #[test]
    fn a_clock_that_is_a_little_behind_gets_nothing_twice() {
        let cap = Cap::percent(10);
        assert_eq!(cap.take(10 * MS, MS), Grant::Run { ns: MS });
        let wait = Grant::Wait { until_ns: 10 * MS };
        assert_eq!(cap.take(10 * MS - 1, MS), wait);
    }
}
