//! Virtual-processor identifiers: the tags that keep the guests' translations apart in one TLB.
//!
//! SDM vol. 3, Virtual Processor Identifiers (VPIDs).

use core::num::NonZeroU16;

/// The tag of one vCPU's translations; 0 is the host's and never given out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Vpid(NonZeroU16);

impl Vpid {
    /// The VPID with this number, or `None` for the host's 0.
    pub const fn new(number: u16) -> Option<Self> {
        match NonZeroU16::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number for the VMCS and for INVVPID.
    pub const fn as_u16(self) -> u16 {
        self.0.get()
    }
}

const WORDS: usize = 1024;

/// Gives out VPIDs. The one freed last comes back last, so that a use after free shows late rather than never.
///
/// Translations under a VPID outlive its owner: whoever gets one must flush it by INVVPID on each CPU before
/// its first entry there.
#[derive(Debug)]
pub struct VpidAllocator {
    /// A set bit is a VPID in use.
    used: [u64; WORDS],
    /// Where the search starts.
    next: u16,
}

impl VpidAllocator {
    /// All are free but the host's.
    pub const fn new() -> Self {
        let mut used = [0; WORDS];
        used[0] = 1;
        Self { used, next: 1 }
    }

    /// A free VPID, or `None` where all 65535 are in use.
    pub fn allocate(&mut self) -> Option<Vpid> {
        let start = self.next;
        let mut number = start;
        loop {
            let (word, mask) = Self::place(number);
            if let Some(word) = self.used.get_mut(word)
                && *word & mask == 0
            {
                *word |= mask;
                self.next = number.wrapping_add(1);
                return Vpid::new(number);
            }
            number = number.wrapping_add(1);
            if number == start {
                return None;
            }
        }
    }

    /// Takes back a VPID.
    pub fn free(&mut self, vpid: Vpid) {
        let (word, mask) = Self::place(vpid.as_u16());
        if let Some(word) = self.used.get_mut(word) {
            *word &= !mask;
        }
    }

    const fn place(number: u16) -> (usize, u64) {
        ((number / 64) as usize, 1 << (number % 64))
    }
}

impl Default for VpidAllocator {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn all_vpids_but_the_hosts_are_given_out_once() {
        let mut allocator = VpidAllocator::new();
        let all: BTreeSet<u16> = core::iter::from_fn(|| allocator.allocate())
            .map(Vpid::as_u16)
            .collect();
        assert_eq!(all.len(), 65535);
        assert!(!all.contains(&0));
        assert_eq!(allocator.allocate(), None);
    }

    #[test]
    fn a_freed_vpid_comes_back_last() {
        let mut allocator = VpidAllocator::new();
        let first = allocator.allocate().unwrap();
        allocator.free(first);
        assert_ne!(allocator.allocate(), Some(first));
        for _ in 0..65534 {
            allocator.allocate();
        }
        assert_eq!(allocator.allocate(), None);
        allocator.free(first);
        assert_eq!(allocator.allocate(), Some(first));
    }

    #[test]
    fn the_hosts_number_is_no_vpid() {
        assert_eq!(Vpid::new(0), None);
        assert_eq!(Vpid::new(7).map(Vpid::as_u16), Some(7));
    }
}
