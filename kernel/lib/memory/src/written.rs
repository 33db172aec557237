//! Which parts of a guest's RAM have been written since they were last zeroed.
//!
//! The invariant is [`Written`]'s: a granule that is not marked holds nothing but zeroes. So memory whose contents
//! nobody knows starts with all marks set, zeroing takes them away one by one, and whoever writes (the hypervisor on
//! a guest's behalf, the processor as its page tables or its log tell) sets them again. Marks are set from any CPU
//! and at any time; they are taken away, and relied on, only while no CPU runs the guest.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::{GuestPhys, PageSize, Range};

/// What is marked together: the usual page of a guest's RAM.
pub const GRANULE: PageSize = PageSize::Size2M;

/// One mark for each granule of guest-physical addresses below the end of RAM.
#[derive(Debug)]
pub struct Written {
    marks: Box<[AtomicBool]>,
}

impl Written {
    /// For addresses below `end`, all of them marked.
    pub fn all(end: GuestPhys) -> Self {
        let granules = end.as_u64().div_ceil(GRANULE.bytes());
        Self {
            marks: (0..granules).map(|_| AtomicBool::new(true)).collect(),
        }
    }

    fn mark_of(&self, gpa: GuestPhys) -> Option<&AtomicBool> {
        let granule = usize::try_from(gpa.as_u64() >> GRANULE.shift()).ok()?;
        self.marks.get(granule)
    }

    /// This address has been written, or is about to be. Addresses behind the last granule have no RAM.
    #[inline]
    pub fn mark(&self, gpa: GuestPhys) {
        // Read first: a line that several CPUs only read stays with all of them.
        if let Some(mark) = self.mark_of(gpa)
            && !mark.load(Ordering::Relaxed)
        {
            mark.store(true, Ordering::Relaxed);
        }
    }

    /// Some of these addresses have been written, nobody knows which.
    pub fn mark_range(&self, range: Range<GuestPhys>) {
        let mut at = range.start.align_down(GRANULE);
        while at < range.end && self.mark_of(at).is_some() {
            self.mark(at);
            at = at.wrapping_add(GRANULE.bytes());
        }
    }

    /// Everything may have been written.
    pub fn mark_all(&self) {
        for mark in &self.marks {
            mark.store(true, Ordering::Relaxed);
        }
    }

    /// Whether anything in the granule of this address may have been written.
    #[inline]
    pub fn is_marked(&self, gpa: GuestPhys) -> bool {
        self.mark_of(gpa)
            .is_none_or(|mark| mark.load(Ordering::Relaxed))
    }

    /// The whole granule of this address has been zeroed.
    pub fn unmark(&self, gpa: GuestPhys) {
        if let Some(mark) = self.mark_of(gpa) {
            mark.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(address: u64) -> GuestPhys {
        GuestPhys::new(address)
    }

    /// Marks of 16 MiB, none set.
    fn clean() -> Written {
        let written = Written::all(at(16 * MIB));
        for granule in 0..8 {
            written.unmark(at(granule * 2 * MIB));
        }
        written
    }

    fn marked(written: &Written) -> alloc::vec::Vec<u64> {
        (0..8)
            .filter(|granule| written.is_marked(at(granule * 2 * MIB)))
            .collect()
    }

    #[test]
    fn memory_that_nobody_knows_counts_as_written() {
        let written = Written::all(at(5 * MIB));
        for address in [0, 2 * MIB, 4 * MIB, 5 * MIB - 1] {
            assert!(written.is_marked(at(address)));
        }
    }

    #[test]
    fn a_write_marks_its_granule_from_the_first_to_the_last_byte_and_no_other() {
        for address in [4 * MIB, 5 * MIB + 123, 6 * MIB - 1] {
            let written = clean();
            written.mark(at(address));
            assert_eq!(marked(&written), [2]);
        }
    }

    #[test]
    fn a_range_marks_every_granule_that_it_touches() {
        let written = clean();
        let (start, end) = (at(4 * MIB - 1), at(8 * MIB + 1));
        written.mark_range(Range { start, end });
        assert_eq!(marked(&written), [1, 2, 3, 4]);
        let (start, end) = (at(8 * MIB), at(8 * MIB));
        let written = clean();
        written.mark_range(Range { start, end });
        assert_eq!(marked(&written), []);
    }

    #[test]
    fn addresses_behind_the_end_are_nobodys_and_never_count_as_clean() {
        let written = clean();
        written.mark(at(16 * MIB));
        written.mark(at(u64::MAX));
        let (start, end) = (at(14 * MIB), at(u64::MAX));
        written.mark_range(Range { start, end });
        assert_eq!(marked(&written), [7]);
        assert!(written.is_marked(at(0xfee0_0000)));
    }

    #[test]
    fn zeroing_takes_a_mark_away_and_the_next_write_sets_it_again() {
        let written = clean();
        written.mark_all();
        written.unmark(at(3 * MIB));
        assert_eq!(marked(&written), [0, 2, 3, 4, 5, 6, 7]);
        written.mark(at(3 * MIB));
        assert_eq!(marked(&written).len(), 8);
    }
}
