//! Dropping cached translations: INVVPID and INVEPT of the widest kind that the processor has and that is asked for.
//!
//! Nothing in an emulator shows a missing flush, so the rules stand here:
//! - A VPID tags linear and combined mappings of one vCPU. They are dropped when the vCPU is loaded on a CPU other
//!   than the last one (that CPU may hold mappings of an earlier stay), and when a handler changes a control
//!   register on the guest's behalf in a way that would flush on bare hardware.
//! - An EPT pointer tags guest-physical and combined mappings of one VM. They are dropped on each CPU before the
//!   VM's first entry there, since the frame of its EPT root may have been another VM's root before.
//! - The EPT's dirty flags, and with them the log of written pages, are exact as long as no mapping is cached as dirty whose
//!   flag is clear. So flags are never cleared: a new life has new tables, dropped as above. Whoever comes to clear one
//!   has to drop the VM's mappings on each CPU after that, and before he relies on the flag.
//! - Without VPID every entry and exit flushes linear mappings by itself.

use memory::GuestVirt;
use vmx::ept::EptPointer;
use vmx::vpid::Vpid;

use super::instructions::{invept, invvpid};

/// The kinds of invalidation that this machine's processors have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tlb {
    pub(super) has_vpid: bool,
    pub(super) individual_address: bool,
    pub(super) single_vpid: bool,
    pub(super) all_vpids: bool,
    pub(super) single_ept: bool,
}

/// INVVPID types (SDM vol. 3, INVVPID).
const INDIVIDUAL_ADDRESS: u64 = 0;
const SINGLE_CONTEXT: u64 = 1;
const ALL_CONTEXTS: u64 = 2;
/// INVEPT types (SDM vol. 3, INVEPT).
const EPT_SINGLE_CONTEXT: u64 = 1;
const EPT_ALL_CONTEXTS: u64 = 2;

impl Tlb {
    /// Drops this CPU's mappings of one linear address of a vCPU.
    pub(super) fn flush_address(self, vpid: Vpid, gva: GuestVirt) {
        if self.has_vpid && self.individual_address {
            // SAFETY: in VMX root operation; the processor has the kind.
            unsafe { invvpid(INDIVIDUAL_ADDRESS, vpid.as_u16(), gva.as_u64()) };
        } else {
            self.flush_vpid(vpid);
        }
    }

    /// Drops all of this CPU's linear and combined mappings of a vCPU.
    pub(super) fn flush_vpid(self, vpid: Vpid) {
        if !self.has_vpid {
            return;
        }
        let kind = if self.single_vpid {
            SINGLE_CONTEXT
        } else {
            ALL_CONTEXTS
        };
        // SAFETY: in VMX root operation; VPID is used only where INVVPID has one of the two kinds.
        unsafe { invvpid(kind, vpid.as_u16(), 0) };
    }

    /// Drops all of this CPU's guest-physical and combined mappings under one EPT pointer.
    pub(super) fn flush_ept(self, pointer: EptPointer) {
        let kind = if self.single_ept {
            EPT_SINGLE_CONTEXT
        } else {
            EPT_ALL_CONTEXTS
        };
        // SAFETY: in VMX root operation; EPT is used only where INVEPT has one of the two kinds.
        unsafe { invept(kind, pointer.as_u64()) };
    }

    /// Drops everything that this CPU has cached of any guest, whoever ran before.
    pub(super) fn flush_everything(self) {
        // SAFETY: in VMX root operation; INVEPT of all contexts is required.
        unsafe { invept(EPT_ALL_CONTEXTS, 0) };
        // Without this kind, each VPID is dropped by itself when a vCPU first comes here.
        if self.has_vpid && self.all_vpids {
            // SAFETY: in VMX root operation; the processor has the kind.
            unsafe { invvpid(ALL_CONTEXTS, 0, 0) };
        }
    }
}
