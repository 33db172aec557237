//! [`TscCheck`]: whether the time-stamp counters of two CPUs agree, and what may be tried where they do not.
//!
//! Both read their counters in turns, under one lock: a reading that is lower than the one before it, which was the other
//! CPU's, shows by how much they differ at least. The lock's way from one CPU to the other hides what is smaller.

/// What two CPUs have read in turns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TscCheck {
    last: u64,
    worst: u64,
}

impl TscCheck {
    /// Nothing was read yet.
    pub const fn new() -> Self {
        Self { last: 0, worst: 0 }
    }

    /// One of the two has read this, after all that was read before.
    pub fn observe(&mut self, tsc: u64) {
        self.worst = self.worst.max(self.last.saturating_sub(tsc));
        self.last = tsc;
    }

    /// By how many ticks they differ at least.
    pub const fn apart(&self) -> u64 {
        self.worst
    }
}

/// IA32_TSC_ADJUST for a CPU whose counter differs from that of the boot CPU, to be tried: the boot CPU's. That makes
/// counters agree that were reset together and written since, as some firmware does; `None` where there is no reason to
/// try. Counters that were not reset together (those of another socket) may agree by this register alone: it is left as
/// it is where they do, and put back where the trial made it worse.
pub fn adjustment(apart: u64, here: Option<u64>, boot: Option<u64>) -> Option<u64> {
    boot.filter(|_| apart != 0 && here.is_some() && here != boot)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads both counters in turns, 20 ticks apart.
    fn compare(ahead: i64) -> u64 {
        let mut check = TscCheck::new();
        for turn in 0..100u64 {
            let now = 1_000_000 + turn * 20;
            check.observe(if turn % 2 == 0 {
                now
            } else {
                now.wrapping_add_signed(ahead)
            });
        }
        check.apart()
    }

    #[test]
    fn counters_that_differ_are_found_whichever_is_ahead() {
        assert_eq!(compare(0), 0);
        assert_eq!(compare(500), 480);
        assert_eq!(compare(-500), 480);
        // Less than a turn takes shows nothing.
        assert_eq!(compare(15), 0);
    }

    #[test]
    fn counters_that_agree_by_their_adjustment_keep_it() {
        assert_eq!(adjustment(0, Some(77), Some(0)), None);
        assert_eq!(adjustment(500, Some(77), Some(0)), Some(0));
        assert_eq!(adjustment(500, Some(0), Some(0)), None);
        assert_eq!(adjustment(500, None, None), None);
    }
}
