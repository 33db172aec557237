//! The page-modification log: which guest pages were written.
//!
//! The processor fills a page of 512 addresses from the last slot down and lowers the PML index with each; at
//! a wrap below 0 it exits. SDM vol. 3, Page-Modification Logging.

use memory::{GuestPhys, PageSize};

/// Slots in the log.
pub const SLOTS: u16 = 512;
/// The PML index of an empty log.
pub const EMPTY: u16 = SLOTS - 1;

/// The slots that hold addresses, given the PML index: those above it, or all after a wrap.
pub const fn filled_slots(index: u16) -> core::ops::Range<usize> {
    let first = if index < SLOTS { index as usize + 1 } else { 0 };
    first..SLOTS as usize
}

/// The pages in the log, oldest first. `slot` reads one of the 512 slots.
pub fn pages(index: u16, slot: impl Fn(usize) -> u64) -> impl Iterator<Item = GuestPhys> {
    // The manual promises page addresses; Bochs 2.7 logs the byte.
    filled_slots(index)
        .rev()
        .map(move |at| GuestPhys::new(slot(at)).align_down(PageSize::Size4K))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn logged(index: u16) -> Vec<u64> {
        pages(index, |slot| (slot as u64) << 12 | 0x123)
            .map(GuestPhys::as_u64)
            .collect()
    }

    #[test]
    fn an_empty_log_has_no_pages() {
        assert_eq!(logged(EMPTY), []);
    }

    #[test]
    fn the_log_fills_from_the_end() {
        assert_eq!(logged(508), [0x1f_f000, 0x1f_e000, 0x1f_d000]);
    }

    #[test]
    fn a_full_log_has_all_slots() {
        assert_eq!(logged(0xffff).len(), 512);
        assert_eq!(logged(0).len(), 511);
    }
}
