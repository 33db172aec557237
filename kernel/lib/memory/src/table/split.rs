//! Large pages become tables of smaller ones.

use super::{At, ENTRIES, Entry, Format, Page, TableError, TableMemory, Tables, index, page_size};
use super::{entry_bytes, extended, is_translatable};
use crate::{HostPhys, PageSize};

impl<F: Format> Tables<F> {
    /// Replaces the large page that maps `address` by pages of the next smaller size with the flags `change(flags)`, and
    /// returns what it was: `None`, and nothing is changed, where no large page is. The new table is filled first and
    /// published by one store; a flag that a CPU sets in the old entry meanwhile may be lost, so `change` has to set those
    /// that somebody relies on.
    ///
    /// Every address keeps its translation but for `change`. So nothing has to be flushed if the new flags allow all that
    /// the old ones did: a CPU that has the old translation cached allows less for a while, and looks again at the fault.
    ///
    /// # Errors
    /// [`TableError::OutOfTables`]; nothing is changed.
    pub fn split<M: TableMemory>(
        &mut self,
        memory: &mut M,
        address: u64,
        change: impl FnOnce(F::Flags) -> F::Flags,
    ) -> Result<Option<Page<F::Flags>>, TableError> {
        if !is_translatable::<F>(address) {
            return Ok(None);
        }
        let mut table = self.root();
        for level in (2..=F::LEVELS).rev() {
            let slot = index(address, level);
            match F::decode(memory.read_entry(table, slot), level) {
                Entry::Empty => return Ok(None),
                Entry::Table(below) => table = below,
                Entry::Leaf { frame, flags } => {
                    let Some(size) = page_size(level) else {
                        return Ok(None);
                    };
                    split::<F, M>(memory, At { table, slot, level }, frame, change(flags))?;
                    return Ok(Some(Page {
                        address: extended::<F>(address & !(entry_bytes(level) - 1)),
                        frame,
                        size,
                        flags,
                    }));
                }
            }
        }
        Ok(None)
    }
}

/// Replaces a large page by a table of smaller pages at the same place, with these flags. The table is filled first
/// and published by one store.
pub(super) fn split<F: Format, M: TableMemory>(
    memory: &mut M,
    at: At,
    frame: HostPhys,
    flags: F::Flags,
) -> Result<HostPhys, TableError> {
    // Only levels 2 and 3 have large pages, so there always is a smaller size.
    let size = page_size(at.level - 1).unwrap_or(PageSize::Size4K);
    let below = memory.allocate_table().ok_or(TableError::OutOfTables)?;
    for part in 0..ENTRIES {
        let frame = frame.wrapping_add(part as u64 * size.bytes());
        memory.write_entry(below, part, F::leaf_entry(frame, size, flags));
    }
    memory.write_entry(at.table, at.slot, F::table_entry(below));
    Ok(below)
}
