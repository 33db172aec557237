//! Page-table entries of 4-level and 5-level paging, for the hypervisor's own address space.
//!
//! [`Paging`] is the format that [`memory::Tables`] works on. What a guest's tables mean is another matter,
//! which depends on the guest's registers: see [`walk`](crate::walk).

use bitflags::bitflags;
use memory::table::{Entry, Format, UpperBits};
use memory::{HostPhys, PageSize};

bitflags! {
    /// What an entry that maps a page says beside the frame (SDM vol. 3, 4-Level Paging and 5-Level Paging).
    ///
    /// Present is implied. Accessed and dirty are the processor's, and left out.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PageFlags: u64 {
        /// Writes are allowed.
        const WRITABLE = 1 << 1;
        /// Ring 3 may use the page.
        const USER = 1 << 2;
        /// Page-level write-through: bit 0 of the index into the PAT.
        const PWT = 1 << 3;
        /// Page-level cache disable: bit 1 of the index into the PAT.
        const PCD = 1 << 4;
        /// The translation survives a move to CR3 (CR4.PGE).
        const GLOBAL = 1 << 8;
        /// Bit 2 of the index into the PAT. Here it has the place that it has in large pages; 4 KiB pages
        /// keep it in bit 7.
        const PAT = 1 << 12;
        /// Instruction fetches are not allowed (IA32_EFER.NXE).
        const NO_EXECUTE = 1 << 63;
    }
}

impl PageFlags {
    /// Uncacheable by the PAT that processors start with, as for device registers.
    pub const UNCACHEABLE: Self = Self::PWT.union(Self::PCD);

    /// The entry of IA32_PAT that gives the page's memory type (SDM vol. 3, Selecting a Memory Type from the
    /// PAT).
    pub const fn pat_index(self) -> u8 {
        (self.contains(Self::PAT) as u8) << 2
            | (self.contains(Self::PCD) as u8) << 1
            | self.contains(Self::PWT) as u8
    }

    /// The three flags that select this entry of IA32_PAT, 0 to 7.
    pub const fn with_pat_index(index: u8) -> Self {
        let pat = if index & 4 != 0 {
            Self::PAT
        } else {
            Self::empty()
        };
        let pcd = if index & 2 != 0 {
            Self::PCD
        } else {
            Self::empty()
        };
        let pwt = if index & 1 != 0 {
            Self::PWT
        } else {
            Self::empty()
        };
        pat.union(pcd).union(pwt)
    }
}

/// Paging with this number of levels, 4 or 5 (CR4.LA57).
#[derive(Debug)]
pub struct Paging<const LEVELS: u8>;

/// 4-level paging.
pub type Paging4 = Paging<4>;
/// 5-level paging.
pub type Paging5 = Paging<5>;

const PRESENT: u64 = 1 << 0;
const LARGE: u64 = 1 << 7;
const SMALL_PAT: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

impl<const LEVELS: u8> Format for Paging<LEVELS> {
    type Flags = PageFlags;
    const LEVELS: u8 = LEVELS;
    const UPPER_BITS: UpperBits = UpperBits::SignExtended;

    fn table_entry(table: HostPhys) -> u64 {
        // Tables allow everything; the pages decide.
        table.as_u64() & ADDRESS | PRESENT | (PageFlags::WRITABLE | PageFlags::USER).bits()
    }

    fn leaf_entry(frame: HostPhys, size: PageSize, flags: PageFlags) -> u64 {
        let address = frame.align_down(size).as_u64() & ADDRESS | PRESENT;
        match size {
            PageSize::Size4K if flags.contains(PageFlags::PAT) => {
                address | flags.difference(PageFlags::PAT).bits() | SMALL_PAT
            }
            PageSize::Size4K => address | flags.bits(),
            PageSize::Size2M | PageSize::Size1G => address | flags.bits() | LARGE,
        }
    }

    fn decode(entry: u64, level: u8) -> Entry<PageFlags> {
        if entry & PRESENT == 0 {
            return Entry::Empty;
        }
        let size = match level {
            1 => PageSize::Size4K,
            2 if entry & LARGE != 0 => PageSize::Size2M,
            3 if entry & LARGE != 0 => PageSize::Size1G,
            _ => return Entry::Table(HostPhys::new(entry & ADDRESS)),
        };
        let mut flags = PageFlags::from_bits_truncate(entry);
        if size == PageSize::Size4K {
            // Bit 12 belongs to the frame here.
            flags.set(PageFlags::PAT, entry & SMALL_PAT != 0);
        }
        Entry::Leaf {
            frame: HostPhys::new(entry & ADDRESS).align_down(size),
            flags,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: PageFlags = PageFlags::WRITABLE.union(PageFlags::NO_EXECUTE);

    #[test]
    fn entries_have_the_bits_of_the_manual() {
        let frame = HostPhys::new(0x1234_4000_0000);
        assert_eq!(
            Paging4::leaf_entry(frame, PageSize::Size4K, DATA),
            0x8000_1234_4000_0003
        );
        assert_eq!(
            Paging4::leaf_entry(frame, PageSize::Size2M, DATA),
            0x8000_1234_4000_0083
        );
        assert_eq!(
            Paging4::leaf_entry(frame, PageSize::Size1G, PageFlags::GLOBAL),
            0x1234_4000_0181
        );
        assert_eq!(Paging4::table_entry(frame), 0x1234_4000_0007);
        let write_combining = PageFlags::with_pat_index(5);
        assert_eq!(
            Paging4::leaf_entry(frame, PageSize::Size4K, write_combining),
            0x1234_4000_0089
        );
        assert_eq!(
            Paging4::leaf_entry(frame, PageSize::Size2M, write_combining),
            0x1234_4000_1089
        );
    }

    #[test]
    fn a_decoded_entry_is_what_was_encoded_whatever_the_processor_has_marked() {
        let accessed_and_dirty = 0x60;
        for (size, level) in [
            (PageSize::Size4K, 1),
            (PageSize::Size2M, 2),
            (PageSize::Size1G, 3),
        ] {
            for index in 0..8 {
                let flags = DATA | PageFlags::with_pat_index(index);
                let frame = HostPhys::new(0x7_c000_0000);
                let entry = Paging4::leaf_entry(frame, size, flags) | accessed_and_dirty;
                assert_eq!(Paging4::decode(entry, level), Entry::Leaf { frame, flags });
                assert_eq!(flags.pat_index(), index);
            }
        }
        assert_eq!(
            Paging4::decode(0x1234_5027, 2),
            Entry::Table(HostPhys::new(0x1234_5000)),
            "no large-page bit"
        );
        assert_eq!(Paging4::decode(0xffff_ffff_ffff_fffe, 1), Entry::Empty);
    }

    #[test]
    fn a_small_page_at_an_odd_frame_has_no_pat_bit() {
        let frame = HostPhys::new(0x1000);
        let entry = Paging5::leaf_entry(frame, PageSize::Size4K, PageFlags::WRITABLE);
        assert_eq!(
            Paging5::decode(entry, 1),
            Entry::Leaf {
                frame,
                flags: PageFlags::WRITABLE
            }
        );
    }
}
