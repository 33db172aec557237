//! The ratio of TSC to crystal clock, as CPUID leaf 0x15 gives it.

/// Numerator and denominator whose quotient, times `crystal_hz`, comes as near to `tsc_hz` as a guest can
/// compute it; `None` where one of the two is zero.
///
/// Linux multiplies the crystal's frequency in kHz and the numerator in 32 bits, so that the numerator is
/// kept below what would overflow there. Among the fractions that remain, the best are the convergents and
/// semiconvergents of the continued fraction.
pub(super) fn ratio(tsc_hz: u64, crystal_hz: u32) -> Option<(u32, u32)> {
    if tsc_hz == 0 || crystal_hz == 0 {
        return None;
    }
    let limit = u64::from(u32::MAX / (crystal_hz / 1000).max(1));
    let (mut rest, mut divisor) = (tsc_hz, u64::from(crystal_hz));
    let (mut previous, mut current) = ((0u64, 1u64), (1u64, 0u64));
    while divisor != 0 {
        let term = rest / divisor;
        let next = step(previous, current, term);
        match next {
            Some(next) if next.0 <= limit && next.1 <= limit => {
                (previous, current) = (current, next);
                (rest, divisor) = (divisor, rest % divisor);
            }
            _ => {
                let largest = largest_term(previous, current, limit);
                let between = step(previous, current, largest.min(term))?;
                if current.1 == 0
                    || error(tsc_hz, crystal_hz, between) < error(tsc_hz, crystal_hz, current)
                {
                    current = between;
                }
                break;
            }
        }
    }
    if current.1 == 0 || current.0 == 0 {
        return None;
    }
    Some((
        u32::try_from(current.0).ok()?,
        u32::try_from(current.1).ok()?,
    ))
}

fn step(previous: (u64, u64), current: (u64, u64), term: u64) -> Option<(u64, u64)> {
    let numerator = current.0.checked_mul(term)?.checked_add(previous.0)?;
    let denominator = current.1.checked_mul(term)?.checked_add(previous.1)?;
    Some((numerator, denominator))
}

fn largest_term(previous: (u64, u64), current: (u64, u64), limit: u64) -> u64 {
    let room = |before: u64, factor: u64| match factor {
        0 => u64::MAX,
        _ => limit.saturating_sub(before) / factor,
    };
    room(previous.0, current.0).min(room(previous.1, current.1))
}

/// How far the fraction is off, in Hz times 2^16.
fn error(tsc_hz: u64, crystal_hz: u32, (numerator, denominator): (u64, u64)) -> u128 {
    if denominator == 0 {
        return u128::MAX;
    }
    let computed =
        ((u128::from(crystal_hz) * u128::from(numerator)) << 16) / u128::from(denominator);
    computed.abs_diff(u128::from(tsc_hz) << 16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_whole_ratio_is_given_as_it_is() {
        assert_eq!(ratio(3_500_000_000, 25_000_000), Some((140, 1)));
        assert_eq!(ratio(2_496_000_000, 24_000_000), Some((104, 1)));
        assert_eq!(ratio(20_000_000, 25_000_000), Some((4, 5)));
    }

    #[test]
    fn without_a_clock_there_is_no_ratio() {
        assert_eq!(ratio(0, 25_000_000), None);
        assert_eq!(ratio(1, 0), None);
    }

    proptest! {
        #[test]
        fn linux_computes_the_frequency_within_twelve_millionths(
            tsc_khz in 5_000u64..6_000_000, hz in 0u64..1000, crystal_hz in prop_oneof![
                Just(1_000_000u32), Just(19_200_000), Just(24_000_000), Just(25_000_000), Just(100_000_000)],
        ) {
            let tsc_hz = tsc_khz * 1000 + hz;
            let (numerator, denominator) = ratio(tsc_hz, crystal_hz).unwrap();
            let product = (crystal_hz / 1000).checked_mul(numerator);
            prop_assert!(product.is_some(), "{numerator} overflows in 32 bits");
            let exact = f64::from(crystal_hz) * f64::from(numerator) / f64::from(denominator);
            prop_assert!((exact / tsc_hz as f64 - 1.0).abs() < 12e-6, "{numerator}/{denominator}");
        }
    }
}
