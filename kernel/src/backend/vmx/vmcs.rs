//! A VMCS region, and the handle through which the current VMCS is reached.

use core::marker::PhantomData;

use memory::HostPhys;
use vmx::fields::{Access, Encoding, Field, FieldWidth, ReadWrite, VmcsReader, VmcsWriter};

use super::instructions::{VmxFailure, vmclear, vmptrld, vmread, vmread_checked, vmwrite};
use crate::memory::Frame;

/// A 4 KiB region that the processor keeps a VMCS in; software only ever writes the revision identifier.
pub(super) struct Vmcs {
    region: Frame,
}

impl Vmcs {
    /// Prepares a zeroed frame as a VMCS of this revision (IA32_VMX_BASIC bits 30:0).
    pub(super) fn new(region: Frame, revision: u32) -> Self {
        region.write_u32(0, revision);
        Self { region }
    }

    /// Where the region lies.
    pub(super) fn address(&self) -> HostPhys {
        self.region.address()
    }

    /// Writes the VMCS back to memory, so that it may become current on another CPU or be freed.
    ///
    /// # Errors
    /// [`VmxFailure`] where the processor refuses the region: a bug of ours.
    pub(super) fn clear(&self) -> Result<(), VmxFailure> {
        // SAFETY: this CPU is in VMX root operation, as every CPU that runs the scheduler is; the region is a
        // VMCS of ours that is active on no other CPU: `unload` clears it before it moves.
        unsafe { vmclear(self.address()) }
    }

    /// Makes it the current VMCS of this CPU.
    ///
    /// # Errors
    /// [`VmxFailure`] where the processor refuses the region: a bug of ours.
    pub(super) fn make_current(&self) -> Result<CurrentVmcs, VmxFailure> {
        // SAFETY: as for `clear`.
        unsafe { vmptrld(self.address()) }?;
        // SAFETY: it has just been made current.
        Ok(unsafe { CurrentVmcs::assume() })
    }
}

/// Proof that the meant VMCS is current on this CPU; it cannot be sent to another.
pub(super) struct CurrentVmcs {
    not_send: PhantomData<*mut ()>,
}

impl CurrentVmcs {
    /// The handle to the VMCS that is current.
    ///
    /// # Safety
    /// This CPU is in VMX root operation with the meant VMCS current, and it stays so while the handle lives.
    pub(super) unsafe fn assume() -> Self {
        Self {
            not_send: PhantomData,
        }
    }

    /// The value of a field that every supported processor has.
    #[inline(always)]
    pub(super) fn read<W: FieldWidth, A: Access>(&self, field: Field<W, A>) -> W {
        // SAFETY: the handle proves that the meant VMCS is current here.
        W::from_u64(unsafe { vmread(field.encoding().as_u32()) })
    }

    /// Writes a field that this processor has.
    #[inline(always)]
    pub(super) fn write<W: FieldWidth>(&self, field: Field<W, ReadWrite>, value: W) {
        // SAFETY: as above. A value that breaks a rule makes the next entry fail, which is reported.
        unsafe { vmwrite(field.encoding().as_u32(), value.into_u64()) };
    }
}

impl VmcsReader for CurrentVmcs {
    fn read_raw(&self, encoding: Encoding) -> Option<u64> {
        // SAFETY: the handle proves that the meant VMCS is current here.
        unsafe { vmread_checked(encoding.as_u32()) }
    }
}

impl VmcsWriter for CurrentVmcs {
    fn write_raw(&mut self, encoding: Encoding, value: u64) {
        // SAFETY: as for `write`.
        unsafe { vmwrite(encoding.as_u32(), value) };
    }
}
