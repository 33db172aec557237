//! A VM's second-level page tables.

use core::sync::atomic::{AtomicU64, Ordering};

use alloc::sync::Arc;

use machine::devices::lapic::Lapic;
use memory::table::TableError;
use memory::{GuestPhys, HostPhys, PageSize, Range, Tables, Written};
use vmx::WriteTracking;
use vmx::apic::ApicMode;
use vmx::ept::{Ept, EptFlags, EptPointer};
use vmx::features::Feature;

use super::private::Pieces;
use super::tlb::Tlb;
use super::{OutOfFrames, SecondaryControls, Vmx};
use crate::backend::{AddressSpace, PageCounts};
use crate::cpu::PcpuId;
use crate::memory::{Frame, GuestRam, TableFrames};

/// The EPT of one VM. All of its RAM is mapped when the VM is made and stays so: an EPT violation always means
/// memory that the guest does not have, and no CPU ever has to drop a mapping while the VM lives.
///
/// Where the processor virtualises accesses to xAPICs there are two, which differ in one page: vCPUs whose APIC is
/// to be found there use the one that maps it, all others the one that does not. So no access to that page ever
/// reaches the frame behind it. A vCPU that sees memory otherwise than this has a view of its own ([`super::private`]).
pub(crate) struct EptSpace {
    id: SpaceId,
    plain: Root,
    with_apic: Option<WithApic>,
    tracking: WriteTracking,
    /// What of the RAM was written, which these tables and the logs of the vCPUs add to.
    written: Arc<Written>,
    pieces: Pieces,
}

/// The number of an address space, never used again while the hypervisor runs, as the frames of its tables may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SpaceId(pub(super) u64);

impl SpaceId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The EPT that maps the APIC-access page.
struct WithApic {
    root: Root,
    page: Frame,
}

/// Which of the two a vCPU uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum View {
    /// RAM.
    Plain,
    /// RAM and the APIC-access page.
    WithApic,
}

impl EptSpace {
    /// The most that the tables of this RAM take: two roots, of which one splits a large page for that of the APIC.
    pub(super) fn most_bytes(
        vmx: &Vmx,
        pieces: impl Iterator<Item = Range<GuestPhys>> + Clone,
    ) -> u64 {
        const APIC_FRAMES: u64 = 4;
        let tables = vmx::ept::tables_of(pieces, Root::largest(vmx));
        (2 * tables + APIC_FRAMES) * PageSize::Size4K.bytes()
    }

    pub(super) fn new(vmx: &Vmx, ram: &GuestRam) -> Result<Self, OutOfFrames> {
        let plain = Root::new(vmx, ram)?;
        let (_, apic) = vmx.apic_level.controls(ApicMode::Xapic, &vmx.features);
        let with_apic = if apic.contains(SecondaryControls::VIRTUALIZE_APIC_ACCESSES) {
            let page = Frame::zeroed().ok_or(OutOfFrames)?;
            let mut root = Root::new(vmx, ram)?;
            root.map(
                Lapic::DEFAULT_BASE.as_u64(),
                page.address(),
                PageSize::Size4K.bytes(),
                EptFlags::APIC_ACCESS,
                PageSize::Size4K,
            )?;
            Some(WithApic { root, page })
        } else {
            None
        };
        let written = Arc::clone(ram.written());
        if vmx.tracking == WriteTracking::Nothing {
            written.mark_all();
        }
        Ok(Self {
            id: SpaceId::next(),
            plain,
            with_apic,
            tracking: vmx.tracking,
            written,
            pieces: Pieces::new(ram.pieces()),
        })
    }

    /// The frame that the APIC-access page leads to; nothing is ever read from it or written to it.
    pub(super) fn apic_access_page(&self) -> Option<HostPhys> {
        Some(self.with_apic.as_ref()?.page.address())
    }

    /// Where the RAM lies.
    pub(super) fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    pub(super) fn id(&self) -> SpaceId {
        self.id
    }

    pub(super) fn pointer(&self, view: View) -> EptPointer {
        match (view, &self.with_apic) {
            (View::WithApic, Some(with_apic)) => with_apic.root.pointer,
            _ => self.plain.pointer,
        }
    }

    /// The log of a vCPU names this page. Where it is part of a larger one, that was logged as a whole.
    pub(super) fn page_was_written(&self, page: GuestPhys) {
        // The APIC-access page may be logged, too.
        if let Some(size) = self.plain.size_of_page(page) {
            self.written.mark_range(whole_page(page, size));
        }
    }

    /// Looks for written pages in the tables. How many of them had not been noted?
    fn look_for_dirty_flags(&self) -> u64 {
        let mut news = 0;
        let roots = [
            Some(&self.plain),
            self.with_apic.as_ref().map(|it| &it.root),
        ];
        for root in roots.into_iter().flatten() {
            root.for_each_page(|address, size, flags| {
                // A mark stands for all of a large page, and all of it is noted at once.
                let is_new = flags.contains(EptFlags::DIRTY) && !self.written.is_marked(address);
                if is_new && self.plain.size_of_page(address).is_some() {
                    self.written.mark_range(whole_page(address, size));
                    news += 1;
                }
            });
        }
        news
    }

    /// To be called on a CPU before this space is first used there.
    pub(super) fn flush_before_first_use(&self, here: PcpuId, tlb: Tlb) {
        self.plain.flush_before_first_use(here, tlb);
        if let Some(with_apic) = &self.with_apic {
            with_apic.root.flush_before_first_use(here, tlb);
        }
    }
}

impl AddressSpace for Arc<EptSpace> {
    fn note_written(&self) {
        if self.tracking == WriteTracking::DirtyFlags {
            self.look_for_dirty_flags();
        }
    }

    fn finish(&self) {
        // Whatever the log says, what the tables say counts as well: memory that wrongly passes for clean would show
        // the next guest what this one had in it.
        let missed = match self.tracking {
            WriteTracking::Log => self.look_for_dirty_flags(),
            WriteTracking::DirtyFlags | WriteTracking::Nothing => {
                self.note_written();
                0
            }
        };
        if missed != 0 {
            log::error!(target: "vmx", "{missed} written pages were in no log: this is a bug in Plinth or the processor");
        }
    }

    fn page_counts(&self) -> PageCounts {
        let mut counts = PageCounts::default();
        self.plain.for_each_page(|_, size, _| match size {
            PageSize::Size4K => counts.of_4k += 1,
            PageSize::Size2M => counts.of_2m += 1,
            PageSize::Size1G => counts.of_1g += 1,
        });
        counts
    }
}

/// The addresses of the page of this size that an address lies in.
fn whole_page(address: GuestPhys, size: PageSize) -> Range<GuestPhys> {
    let start = address.align_down(size);
    Range {
        start,
        end: start.wrapping_add(size.bytes()),
    }
}

/// One set of tables.
struct Root {
    tables: Option<Tables<Ept>>,
    pointer: EptPointer,
    /// The CPUs, one bit each, that have dropped what they may have cached of this root's frame in another use.
    /// Each CPU sets only its own bit.
    flushed_on: [AtomicU64; Root::CPU_WORDS],
}

impl Root {
    const CPU_WORDS: usize = 4;

    fn largest(vmx: &Vmx) -> PageSize {
        if vmx.features.has(Feature::Ept1G) {
            PageSize::Size1G
        } else {
            PageSize::Size2M
        }
    }

    /// All RAM, in the largest pages.
    fn new(vmx: &Vmx, ram: &GuestRam) -> Result<Self, OutOfFrames> {
        let largest = Self::largest(vmx);
        let mut memory = TableFrames::ANYWHERE;
        let tables = Tables::<Ept>::new(&mut memory).ok_or(OutOfFrames)?;
        let mut root = Self {
            pointer: EptPointer::new(tables.root(), vmx.tracking.flags()),
            tables: Some(tables),
            flushed_on: Default::default(),
        };
        for (guest, host) in ram.pieces() {
            root.map(
                guest.start.as_u64(),
                host,
                guest.len(),
                EptFlags::RAM,
                largest,
            )?;
        }
        Ok(root)
    }

    /// Maps a piece, before any CPU uses the tables.
    fn map(
        &mut self,
        guest: u64,
        host: HostPhys,
        bytes: u64,
        flags: EptFlags,
        largest: PageSize,
    ) -> Result<(), OutOfFrames> {
        let Some(tables) = &mut self.tables else {
            return Ok(());
        };
        let mut memory = TableFrames::ANYWHERE;
        match tables.map(&mut memory, guest, host, bytes, flags, largest) {
            // Nothing can be cached of tables that no CPU has used.
            Ok(_) => Ok(()),
            Err(TableError::OutOfTables) => Err(OutOfFrames),
            Err(error) => panic!("mapping guest memory: {error}"),
        }
    }

    /// How large the page is that maps this address, if one does.
    fn size_of_page(&self, address: GuestPhys) -> Option<PageSize> {
        let tables = self.tables.as_ref()?;
        let found = tables.translate(&TableFrames::ANYWHERE, address.as_u64())?;
        Some(found.size)
    }

    fn for_each_page(&self, mut each: impl FnMut(GuestPhys, PageSize, EptFlags)) {
        if let Some(tables) = &self.tables {
            tables.for_each_page(&TableFrames::ANYWHERE, |page| {
                each(GuestPhys::new(page.address), page.size, page.flags);
            });
        }
    }

    fn flush_before_first_use(&self, here: PcpuId, tlb: Tlb) {
        let (word, bit) = (here.index() / 64, 1 << (here.index() % 64));
        match self.flushed_on.get(word) {
            Some(flushed) if flushed.load(Ordering::Relaxed) & bit != 0 => {}
            Some(flushed) => {
                tlb.flush_ept(self.pointer);
                flushed.fetch_or(bit, Ordering::Relaxed);
            }
            None => tlb.flush_ept(self.pointer),
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Some(tables) = self.tables.take() {
            let mut memory = TableFrames::ANYWHERE;
            tables.destroy(&mut memory);
        }
    }
}
