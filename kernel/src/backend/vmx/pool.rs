//! Tables put aside: what is made of them later needs no memory, so that no guest can use that up.

use alloc::vec::Vec;

use memory::{HostPhys, TableMemory};

use super::OutOfFrames;
use crate::memory::TableFrames;

/// Frames for tables, of which those that are none yet belong to this; the others to the tables that they are part of.
pub(super) struct TablePool {
    free: Vec<HostPhys>,
}

impl TablePool {
    /// What the heap needs for a pool of so many.
    pub(super) const fn books_bytes(tables: u64) -> u64 {
        tables * size_of::<HostPhys>() as u64
    }

    /// So many tables.
    pub(super) fn new(tables: u64) -> Result<Self, OutOfFrames> {
        let tables = usize::try_from(tables).map_err(|_| OutOfFrames)?;
        let mut pool = Self { free: Vec::new() };
        pool.free
            .try_reserve_exact(tables)
            .map_err(|_| OutOfFrames)?;
        for _ in 0..tables {
            let mut frames = TableFrames::ANYWHERE;
            pool.free.push(frames.allocate_table().ok_or(OutOfFrames)?);
        }
        Ok(pool)
    }
}

impl TableMemory for TablePool {
    fn read_entry(&self, table: HostPhys, index: usize) -> u64 {
        TableFrames::ANYWHERE.read_entry(table, index)
    }

    fn write_entry(&mut self, table: HostPhys, index: usize, entry: u64) {
        let mut frames = TableFrames::ANYWHERE;
        frames.write_entry(table, index, entry);
    }

    fn allocate_table(&mut self) -> Option<HostPhys> {
        let table = self.free.pop()?;
        for index in 0..memory::table::ENTRIES {
            self.write_entry(table, index, 0);
        }
        Some(table)
    }

    fn free_table(&mut self, table: HostPhys) {
        self.free.push(table);
    }
}

impl Drop for TablePool {
    fn drop(&mut self) {
        for table in self.free.drain(..) {
            let mut frames = TableFrames::ANYWHERE;
            frames.free_table(table);
        }
    }
}
