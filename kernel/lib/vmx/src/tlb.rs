//! What a CPU has to drop of the translations that it has cached, and when.
//!
//! Nothing in an emulator shows a missing flush, so the rules stand here, and are tried against a model of TLBs that keep
//! everything for ever (`tests`):
//! - A VPID tags linear and combined mappings of one vCPU. They are dropped when the vCPU comes to a CPU other
//!   than the last one (that CPU may hold mappings of an earlier stay, or of the VPID's last owner), and when a handler
//!   changes a control register on the guest's behalf in a way that would flush on bare hardware.
//! - An EPT pointer tags guest-physical and combined mappings of one VM. They are dropped on each CPU before the
//!   VM's first entry there ([`FirstUse`]), since the frame of its EPT root may have been another VM's root before.
//! - The tables that a CPU has for whichever of its vCPUs sees memory otherwise ([`PrivateView`](crate::PrivateView)) are
//!   dropped each time that they begin to show something else.
//! - A large page that becomes small ones which may also be executed is dropped nowhere: what is cached of it leads to the
//!   same memory, and where it does not allow a fetch, the violation drops it ([`LargePages`](crate::LargePages)).
//! - The EPT's dirty flags, and with them the log of written pages, are exact as long as no mapping is cached as dirty whose
//!   flag is clear. So flags are never cleared: a new life has new tables, dropped as above. Whoever comes to clear one
//!   has to drop the VM's mappings on each CPU after that, and before he relies on the flag.
//! - Without VPID every entry and exit flushes linear and combined mappings by itself.

use core::sync::atomic::{AtomicU64, Ordering};

use memory::GuestVirt;

use crate::ept::EptPointer;
use crate::features::{Feature, Features};
use crate::residence::Arrival;
use crate::vpid::Vpid;

/// An instruction that drops cached translations of this CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invalidation {
    /// INVVPID.
    Invvpid {
        /// Its type.
        kind: InvvpidKind,
        /// The VPID in its descriptor.
        vpid: u16,
        /// The linear address in its descriptor.
        gva: u64,
    },
    /// INVEPT.
    Invept {
        /// Its type.
        kind: InveptKind,
        /// The EPT pointer in its descriptor.
        pointer: u64,
    },
}

/// INVVPID types (SDM vol. 3, INVVPID).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum InvvpidKind {
    /// Linear and combined mappings of one linear address under one VPID.
    IndividualAddress = 0,
    /// All of one VPID.
    SingleContext = 1,
    /// All of all VPIDs but the host's.
    AllContexts = 2,
}

/// INVEPT types (SDM vol. 3, INVEPT).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum InveptKind {
    /// Guest-physical and combined mappings under one EPT pointer.
    SingleContext = 1,
    /// Under all.
    AllContexts = 2,
}

/// The kinds of invalidation that this machine's processors have.
#[derive(Clone, Copy, Debug)]
pub struct Tlb {
    vpid: Option<VpidKinds>,
    single_ept: bool,
}

#[derive(Clone, Copy, Debug)]
struct VpidKinds {
    individual_address: bool,
    single_context: bool,
    all_contexts: bool,
}

impl Tlb {
    /// Those of a processor with these features. VPIDs are of use only where all that is cached under one can be dropped.
    pub const fn new(features: &Features) -> Self {
        let single_context = features.has(Feature::InvvpidSingle);
        let all_contexts = features.has(Feature::InvvpidAll);
        let has_vpid = features.has(Feature::Vpid) && (single_context || all_contexts);
        Self {
            vpid: if has_vpid {
                Some(VpidKinds {
                    individual_address: features.has(Feature::InvvpidAddress),
                    single_context,
                    all_contexts,
                })
            } else {
                None
            },
            single_ept: features.has(Feature::InveptSingle),
        }
    }

    /// Whether vCPUs have VPIDs.
    pub const fn has_vpid(self) -> bool {
        self.vpid.is_some()
    }

    /// Drops one linear address of a vCPU.
    pub fn address(self, vpid: Vpid, gva: GuestVirt) -> Option<Invalidation> {
        let kinds = self.vpid?;
        if !kinds.individual_address {
            return self.vpid(vpid);
        }
        Some(Invalidation::Invvpid {
            kind: InvvpidKind::IndividualAddress,
            vpid: vpid.as_u16(),
            gva: gva.as_u64(),
        })
    }

    /// Drops all linear and combined mappings of a vCPU.
    #[inline]
    pub fn vpid(self, vpid: Vpid) -> Option<Invalidation> {
        let kinds = self.vpid?;
        Some(Invalidation::Invvpid {
            kind: if kinds.single_context {
                InvvpidKind::SingleContext
            } else {
                InvvpidKind::AllContexts
            },
            vpid: vpid.as_u16(),
            gva: 0,
        })
    }

    /// Drops all guest-physical and combined mappings under one EPT pointer.
    #[inline]
    pub const fn ept(self, pointer: EptPointer) -> Invalidation {
        Invalidation::Invept {
            kind: if self.single_ept {
                InveptKind::SingleContext
            } else {
                InveptKind::AllContexts
            },
            pointer: pointer.as_u64(),
        }
    }

    /// Drops everything that a CPU has cached of any guest, whoever ran before. Where the processor cannot drop all
    /// VPIDs at once, each is dropped by itself when a vCPU first comes.
    pub fn everything(self) -> impl Iterator<Item = Invalidation> {
        let vpids = self
            .vpid
            .filter(|kinds| kinds.all_contexts)
            .map(|_| Invalidation::Invvpid {
                kind: InvvpidKind::AllContexts,
                vpid: 0,
                gva: 0,
            });
        let epts = Invalidation::Invept {
            kind: InveptKind::AllContexts,
            pointer: 0,
        };
        core::iter::once(epts).chain(vpids)
    }

    /// What a CPU drops when a vCPU comes, before its first entry: each of it is shown to `drop`. The roots are all of
    /// those that the vCPU may be entered with, but for a view of its own.
    #[inline]
    pub fn arrive<'a>(
        self,
        here: usize,
        arrival: Arrival,
        vpid: Vpid,
        roots: impl Iterator<Item = (EptPointer, &'a FirstUse)>,
        mut drop: impl FnMut(Invalidation),
    ) {
        if arrival == Arrival::New
            && let Some(invalidation) = self.vpid(vpid)
        {
            drop(invalidation);
        }
        for (pointer, first_use) in roots {
            if first_use.is_owed(here) {
                drop(self.ept(pointer));
            }
        }
    }
}

/// The CPUs, one bit each, that have dropped what they may have cached of an EPT root's frame in another use. Each CPU
/// sets only its own bit.
#[derive(Debug, Default)]
pub struct FirstUse([AtomicU64; FirstUse::WORDS]);

impl FirstUse {
    const WORDS: usize = 4;

    /// Whether this CPU, which comes to use the root, has to drop that now.
    #[inline]
    fn is_owed(&self, here: usize) -> bool {
        let bit = 1 << (here % 64);
        match self.0.get(here / 64) {
            Some(dropped) if dropped.load(Ordering::Relaxed) & bit != 0 => false,
            Some(dropped) => {
                dropped.fetch_or(bit, Ordering::Relaxed);
                true
            }
            // A CPU that nobody keeps account of drops it each time.
            None => true,
        }
    }
}

#[cfg(test)]
mod tests;
