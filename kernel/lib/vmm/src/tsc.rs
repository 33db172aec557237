//! A guest's TSC: the host's, scaled to the guest's frequency where the VM wants another one, and moved.
//!
//! [`Rate`] is decided once for a VM; [`GuestTsc`] is the counter of one vCPU as the hardware shows it (SDM vol. 3,
//! Time-Stamp Counter Offsetting and Scaling): the host's TSC times a [`Multiplier`], the upper part of that product,
//! plus an offset. All turning of the one counter into the other is here. A moment computed from a guest's deadline is
//! the first at which the guest's TSC has reached it, never one before.

use core::fmt;

/// Bits behind the binary point of a [`Multiplier`].
const FRACTION_BITS: u32 = 48;
/// A frequency this near to another one, in millionths, is the same: clocks are not made, or measured, any better.
const TOLERANCE_PPM: u64 = 250;

/// By how much faster than the host's TSC a guest's runs: a fixed-point number with 16 bits before the point and 48
/// behind it. Never zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Multiplier(u64);

impl Multiplier {
    /// The nearest to the quotient; `None` where that is zero, or too large.
    pub fn of(guest_hz: u64, host_hz: u64) -> Option<Self> {
        let host_hz = u128::from(host_hz);
        let numerator = (u128::from(guest_hz) << FRACTION_BITS).checked_add(host_hz / 2)?;
        let quotient = u64::try_from(numerator.checked_div(host_hz)?).ok()?;
        (quotient != 0).then_some(Self(quotient))
    }

    /// As the hardware takes it.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The part of the guest's TSC that comes from the host's: of the product, bits 48 to 111.
    #[inline]
    const fn scaled(self, host_tsc: u64) -> u64 {
        (self.product(host_tsc) >> FRACTION_BITS) as u64
    }

    const fn product(self, host_tsc: u64) -> u128 {
        host_tsc as u128 * self.0 as u128
    }

    /// The fewest host ticks from `host_tsc` on in which the guest's TSC goes on by `guest_ticks`.
    fn host_ticks(self, guest_ticks: u64, host_tsc: u64) -> u64 {
        let begun = self.product(host_tsc) & ((1 << FRACTION_BITS) - 1);
        let wanted = (u128::from(guest_ticks) << FRACTION_BITS).saturating_sub(begun);
        u64::try_from(wanted.div_ceil(u128::from(self.0))).unwrap_or(u64::MAX)
    }
}

/// Whether the processor scales a guest's TSC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scaling {
    /// It adds an offset only.
    Absent,
    /// It can.
    Present,
}

/// How fast the TSCs of a VM run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// What the guest is told.
    pub hz: u64,
    /// What makes it true; `None` where it is the host's frequency.
    pub multiplier: Option<Multiplier>,
}

impl Rate {
    /// For a VM that wants this frequency, or takes what comes.
    ///
    /// # Errors
    /// [`Unreachable`], where this machine cannot give it.
    pub fn choose(
        wanted_hz: Option<u64>,
        host_hz: u64,
        scaling: Scaling,
    ) -> Result<Self, Unreachable> {
        let as_the_host = Self {
            hz: host_hz,
            multiplier: None,
        };
        let hz = match wanted_hz {
            None => return Ok(as_the_host),
            Some(hz) if hz == host_hz => return Ok(as_the_host),
            Some(hz) => hz,
        };
        let multiplier = match scaling {
            Scaling::Present => Multiplier::of(hz, host_hz),
            Scaling::Absent if is_about(hz, host_hz) => return Ok(as_the_host),
            Scaling::Absent => None,
        };
        match multiplier {
            Some(_) => Ok(Self { hz, multiplier }),
            None => Err(Unreachable {
                wanted_hz: hz,
                host_hz,
                scaling,
            }),
        }
    }
}

/// Whether two frequencies differ by no more than clocks do.
fn is_about(hz: u64, other_hz: u64) -> bool {
    let difference = u128::from(hz.abs_diff(other_hz)) * 1_000_000;
    difference <= u128::from(other_hz) * u128::from(TOLERANCE_PPM)
}

/// A frequency that this machine cannot give a guest's TSC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unreachable {
    wanted_hz: u64,
    host_hz: u64,
    scaling: Scaling,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megahertz = |hz: u64| (hz / 1_000_000, hz / 1000 % 1000);
        let (wanted, wanted_rest) = megahertz(self.wanted_hz);
        let (host, host_rest) = megahertz(self.host_hz);
        write!(
            f,
            "its TSC is to run at {wanted}.{wanted_rest:03} MHz, this machine's runs at {host}.{host_rest:03} MHz, "
        )?;
        f.write_str(match self.scaling {
            Scaling::Absent => {
                "and the processor has no TSC scaling; leave `tsc` out, or use a processor that has it"
            }
            Scaling::Present => "and that is further apart than TSC scaling goes",
        })
    }
}

/// The TSC of one vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestTsc {
    multiplier: Option<Multiplier>,
    offset: u64,
}

impl GuestTsc {
    /// Reads zero when the host's TSC reads `origin_tsc`.
    pub const fn new(multiplier: Option<Multiplier>, origin_tsc: u64) -> Self {
        let mut tsc = Self {
            multiplier,
            offset: 0,
        };
        tsc.offset = tsc.scaled(origin_tsc).wrapping_neg();
        tsc
    }

    /// What the hardware adds.
    #[inline]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// What the hardware multiplies with before, if it does.
    pub const fn multiplier(&self) -> Option<Multiplier> {
        self.multiplier
    }

    /// What it reads when the host's TSC reads `host_tsc`.
    #[inline]
    pub const fn at(&self, host_tsc: u64) -> u64 {
        self.scaled(host_tsc).wrapping_add(self.offset)
    }

    /// Moves it by these ticks of the guest.
    pub const fn advance(&mut self, ticks: u64) {
        self.offset = self.offset.wrapping_add(ticks);
    }

    /// The moment at which the VM's time began is another one from now on, since it has stood still meanwhile: what
    /// was read at `from` will be read at `to`. Whoever goes there in several steps comes to the same.
    pub const fn move_origin(&mut self, from_tsc: u64, to_tsc: u64) {
        let passed = self.scaled(to_tsc).wrapping_sub(self.scaled(from_tsc));
        self.advance(passed.wrapping_neg());
    }

    /// The host's TSC when this one reads `guest_tsc`, the host's being `now_tsc` now: the first moment at which it
    /// has come so far, or one that is about as long past as that is. What is too far away for the host's TSC is
    /// never: a guest may set its deadline to the largest number there is.
    #[inline]
    pub fn host_tsc_at(&self, guest_tsc: u64, now_tsc: u64) -> u64 {
        if let Some(multiplier) = self.multiplier {
            return self.scaled_host_tsc_at(multiplier, guest_tsc, now_tsc);
        }
        let guest_now_tsc = now_tsc.wrapping_add(self.offset);
        match guest_tsc.checked_sub(guest_now_tsc) {
            Some(ahead) => now_tsc.saturating_add(ahead),
            None => now_tsc.saturating_sub(guest_now_tsc - guest_tsc),
        }
    }

    #[cold]
    #[inline(never)]
    fn scaled_host_tsc_at(&self, multiplier: Multiplier, guest_tsc: u64, now_tsc: u64) -> u64 {
        let guest_now_tsc = self.at(now_tsc);
        match guest_tsc.checked_sub(guest_now_tsc) {
            Some(ahead) => now_tsc.saturating_add(multiplier.host_ticks(ahead, now_tsc)),
            None => now_tsc.saturating_sub(multiplier.host_ticks(guest_now_tsc - guest_tsc, 0)),
        }
    }

    #[inline]
    const fn scaled(&self, host_tsc: u64) -> u64 {
        match self.multiplier {
            None => host_tsc,
            Some(multiplier) => multiplier.scaled(host_tsc),
        }
    }
}

#[cfg(test)]
mod tests;
