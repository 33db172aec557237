//! [`PagingMode`]: which of the formats of page tables is in use.

use crate::{Cr0, Cr4, Efer};

/// How addresses are translated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PagingMode {
    /// CR0.PG is clear: linear addresses are physical ones.
    None,
    /// 32-bit paging: two levels of 4-byte entries.
    TwoLevel,
    /// PAE paging: four entries in the processor, two levels of 8-byte entries.
    Pae,
    /// 4-level paging.
    FourLevel,
    /// 5-level paging.
    FiveLevel,
}

impl PagingMode {
    /// The mode that these registers make.
    #[inline]
    pub const fn new(cr0: Cr0, cr4: Cr4, efer: Efer) -> Self {
        if !cr0.contains(Cr0::PG) {
            Self::None
        } else if efer.contains(Efer::LMA) {
            if cr4.contains(Cr4::LA57) {
                Self::FiveLevel
            } else {
                Self::FourLevel
            }
        } else if cr4.contains(Cr4::PAE) {
            Self::Pae
        } else {
            Self::TwoLevel
        }
    }
}
