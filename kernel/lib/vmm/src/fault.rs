//! The two failures that are not a bug of ours, and the events that are injected into a guest.

use core::fmt;

use arch::{Exception, Vector};
use memory::{GuestPhys, GuestVirt, Unbacked};

/// The guest did wrong: the exception that real hardware would raise at the instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestFault {
    /// #UD.
    InvalidOpcode,
    /// #NM.
    DeviceNotAvailable,
    /// #GP with this error code.
    GeneralProtection(u32),
    /// #SS with this error code.
    StackFault(u32),
    /// #NP with this error code.
    SegmentNotPresent(u32),
    /// #TS with this error code.
    InvalidTss(u32),
    /// #PF at this address with this error code.
    PageFault {
        /// Goes to CR2.
        address: GuestVirt,
        /// SDM vol. 3, Interrupt 14: Page-Fault Exception.
        error_code: u32,
    },
    /// #AC.
    AlignmentCheck,
    /// #DB; these bits of DR6 are set in addition.
    Debug {
        /// DR6 bits of the conditions met.
        dr6: u64,
    },
    /// #DE.
    DivideError,
}

impl GuestFault {
    /// #GP(0), the commonest of all.
    pub const GP0: Self = Self::GeneralProtection(0);

    /// The exception.
    pub const fn exception(self) -> Exception {
        match self {
            Self::InvalidOpcode => Exception::InvalidOpcode,
            Self::DeviceNotAvailable => Exception::DeviceNotAvailable,
            Self::GeneralProtection(_) => Exception::GeneralProtection,
            Self::StackFault(_) => Exception::StackFault,
            Self::SegmentNotPresent(_) => Exception::SegmentNotPresent,
            Self::InvalidTss(_) => Exception::InvalidTss,
            Self::PageFault { .. } => Exception::PageFault,
            Self::AlignmentCheck => Exception::AlignmentCheck,
            Self::Debug { .. } => Exception::Debug,
            Self::DivideError => Exception::DivideError,
        }
    }

    /// The error code that delivery pushes in protected mode.
    pub const fn error_code(self) -> Option<u32> {
        match self {
            Self::GeneralProtection(code)
            | Self::StackFault(code)
            | Self::SegmentNotPresent(code)
            | Self::InvalidTss(code)
            | Self::PageFault {
                error_code: code, ..
            } => Some(code),
            Self::AlignmentCheck => Some(0),
            Self::InvalidOpcode
            | Self::DeviceNotAvailable
            | Self::Debug { .. }
            | Self::DivideError => None,
        }
    }
}

/// Something delivered through the guest's IDT at the next entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An external interrupt.
    Interrupt(Vector),
    /// The non-maskable interrupt.
    Nmi,
    /// A hardware exception.
    Exception {
        /// Which.
        exception: Exception,
        /// Its error code, where it has one in the guest's mode.
        error_code: Option<u32>,
    },
    /// INT n, with the length of the instruction.
    SoftwareInterrupt {
        /// n.
        vector: Vector,
        /// Bytes of the instruction.
        length: u8,
    },
    /// INT1 (ICEBP), with the length of the instruction.
    PrivilegedSoftwareException {
        /// Bytes of the instruction.
        length: u8,
    },
    /// INT3 or INTO, with the length of the instruction.
    SoftwareException {
        /// #BP or #OF.
        exception: Exception,
        /// Bytes of the instruction.
        length: u8,
    },
}

/// This VM cannot go on. It is stopped; all others keep running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmError {
    /// A fault on the way to the double-fault handler: the CPU shut down.
    TripleFault,
    /// An exit that this hypervisor never asked for, by the hardware's number.
    UnexpectedExit(u32),
    /// The hardware refused to enter the guest.
    EntryRefused(u32),
    /// A second-level page-table entry that the hardware rejects.
    MemoryMisconfigured(GuestPhys),
    /// The guest's tables or stack lie where it has no memory.
    Unbacked(GuestPhys),
    /// A machine check hit the guest.
    MachineCheck,
    /// The guest's kernel says that it has panicked.
    GuestPanic,
    /// All CPUs have halted with interrupts off, and nothing can wake any of them.
    HaltedForEver,
    /// The guest asked for something that no part of this hypervisor does.
    Unsupported(&'static str),
}

impl From<Unbacked> for VmError {
    fn from(Unbacked(gpa): Unbacked) -> Self {
        Self::Unbacked(gpa)
    }
}

impl fmt::Display for VmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TripleFault => f.write_str("triple fault"),
            Self::UnexpectedExit(code) => write!(f, "an exit nobody expected (reason {code})"),
            Self::EntryRefused(code) => {
                write!(
                    f,
                    "the processor refused to enter the guest (reason {code})"
                )
            }
            Self::MemoryMisconfigured(gpa) => {
                write!(f, "a misconfigured second-level page-table entry at {gpa}")
            }
            Self::Unbacked(gpa) => write!(f, "the guest relies on memory at {gpa} that it lacks"),
            Self::MachineCheck => f.write_str("a machine check hit the guest"),
            Self::GuestPanic => f.write_str("the guest's kernel has panicked"),
            Self::HaltedForEver => {
                f.write_str("all of its CPUs have halted with interrupts off, for ever")
            }
            Self::Unsupported(what) => write!(f, "not supported: {what}"),
        }
    }
}

impl core::error::Error for VmError {}
