//! [`IoApic`]: an I/O APIC with 24 pins.
//!
//! After Intel's 82093AA data sheet; version 0x20 with its EOI register follows the data sheets of the I/O
//! controller hubs (ICH9), which is what PCs have had since. Where the two leave a choice:
//!
//! - An edge on a masked pin is lost, as both sheets say ("neither delivered nor held pending").
//! - A level-triggered pin is looked at whenever its entry is written and at its EOI.
//! - Remote IRR is read only; making an entry edge-triggered clears it. Software that has no EOI register to
//!   use has always relied on that.
//! - Only fixed and lowest-priority interrupts wait for an EOI. Other delivery modes are edge-triggered, whatever
//!   the entry says.
//! - Lines come by their meaning, so the polarity bit is kept and not looked at.

use arch::{Vector, Width};

use crate::{DeliveryMode, DestinationMode, Effects, Gsi, InterruptMessage, Level, TriggerMode};

/// Offset of the register that selects a register.
const IOREGSEL: u64 = 0x00;
/// Offset of the window to the selected register.
const IOWIN: u64 = 0x10;
/// Offset of the EOI register.
const EOI: u64 = 0x40;

const DELIVERY_MODE_SHIFT: u32 = 8;
const LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL_TRIGGERED: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const DESTINATION_SHIFT: u32 = 56;
/// All that software can write: not the delivery status, the remote IRR and the reserved bits.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// One entry of the redirection table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry(u64);

impl Entry {
    const AFTER_RESET: Self = Self(MASKED);

    const fn vector(self) -> Vector {
        Vector(self.0 as u8)
    }

    const fn is_masked(self) -> bool {
        self.0 & MASKED != 0
    }

    const fn delivery_mode(self) -> Option<DeliveryMode> {
        Some(match (self.0 >> DELIVERY_MODE_SHIFT) & 7 {
            0 => DeliveryMode::Fixed,
            1 => DeliveryMode::LowestPriority,
            2 => DeliveryMode::Smi,
            4 => DeliveryMode::Nmi,
            5 => DeliveryMode::Init,
            7 => DeliveryMode::ExtInt,
            _ => return None,
        })
    }

    /// Whether an interrupt waits for its EOI before the next.
    const fn trigger_mode(self) -> TriggerMode {
        let by_vector = matches!(
            self.delivery_mode(),
            Some(DeliveryMode::Fixed | DeliveryMode::LowestPriority)
        );
        if by_vector && self.0 & LEVEL_TRIGGERED != 0 {
            TriggerMode::Level
        } else {
            TriggerMode::Edge
        }
    }

    /// What goes to the local APICs; `None` for reserved delivery modes.
    fn message(self) -> Option<InterruptMessage> {
        Some(InterruptMessage {
            destination: (self.0 >> DESTINATION_SHIFT) as u32,
            destination_mode: if self.0 & LOGICAL != 0 {
                DestinationMode::Logical
            } else {
                DestinationMode::Physical
            },
            delivery_mode: self.delivery_mode()?,
            vector: self.vector(),
            trigger_mode: self.trigger_mode(),
        })
    }

    /// Sends the interrupt, and remembers that if its end is to be waited for.
    fn send(&mut self, fx: &mut Effects) {
        let Some(message) = self.message() else {
            return;
        };
        let sent = fx.messages.try_push(message).is_ok();
        if sent && message.trigger_mode == TriggerMode::Level {
            self.0 |= REMOTE_IRR;
        }
    }

    /// Sends the interrupt if a level-triggered pin that is asserted has one to send.
    fn sample(&mut self, fx: &mut Effects) {
        if self.0 & (MASKED | REMOTE_IRR) == 0 && self.trigger_mode() == TriggerMode::Level {
            self.send(fx);
        }
    }
}

/// An I/O APIC.
#[derive(Debug)]
pub struct IoApic {
    entries: [Entry; IoApic::PINS],
    /// The asserted pins.
    lines: u32,
    selected: u8,
    /// Bits 24 to 27.
    id: u32,
}

impl Default for IoApic {
    fn default() -> Self {
        Self::new()
    }
}

impl IoApic {
    /// How many pins it has.
    pub const PINS: usize = 24;

    /// The highest entry, and version 0x20.
    const VERSION: u32 = (Self::PINS as u32 - 1) << 16 | 0x20;

    /// An I/O APIC after power-on: all pins are masked.
    pub const fn new() -> Self {
        Self {
            entries: [Entry::AFTER_RESET; Self::PINS],
            lines: 0,
            selected: 0,
            id: 0,
        }
    }

    /// Back to the state after power-on, but for the lines, which are the devices'.
    pub fn reset(&mut self) {
        *self = Self {
            lines: self.lines,
            ..Self::new()
        };
    }

    /// Sets the level of a line. Lines beyond the pins are not connected.
    pub fn set_line(&mut self, gsi: Gsi, level: Level, fx: &mut Effects) {
        let Some(entry) = self.entries.get_mut(usize::from(gsi.0)) else {
            return;
        };
        let bit = 1u32 << gsi.0;
        let was_asserted = self.lines & bit != 0;
        match level {
            Level::Deasserted => self.lines &= !bit,
            Level::Asserted => {
                self.lines |= bit;
                match entry.trigger_mode() {
                    TriggerMode::Level => entry.sample(fx),
                    TriggerMode::Edge if !was_asserted && !entry.is_masked() => entry.send(fx),
                    TriggerMode::Edge => {}
                }
            }
        }
    }

    /// Reads a register; bits above the width are zero. The registers are 32 bits wide and lie 16 bytes apart;
    /// what is between them reads as zero.
    pub fn read(&self, offset: u64, width: Width) -> u64 {
        let skipped = (offset as u32 & 0xf) * 8;
        let value = self.read_register(offset & !0xf);
        width.truncate(u64::from(value).checked_shr(skipped).unwrap_or(0))
    }

    /// Writes a register. A write of fewer than 32 bits leaves the other bits of the register as they are, one
    /// of 64 bits is one of 32.
    pub fn write(&mut self, offset: u64, width: Width, value: u64, fx: &mut Effects) {
        let register = offset & !0xf;
        let skipped = (offset as u32 & 0xf) * 8;
        let value = match width {
            Width::Dword | Width::Qword if skipped == 0 => value as u32,
            _ => {
                let Some(mask) = (width.mask() as u32).checked_shl(skipped) else {
                    return;
                };
                let old = self.read_register(register);
                old & !mask | (value as u32).wrapping_shl(skipped) & mask
            }
        };
        self.write_register(register, value, fx);
    }

    /// A local APIC broadcasts the end of this level-triggered interrupt. A pin that is still asserted fires again.
    pub fn end_of_interrupt(&mut self, vector: Vector, fx: &mut Effects) {
        for (pin, entry) in self.entries.iter_mut().enumerate() {
            if entry.0 & REMOTE_IRR != 0 && entry.vector() == vector {
                entry.0 &= !REMOTE_IRR;
                if self.lines >> pin & 1 != 0 {
                    entry.sample(fx);
                }
            }
        }
    }

    /// Whether any of its pins may bring the CPUs an NMI.
    pub fn may_send_nmi(&self) -> bool {
        self.entries
            .iter()
            .any(|entry| !entry.is_masked() && entry.delivery_mode() == Some(DeliveryMode::Nmi))
    }

    fn read_register(&self, register: u64) -> u32 {
        match register {
            IOREGSEL => u32::from(self.selected),
            IOWIN => match self.selected {
                // The arbitration ID is loaded with the ID.
                0 | 2 => self.id,
                1 => Self::VERSION,
                index => match self.entries.get(pin_of(index)) {
                    Some(entry) if index & 1 == 0 => entry.0 as u32,
                    Some(entry) => (entry.0 >> 32) as u32,
                    None => 0,
                },
            },
            _ => 0,
        }
    }

    fn write_register(&mut self, register: u64, value: u32, fx: &mut Effects) {
        match register {
            IOREGSEL => self.selected = value as u8,
            IOWIN if self.selected == 0 => self.id = value & 0x0f00_0000,
            IOWIN => self.write_entry(value, fx),
            EOI => self.end_of_interrupt(Vector(value as u8), fx),
            _ => {}
        }
    }

    fn write_entry(&mut self, value: u32, fx: &mut Effects) {
        let pin = pin_of(self.selected);
        let Some(entry) = self.entries.get_mut(pin) else {
            return;
        };
        let value = u64::from(value);
        let (kept, written) = match self.selected & 1 {
            0 => (0xffff_ffff_0000_0000, value),
            _ => (0x0000_0000_ffff_ffff, value << 32),
        };
        let writable = WRITABLE & !kept;
        entry.0 = entry.0 & !writable | written & writable;
        if entry.trigger_mode() == TriggerMode::Edge {
            entry.0 &= !REMOTE_IRR;
        }
        if self.lines >> pin & 1 != 0 {
            entry.sample(fx);
        }
    }
}

/// The pin to which a register of the redirection table belongs; none for the registers before that.
const fn pin_of(index: u8) -> usize {
    (index as usize / 2).wrapping_sub(8)
}

#[cfg(test)]
mod tests;
