//! The log in which the processor writes the pages that a vCPU has written for the first time.
//!
//! It is emptied at the beginning of each turn, when the vCPU leaves a CPU, and when it is full, which is an exit.
//! So what a VM has written is known once its last vCPU has left, and to the operator at most a turn late.

use memory::HostPhys;
use vmx::{fields, pml};

use super::OutOfFrames;
use super::space::EptSpace;
use super::vmcs::CurrentVmcs;
use crate::memory::Frame;

/// The log of one vCPU.
pub(super) struct WriteLog(Frame);

impl WriteLog {
    pub(super) fn new() -> Result<Self, OutOfFrames> {
        Frame::zeroed().map(Self).ok_or(OutOfFrames)
    }

    pub(super) fn address(&self) -> HostPhys {
        self.0.address()
    }

    /// Empties it into the account of the VM's memory. The vCPU's VMCS is current, so the processor writes nothing
    /// meanwhile.
    #[inline]
    pub(super) fn drain(&self, vmcs: &CurrentVmcs, space: &EptSpace) {
        let index = vmcs.read(fields::PML_INDEX);
        if index != pml::EMPTY {
            self.drain_from(index, space);
            vmcs.write(fields::PML_INDEX, pml::EMPTY);
        }
    }

    #[cold]
    fn drain_from(&self, index: u16, space: &EptSpace) {
        for entry in pml::filled(index) {
            let entry = self.0.read_u64(entry * size_of::<u64>());
            space.page_was_written(pml::page(entry));
        }
    }
}
