//! A half-open range of addresses of one kind.

use core::fmt;

use crate::{GuestPhys, GuestVirt, HostPhys, HostVirt};

/// The addresses from `start` up to but not including `end`; empty where `end <= start`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Range<A> {
    /// The first address.
    pub start: A,
    /// The first address behind the range.
    pub end: A,
}

macro_rules! range_of {
    ($address:ident) => {
        impl Range<$address> {
            /// The range of `bytes` bytes from `start`, or `None` where it would pass 2^64.
            pub const fn from_len(start: $address, bytes: u64) -> Option<Self> {
                match start.checked_add(bytes) {
                    Some(end) => Some(Self { start, end }),
                    None => None,
                }
            }

            /// Bytes in the range.
            pub const fn len(&self) -> u64 {
                self.end.as_u64().saturating_sub(self.start.as_u64())
            }

            /// Whether no address lies in the range.
            pub const fn is_empty(&self) -> bool {
                self.end.as_u64() <= self.start.as_u64()
            }

            /// Whether `address` lies in the range.
            pub const fn contains(&self, address: $address) -> bool {
                self.start.as_u64() <= address.as_u64() && address.as_u64() < self.end.as_u64()
            }

            /// Whether all `bytes` bytes from `address` lie in the range.
            pub const fn contains_span(&self, address: $address, bytes: u64) -> bool {
                match address.checked_add(bytes) {
                    Some(end) => {
                        self.start.as_u64() <= address.as_u64() && end.as_u64() <= self.end.as_u64()
                    }
                    None => false,
                }
            }

            /// Whether the two ranges share an address.
            pub const fn overlaps(&self, other: &Self) -> bool {
                !self.is_empty()
                    && !other.is_empty()
                    && self.start.as_u64() < other.end.as_u64()
                    && other.start.as_u64() < self.end.as_u64()
            }
        }
    };
}

range_of!(HostPhys);
range_of!(HostVirt);
range_of!(GuestPhys);
range_of!(GuestVirt);

impl<A: fmt::LowerHex> fmt::Display for Range<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> Range<GuestPhys> {
        Range {
            start: GuestPhys::new(start),
            end: GuestPhys::new(end),
        }
    }

    #[test]
    fn a_span_that_wraps_is_in_no_range() {
        let all = range(0, u64::MAX);
        assert!(!all.contains_span(GuestPhys::new(u64::MAX - 1), 4));
        assert!(all.contains_span(GuestPhys::new(0x1000), 0x1000));
    }

    #[test]
    fn neighbours_do_not_overlap() {
        assert!(!range(0, 10).overlaps(&range(10, 20)));
        assert!(range(0, 11).overlaps(&range(10, 20)));
        assert!(!range(5, 5).overlaps(&range(0, 10)));
    }
}
