//! How it is known which pages a guest has written: the log that the processor keeps, or its dirty flags.
//!
//! Where page-modification logging is on, the processor sets the dirty flag of a page's EPT entry and writes the
//! guest-physical address into a log of one page, from its last entry to its first (SDM vol. 3, Page-Modification
//! Logging). The index in the VMCS names the entry that comes next; when it has passed the first one, the next write
//! that would be logged exits instead. A page is logged once as long as its flag stays set, so a log tells the pages
//! that were written for the first time since the tables were made; nobody here ever clears a flag.
//!
//! Flags and log are exact only if no translation is cached from before: the tables of a new VM are dropped from the
//! TLB of each CPU before their first use there ([`crate::tlb`]).

use core::fmt;

use memory::{GuestPhys, PageSize};

use crate::ept::AccessedDirty;
use crate::features::{Feature, Features};

/// Entries of a log, which is one page.
pub const LOG_ENTRIES: usize = 512;

/// The index of an empty log.
pub const EMPTY: u16 = LOG_ENTRIES as u16 - 1;

/// How the pages that a guest has written are found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WriteTracking {
    /// The processor writes them into a log.
    Log,
    /// It marks them in the EPT.
    DirtyFlags,
    /// It tells nothing: all of them may have been written.
    Nothing,
}

impl WriteTracking {
    /// The best that the processor can do. A log without flags would stay empty.
    pub const fn best(features: &Features) -> Self {
        if !features.has(Feature::EptAccessedDirty) {
            Self::Nothing
        } else if features.has(Feature::PageModificationLog) {
            Self::Log
        } else {
            Self::DirtyFlags
        }
    }

    /// Whether the EPT has to have such flags.
    pub const fn flags(self) -> AccessedDirty {
        match self {
            Self::Log | Self::DirtyFlags => AccessedDirty::Tracked,
            Self::Nothing => AccessedDirty::Ignored,
        }
    }
}

impl fmt::Display for WriteTracking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Log => "the processor logs the first write to each page",
            Self::DirtyFlags => "by the dirty flags of the EPT",
            Self::Nothing => "the processor does not tell; all pages count as written",
        })
    }
}

/// The entries of a log that are filled when the index is this, oldest last: all of them where the index has passed
/// the first entry, whatever it is then.
pub fn filled(index: u16) -> core::ops::Range<usize> {
    match usize::from(index) {
        index if index < LOG_ENTRIES => index + 1..LOG_ENTRIES,
        _ => 0..LOG_ENTRIES,
    }
}

/// The page that an entry names. The manual has addresses of pages there; Bochs has that of the access itself.
pub fn page(entry: u64) -> GuestPhys {
    GuestPhys::new(entry).align_down(PageSize::Size4K)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::{Capabilities, RawCapabilities};
    use crate::testing::skylake;
    use std::vec::Vec;

    /// A processor's side of the log.
    struct Processor {
        log: [u64; LOG_ENTRIES],
        index: u16,
    }

    impl Processor {
        fn new() -> Self {
            Self {
                log: [0xdead_0000; LOG_ENTRIES],
                index: EMPTY,
            }
        }

        /// A first write to a page; false where it exits instead.
        fn writes(&mut self, address: u64) -> bool {
            if self.index > EMPTY {
                return false;
            }
            self.log[usize::from(self.index)] = address;
            self.index = self.index.wrapping_sub(1);
            true
        }

        fn drain(&mut self) -> Vec<u64> {
            let pages = filled(self.index).map(|entry| page(self.log[entry]).as_u64());
            let pages = pages.collect();
            self.index = EMPTY;
            pages
        }
    }

    #[test]
    fn a_log_gives_exactly_what_was_written_since_it_was_last_drained() {
        let mut processor = Processor::new();
        assert_eq!(processor.drain(), []);
        for address in [0x1000, 0x2000, 0x3000] {
            assert!(processor.writes(address));
        }
        assert_eq!(processor.drain(), [0x3000, 0x2000, 0x1000]);
        assert!(processor.writes(0x4000));
        assert_eq!(processor.drain(), [0x4000]);
    }

    #[test]
    fn a_full_log_gives_all_of_its_entries_and_then_has_room_again() {
        let mut processor = Processor::new();
        let pages = (0..512).map(|page| page << 12);
        for address in pages.clone() {
            assert!(processor.writes(address));
        }
        assert_eq!(processor.index, 0xffff);
        assert!(!processor.writes(0x1234_5000), "the log is full");
        assert_eq!(processor.drain(), pages.rev().collect::<Vec<_>>());
        assert!(processor.writes(0x1234_5000));
        assert_eq!(processor.drain(), [0x1234_5000]);
    }

    #[test]
    fn an_index_beyond_the_log_hides_no_entry() {
        assert_eq!(filled(512), 0..512);
        assert_eq!(filled(0x8000), 0..512);
        assert_eq!(filled(0), 1..512);
        assert!(filled(EMPTY).is_empty());
    }

    #[test]
    fn an_entry_is_its_page_whatever_its_low_bits_are() {
        assert_eq!(page(0x1_2345_6789).as_u64(), 0x1_2345_6000);
        assert_eq!(page(0x1_2345_6000).as_u64(), 0x1_2345_6000);
    }

    #[test]
    fn the_log_is_used_where_there_are_flags_flags_where_there_is_none_and_else_nothing_is_known() {
        let tracking =
            |raw: RawCapabilities| WriteTracking::best(&Features::new(&Capabilities::new(raw)));
        let mut raw = skylake();
        assert_eq!(tracking(raw), WriteTracking::Log);
        assert_eq!(WriteTracking::Log.flags(), AccessedDirty::Tracked);
        raw.secondary &= !(1 << (32 + 17));
        assert_eq!(tracking(raw), WriteTracking::DirtyFlags);
        assert_eq!(WriteTracking::DirtyFlags.flags(), AccessedDirty::Tracked);
        let mut raw = skylake();
        raw.ept_vpid &= !(1 << 21);
        assert_eq!(tracking(raw), WriteTracking::Nothing);
        assert_eq!(WriteTracking::Nothing.flags(), AccessedDirty::Ignored);
    }
}
