//! A VM's second-level page tables.

use core::sync::atomic::{AtomicU64, Ordering};

use machine::devices::lapic::Lapic;
use memory::table::TableError;
use memory::{HostPhys, PageSize, Tables};
use vmx::apic::ApicMode;
use vmx::ept::{AccessedDirty, Ept, EptFlags, EptPointer};
use vmx::features::Feature;

use super::tlb::Tlb;
use super::{OutOfFrames, SecondaryControls, Vmx};
use crate::cpu::PcpuId;
use crate::memory::{Frame, GuestRam, TableFrames};

/// The EPT of one VM. All of its RAM is mapped when the VM is made and stays so: an EPT violation always means
/// memory that the guest does not have, and no CPU ever has to drop a mapping while the VM lives.
///
/// Where the processor virtualises accesses to xAPICs there are two, which differ in one page: vCPUs whose APIC is
/// to be found there use the one that maps it, all others the one that does not. So no access to that page ever
/// reaches the frame behind it.
pub(crate) struct EptSpace {
    id: SpaceId,
    plain: Root,
    with_apic: Option<WithApic>,
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
        Ok(Self {
            id: SpaceId::next(),
            plain,
            with_apic,
        })
    }

    /// The frame that the APIC-access page leads to; nothing is ever read from it or written to it.
    pub(super) fn apic_access_page(&self) -> Option<HostPhys> {
        Some(self.with_apic.as_ref()?.page.address())
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

    /// To be called on a CPU before this space is first used there.
    pub(super) fn flush_before_first_use(&self, here: PcpuId, tlb: Tlb) {
        self.plain.flush_before_first_use(here, tlb);
        if let Some(with_apic) = &self.with_apic {
            with_apic.root.flush_before_first_use(here, tlb);
        }
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

    /// All RAM, in the largest pages.
    fn new(vmx: &Vmx, ram: &GuestRam) -> Result<Self, OutOfFrames> {
        let largest = if vmx.features.has(Feature::Ept1G) {
            PageSize::Size1G
        } else {
            PageSize::Size2M
        };
        let mut memory = TableFrames::ANYWHERE;
        let tables = Tables::<Ept>::new(&mut memory).ok_or(OutOfFrames)?;
        let mut root = Self {
            pointer: EptPointer::new(tables.root(), AccessedDirty::Ignored),
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
