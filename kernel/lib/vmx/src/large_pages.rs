//! Whether a guest may execute from large pages, and how it gets small ones where it may not.
//!
//! Some processors stop with a machine check when they find two translations of different sizes for one fetch (iTLB
//! multihit, CVE-2018-12207), which a guest that changes the sizes of its own pages can bring about. A fetch is translated
//! by pages of the smaller of both sizes, the guest's and the EPT's. So on those processors large pages of the EPT are not
//! executable ([`LargePages::DataOnly`]): the first fetch from one is an EPT violation, upon which
//! [`fetched`](LargePages::fetched) puts 512 executable pages of 4 KiB in its place, for good. All code is then in small
//! pages, and all else in large ones.
//!
//! No other CPU has to be told. A CPU that has the large page cached reads and writes the same memory by it; at a fetch it
//! finds that not executable, which is an EPT violation, and that drops just the translation that caused it (SDM vol. 3,
//! Operations that Invalidate Cached Mappings). Then the tables are looked at again, and already allow it.
//!
//! Accessed and dirty flags of the small pages are set from the beginning, and the whole page counts as written: no flag
//! that a CPU sets in the large page meanwhile is missed, and the log of written pages is not filled by 512 of one granule.

use memory::table::TableError;
use memory::{GuestPhys, PageSize, Range, TableMemory, Tables};

use crate::ept::{Ept, EptFlags};
use crate::features::{Feature, Features};

/// What large pages of guests' RAM are for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LargePages {
    /// Data and code.
    ForAll,
    /// Data alone.
    DataOnly,
}

/// What a fetch that was refused has come upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fetched {
    /// A large page, which has become small ones that can be executed. All of it counts as written.
    Split(Range<GuestPhys>),
    /// Memory that can be executed: another CPU has split the page before.
    Executable,
    /// Nothing that can ever be executed.
    Refused,
}

impl LargePages {
    /// The largest pages to map RAM by. With [`DataOnly`](Self::DataOnly) it takes one step from those to small ones, and
    /// what counts as written with them is no more than the one granule.
    pub const fn largest(self, features: &Features) -> PageSize {
        match self {
            Self::ForAll if features.has(Feature::Ept1G) => PageSize::Size1G,
            Self::ForAll | Self::DataOnly => PageSize::Size2M,
        }
    }

    /// RAM in pages of this size.
    pub const fn ram(self, size: PageSize) -> EptFlags {
        match (self, size) {
            (Self::ForAll, _) | (Self::DataOnly, PageSize::Size4K) => EptFlags::RAM,
            (Self::DataOnly, PageSize::Size2M | PageSize::Size1G) => {
                EptFlags::RAM.difference(EptFlags::EXECUTE)
            }
        }
    }

    /// The tables that a guest with this RAM can come to need while it runs: one for each of its large pages.
    pub fn most_splits(self, pieces: impl Iterator<Item = Range<GuestPhys>>) -> u64 {
        match self {
            Self::ForAll => 0,
            Self::DataOnly => pieces
                .map(|piece| piece.len() / PageSize::Size2M.bytes())
                .sum(),
        }
    }

    /// The guest has fetched at this address and was refused by these tables. Nobody else changes them meanwhile; `memory`
    /// has a table for each large page that is left.
    ///
    /// # Errors
    /// [`TableError::OutOfTables`] where it does not; nothing is changed.
    pub fn fetched<M: TableMemory>(
        self,
        tables: &mut Tables<Ept>,
        memory: &mut M,
        gpa: GuestPhys,
    ) -> Result<Fetched, TableError> {
        /// What nobody has to look for any more.
        const KNOWN: EptFlags = EptFlags::ACCESSED.union(EptFlags::DIRTY);
        if self == Self::ForAll {
            return Ok(Fetched::Refused);
        }
        let page = tables.split(memory, gpa.as_u64(), |flags| {
            flags | EptFlags::EXECUTE | KNOWN
        })?;
        if let Some(page) = page {
            let start = GuestPhys::new(page.address);
            let end = start.wrapping_add(page.size.bytes());
            return Ok(Fetched::Split(Range { start, end }));
        }
        let small = tables.translate(memory, gpa.as_u64());
        Ok(match small {
            Some(small) if small.flags.contains(EptFlags::EXECUTE) => Fetched::Executable,
            _ => Fetched::Refused,
        })
    }
}

#[cfg(test)]
mod tests;
