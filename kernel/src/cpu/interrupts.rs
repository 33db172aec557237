//! The vectors that the hypervisor uses for itself.
//!
//! The hypervisor runs with interrupts off, except where it waits in HLT. An interrupt's only purpose is
//! therefore to wake a halted CPU or to end a guest's turn; what is to be done then stands in memory. All
//! that a handler does is to tell the local APIC, and to feed the serial port.

use core::arch::asm;

use arch::Vector;
use host::Told;

use super::apic;
use crate::doorbell;
use crate::hw::console;

/// A vector of the hypervisor. They are above all those that a firmware may have left in an interrupt
/// controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum HostVector {
    /// The local APIC's timer.
    Timer = 0xf0,
    /// Another CPU wants this one to look at its pending work.
    Kick = 0xf1,
    /// The serial port has a byte, or wants some.
    Serial = 0xf2,
    /// Interrupts were posted for the guest that runs here. The processor takes them by itself, unless this comes
    /// while no guest runs.
    Posted = 0xf3,
    /// The local APIC has found an error.
    ApicError = 0xfe,
    /// The local APIC withdrew an interrupt; it expects no EOI.
    Spurious = 0xff,
}

impl HostVector {
    /// The meaning of a vector, or `None` for one that the hypervisor does not use.
    pub(crate) const fn from_vector(vector: Vector) -> Option<Self> {
        Some(match vector.0 {
            0xf0 => Self::Timer,
            0xf1 => Self::Kick,
            0xf2 => Self::Serial,
            0xf3 => Self::Posted,
            0xfe => Self::ApicError,
            0xff => Self::Spurious,
            _ => return None,
        })
    }
}

/// Lets in, through the IDT, the interrupt that waits for this CPU; interrupts are off before and after.
pub(crate) fn let_in() {
    // SAFETY: every vector has a handler that only counts and wakes; the shadow of STI ends with the NOP.
    unsafe { asm!("sti", "nop", "cli", options(nostack)) };
}

/// Does what is due for an interrupt that this CPU has accepted: by its IDT, or in a VM exit that
/// acknowledged it.
#[inline]
pub(crate) fn acknowledged(vector: Vector) {
    match HostVector::from_vector(vector) {
        Some(HostVector::Timer | HostVector::Kick | HostVector::Posted) => apic::end_of_interrupt(),
        Some(HostVector::Serial) => {
            if console::service() {
                // The turn of the guest that was interrupted is over: the desk reads.
                doorbell::ring(super::this().id());
            }
            apic::end_of_interrupt();
        }
        Some(HostVector::Spurious) => {}
        Some(HostVector::ApicError) => {
            apic::report_error();
            apic::end_of_interrupt();
        }
        None => unexpected(vector),
    }
}

/// A device that nobody set up. The 8259s are masked and never get here except with their spurious vectors,
/// which expect no EOI from anybody.
#[cold]
fn unexpected(vector: Vector) {
    static TOLD: Told = Told::new();
    if apic::is_in_service(vector) {
        if TOLD.is_news(vector.0) {
            log::warn!(
                "interrupt with vector {:#x}, which nobody expects; it is not told of again",
                vector.0
            );
        }
        apic::end_of_interrupt();
    }
}
