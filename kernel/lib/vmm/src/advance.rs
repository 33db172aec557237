//! [`Advance`]: how long before a deadline to begin with what has to be done for it, learned from how it went.
//!
//! A timer that ends a guest's turn at its deadline is late by an exit, the decision what the guest takes, and an
//! entry; a halted CPU wakes up later still. So both begin early, and wait for the deadline at the last moment.
//! The wait is short and bounded; the guest never sees its timer early.

/// An advance in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Advance {
    ticks: u64,
    most: u64,
}

/// What may be waited: ways through the code differ by about that much.
const SLACK: u64 = 16;

impl Advance {
    /// Begins with this guess, and never becomes more than `most`.
    pub const fn new(guess: u64, most: u64) -> Self {
        Self { ticks: guess, most }
    }

    /// How long before the deadline to begin.
    #[inline]
    pub const fn ticks(&self) -> u64 {
        self.ticks
    }

    /// All was ready at `ready`, and was to be at `deadline`. One that was far from what is usual, since something else
    /// came between, changes little.
    #[inline]
    pub fn learn(&mut self, ready: u64, deadline: u64) {
        if deadline.wrapping_sub(ready) > SLACK {
            self.change(ready, deadline);
        }
    }

    #[inline(never)]
    fn change(&mut self, ready: u64, deadline: u64) {
        if ready > deadline {
            let late = ready - deadline;
            if late > self.most {
                // It was held up by something else, such as somebody else's turn.
                return;
            }
            // Quickly, but a delay of any length does not count for more than a usual one.
            let step = (late / 2 + 1).min(self.ticks / 8 + 8);
            self.ticks = self.ticks.saturating_add(step).min(self.most);
        } else {
            let excess = (deadline - ready).saturating_sub(SLACK);
            self.ticks = self.ticks.saturating_sub(excess.div_ceil(8));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Meets one deadline where the work takes `work` ticks; returns how long it had to wait, or was late.
    fn meet(advance: &mut Advance, work: u64) -> (u64, u64) {
        let deadline = 1_000_000;
        let ready = deadline - advance.ticks() + work;
        advance.learn(ready, deadline);
        (
            deadline.saturating_sub(ready),
            ready.saturating_sub(deadline),
        )
    }

    #[test]
    fn a_steady_way_is_met_after_a_few_deadlines_and_waits_little() {
        for work in [0, 100, 700, 3000] {
            let mut advance = Advance::new(300, 4096);
            for _ in 0..64 {
                meet(&mut advance, work);
            }
            let (waited, late) = meet(&mut advance, work);
            assert!(late == 0 && waited < 48, "{work}: {waited}, {late}");
        }
    }

    #[test]
    fn one_slow_way_is_forgotten() {
        let mut advance = Advance::new(300, 4096);
        meet(&mut advance, 4000);
        for _ in 0..64 {
            meet(&mut advance, 300);
        }
        assert!(meet(&mut advance, 300).0 < 48);
    }

    #[test]
    fn what_was_delayed_now_and_then_changes_little() {
        let mut advance = Advance::new(300, 4096);
        for round in 0..200 {
            meet(&mut advance, if round % 10 == 0 { 2000 } else { 250 });
        }
        assert!(advance.ticks() < 400, "{}", advance.ticks());
    }

    #[test]
    fn waiting_for_a_turn_teaches_nothing() {
        let mut advance = Advance::new(300, 4096);
        meet(&mut advance, 100_000);
        assert_eq!(advance.ticks(), 300);
    }

    proptest! {
        #[test]
        fn it_never_exceeds_its_bound(ways in prop::collection::vec(0u64..1 << 40, 0..50)) {
            let mut advance = Advance::new(300, 4096);
            for ready in ways {
                advance.learn(ready, 1 << 39);
                prop_assert!(advance.ticks() <= 4096);
            }
        }
    }
}
