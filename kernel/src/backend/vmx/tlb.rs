//! Dropping cached translations: [`vmx::tlb`] says what and when, this carries it out.

use memory::GuestVirt;
use vmx::ept::EptPointer;
use vmx::tlb::Invalidation;
use vmx::{Tlb, Vpid};

use super::instructions::{invept, invvpid};

/// Carries out one of them on this CPU.
#[inline]
pub(super) fn carry_out(invalidation: Invalidation) {
    match invalidation {
        // SAFETY: in VMX root operation; `Tlb` names only kinds that the processor has.
        Invalidation::Invvpid { kind, vpid, gva } => unsafe { invvpid(kind as u64, vpid, gva) },
        // SAFETY: likewise.
        Invalidation::Invept { kind, pointer } => unsafe { invept(kind as u64, pointer) },
    }
}

/// Drops this CPU's mappings of one linear address of a vCPU.
pub(super) fn flush_address(tlb: Tlb, vpid: Vpid, gva: GuestVirt) {
    if let Some(invalidation) = tlb.address(vpid, gva) {
        carry_out(invalidation);
    }
}

/// Drops all of this CPU's linear and combined mappings of a vCPU.
pub(super) fn flush_vpid(tlb: Tlb, vpid: Vpid) {
    if let Some(invalidation) = tlb.vpid(vpid) {
        carry_out(invalidation);
    }
}

/// Drops all of this CPU's guest-physical and combined mappings under one EPT pointer.
pub(super) fn flush_ept(tlb: Tlb, pointer: EptPointer) {
    carry_out(tlb.ept(pointer));
}
