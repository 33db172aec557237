//! A vCPU's own view of its VM's memory, where that is not what all others see.
//!
//! Two things make it so: the gate of address line 20 is closed, so that every odd MiB shows the even one below it; or
//! the guest has moved its local APIC over RAM, which is then hidden from that CPU alone. Both are rare, so such a
//! view costs nothing before it is there: it begins empty, and each EPT violation maps what was missing
//! ([`PrivateView::fill`]).
//!
//! Only a vCPU that is on a CPU needs its view, so the tables for it are the CPU's ([`PrivateTables`]), made of a few
//! frames that were put aside before any guest ran. A vCPU that leaves the CPU leaves them there, and begins anew where
//! it goes on. Once the frames are used up, all is forgotten and begins anew as well. So no view takes long to make or
//! grows, and nothing that guests do with them costs memory.

use alloc::vec::Vec;

use machine::A20Gate;
use memory::table::TableError;
use memory::{GuestPhys, HostPhys, PageSize, Range, Tables, TlbEffect};
use spin::Mutex;
use vmm::exit::{AccessKind, MemoryAccess};
use vmx::LargePages;
use vmx::ept::{AccessedDirty, Ept, EptPointer};

use super::OutOfFrames;
use super::pool::TablePool;
use super::space::EptSpace;
use super::tlb::Tlb;
use crate::cpu::PcpuId;
use crate::cpu::smp::MAX_CPUS;

/// Frames for the tables of one view: enough for 60 pieces of 2 MiB and what leads there.
const FRAMES: u64 = 64;

/// What makes a vCPU's view differ from the others'.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Peculiarity {
    /// The gate of address line 20.
    pub(super) gate: A20Gate,
    /// The page of the local APIC, which hides what else is there.
    pub(super) hidden: Option<GuestPhys>,
}

impl Peculiarity {
    /// What is usual.
    pub(super) const NONE: Self = Self {
        gate: A20Gate::Open,
        hidden: None,
    };
}

/// The second-level page tables for the vCPU that a CPU has, while that needs any of its own.
struct PrivateTables {
    tables: Tables<Ept>,
    pool: TablePool,
}

/// Those that no vCPU uses now, by CPU. Each CPU touches its own only.
static UNUSED: [Mutex<Option<PrivateTables>>; MAX_CPUS] = [const { Mutex::new(None) }; MAX_CPUS];

/// Puts aside what the vCPUs on this CPU will need for views of their own.
pub(super) fn provide(here: PcpuId) -> Result<(), OutOfFrames> {
    let mut pool = TablePool::new(FRAMES)?;
    let tables = Tables::<Ept>::new(&mut pool).ok_or(OutOfFrames)?;
    *UNUSED[here.index()].lock() = Some(PrivateTables { tables, pool });
    Ok(())
}

/// What one vCPU sees, on the CPU where it is.
pub(super) struct PrivateView {
    peculiarity: Peculiarity,
    tables: PrivateTables,
    pointer: EptPointer,
}

impl PrivateView {
    /// An empty one for the vCPU on this CPU, of which the CPU has nothing cached.
    pub(super) fn new(
        here: PcpuId,
        peculiarity: Peculiarity,
        flags: AccessedDirty,
        tlb: Tlb,
    ) -> Self {
        let Some(tables) = UNUSED[here.index()].lock().take() else {
            unreachable!("a CPU has tables for the one vCPU that it has");
        };
        let mut view = Self {
            peculiarity,
            pointer: EptPointer::new(tables.tables.root(), flags),
            tables,
        };
        view.forget(tlb);
        view
    }

    /// The vCPU needs it no more, or leaves this CPU.
    pub(super) fn give_back(self, here: PcpuId) {
        *UNUSED[here.index()].lock() = Some(self.tables);
    }

    /// The vCPU is to see something else from now on, if it does.
    pub(super) fn turn_into(&mut self, peculiarity: Peculiarity, tlb: Tlb) {
        if self.peculiarity != peculiarity {
            self.peculiarity = peculiarity;
            self.forget(tlb);
        }
    }

    pub(super) fn pointer(&self) -> EptPointer {
        self.pointer
    }

    /// What of the RAM is seen at an address.
    pub(super) fn seen(&self, gpa: GuestPhys) -> GuestPhys {
        GuestPhys::new(gpa.as_u64() & self.peculiarity.gate.mask())
    }

    /// Maps what an access to this address was missing; false where no RAM is to be seen there. Whoever looks for
    /// written memory does not look here: what is mapped counts as written.
    pub(super) fn fill(&mut self, space: &EptSpace, access: &MemoryAccess, tlb: Tlb) -> bool {
        let gpa = access.gpa;
        let seen = self.seen(gpa);
        let Some((size, hpa)) = self.leaf(space.pieces(), seen) else {
            return false;
        };
        space.page_was_written(seen);
        // With the gate closed pages are of 4 KiB, so that both addresses have the same offset in theirs.
        let page = gpa.align_down(size).as_u64();
        let large_pages = space.large_pages();
        // Where code may not lie in large pages, a large page at a time is shown by small ones.
        let largest = match access.kind {
            AccessKind::Execute if large_pages == LargePages::DataOnly => PageSize::Size4K,
            _ => size,
        };
        loop {
            let PrivateTables { tables, pool } = &mut self.tables;
            let flags = large_pages.ram(largest);
            match tables.map(pool, page, hpa, size.bytes(), flags, largest) {
                // What was empty is cached nowhere.
                Ok(TlbEffect::None) => return true,
                Ok(TlbEffect::Stale) => {
                    tlb.flush_ept(self.pointer);
                    return true;
                }
                Err(TableError::OutOfTables) => self.forget(tlb),
                Err(error) => panic!("mapping guest memory: {error}"),
            }
        }
    }

    /// The largest page that shows an address as it is to be seen.
    fn leaf(&self, ram: &Pieces, seen: GuestPhys) -> Option<(PageSize, HostPhys)> {
        let is_hidden = |size: PageSize| {
            let hidden = self.peculiarity.hidden;
            hidden.is_some_and(|hidden| hidden.align_down(size) == seen.align_down(size))
        };
        [PageSize::Size2M, PageSize::Size4K]
            .into_iter()
            .filter(|&size| size == PageSize::Size4K || self.peculiarity.gate.is_open())
            .filter(|&size| !is_hidden(size))
            .find_map(|size| Some((size, ram.page(seen, size)?)))
    }

    /// Takes all away again, and drops what this CPU has cached of it: also what another vCPU saw by these tables. With
    /// an empty pool that needs no table, as all pages go.
    fn forget(&mut self, tlb: Tlb) {
        const ADDRESSES: u64 = 1 << 48;
        let PrivateTables { tables, pool } = &mut self.tables;
        if let Err(error) = tables.unmap(pool, 0, ADDRESSES) {
            panic!("unmapping guest memory: {error}");
        }
        tlb.flush_ept(self.pointer);
    }
}

/// Where a VM's RAM lies, sorted: which guest-physical addresses at which physical address on. Both are multiples of
/// the piece's size, a power of two.
pub(super) struct Pieces(Vec<(Range<GuestPhys>, HostPhys)>);

impl Pieces {
    pub(super) fn new(pieces: impl Iterator<Item = (Range<GuestPhys>, HostPhys)>) -> Self {
        Self(pieces.collect())
    }

    /// Whether RAM lies there.
    pub(super) fn contain(&self, gpa: GuestPhys) -> bool {
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
