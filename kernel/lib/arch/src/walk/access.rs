//! What the walk is asked and what it may say: kinds of access, on whose behalf, and why not.

use bitflags::bitflags;
use memory::GuestPhys;

/// Read, write or instruction fetch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the words say it")]
pub enum AccessKind {
    Read,
    Write,
    Execute,
}

/// On whose behalf memory is accessed (SDM vol. 3, Determination of Access Rights).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Privilege {
    /// An access by an instruction at CPL 3.
    User,
    /// An access by an instruction at CPL 0 to 2.
    Supervisor,
    /// An access to a descriptor table, a TSS or the like, at whatever CPL.
    ImplicitSupervisor,
}

impl Privilege {
    /// That of an instruction's own accesses at this CPL.
    #[inline]
    pub const fn of_cpl(cpl: u8) -> Self {
        if cpl == 3 {
            Self::User
        } else {
            Self::Supervisor
        }
    }
}

bitflags! {
    /// The error code of #PF (SDM vol. 3, Interrupt 14: Page-Fault Exception).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PageFaultCode: u32 {
        /// The page was present; its rights were not enough, or an entry had a reserved bit set.
        const PRESENT = 1 << 0;
        /// The access was a write.
        const WRITE = 1 << 1;
        /// The access was a user-mode access.
        const USER = 1 << 2;
        /// An entry had a reserved bit set.
        const RESERVED = 1 << 3;
        /// The access was an instruction fetch.
        const FETCH = 1 << 4;
        /// The protection key forbids the access.
        const PROTECTION_KEY = 1 << 5;
    }
}

/// Why a linear address could not be translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkFault {
    /// #PF with this error code; the address goes to CR2.
    PageFault {
        /// Pushed at delivery.
        error_code: PageFaultCode,
    },
    /// A table lies where the guest has no RAM.
    Unbacked(GuestPhys),
    /// Other CPUs changed the entries again and again while they were looked at. The instruction is to be
    /// started anew, which gives everybody else a turn.
    Contended,
}
