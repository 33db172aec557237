//! The VMX-preemption timer: from a point in TSC time to the value for the VMCS.
//!
//! The timer starts at the entry, counts down by one whenever bit X of the TSC changes, and exits at zero. So
//! it runs on a grid of 2^X ticks that the entry does not shift. SDM vol. 3, VMX-Preemption Timer, and
//! Miscellaneous Data for X.

use crate::capability::Capabilities;

/// The timer's rate on this processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PreemptionTimer {
    shift: u32,
    /// One count in ticks, less one.
    mask: u64,
}

impl PreemptionTimer {
    /// Of a processor with these capabilities.
    pub const fn new(caps: &Capabilities) -> Self {
        Self::with_shift(caps.preemption_timer_shift())
    }

    const fn with_shift(shift: u32) -> Self {
        let mask = match 1_u64.checked_shl(shift) {
            Some(count) => count - 1,
            None => u64::MAX,
        };
        Self { shift, mask }
    }

    /// Whether the timer of the processor with this signature (CPUID.1:EAX) counts at the rate that it reports. Those of
    /// the first generations, and one of the third, do not: "VMX-Preemption Timer Does Not Count Down at the Rate
    /// Specified" in Intel's specification updates (AAJ124, AAK139, AAM126, AAN92, AAO95, AAP86, AAT59, AAU65, AAX65, BA86).
    pub const fn is_exact(signature: u32) -> bool {
        const RESERVED: u32 = 0xf000_c000;
        !matches!(
            signature & !RESERVED,
            0x106a0 | 0x106a1 | 0x106a4 | 0x106a5 | 0x106e5 | 0x20652 | 0x20655 | 0x206e6 | 0x306a8
        )
    }

    /// One count is two to this power TSC ticks.
    pub const fn shift(self) -> u32 {
        self.shift
    }

    /// The value with which an entry at host TSC `now` exits at the first grid point not before `deadline`; `None` for a
    /// deadline of `u64::MAX`, or so near that there is no such point: no value will do then.
    ///
    /// Never early, and late by less than two counts, however long ago `now` was read. Two things to know:
    /// a deadline that lies too far ahead gives the longest time that there is, so an exit proves nothing and
    /// the deadline must be looked at again; and one that has passed gives 0, with which an entry exits before the
    /// guest's first instruction, unless the timer `was_last` to end the guest's run. Then it is 1, or a guest whose timer
    /// is always due would never execute anything. With 1 alone, one that exits by itself after a handful of
    /// instructions each time might come back before the timer has counted, and keep its CPU for as long as it likes.
    #[inline(always)]
    pub fn value_until(
        self,
        deadline: u64,
        now: u64,
        was_last: impl FnOnce() -> bool,
    ) -> Option<u32> {
        // The count of grid points at or below the deadline, rounded up; the last of all where there is none.
        let target = deadline.saturating_add(self.mask) >> self.shift;
        let here = now >> self.shift;
        let counts = target.wrapping_sub(here);
        // One comparison for all that is rare, on a path that every entry takes.
        if counts.wrapping_sub(1) < u64::from(u32::MAX) {
            Some(counts as u32)
        } else if target == u64::MAX >> self.shift {
            None
        } else if target > here {
            Some(u32::MAX)
        } else {
            Some(u32::from(was_last()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The processor: the TSC at which a timer that was loaded with `value` at `entry` expires.
    fn expires_at(shift: u32, entry: u64, value: u32) -> u64 {
        ((entry >> shift) + u64::from(value)) << shift
    }

    fn timer(shift: u32) -> PreemptionTimer {
        PreemptionTimer::with_shift(shift)
    }

    /// A processor whose timer counts when so many ticks have passed, as that of an emulator which gives each of its CPUs
    /// some instructions at a time, and the loop that it runs.
    struct Processor {
        grain: u64,
        now: u64,
        timer_was_last: bool,
        progress: u64,
    }

    impl Processor {
        /// Enters a guest that exits by itself after `length` ticks; handling an exit takes `handling` ticks.
        fn round(&mut self, deadline: u64, length: u64, handling: u64) {
            let value = timer(0)
                .value_until(deadline, self.now, || self.timer_was_last)
                .expect("it has a deadline");
            let ends_at = match value {
                0 => self.now,
                _ => (self.now + u64::from(value)).next_multiple_of(self.grain),
            };
            let exits_at = self.now + length;
            self.timer_was_last = ends_at <= exits_at;
            let end = ends_at.min(exits_at);
            self.progress += end - self.now;
            self.now = end + handling;
        }
    }

    #[test]
    fn a_guest_that_exits_all_the_time_kept_its_cpu_for_ever() {
        for grain in [1, 5, 32] {
            for now in 0..grain {
                for length in 1..10 {
                    for handling in 200..200 + grain {
                        let mut processor = Processor {
                            grain,
                            now,
                            timer_was_last: false,
                            progress: 0,
                        };
                        let deadline = 10_000;
                        while !processor.timer_was_last {
                            processor.round(deadline, length, handling);
                            let most = deadline + 2 * (length + handling) + grain;
                            assert!(processor.now <= most, "at {}", processor.now);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_guest_whose_timer_is_always_due_gets_on() {
        let mut processor = Processor {
            grain: 5,
            now: 1,
            timer_was_last: false,
            progress: 0,
        };
        for _ in 0..100 {
            processor.round(0, 3, 200);
        }
        assert!(processor.progress >= 50, "{}", processor.progress);
    }

    #[test]
    fn the_rate_comes_from_the_capabilities() {
        let caps = Capabilities::new(crate::testing::skylake());
        assert_eq!(PreemptionTimer::new(&caps).shift(), 5);
    }

    #[test]
    fn timers_that_count_at_a_rate_of_their_own_are_known() {
        // Westmere and an early Ivy Bridge, whatever the reserved bits say; Skylake, and a later Ivy Bridge.
        for signature in [0x20652, 0x306a8, 0xf003_c6a8] {
            assert!(!PreemptionTimer::is_exact(signature), "{signature:#x}");
        }
        for signature in [0x50654, 0x306a9] {
            assert!(PreemptionTimer::is_exact(signature), "{signature:#x}");
        }
    }

    #[test]
    fn a_deadline_that_has_passed_ends_the_next_entry_at_once_and_then_lets_the_guest_move() {
        for (shift, deadline, now) in [(5, 100, 5000), (5, 0, 0), (0, 7, 7)] {
            let value = |was_last| timer(shift).value_until(deadline, now, || was_last);
            assert_eq!(value(false), Some(0));
            assert_eq!(value(true), Some(1));
        }
    }

    #[test]
    fn a_deadline_beyond_the_timer_gives_the_longest_time() {
        let value = |shift, deadline| timer(shift).value_until(deadline, 0, || true);
        assert_eq!(value(0, u64::MAX - 1), Some(u32::MAX));
        assert_eq!(value(5, u64::MAX - 64), Some(u32::MAX));
        assert_eq!(value(5, 1 << 50), Some(u32::MAX));
    }

    #[test]
    fn without_a_deadline_the_timer_is_not_set_to_its_longest_time() {
        for shift in [0, 5, 31] {
            assert_eq!(timer(shift).value_until(u64::MAX, 1000, || false), None);
        }
    }

    #[test]
    fn a_deadline_between_grid_points_waits_for_the_next() {
        let value = |shift, deadline| timer(shift).value_until(deadline, 1000, || true);
        assert_eq!(value(5, 1000 + 33), Some(2));
        assert_eq!(value(5, 1024), Some(1));
        assert_eq!(value(5, 1025), Some(2));
        assert_eq!(value(0, 1025), Some(25));
    }

    proptest! {
        #[test]
        fn it_never_expires_early_and_little_late(
            shift in 0_u32..20,
            now in 0..1_u64 << 60,
            ahead in 1_u64..1 << 31,
            entry_delay in 0_u64..1000,
        ) {
            let deadline = now + ahead;
            let value = timer(shift).value_until(deadline, now, || true).expect("it has a deadline");
            let expiry = expires_at(shift, now + entry_delay, value);
            prop_assert!(expiry >= deadline);
            prop_assert!(expiry < deadline + entry_delay + (2 << shift));
        }
    }
}
