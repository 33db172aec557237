//! The walks that change what tables map: to map, to unmap, and to change flags. Each store leaves every address with its
//! old or its new translation.

use super::split::split;
use super::{
    At, ENTRIES, Entry, Format, Span, TableError, TableMemory, TlbEffect, free_tree, index,
    page_size,
};
use crate::{HostPhys, PageSize};

/// What a range is mapped to; `frame` belongs to the first address of the span at hand.
pub(super) struct Target<F> {
    pub(super) frame: HostPhys,
    pub(super) flags: F,
    pub(super) largest: PageSize,
}

pub(super) fn map_in<F: Format, M: TableMemory>(
    memory: &mut M,
    table: HostPhys,
    level: u8,
    span: Span,
    target: &Target<F::Flags>,
) -> Result<TlbEffect, TableError> {
    let mut effect = TlbEffect::None;
    for piece in span.pieces(level) {
        let slot = index(piece.first, level);
        let frame = target.frame.wrapping_add(piece.first - span.first);
        let old = F::decode(memory.read_entry(table, slot), level);

        let leaf_size = page_size(level)
            .filter(|&size| size <= target.largest && piece.fills(level) && frame.is_aligned(size));
        if let Some(size) = leaf_size {
            if old
                == (Entry::Leaf {
                    frame,
                    flags: target.flags,
                })
            {
                continue;
            }
            memory.write_entry(table, slot, F::leaf_entry(frame, size, target.flags));
            if let Entry::Table(below) = old {
                free_tree::<F, M>(memory, below, level - 1);
            }
            if old != Entry::Empty {
                effect = TlbEffect::Stale;
            }
            continue;
        }

        let below = match old {
            Entry::Table(below) => below,
            Entry::Empty => {
                let below = memory.allocate_table().ok_or(TableError::OutOfTables)?;
                memory.write_entry(table, slot, F::table_entry(below));
                below
            }
            Entry::Leaf { frame, flags } => {
                effect = TlbEffect::Stale;
                split::<F, M>(memory, At { table, slot, level }, frame, flags)?
            }
        };
        let target = Target { frame, ..*target };
        effect = effect.and(map_in::<F, M>(memory, below, level - 1, piece, &target)?);
    }
    Ok(effect)
}

pub(super) fn unmap_in<F: Format, M: TableMemory>(
    memory: &mut M,
    table: HostPhys,
    level: u8,
    span: Span,
) -> Result<TlbEffect, TableError> {
    let mut effect = TlbEffect::None;
    for piece in span.pieces(level) {
        let slot = index(piece.first, level);
        let old = F::decode(memory.read_entry(table, slot), level);
        match old {
            Entry::Empty => {}
            Entry::Table(below) if piece.fills(level) => {
                memory.write_entry(table, slot, 0);
                free_tree::<F, M>(memory, below, level - 1);
                effect = TlbEffect::Stale;
            }
            Entry::Leaf { .. } if piece.fills(level) => {
                memory.write_entry(table, slot, 0);
                effect = TlbEffect::Stale;
            }
            Entry::Table(below) => {
                effect = effect.and(unmap_in::<F, M>(memory, below, level - 1, piece)?);
                if is_empty::<F, M>(memory, below, level - 1) {
                    memory.write_entry(table, slot, 0);
                    memory.free_table(below);
                    effect = TlbEffect::Stale;
                }
            }
            Entry::Leaf { frame, flags } => {
                let below = split::<F, M>(memory, At { table, slot, level }, frame, flags)?;
                effect = TlbEffect::Stale.and(unmap_in::<F, M>(memory, below, level - 1, piece)?);
            }
        }
    }
    Ok(effect)
}

pub(super) fn protect_in<F: Format, M: TableMemory>(
    memory: &mut M,
    table: HostPhys,
    level: u8,
    span: Span,
    change: &impl Fn(F::Flags) -> F::Flags,
) -> Result<TlbEffect, TableError> {
    let mut effect = TlbEffect::None;
    for piece in span.pieces(level) {
        let slot = index(piece.first, level);
        let below = match F::decode(memory.read_entry(table, slot), level) {
            Entry::Empty => continue,
            Entry::Table(below) => below,
            Entry::Leaf { frame, flags } => {
                let new = change(flags);
                let Some(size) = page_size(level).filter(|_| new != flags) else {
                    continue;
                };
                effect = TlbEffect::Stale;
                if piece.fills(level) {
                    memory.write_entry(table, slot, F::leaf_entry(frame, size, new));
                    continue;
                }
                split::<F, M>(memory, At { table, slot, level }, frame, flags)?
            }
        };
        effect = effect.and(protect_in::<F, M>(memory, below, level - 1, piece, change)?);
    }
    Ok(effect)
}

fn is_empty<F: Format, M: TableMemory>(memory: &M, table: HostPhys, level: u8) -> bool {
    (0..ENTRIES).all(|slot| F::decode(memory.read_entry(table, slot), level) == Entry::Empty)
}
