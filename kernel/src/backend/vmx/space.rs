//! A VM's second-level page tables.

use alloc::sync::Arc;

use machine::devices::lapic::Lapic;
use memory::table::TableError;
use memory::{GuestPhys, HostPhys, PageSize, Range, Tables, Written};
use spin::Mutex;
use vmx::apic::ApicMode;
use vmx::ept::{Ept, EptFlags, EptPointer};
use vmx::large_pages::Fetched;
use vmx::private_view::Pieces;
use vmx::space_id::{SpaceId, SpaceIds};
use vmx::tlb::FirstUse;
use vmx::{LargePages, WriteTracking};

use super::pool::TablePool;
use super::{OutOfFrames, SecondaryControls, Vmx};
use crate::backend::{AddressSpace, PageCounts};
use crate::memory::{Frame, GuestRam, TableFrames};

/// The EPT of one VM. All of its RAM is mapped when the VM is made and stays so: an EPT violation always means
/// memory that the guest does not have, and no CPU ever has to drop a mapping while the VM lives. Only where code must not
/// lie in large pages ([`LargePages`]) it may also be the first fetch from one.
///
/// Where the processor virtualises accesses to xAPICs there are two, which differ in one page: vCPUs whose APIC is
/// to be found there use the one that maps it, all others the one that does not. So no access to that page ever
/// reaches the frame behind it. The tables of RAM are the same ones in both. A vCPU that sees memory otherwise than this has a view of its own ([`vmx::PrivateView`]).
pub(crate) struct EptSpace {
    id: SpaceId,
    plain: Root,
    with_apic: Option<WithApic>,
    tracking: WriteTracking,
    /// What of the RAM was written, which these tables and the logs of the vCPUs add to.
    written: Arc<Written>,
    pieces: Pieces,
    large_pages: LargePages,
    /// Tables for the large pages that are executed. Whoever changes the tables of RAM holds the lock.
    splits: Mutex<TablePool>,
}

static IDS: SpaceIds = SpaceIds::new();

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
    /// The most that the tables of this RAM take, with those that lead to the page of the APIC.
    pub(super) fn most_bytes(
        vmx: &Vmx,
        pieces: impl Iterator<Item = Range<GuestPhys>> + Clone,
    ) -> u64 {
        // That page, and a table of each level.
        const APIC_FRAMES: u64 = 5;
        let large_pages = vmx.guard.large_pages();
        let splits = large_pages.most_splits(pieces.clone());
        let tables = vmx::ept::tables_of(pieces, large_pages.largest(&vmx.features));
        (tables + splits + APIC_FRAMES) * PageSize::Size4K.bytes() + TablePool::books_bytes(splits)
    }

    pub(super) fn new(vmx: &Vmx, ram: &GuestRam) -> Result<Self, OutOfFrames> {
        let large_pages = vmx.guard.large_pages();
        let plain = Root::of_ram(vmx, ram, large_pages)?;
        let splits = large_pages.most_splits(ram.pieces().map(|(guest, _)| guest));
        let splits = Mutex::new(TablePool::new(splits)?);
        let (_, apic) = vmx.apic_level.controls(ApicMode::Xapic, &vmx.features);
        let with_apic = if apic.contains(SecondaryControls::VIRTUALIZE_APIC_ACCESSES) {
            let page = Frame::zeroed().ok_or(OutOfFrames)?;
            let mut root = Root::new(vmx)?;
            root.map(
                Lapic::DEFAULT_BASE.as_u64(),
                page.address(),
                PageSize::Size4K.bytes(),
                EptFlags::APIC_ACCESS,
                PageSize::Size4K,
            )?;
            // From here on nothing may fail that would drop both by themselves: they have tables in common.
            root.borrow(&plain);
            Some(WithApic { root, page })
        } else {
            None
        };
        let written = Arc::clone(ram.written());
        if vmx.tracking == WriteTracking::Nothing {
            written.mark_all();
        }
        Ok(Self {
            id: IDS.next(),
            plain,
            with_apic,
            tracking: vmx.tracking,
            written,
            pieces: Pieces::new(ram.pieces()),
            large_pages,
            splits,
        })
    }

    pub(super) fn large_pages(&self) -> LargePages {
        self.large_pages
    }

    /// Whether memory that cannot be executed at first can be later on.
    pub(super) fn grows_executable(&self) -> bool {
        self.large_pages == LargePages::DataOnly
    }

    /// A fetch there was refused. If it only met a large page, or one that was large until just now, it is not again.
    #[cold]
    pub(super) fn allow_fetch(&self, gpa: GuestPhys) -> bool {
        let mut tables = Tables::from_root(self.plain.pointer.root());
        let mut pool = self.splits.lock();
        match self.large_pages.fetched(&mut tables, &mut *pool, gpa) {
            Ok(Fetched::Split(page)) => {
                self.written.mark_range(page);
                true
            }
            Ok(Fetched::Executable) => true,
            Ok(Fetched::Refused) => false,
            Err(error) => panic!("splitting guest memory: {error}"),
        }
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

    /// All that a vCPU may be entered with, and where that has been used.
    pub(super) fn roots(&self) -> impl Iterator<Item = (EptPointer, &FirstUse)> {
        let with_apic = self.with_apic.as_ref().map(|it| &it.root);
        let roots = [Some(&self.plain), with_apic].into_iter().flatten();
        roots.map(|root| (root.pointer, &root.first_use))
    }
}

impl Drop for EptSpace {
    fn drop(&mut self) {
        if let Some(with_apic) = &mut self.with_apic {
            with_apic.root.give_back(&self.plain);
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
    first_use: FirstUse,
}

impl Root {
    /// All RAM, in the largest pages.
    fn of_ram(vmx: &Vmx, ram: &GuestRam, large_pages: LargePages) -> Result<Self, OutOfFrames> {
        let mut root = Self::new(vmx)?;
        let largest = large_pages.largest(&vmx.features);
        for (guest, host) in ram.pieces() {
            // A piece is all of one size of pages, since it is aligned to its length.
            let size = if guest.len() < PageSize::Size2M.bytes() {
                PageSize::Size4K
            } else {
                largest
            };
            let flags = large_pages.ram(size);
            root.map(guest.start.as_u64(), host, guest.len(), flags, largest)?;
        }
        Ok(root)
    }

    /// Nothing yet.
    fn new(vmx: &Vmx) -> Result<Self, OutOfFrames> {
        let mut memory = TableFrames::ANYWHERE;
        let tables = Tables::<Ept>::new(&mut memory).ok_or(OutOfFrames)?;
        Ok(Self {
            pointer: EptPointer::new(tables.root(), vmx.tracking.flags()),
            tables: Some(tables),
            first_use: FirstUse::default(),
        })
    }

    /// Shows what `owner` maps, too, before any CPU uses these tables and until [`give_back`](Self::give_back).
    fn borrow(&mut self, owner: &Self) {
        let mut memory = TableFrames::ANYWHERE;
        if let (Some(tables), Some(owner)) = (&mut self.tables, &owner.tables)
            && let Err(error) = tables.borrow(&mut memory, owner)
        {
            panic!("RAM beside the local APIC's page: {error}");
        }
    }

    /// Has nothing in common with `owner` any more.
    fn give_back(&mut self, owner: &Self) {
        let mut memory = TableFrames::ANYWHERE;
        if let (Some(tables), Some(owner)) = (&mut self.tables, &owner.tables) {
            tables.give_back(&mut memory, owner);
        }
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
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Some(tables) = self.tables.take() {
            let mut memory = TableFrames::ANYWHERE;
            tables.destroy(&mut memory);
        }
    }
}
