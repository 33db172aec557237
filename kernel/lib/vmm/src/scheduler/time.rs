//! [`Weight`] and [`VirtualTime`], which passes the slower the greater the weight is.

/// The share of a vCPU against that of the others: that of a VM, 1 to 65535, or a part of one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Weight(u32);

/// Parts of a weight of 1: as many vCPUs as a VM can have divide the least weight evenly.
const WEIGHT_PARTS: u32 = 1 << WEIGHT_PARTS_LOG2;
const WEIGHT_PARTS_LOG2: u32 = 8;

impl Weight {
    /// The usual one.
    pub const DEFAULT: Self = Self::new(256);

    /// The nearest weight that a VM can have.
    pub const fn new(weight: u32) -> Self {
        Self(
            WEIGHT_PARTS
                * match weight {
                    0 => 1,
                    1..=0xffff => weight,
                    _ => 0xffff,
                },
        )
    }

    /// Its number of parts, for sums of weights.
    pub(super) const fn parts(self) -> u32 {
        self.0
    }

    /// What each of `vcpus` vCPUs has of the weight of a VM, to the nearest part.
    #[must_use]
    pub(super) const fn divided(self, vcpus: u32) -> Self {
        match (self.0 + vcpus / 2).checked_div(vcpus) {
            None => self,
            Some(0) => Self(1),
            Some(parts) => Self(parts),
        }
    }
}

/// Virtual time: nanoseconds of run time, times 256, over the weight. At the usual weight it passes as fast as the clock.
/// At the greatest it passes by one in 256 ns. It ends after 584 years in which vCPUs of the usual weight wait for each other,
/// but sooner where all that are busy have small ones: with two vCPUs of the least weight on a CPU after four years, with one
/// VM of that weight on eight CPUs, while others of it wait, after 104 days. From then on weights do not count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct VirtualTime(pub(super) u64);

const VIRTUAL_SCALE_LOG2: u32 = 8 + WEIGHT_PARTS_LOG2;

impl VirtualTime {
    /// The virtual time in which a vCPU of this weight runs for `ns`.
    pub(super) fn of(ns: u64, weight: Weight) -> Self {
        Self::over(ns, weight.0.into())
    }

    /// The virtual time in which all of these weights together run for `ns`, to the nearest: short turns cost nobody more,
    /// and none is for nothing.
    pub(super) fn over(ns: u64, total_weight: u64) -> Self {
        let total_weight = total_weight.max(1);
        let scaled = (u128::from(ns) << VIRTUAL_SCALE_LOG2) + u128::from(total_weight / 2);
        match u64::try_from(scaled) {
            // So it is but for times of days, and a processor divides that by itself.
            Ok(scaled) => Self(scaled / total_weight),
            Err(_) => Self(u64::try_from(scaled / u128::from(total_weight)).unwrap_or(u64::MAX)),
        }
    }

    /// For how long a vCPU of this weight runs in this virtual time.
    pub(super) fn to_ns(self, weight: Weight) -> u64 {
        let scaled = u128::from(self.0) * u128::from(weight.0);
        u64::try_from(scaled >> VIRTUAL_SCALE_LOG2).unwrap_or(u64::MAX)
    }

    pub(super) const fn times(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }

    pub(super) const fn fraction(self, divisor: u64) -> Self {
        Self(self.0 / divisor)
    }

    pub(super) const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    pub(super) const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    pub(super) const fn saturating_add_signed(self, other: i64) -> Self {
        Self(self.0.saturating_add_signed(other))
    }

    /// By how much this time is later than another one, negative where it is earlier.
    pub(super) fn ahead_of(self, other: Self) -> i64 {
        let ahead = i128::from(self.0) - i128::from(other.0);
        let bound = i128::from(i64::MAX);
        ahead.clamp(-bound, bound) as i64
    }
}
