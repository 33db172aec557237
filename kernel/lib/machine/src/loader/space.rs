//! [`Space`]: which RAM is still free while a machine is being filled, and where the guest finds what it was given.

use alloc::vec::Vec;
use memory::{GuestPhys, Range};

use super::LoadError;
use crate::layout::{MachineLayout, RegionKind};

/// From which end of its window something is placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum From {
    Bottom,
    Top,
}

/// Where a loader has put what it was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Placement {
    /// The lowest address of the kernel.
    pub kernel: Option<GuestPhys>,
    /// The first instruction.
    pub entry: GuestPhys,
    /// The initial RAM disk.
    pub initrd: Option<GuestPhys>,
    /// The command line as it was given, without a name in front of it.
    pub cmdline: Option<GuestPhys>,
    /// Of a Linux kernel, what begins as its setup code does: that code, or the zero page with its header.
    pub setup: Option<GuestPhys>,
    /// Bytes of the kernel's file that are its setup code.
    pub setup_bytes: usize,
}

/// The RAM of a machine with what has been put there so far.
#[derive(Debug)]
pub(super) struct Space {
    /// Free ranges, sorted by address.
    free: Vec<Range<GuestPhys>>,
    /// What was put where.
    pub(super) placement: Placement,
}

/// Page 0 is left alone: it holds the real-mode interrupt table and BIOS data area, and an address in it
/// looks like a null pointer.
const FIRST_PLACEABLE: u64 = 0x1000;

/// The first MiB and what lies below 4 GiB: the windows in which loaders place their own structures.
pub(super) const BELOW_1M: u64 = 0x10_0000;
pub(super) const BELOW_4G: u64 = 0x1_0000_0000;

impl Space {
    pub(super) fn new(layout: &MachineLayout) -> Self {
        let map = layout.memory_map();
        let ram = map.iter().filter(|region| region.kind == RegionKind::Ram);
        Self {
            free: ram.map(|region| region.range).collect(),
            placement: Placement::default(),
        }
    }

    /// [`claim`](Self::claim) for a part of the kernel.
    pub(super) fn claim_kernel(
        &mut self,
        what: &'static str,
        start: u64,
        bytes: u64,
    ) -> Result<Range<GuestPhys>, LoadError> {
        let range = self.claim(what, start, bytes)?;
        let lowest = self.placement.kernel.unwrap_or(range.start);
        self.placement.kernel = Some(lowest.min(range.start));
        Ok(range)
    }

    /// Takes a range that the kernel's file asks for.
    pub(super) fn claim(
        &mut self,
        what: &'static str,
        start: u64,
        bytes: u64,
    ) -> Result<Range<GuestPhys>, LoadError> {
        let error = LoadError::OutsideMemory { what, start, bytes };
        let wanted = Range::<GuestPhys>::from_len(GuestPhys::new(start), bytes).ok_or(error)?;
        if bytes == 0 {
            return Ok(wanted);
        }
        let index = self
            .free
            .iter()
            .position(|free| free.contains_span(wanted.start, bytes))
            .ok_or(error)?;
        let free = self.free.remove(index);
        let parts = [
            Range {
                start: wanted.end,
                end: free.end,
            },
            Range {
                start: free.start,
                end: wanted.start,
            },
        ];
        for part in parts {
            if !part.is_empty() {
                self.free.insert(index, part);
            }
        }
        Ok(wanted)
    }

    /// Finds and takes `bytes` bytes at a multiple of `align`, a power of two, below `limit`.
    pub(super) fn place(
        &mut self,
        what: &'static str,
        bytes: u64,
        align: u64,
        limit: u64,
        from: From,
    ) -> Result<Range<GuestPhys>, LoadError> {
        let bytes = bytes.max(1);
        let fit = |free: &Range<GuestPhys>| {
            let first = free
                .start
                .as_u64()
                .max(FIRST_PLACEABLE)
                .checked_next_multiple_of(align)?;
            let end = free.end.as_u64().min(limit);
            let last = end.checked_sub(bytes)? & !(align - 1);
            if first > last {
                return None;
            }
            Some(match from {
                From::Bottom => first,
                From::Top => last,
            })
        };
        let found = match from {
            From::Bottom => self.free.iter().find_map(fit),
            From::Top => self.free.iter().rev().find_map(fit),
        };
        self.claim(what, found.ok_or(LoadError::NoRoom { what, bytes })?, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Space {
        Space::new(&MachineLayout::new(16 << 20, 1))
    }

    #[test]
    fn what_is_taken_is_not_given_again() {
        let mut space = space();
        space.claim("kernel", 0x10_0000, 0x1000).unwrap();
        assert!(space.claim("kernel", 0x10_0fff, 1).is_err());
        assert!(space.claim("kernel", 0x10_1000, 1).is_ok());
        let placed = space
            .place("table", 0x2000, 0x1000, BELOW_4G, From::Bottom)
            .unwrap();
        assert_eq!(placed.start, GuestPhys::new(0x1000));
        let next = space
            .place("table", 1, 0x1000, BELOW_4G, From::Bottom)
            .unwrap();
        assert_eq!(next.start, GuestPhys::new(0x3000));
    }

    #[test]
    fn placing_from_the_top_honours_limit_and_alignment() {
        let mut space = space();
        let placed = space
            .place("initrd", 0x1234, 0x1000, 0x80_0800, From::Top)
            .unwrap();
        assert_eq!(placed.start, GuestPhys::new(0x7f_f000));
    }

    #[test]
    fn reserved_memory_and_what_is_not_there_are_not_given() {
        let mut space = space();
        assert!(space.claim("kernel", 0x9_f000, 0x1000).is_err());
        assert!(space.claim("kernel", 0xff_ffff, 2).is_err());
        assert!(space.claim("kernel", u64::MAX, 2).is_err());
        assert!(
            space
                .place("initrd", 17 << 20, 0x1000, BELOW_4G, From::Top)
                .is_err()
        );
    }
}
