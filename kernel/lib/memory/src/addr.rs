//! The four kinds of address, which no function mixes up, and the three page sizes.

use core::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address with this value.
            pub const fn new(address: u64) -> Self {
                Self(address)
            }

            /// The bare value, for registers, table entries and the log.
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            /// This address plus `bytes`, wrapping at 2^64 as address arithmetic does.
            #[must_use]
            pub const fn wrapping_add(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }

            /// This address plus `bytes`, or `None` past 2^64.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// Bytes from `base` up to this address, or `None` where it lies below `base`.
            pub const fn offset_from(self, base: Self) -> Option<u64> {
                self.0.checked_sub(base.0)
            }

            /// The start of the page of this size that holds the address.
            #[must_use]
            pub const fn align_down(self, size: PageSize) -> Self {
                Self(self.0 & !(size.bytes() - 1))
            }

            /// The first page start of this size at or above the address, or `None` past 2^64.
            pub const fn align_up(self, size: PageSize) -> Option<Self> {
                match self.0.checked_add(size.bytes() - 1) {
                    Some(sum) => Some(Self(sum).align_down(size)),
                    None => None,
                }
            }

            /// Whether the address is the start of a page of this size.
            pub const fn is_aligned(self, size: PageSize) -> bool {
                self.0 & (size.bytes() - 1) == 0
            }

            /// The offset within the page of this size.
            pub const fn page_offset(self, size: PageSize) -> u64 {
                self.0 & (size.bytes() - 1)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// A physical address of the machine that Plinth runs on.
    HostPhys
}
address! {
    /// A linear address in Plinth's own address space.
    HostVirt
}
address! {
    /// A physical address as a guest sees it (SDM: guest-physical address).
    GuestPhys
}
address! {
    /// A linear address inside a guest, after segmentation and before the guest's paging.
    GuestVirt
}

/// The page sizes of 4-level paging and of EPT.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PageSize {
    /// 4 KiB.
    Size4K,
    /// 2 MiB.
    Size2M,
    /// 1 GiB.
    Size1G,
}

impl PageSize {
    /// The sizes, largest first: the order in which a mapper tries them.
    pub const LARGEST_FIRST: [Self; 3] = [Self::Size1G, Self::Size2M, Self::Size4K];

    /// Bytes in a page of this size.
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }

    /// log2 of [`bytes`](Self::bytes).
    pub const fn shift(self) -> u32 {
        match self {
            Self::Size4K => 12,
            Self::Size2M => 21,
            Self::Size1G => 30,
        }
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Size4K => "4 KiB",
            Self::Size2M => "2 MiB",
            Self::Size1G => "1 GiB",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_rounded_to_the_page_that_holds_it() {
        let address = GuestPhys::new(0x4020_1fff);
        assert_eq!(
            address.align_down(PageSize::Size4K),
            GuestPhys::new(0x4020_1000)
        );
        assert_eq!(
            address.align_down(PageSize::Size2M),
            GuestPhys::new(0x4020_0000)
        );
        assert_eq!(
            address.align_down(PageSize::Size1G),
            GuestPhys::new(0x4000_0000)
        );
        assert_eq!(
            address.align_up(PageSize::Size4K),
            Some(GuestPhys::new(0x4020_2000))
        );
        assert_eq!(address.page_offset(PageSize::Size2M), 0x1fff);
    }

    #[test]
    fn rounding_up_at_the_end_of_the_address_space_has_no_answer() {
        assert_eq!(HostPhys::new(u64::MAX).align_up(PageSize::Size4K), None);
        assert_eq!(HostPhys::new(u64::MAX).checked_add(1), None);
    }
}
