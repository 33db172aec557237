//! The guest's clock: how its TSC becomes nanoseconds since the start of its VM, and what the date was then.
//!
//! Neither is read through us: the guest has a page with a factor, and reads its TSC. A version that is odd while
//! the page is being written tells it when to look again.

use memory::{GuestMemory, GuestPhys};

const NS_PER_S: u64 = 1_000_000_000;

/// The time-information page: version, padding, TSC and time of a moment, factor, shift, flags, padding.
pub(super) const PAGE_BYTES: usize = 32;
/// Everything behind the version and its padding.
const BODY_OFFSET: u64 = 8;
/// The clocks of all CPUs agree.
const TSC_STABLE: u8 = 1;

/// Nanoseconds of a TSC's ticks: shifted by `shift` (to the right where it is negative), times `multiplier`, by
/// 2^32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scale {
    /// In its highest bit there is a one, so that no precision is lost.
    pub multiplier: u32,
    /// By how many bits the ticks are shifted to the left before.
    pub shift: i8,
}

impl Scale {
    /// For a TSC of this frequency; `None` for one that does not run, or faster than any.
    pub fn of(tsc_hz: u64) -> Option<Self> {
        if tsc_hz == 0 {
            return None;
        }
        // Nanoseconds per tick in units of 2^-64: between 2^30 and 2^94.
        let factor = (u128::from(NS_PER_S) << 64) / u128::from(tsc_hz);
        let mut bits = u128::BITS - factor.leading_zeros();
        let drop = bits.checked_sub(32)?;
        // Rounding may carry into one more bit.
        let mut multiplier = rounded_shift(factor, drop);
        if multiplier > u128::from(u32::MAX) {
            bits += 1;
            multiplier >>= 1;
        }
        Some(Self {
            multiplier: u32::try_from(multiplier).ok()?,
            shift: i8::try_from(i64::from(bits) - 64).ok()?,
        })
    }
}

const fn rounded_shift(value: u128, bits: u32) -> u128 {
    match bits {
        0 => value,
        _ => ((value >> (bits - 1)) + 1) >> 1,
    }
}

/// Writes the page: the VM's time was 0 when the TSC read `tsc_at_start`.
pub(super) fn write_page(
    memory: &impl GuestMemory,
    page: GuestPhys,
    tsc_at_start: u64,
    scale: Scale,
) {
    let mut body = [0; PAGE_BYTES - BODY_OFFSET as usize];
    let system_time_ns = 0u64;
    let fields = tsc_at_start
        .to_le_bytes()
        .into_iter()
        .chain(system_time_ns.to_le_bytes())
        .chain(scale.multiplier.to_le_bytes())
        .chain([scale.shift as u8, TSC_STABLE]);
    for (to, from) in body.iter_mut().zip(fields) {
        *to = from;
    }
    versioned(memory, page, |memory| {
        let at = page.wrapping_add(BODY_OFFSET);
        // It was RAM when it was announced, and RAM it stays.
        let _ = memory.write(at, &body);
    });
}

/// Writes the date at the start of the VM: version, seconds since 1970, nanoseconds. `None` where no aligned RAM is.
pub(super) fn write_date(memory: &impl GuestMemory, at: GuestPhys, date_ns: u64) -> Option<()> {
    let mut room = [0; 12];
    if !at.as_u64().is_multiple_of(4) || memory.read(at, &mut room).is_err() {
        return None;
    }
    // 32 bits of seconds last until 2106, and that is all the layout has.
    let seconds = (date_ns / NS_PER_S) as u32;
    let rest_ns = (date_ns % NS_PER_S) as u32;
    versioned(memory, at, |memory| {
        let _ = memory.write(at.wrapping_add(4), &seconds.to_le_bytes());
        let _ = memory.write(at.wrapping_add(8), &rest_ns.to_le_bytes());
    });
    Some(())
}

/// Writes something that begins with a version: odd before, even and new after. Stores become visible in their
/// order.
pub(super) fn versioned<M: GuestMemory>(memory: &M, version_at: GuestPhys, write: impl FnOnce(&M)) {
    let Ok(old) = memory.read_u32(version_at) else {
        return;
    };
    let odd = old.wrapping_add(1) | 1;
    let _ = memory.write(version_at, &odd.to_le_bytes());
    write(memory);
    let _ = memory.write(version_at, &odd.wrapping_add(1).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::FakeMemory;

    /// As a guest computes it.
    fn ns(scale: Scale, ticks: u64) -> u64 {
        let shifted = match scale.shift {
            shift @ 0.. => ticks << shift,
            shift => ticks >> -shift,
        };
        ((u128::from(shifted) * u128::from(scale.multiplier)) >> 32) as u64
    }

    #[test]
    fn whole_frequencies_have_exact_factors() {
        let scale = |hz| Scale::of(hz).unwrap();
        assert_eq!(
            scale(1_000_000_000),
            Scale {
                multiplier: 1 << 31,
                shift: 1
            }
        );
        assert_eq!(
            scale(4_000_000_000),
            Scale {
                multiplier: 1 << 31,
                shift: -1
            }
        );
        // 100 ns a tick are 100/128 times 2^7.
        assert_eq!(
            scale(10_000_000),
            Scale {
                multiplier: 0xc800_0000,
                shift: 7
            }
        );
        assert_eq!(Scale::of(0), None);
    }

    proptest! {
        #[test]
        fn a_day_of_ticks_is_a_day_within_a_hundred_microseconds(hz in 1_000_000u64..20_000_000_000) {
            const DAY_S: u64 = 24 * 60 * 60;
            let scale = Scale::of(hz).unwrap();
            prop_assert!(scale.multiplier >> 31 == 1);
            let error = ns(scale, hz * DAY_S).abs_diff(DAY_S * 1_000_000_000);
            prop_assert!(error < 100_000, "{error} ns");
        }
    }

    #[test]
    fn the_page_is_laid_out_as_guests_read_it() {
        let memory = FakeMemory::new(0x1000);
        memory.put(0x100, &[0xff; PAGE_BYTES]);
        memory.put_u32(0x100, 6);
        let scale = Scale {
            multiplier: 0x1234_5678,
            shift: -2,
        };
        write_page(&memory, GuestPhys::new(0x100), 0x1122_3344_5566_7788, scale);
        assert_eq!(memory.get_u32(0x100), 8, "the version is even, and new");
        assert_eq!(
            memory.read_u64(GuestPhys::new(0x108)),
            Ok(0x1122_3344_5566_7788)
        );
        assert_eq!(memory.read_u64(GuestPhys::new(0x110)), Ok(0));
        assert_eq!(memory.get_u32(0x118), 0x1234_5678);
        assert_eq!(memory.get::<4>(0x11c), [0xfe, 1, 0, 0]);
    }

    #[test]
    fn a_version_left_odd_becomes_even() {
        let memory = FakeMemory::new(0x1000);
        memory.put_u32(0x10, 7);
        versioned(&memory, GuestPhys::new(0x10), |memory| {
            assert_eq!(memory.get_u32(0x10) & 1, 1, "odd while it is being written");
        });
        assert_eq!(memory.get_u32(0x10), 10);
    }

    #[test]
    fn the_date_is_seconds_and_nanoseconds() {
        let memory = FakeMemory::new(0x1000);
        let at = GuestPhys::new(0x20);
        assert_eq!(write_date(&memory, at, 946_684_800_000_000_007), Some(()));
        assert_eq!(memory.get_u32(0x20), 2);
        assert_eq!(memory.get_u32(0x24), 946_684_800);
        assert_eq!(memory.get_u32(0x28), 7);
        for wrong in [0x21, 0x22, 0xff8, 0x1000, u64::MAX - 3] {
            assert_eq!(
                write_date(&memory, GuestPhys::new(wrong), 0),
                None,
                "{wrong:#x}"
            );
        }
    }
}
