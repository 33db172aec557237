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

    /// The value with which an entry at host TSC `now` exits at the first grid point not before `deadline`.
    ///
    /// Never early, and late by less than two counts, however long ago `now` was read. Two things to know:
    /// a deadline that lies too far ahead gives the longest time that there is, so an exit proves nothing and
    /// the deadline must be looked at again; and one that has passed gives 1, not 0, since an entry with 0
    /// exits before the guest's first instruction.
    #[inline]
    pub const fn value_until(self, deadline: u64, now: u64) -> u32 {
        // The count of grid points at or below the deadline, rounded up; the last of all where there is none.
        let target = deadline.saturating_add(self.mask) >> self.shift;
        let counts = target.saturating_sub(now >> self.shift);
        if counts > u32::MAX as u64 {
            u32::MAX
        } else if counts == 0 {
            1
        } else {
            counts as u32
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
    fn a_deadline_that_has_passed_still_lets_the_guest_move() {
        assert_eq!(timer(5).value_until(100, 5000), 1);
        assert_eq!(timer(5).value_until(0, 0), 1);
        assert_eq!(timer(0).value_until(7, 7), 1);
    }

    #[test]
    fn a_deadline_beyond_the_timer_gives_the_longest_time() {
        assert_eq!(timer(0).value_until(u64::MAX, 0), u32::MAX);
        assert_eq!(timer(5).value_until(1 << 50, 0), u32::MAX);
        assert_eq!(timer(31).value_until(u64::MAX, u64::MAX - 1), 1);
    }

    #[test]
    fn a_deadline_between_grid_points_waits_for_the_next() {
        assert_eq!(timer(5).value_until(1000 + 33, 1000), 2);
        assert_eq!(timer(5).value_until(1024, 1000), 1);
        assert_eq!(timer(5).value_until(1025, 1000), 2);
        assert_eq!(timer(0).value_until(1025, 1000), 25);
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
            let value = timer(shift).value_until(deadline, now);
            let expiry = expires_at(shift, now + entry_delay, value);
            prop_assert!(expiry >= deadline);
            prop_assert!(expiry < deadline + entry_delay + (2 << shift));
        }
    }
}
