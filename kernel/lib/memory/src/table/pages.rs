//! What tables map, page by page: for whoever wants to know the sizes or the flags of all of them.

use super::{ENTRIES, Entry, Format, TableMemory, Tables, entry_shift, extended, page_size};
use crate::{HostPhys, PageSize};

/// A page that is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page<F> {
    /// Its first address.
    pub address: u64,
    /// What is mapped there.
    pub frame: HostPhys,
    /// Its size.
    pub size: PageSize,
    /// Its flags.
    pub flags: F,
}

impl<F: Format> Tables<F> {
    /// Shows every page that is mapped to `each`, by their addresses without regard to the sign. CPUs may use the
    /// tables meanwhile.
    pub fn for_each_page<M: TableMemory>(&self, memory: &M, mut each: impl FnMut(Page<F::Flags>)) {
        visit::<F, M>(memory, self.root(), F::LEVELS, 0, &mut each);
    }
}

fn visit<F: Format, M: TableMemory>(
    memory: &M,
    table: HostPhys,
    level: u8,
    from: u64,
    each: &mut impl FnMut(Page<F::Flags>),
) {
    for slot in 0..ENTRIES {
        let address = from | (slot as u64) << entry_shift(level);
        match F::decode(memory.read_entry(table, slot), level) {
            Entry::Empty => {}
            Entry::Table(below) => visit::<F, M>(memory, below, level - 1, address, each),
            Entry::Leaf { frame, flags } => {
                if let Some(size) = page_size(level) {
                    each(Page {
                        address: extended::<F>(address),
                        frame,
                        size,
                        flags,
                    });
                }
            }
        }
    }
}
