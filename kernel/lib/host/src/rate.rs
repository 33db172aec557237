//! [`Rate`]: between the ticks of a clock and nanoseconds, in both directions.

/// How fast a clock counts, as factors of 2^32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Nanoseconds in a tick.
    pub ns_per_tick: u64,
    /// Ticks in a nanosecond.
    pub ticks_per_ns: u64,
}

#[inline]
const fn scale(value: u64, factor: u64) -> u64 {
    ((value as u128 * factor as u128) >> 32) as u64
}

impl Rate {
    /// Of a clock that counts so often in a second.
    #[must_use]
    pub const fn of_hz(hz: u64) -> Self {
        const NS_PER_S: u128 = 1_000_000_000;
        let hz = if hz == 0 { 1 } else { hz as u128 };
        Self {
            ns_per_tick: ((NS_PER_S << 32) / hz) as u64,
            ticks_per_ns: ((hz << 32) / NS_PER_S) as u64,
        }
    }

    /// The whole nanoseconds in so many ticks.
    #[inline]
    #[must_use]
    pub const fn ns(self, ticks: u64) -> u64 {
        scale(ticks, self.ns_per_tick)
    }

    /// About so many ticks are in these nanoseconds.
    #[inline]
    #[must_use]
    pub const fn ticks(self, ns: u64) -> u64 {
        scale(ns, self.ticks_per_ns)
    }

    /// When [`ns`](Self::ns) is that much, or a tick or two later. The two factors are rounded, and disagree by more the
    /// more time has passed; whoever waits for a time and looks at the clock then must not find it earlier.
    #[inline]
    #[must_use]
    pub const fn ticks_until(self, ns: u64) -> u64 {
        let near = self.ticks(ns);
        let reads = self.ns(near);
        if reads < ns {
            near.saturating_add(self.ticks(ns - reads))
                .saturating_add(2)
        } else {
            near.saturating_sub(self.ticks(reads - ns))
                .saturating_add(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_timer_was_not_due_when_its_time_had_come() {
        // At 10 MHz the factors are exact to a hundred millionth, which is a tick in ten seconds.
        let rate = Rate::of_hz(10_000_000);
        for ns in [99_084_248 * 100, 3_600_000_000_077, 86_400_000_000_099] {
            assert!(rate.ns(rate.ticks(ns)) < ns, "it would have been");
            assert!(rate.ns(rate.ticks_until(ns)) >= ns);
        }
    }

    proptest! {
        #[test]
        fn it_is_never_too_early_and_hardly_too_late(
            hz in 1_000_000_u64..6_000_000_000,
            // Three years.
            ns in 0_u64..100_000_000_000_000_000,
        ) {
            let rate = Rate::of_hz(hz);
            let ticks = rate.ticks_until(ns);
            prop_assert!(rate.ns(ticks) >= ns);
            prop_assert!(ticks < 5 || rate.ns(ticks - 5) <= ns, "{} of {ns}", rate.ns(ticks - 5));
        }
    }
}
