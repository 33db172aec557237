//! Radix page tables as an algorithm, for every format whose tables are 512 entries of 8 bytes.
//!
//! [`Tables`] maps, unmaps, protects and translates over a [`Format`] (how an entry is encoded: the host's
//! paging in `arch::paging`, EPT in `vmx`) and a [`TableMemory`] (where tables lie). Each step is one 8-byte
//! store that leaves every address with its old or its new translation, so that CPUs may walk the tables
//! meanwhile. Whether they must flush something afterwards is the returned [`TlbEffect`].

mod change;
mod pages;
mod shared;
mod split;

use core::fmt;

use crate::{HostPhys, PageSize};

use change::{Target, map_in, protect_in, unmap_in};
pub use pages::Page;

/// Entries in a table.
pub const ENTRIES: usize = 512;

/// What the address bits above those that the tables translate must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpperBits {
    /// All zero, as for EPT.
    Zero,
    /// Copies of the highest translated bit, as for canonical linear addresses.
    SignExtended,
}

/// What one entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry<F> {
    /// No translation.
    Empty,
    /// A table of the next lower level.
    Table(HostPhys),
    /// A page of the size that belongs to the level.
    Leaf {
        /// The first byte of the page.
        frame: HostPhys,
        /// Everything else that the format knows about the page.
        flags: F,
    },
}

/// How the entries of one kind of page table are encoded.
pub trait Format {
    /// Permissions, memory type and the like of a page.
    type Flags: Copy + Eq + fmt::Debug;

    /// Levels of tables; the root is a table of this level, and entries of level 1 are 4 KiB pages.
    const LEVELS: u8;

    /// Which addresses the tables can translate.
    const UPPER_BITS: UpperBits;

    /// An entry that leads to a table.
    fn table_entry(table: HostPhys) -> u64;

    /// An entry for a page. Two calls with equal arguments give entries that mean the same.
    fn leaf_entry(frame: HostPhys, size: PageSize, flags: Self::Flags) -> u64;

    /// What an entry of a table of this level means.
    fn decode(entry: u64, level: u8) -> Entry<Self::Flags>;
}

/// Where the tables lie.
pub trait TableMemory {
    /// Reads an entry with one 8-byte load.
    fn read_entry(&self, table: HostPhys, index: usize) -> u64;

    /// Writes an entry with one 8-byte store that no earlier store may pass.
    fn write_entry(&mut self, table: HostPhys, index: usize, entry: u64);

    /// A table of zeroes, or `None` where there is no more memory.
    fn allocate_table(&mut self) -> Option<HostPhys>;

    /// Takes back a table that no entry refers to any more. CPUs may still have the path to it cached: it
    /// must not be reused before those that walk these tables have flushed.
    fn free_table(&mut self, table: HostPhys);
}

/// Whether TLBs may hold something that is no longer so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "stale translations must be flushed"]
pub enum TlbEffect {
    /// Nothing but empty entries was changed.
    None,
    /// Translations were changed or taken away: flush the range on all CPUs that use the tables.
    Stale,
}

impl TlbEffect {
    /// Both effects together.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, Self::None) => Self::None,
            _ => Self::Stale,
        }
    }
}

/// Why tables could not be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableError {
    /// Address, frame or length is not a multiple of 4 KiB.
    Misaligned,
    /// Some address of the range is none that the tables can translate, or the frames pass 2^64.
    OutOfRange,
    /// There was no memory for another table. The range is changed up to some address, and is to be flushed.
    OutOfTables,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Misaligned => "a mapping that is not made of whole pages",
            Self::OutOfRange => "a mapping outside the address space",
            Self::OutOfTables => "no memory left for page tables",
        })
    }
}

impl core::error::Error for TableError {}

/// Where an address leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation<F> {
    /// The physical address, page offset included.
    pub address: HostPhys,
    /// The size of the page that holds it.
    pub size: PageSize,
    /// The page's flags.
    pub flags: F,
}

/// One set of tables, named by its root. It owns the tables below the root, but only
/// [`destroy`](Self::destroy) gives them back.
#[derive(Debug)]
pub struct Tables<F> {
    root: HostPhys,
    format: core::marker::PhantomData<fn() -> F>,
}

/// A run of addresses below one table: the first and the last byte, page aligned at both ends.
#[derive(Clone, Copy)]
struct Span {
    first: u64,
    last: u64,
}

impl Span {
    /// The parts of the span that one entry each of a table of this level covers, in ascending order.
    fn pieces(self, level: u8) -> impl Iterator<Item = Self> {
        core::iter::successors(Some(self.piece(level)), move |piece| {
            (piece.last < self.last).then(|| {
                let rest = Self {
                    first: piece.last.wrapping_add(1),
                    last: self.last,
                };
                rest.piece(level)
            })
        })
    }

    /// The first of them.
    fn piece(self, level: u8) -> Self {
        let entry_last = self.first | (entry_bytes(level) - 1);
        Self {
            first: self.first,
            last: entry_last.min(self.last),
        }
    }

    /// Whether the span is all that an entry of this level covers.
    fn fills(self, level: u8) -> bool {
        self.first & (entry_bytes(level) - 1) == 0
            && self.last - self.first == entry_bytes(level) - 1
    }
}

impl<F: Format> Tables<F> {
    /// New tables without any translation, or `None` where there is no memory for the root.
    pub fn new<M: TableMemory>(memory: &mut M) -> Option<Self> {
        memory.allocate_table().map(Self::from_root)
    }

    /// The tables below an existing root.
    pub const fn from_root(root: HostPhys) -> Self {
        Self {
            root,
            format: core::marker::PhantomData,
        }
    }

    /// The root table, for CR3 or the EPT pointer.
    pub const fn root(&self) -> HostPhys {
        self.root
    }

    /// Maps `bytes` bytes from `address` on to the frames from `frame` on, with the largest pages that
    /// alignment and `largest` allow. Translations that are there already are replaced.
    ///
    /// # Errors
    /// See [`TableError`]; only [`OutOfTables`](TableError::OutOfTables) leaves something changed.
    pub fn map<M: TableMemory>(
        &mut self,
        memory: &mut M,
        address: u64,
        frame: HostPhys,
        bytes: u64,
        flags: F::Flags,
        largest: PageSize,
    ) -> Result<TlbEffect, TableError> {
        let Some(span) = Self::span(address, bytes)? else {
            return Ok(TlbEffect::None);
        };
        if !frame.is_aligned(PageSize::Size4K) {
            return Err(TableError::Misaligned);
        }
        frame.checked_add(bytes - 1).ok_or(TableError::OutOfRange)?;
        map_in::<F, M>(
            memory,
            self.root,
            F::LEVELS,
            span,
            &Target {
                frame,
                flags,
                largest,
            },
        )
    }

    /// Takes away all translations of the `bytes` bytes from `address` on, and gives back the tables that
    /// become empty.
    ///
    /// # Errors
    /// See [`TableError`]; tables are needed where a large page is unmapped in part.
    pub fn unmap<M: TableMemory>(
        &mut self,
        memory: &mut M,
        address: u64,
        bytes: u64,
    ) -> Result<TlbEffect, TableError> {
        let Some(span) = Self::span(address, bytes)? else {
            return Ok(TlbEffect::None);
        };
        unmap_in::<F, M>(memory, self.root, F::LEVELS, span)
    }

    /// Replaces the flags of what is mapped in the `bytes` bytes from `address` on by `change(flags)`. Large
    /// pages are split where only a part of them changes.
    ///
    /// # Errors
    /// See [`TableError`]; tables are needed where a large page is split.
    pub fn protect<M: TableMemory>(
        &mut self,
        memory: &mut M,
        address: u64,
        bytes: u64,
        change: impl Fn(F::Flags) -> F::Flags,
    ) -> Result<TlbEffect, TableError> {
        let Some(span) = Self::span(address, bytes)? else {
            return Ok(TlbEffect::None);
        };
        protect_in::<F, M>(memory, self.root, F::LEVELS, span, &change)
    }

    /// Where `address` leads, or `None` where nothing is mapped or the tables cannot translate it.
    pub fn translate<M: TableMemory>(
        &self,
        memory: &M,
        address: u64,
    ) -> Option<Translation<F::Flags>> {
        if !is_translatable::<F>(address) {
            return None;
        }
        let mut table = self.root;
        for level in (1..=F::LEVELS).rev() {
            match F::decode(memory.read_entry(table, index(address, level)), level) {
                Entry::Empty => return None,
                Entry::Table(next) => table = next,
                Entry::Leaf { frame, flags } => {
                    let size = page_size(level)?;
                    let address = frame.wrapping_add(address & (size.bytes() - 1));
                    return Some(Translation {
                        address,
                        size,
                        flags,
                    });
                }
            }
        }
        None
    }

    /// Gives back all tables, the root included. No CPU may use them any more.
    pub fn destroy<M: TableMemory>(self, memory: &mut M) {
        free_tree::<F, M>(memory, self.root, F::LEVELS);
    }

    fn span(address: u64, bytes: u64) -> Result<Option<Span>, TableError> {
        let page = PageSize::Size4K.bytes() - 1;
        if (address | bytes) & page != 0 {
            return Err(TableError::Misaligned);
        }
        if bytes == 0 {
            return Ok(None);
        }
        let last = address
            .checked_add(bytes - 1)
            .ok_or(TableError::OutOfRange)?;
        let same_half = upper_part::<F>(address) == upper_part::<F>(last);
        if !same_half || !is_translatable::<F>(address) || !is_translatable::<F>(last) {
            return Err(TableError::OutOfRange);
        }
        Ok(Some(Span {
            first: address,
            last,
        }))
    }
}

/// An entry of a table.
#[derive(Clone, Copy)]
struct At {
    table: HostPhys,
    slot: usize,
    level: u8,
}

/// The address with the bits above those that the tables translate as they must be.
fn extended<F: Format>(address: u64) -> u64 {
    match F::UPPER_BITS {
        UpperBits::Zero => address,
        UpperBits::SignExtended => {
            let unused = 64 - entry_shift(F::LEVELS + 1);
            (((address << unused) as i64) >> unused) as u64
        }
    }
}

fn free_tree<F: Format, M: TableMemory>(memory: &mut M, table: HostPhys, level: u8) {
    for slot in 0..ENTRIES {
        if let Entry::Table(below) = F::decode(memory.read_entry(table, slot), level) {
            free_tree::<F, M>(memory, below, level - 1);
        }
    }
    memory.free_table(table);
}

/// Bytes that one entry of a table of this level covers.
const fn entry_bytes(level: u8) -> u64 {
    1 << entry_shift(level)
}

const fn entry_shift(level: u8) -> u32 {
    12 + 9 * (level as u32 - 1)
}

/// The slot of `address` in a table of this level.
const fn index(address: u64, level: u8) -> usize {
    (address >> entry_shift(level)) as usize % ENTRIES
}

/// The size of pages that entries of a table of this level map.
const fn page_size(level: u8) -> Option<PageSize> {
    match level {
        1 => Some(PageSize::Size4K),
        2 => Some(PageSize::Size2M),
        3 => Some(PageSize::Size1G),
        _ => None,
    }
}

/// The bits that no level translates.
fn upper_part<F: Format>(address: u64) -> u64 {
    address >> entry_shift(F::LEVELS + 1)
}

fn is_translatable<F: Format>(address: u64) -> bool {
    match F::UPPER_BITS {
        UpperBits::Zero => upper_part::<F>(address) == 0,
        UpperBits::SignExtended => extended::<F>(address) == address,
    }
}

#[cfg(test)]
mod tests;
