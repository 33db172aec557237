//! Tables that two sets have in common: what differs in one page need not be there twice.

use super::{ENTRIES, Entry, Format, TableError, TableMemory, Tables};
use crate::HostPhys;

impl<F: Format> Tables<F> {
    /// Shows by these tables, besides what they map already, all that `owner` maps: from where the two begin to differ,
    /// the entries of `owner` are copied, so that the tables below them are in both sets. What happens there later happens
    /// in both. The owner must not change anything above, and has to outlive [`give_back`](Self::give_back). No CPU uses
    /// these tables yet.
    ///
    /// # Errors
    /// [`TableError::OutOfRange`] where both map something below the same lowest table, or one by a large page: nothing
    /// of that can be in common.
    pub fn borrow<M: TableMemory>(
        &mut self,
        memory: &mut M,
        owner: &Self,
    ) -> Result<(), TableError> {
        borrow::<F, M>(memory, self.root(), owner.root(), F::LEVELS)
    }

    /// Takes away what [`borrow`](Self::borrow) has copied from `owner`, so that each set can be destroyed by itself. No
    /// CPU uses these tables any more.
    pub fn give_back<M: TableMemory>(&mut self, memory: &mut M, owner: &Self) {
        give_back::<F, M>(memory, self.root(), owner.root(), F::LEVELS);
    }
}

fn borrow<F: Format, M: TableMemory>(
    memory: &mut M,
    table: HostPhys,
    owner: HostPhys,
    level: u8,
) -> Result<(), TableError> {
    for slot in 0..ENTRIES {
        let entry = memory.read_entry(owner, slot);
        let there = F::decode(entry, level);
        match (F::decode(memory.read_entry(table, slot), level), there) {
            (_, Entry::Empty) => {}
            (Entry::Empty, _) => memory.write_entry(table, slot, entry),
            (Entry::Table(mine), Entry::Table(owners)) if level > 2 => {
                borrow::<F, M>(memory, mine, owners, level - 1)?;
            }
            _ => return Err(TableError::OutOfRange),
        }
    }
    Ok(())
}

fn give_back<F: Format, M: TableMemory>(
    memory: &mut M,
    table: HostPhys,
    owner: HostPhys,
    level: u8,
) {
    for slot in 0..ENTRIES {
        let mine = F::decode(memory.read_entry(table, slot), level);
        let owners = F::decode(memory.read_entry(owner, slot), level);
        match (mine, owners) {
            (Entry::Table(mine), Entry::Table(owners)) if mine == owners => {
                memory.write_entry(table, slot, 0);
            }
            (Entry::Table(mine), Entry::Table(owners)) if level > 2 => {
                give_back::<F, M>(memory, mine, owners, level - 1);
            }
            _ => {}
        }
    }
}
