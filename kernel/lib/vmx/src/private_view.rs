//! A vCPU's own view of its VM's memory, where that is not what all others see.
//!
//! Two things make it so: the gate of address line 20 is closed, so that every odd MiB shows the even one below it; or
//! the guest has moved its local APIC over RAM, which is then hidden from that CPU alone. Both are rare, so such a
//! view costs nothing before it is there: it begins empty, and each EPT violation maps what was missing
//! ([`PrivateView::fill`]).
//!
//! The tables belong to a CPU and show what whichever vCPU it has sees. They are made of a few that were put aside before
//! any guest ran; once those are used up, all is forgotten and begins anew. So no view takes long to make or grows, and
//! nothing that guests do with them costs memory.

use alloc::vec::Vec;

use machine::A20Gate;
use memory::table::TableError;
use memory::{GuestPhys, HostPhys, PageSize, Range, TableMemory, Tables, TlbEffect};
use vmm::exit::{AccessKind, MemoryAccess};

use crate::ept::{AccessedDirty, Ept, EptPointer};
use crate::large_pages::LargePages;

/// What makes a vCPU's view differ from the others'.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peculiarity {
    /// The gate of address line 20.
    pub gate: A20Gate,
    /// The page of the local APIC, which hides what else is there.
    pub hidden: Option<GuestPhys>,
}

impl Peculiarity {
    /// What is usual.
    pub const NONE: Self = Self {
        gate: A20Gate::Open,
        hidden: None,
    };

    /// What of the RAM is seen at an address.
    pub fn seen(&self, gpa: GuestPhys) -> GuestPhys {
        GuestPhys::new(gpa.as_u64() & self.gate.mask())
    }

    /// The largest page that shows an address of the RAM as it is to be seen.
    fn leaf(&self, ram: &Pieces, seen: GuestPhys) -> Option<(PageSize, HostPhys)> {
        let is_hidden = |size: PageSize| {
            self.hidden
                .is_some_and(|hidden| hidden.align_down(size) == seen.align_down(size))
        };
        [PageSize::Size2M, PageSize::Size4K]
            .into_iter()
            .filter(|&size| size == PageSize::Size4K || self.gate.is_open())
            .filter(|&size| !is_hidden(size))
            .find_map(|size| Some((size, ram.page(seen, size)?)))
    }
}

/// The tables for such views on one CPU, and the memory that they are made of.
#[derive(Debug)]
pub struct PrivateView<M> {
    peculiarity: Peculiarity,
    tables: Tables<Ept>,
    memory: M,
    pointer: EptPointer,
}

/// What has become of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filled {
    /// No RAM is to be seen there, but what is at this address.
    NoRam(GuestPhys),
    /// The access can be repeated. This page of the RAM counts as written: whoever looks for written memory does not
    /// look here. The CPU drops what it has cached under the view's pointer, or there is nothing to drop.
    Mapped(GuestPhys, TlbEffect),
}

impl<M: TableMemory> PrivateView<M> {
    /// Nobody's yet, made of this memory, which has room for a few tables; none where it has not.
    pub fn new(mut memory: M, flags: AccessedDirty) -> Option<Self> {
        let tables = Tables::<Ept>::new(&mut memory)?;
        Some(Self {
            peculiarity: Peculiarity::NONE,
            pointer: EptPointer::new(tables.root(), flags),
            tables,
            memory,
        })
    }

    /// What the vCPU runs with.
    pub const fn pointer(&self) -> EptPointer {
        self.pointer
    }

    /// What of the RAM is seen at an address.
    pub fn seen(&self, gpa: GuestPhys) -> GuestPhys {
        self.peculiarity.seen(gpa)
    }

    /// A vCPU that sees memory so is entered with it from now on. The CPU drops what it has cached under the view's
    /// pointer: another vCPU may have seen something else by it.
    ///
    /// # Errors
    /// Those of [`Tables::unmap`], of which none can occur.
    pub fn begin(&mut self, peculiarity: Peculiarity) -> Result<(), TableError> {
        self.peculiarity = peculiarity;
        self.forget()
    }

    /// The vCPU is to see memory so from now on. Whether that is a change, upon which the CPU drops what it has cached
    /// under the view's pointer.
    ///
    /// # Errors
    /// As for [`begin`](Self::begin).
    pub fn turn_into(&mut self, peculiarity: Peculiarity) -> Result<TlbEffect, TableError> {
        if self.peculiarity == peculiarity {
            return Ok(TlbEffect::None);
        }
        self.begin(peculiarity)?;
        Ok(TlbEffect::Stale)
    }

    /// Maps what an access was missing.
    ///
    /// # Errors
    /// Those of [`Tables::map`] where there is less memory than one page takes.
    pub fn fill(
        &mut self,
        ram: &Pieces,
        large_pages: LargePages,
        access: &MemoryAccess,
    ) -> Result<Filled, TableError> {
        let seen = self.seen(access.gpa);
        let Some((size, hpa)) = self.peculiarity.leaf(ram, seen) else {
            return Ok(Filled::NoRam(seen));
        };
        // With the gate closed pages are of 4 KiB, so that both addresses have the same offset in theirs.
        let page = access.gpa.align_down(size).as_u64();
        // Where code may not lie in large pages, one is shown by small ones.
        let largest = match access.kind {
            AccessKind::Execute if large_pages == LargePages::DataOnly => PageSize::Size4K,
            _ => size,
        };
        let flags = large_pages.ram(largest);
        let bytes = size.bytes();
        let mut effect = TlbEffect::None;
        let map = |view: &mut Self| {
            view.tables
                .map(&mut view.memory, page, hpa, bytes, flags, largest)
        };
        let mapped = match map(self) {
            Err(TableError::OutOfTables) => {
                self.forget()?;
                effect = TlbEffect::Stale;
                map(self)?
            }
            mapped => mapped?,
        };
        Ok(Filled::Mapped(seen, effect.and(mapped)))
    }

    /// Takes all away again, so that all tables but one are free.
    fn forget(&mut self) -> Result<(), TableError> {
        const ADDRESSES: u64 = 1 << 48;
        // What this makes stale is dropped by whoever asked for it. No table is needed, as all pages go.
        self.tables
            .unmap(&mut self.memory, 0, ADDRESSES)
            .map(|_| ())
    }
}

/// Where a VM's RAM lies, sorted: which guest-physical addresses at which physical address on. Both are multiples of
/// the piece's size, a power of two.
#[derive(Clone, Debug)]
pub struct Pieces(Vec<(Range<GuestPhys>, HostPhys)>);

impl Pieces {
    /// These.
    pub fn new(pieces: impl Iterator<Item = (Range<GuestPhys>, HostPhys)>) -> Self {
        Self(pieces.collect())
    }

    /// Whether RAM lies there.
    pub fn contain(&self, gpa: GuestPhys) -> bool {
        self.page(gpa, PageSize::Size4K).is_some()
    }

    /// The frames of the page of this size that holds an address, where they lie together.
    fn page(&self, gpa: GuestPhys, size: PageSize) -> Option<HostPhys> {
        let Self(pieces) = self;
        let at = pieces.partition_point(|(guest, _)| guest.start <= gpa);
        let (guest, host) = pieces.get(at.checked_sub(1)?)?;
        if !guest.contains(gpa) || guest.len() < size.bytes() {
            return None;
        }
        let page = gpa.align_down(size);
        Some(host.wrapping_add(page.as_u64() - guest.start.as_u64()))
    }
}

#[cfg(test)]
mod tests;
