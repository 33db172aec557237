//! A VM's second-level page tables.

use core::sync::atomic::{AtomicU64, Ordering};

use memory::table::TableError;
use memory::{PageSize, Tables};
use vmx::ept::{AccessedDirty, Ept, EptFlags, EptPointer};
use vmx::features::Feature;

use super::tlb::Tlb;
use super::{OutOfFrames, Vmx};
use crate::cpu::PcpuId;
use crate::memory::{GuestRam, TableFrames};

/// The EPT of one VM. All of its RAM is mapped when the VM is made and stays so: an EPT violation always means
/// memory that the guest does not have, and no CPU ever has to drop a mapping while the VM lives.
pub(crate) struct EptSpace {
    tables: Option<Tables<Ept>>,
    pointer: EptPointer,
    /// The CPUs, one bit each, that have dropped what they may have cached of this root's frame in another use.
    /// Each CPU sets only its own bit.
    flushed_on: [AtomicU64; EptSpace::CPU_WORDS],
}

impl EptSpace {
    const CPU_WORDS: usize = 4;

    pub(super) fn new(vmx: &Vmx, ram: &GuestRam) -> Result<Self, OutOfFrames> {
        let largest = if vmx.features.has(Feature::Ept1G) {
            PageSize::Size1G
        } else {
            PageSize::Size2M
        };
        let mut memory = TableFrames::ANYWHERE;
        let mut tables = Tables::<Ept>::new(&mut memory).ok_or(OutOfFrames)?;
        for (guest, host) in ram.pieces() {
            let mapped = tables.map(
                &mut memory,
                guest.start.as_u64(),
                host,
                guest.len(),
                EptFlags::RAM,
                largest,
            );
            match mapped {
                // Nothing can be cached of tables that no CPU has used.
                Ok(_) => {}
                Err(TableError::OutOfTables) => {
                    tables.destroy(&mut memory);
                    return Err(OutOfFrames);
                }
                Err(error) => panic!("mapping guest memory: {error}"),
            }
        }
        let pointer = EptPointer::new(tables.root(), AccessedDirty::Ignored);
        Ok(Self {
            tables: Some(tables),
            pointer,
            flushed_on: Default::default(),
        })
    }

    pub(super) fn pointer(&self) -> EptPointer {
        self.pointer
    }

    /// To be called on a CPU before this space is first used there.
    pub(super) fn flush_before_first_use(&self, here: PcpuId, tlb: Tlb) {
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

impl Drop for EptSpace {
    fn drop(&mut self) {
        if let Some(tables) = self.tables.take() {
            let mut memory = TableFrames::ANYWHERE;
            tables.destroy(&mut memory);
        }
    }
}
