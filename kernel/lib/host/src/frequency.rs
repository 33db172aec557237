//! Which of several statements about the TSC's frequency to believe.

use core::fmt;

/// How far apart two frequencies may be to count as the same, in parts per million.
const TOLERANCE_PPM: u64 = 2_000;
/// Taken where nothing can be measured and CPUID says nothing.
const GUESS_HZ: u64 = 2_000_000_000;

/// What is known: two measurements, and what CPUID says (leaf 15H).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Evidence {
    /// Measured against the PIT.
    pub pit_hz: Option<u64>,
    /// Measured against the ACPI PM timer.
    pub pm_timer_hz: Option<u64>,
    /// As the processor describes itself.
    pub cpuid_hz: Option<u64>,
}

/// A frequency and the reason to believe in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frequency {
    /// Ticks in a second.
    pub hz: u64,
    /// Where it comes from.
    pub source: Source,
}

/// Where a frequency comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// CPUID, and a measurement agrees: CPUID is exact, the measurement is not.
    Confirmed,
    /// Both measurements agree.
    Measured,
    /// The PM timer alone, or against the PIT, whose reading takes longer.
    PmTimer,
    /// The PIT alone.
    Pit,
    /// CPUID alone.
    Cpuid,
    /// Nothing at all.
    Guess,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Confirmed => "as CPUID says and a timer confirms",
            Self::Measured => "by PIT and PM timer",
            Self::PmTimer => "by the PM timer",
            Self::Pit => "by the PIT",
            Self::Cpuid => "as CPUID says, there is no timer to check it by",
            Self::Guess => "a guess: there is no timer to measure it by",
        })
    }
}

impl Evidence {
    /// What the machine really does counts. CPUID is taken where a measurement agrees with it: some
    /// machines say one thing and do another.
    pub const fn frequency(&self) -> Frequency {
        let (hz, source) = match (self.pit_hz, self.pm_timer_hz) {
            (Some(pit), Some(pm_timer)) if agree(pit, pm_timer) => {
                (pit.midpoint(pm_timer), Source::Measured)
            }
            (_, Some(pm_timer)) => (pm_timer, Source::PmTimer),
            (Some(pit), None) => (pit, Source::Pit),
            (None, None) => match self.cpuid_hz {
                Some(cpuid) => (cpuid, Source::Cpuid),
                None => (GUESS_HZ, Source::Guess),
            },
        };
        match self.cpuid_hz {
            Some(cpuid) if agree(hz, cpuid) && !matches!(source, Source::Cpuid) => Frequency {
                hz: cpuid,
                source: Source::Confirmed,
            },
            _ => Frequency { hz, source },
        }
    }
}

const fn agree(a: u64, b: u64) -> bool {
    a.abs_diff(b) <= a / 1_000_000 * TOLERANCE_PPM
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn evidence(
        pit_hz: Option<u64>,
        pm_timer_hz: Option<u64>,
        cpuid_hz: Option<u64>,
    ) -> Evidence {
        Evidence {
            pit_hz,
            pm_timer_hz,
            cpuid_hz,
        }
    }

    #[test]
    fn cpuid_is_believed_where_a_timer_agrees() {
        let found = evidence(
            Some(2_999_000_000),
            Some(3_000_500_000),
            Some(3_000_000_000),
        )
        .frequency();
        assert_eq!(
            found,
            Frequency {
                hz: 3_000_000_000,
                source: Source::Confirmed
            }
        );
    }

    #[test]
    fn an_emulator_that_says_3500_mhz_and_does_10_is_measured() {
        let found = evidence(Some(10_001_000), Some(9_999_000), Some(3_500_000_000)).frequency();
        assert_eq!(
            found,
            Frequency {
                hz: 10_000_000,
                source: Source::Measured
            }
        );
    }

    #[test]
    fn the_pm_timer_wins_where_the_timers_differ() {
        let found = evidence(Some(2_500_000_000), Some(2_600_000_000), None).frequency();
        assert_eq!(
            found,
            Frequency {
                hz: 2_600_000_000,
                source: Source::PmTimer
            }
        );
    }

    #[test]
    fn whatever_there_is_serves() {
        assert_eq!(
            evidence(Some(7), None, None).frequency().source,
            Source::Pit
        );
        assert_eq!(
            evidence(None, Some(7), Some(9)).frequency(),
            Frequency {
                hz: 7,
                source: Source::PmTimer
            }
        );
        assert_eq!(
            evidence(None, None, Some(9)).frequency(),
            Frequency {
                hz: 9,
                source: Source::Cpuid
            }
        );
        assert_eq!(Evidence::default().frequency().source, Source::Guess);
    }
}
