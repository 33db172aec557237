//! Sending: the interrupt command register and the self-IPI register.
//!
//! After SDM vol. 3, Issuing Interprocessor Interrupts, and ICR Operation in x2APIC Mode.

use arch::Vector;

use super::lvt::Errors;
use super::{ApicAction, Lapic};
use crate::{DeliveryMode, DestinationMode, InterruptMessage, TriggerMode};

/// Whom an IPI is for, where its destination field does not say.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Shorthand {
    /// The destination field counts.
    None,
    /// Every CPU, the sender included.
    All,
    /// Every CPU but the sender.
    Others,
}

/// An interprocessor interrupt on its way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ipi {
    /// What is sent. A broadcast has the destination 0xffff_ffff in either form of the ICR, so that 0xff is
    /// the x2APIC with that ID.
    pub message: InterruptMessage,
    /// Whom it is for.
    pub shorthand: Shorthand,
}

/// The bits of the ICR that hold what is written: all but the delivery status and the reserved ones.
pub(super) const ICR_WRITABLE: u32 = 0x000c_cfff;
/// Reserved bits of the ICR in x2APIC mode. The delivery status, which that mode does not have, is let through
/// and ignored, as processors do.
pub(super) const X2APIC_ICR_RESERVED: u32 = 0xfff3_2000;

const LOGICAL: u32 = 1 << 11;
const ASSERT: u32 = 1 << 14;
const LEVEL_TRIGGERED: u32 = 1 << 15;

impl Lapic {
    /// Does what the low half of the ICR says; `destination` is 0xffff_ffff for a broadcast.
    #[inline]
    pub(super) fn command(&mut self, low: u32, destination: u32) -> ApicAction {
        let vector = Vector(low as u8);
        let delivery_mode = match (low >> 8) & 7 {
            0 => DeliveryMode::Fixed,
            1 => DeliveryMode::LowestPriority,
            2 => DeliveryMode::Smi,
            4 => DeliveryMode::Nmi,
            // "INIT level de-assert" set the arbitration IDs of an APIC bus that is long gone.
            5 if low & (ASSERT | LEVEL_TRIGGERED) == LEVEL_TRIGGERED => return ApicAction::None,
            5 => DeliveryMode::Init,
            6 => DeliveryMode::StartUp,
            _ => return ApicAction::None,
        };
        let by_vector = matches!(
            delivery_mode,
            DeliveryMode::Fixed | DeliveryMode::LowestPriority
        );
        if by_vector && vector.0 < 16 {
            self.log_error(Errors::SEND_ILLEGAL_VECTOR);
            return ApicAction::None;
        }
        let shorthand = match (low >> 18) & 3 {
            0 => Shorthand::None,
            1 => {
                self.send_to_self(delivery_mode, vector);
                return ApicAction::None;
            }
            2 => Shorthand::All,
            _ => Shorthand::Others,
        };
        let destination_mode = if low & LOGICAL != 0 {
            DestinationMode::Logical
        } else {
            DestinationMode::Physical
        };
        let message = InterruptMessage {
            destination,
            destination_mode,
            delivery_mode,
            vector,
            trigger_mode: TriggerMode::Edge,
        };
        ApicAction::Send(Ipi { message, shorthand })
    }

    /// A write of the self-IPI register.
    #[inline]
    pub(super) fn self_ipi(&mut self, vector: Vector) {
        if vector.0 < 16 {
            self.log_error(Errors::SEND_ILLEGAL_VECTOR);
        } else {
            self.accept(vector, TriggerMode::Edge);
        }
    }

    /// The shorthand "self". The manual has it for fixed interrupts only; an NMI is sent all the same, the
    /// rest would stop the sender itself and is dropped.
    fn send_to_self(&mut self, delivery_mode: DeliveryMode, vector: Vector) {
        match delivery_mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.accept(vector, TriggerMode::Edge);
            }
            DeliveryMode::Nmi => self.signals.add_nmi(),
            DeliveryMode::Smi
            | DeliveryMode::Init
            | DeliveryMode::StartUp
            | DeliveryMode::ExtInt => {}
        }
    }
}
