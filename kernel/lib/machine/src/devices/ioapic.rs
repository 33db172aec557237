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
    /// How many bytes of addresses it takes.
    pub const SPAN_BYTES: u64 = 0x1000;

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

    /// The vectors whose EOI the I/O APIC wants to hear of: those of level-triggered entries.
    pub fn handled_vectors(&self) -> [u64; 4] {
        let mut vectors = [0; 4];
        for entry in &self.entries {
            if entry.trigger_mode() == TriggerMode::Level {
                let vector = entry.vector().0;
                if let Some(word) = vectors.get_mut(usize::from(vector >> 6)) {
                    *word |= 1 << (vector & 63);
                }
            }
        }
        vectors
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
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// The I/O APIC as software sees it, with the messages that come out.
    #[derive(Default)]
    struct Bench {
        apic: IoApic,
        fx: Effects,
    }

    impl Bench {
        fn get(&mut self, index: u32) -> u32 {
            self.apic
                .write(0, Width::Dword, u64::from(index), &mut self.fx);
            self.apic.read(0x10, Width::Dword) as u32
        }

        fn set(&mut self, index: u32, value: u32) {
            self.apic
                .write(0, Width::Dword, u64::from(index), &mut self.fx);
            self.apic
                .write(0x10, Width::Dword, u64::from(value), &mut self.fx);
        }

        fn set_entry(&mut self, pin: u32, value: u64) {
            self.set(0x11 + 2 * pin, (value >> 32) as u32);
            self.set(0x10 + 2 * pin, value as u32);
        }

        fn line(&mut self, pin: u8, level: Level) {
            self.apic.set_line(Gsi(pin), level, &mut self.fx);
        }

        fn pulse(&mut self, pin: u8) {
            self.line(pin, Level::Asserted);
            self.line(pin, Level::Deasserted);
        }

        fn eoi(&mut self, vector: u8) {
            self.apic.end_of_interrupt(Vector(vector), &mut self.fx);
        }

        /// The vectors that came out since the last call.
        fn fired(&mut self) -> Vec<u8> {
            self.fx
                .messages
                .drain(..)
                .map(|message| message.vector.0)
                .collect()
        }
    }

    const LEVEL: u64 = 1 << 15;
    const MASK: u64 = 1 << 16;
    const RIRR: u32 = 1 << 14;

    #[test]
    fn after_power_on_every_pin_is_masked_and_the_version_tells_24_pins() {
        let mut bench = Bench::default();
        assert_eq!(bench.get(1), 0x0017_0020);
        for pin in 0..24 {
            assert_eq!(bench.get(0x10 + 2 * pin), 0x0001_0000);
            assert_eq!(bench.get(0x11 + 2 * pin), 0);
        }
        assert_eq!(bench.get(0x10 + 48), 0);
        assert_eq!(bench.get(0xff), 0);
        assert_eq!(bench.get(3), 0);
    }

    #[test]
    fn the_id_has_four_bits_and_is_the_arbitration_id_too() {
        let mut bench = Bench::default();
        bench.set(0, 0xffff_ffff);
        assert_eq!(bench.get(0), 0x0f00_0000);
        assert_eq!(bench.get(2), 0x0f00_0000);
        bench.set(1, 0);
        bench.set(2, 0);
        assert_eq!(bench.get(1), 0x0017_0020);
        assert_eq!(bench.get(2), 0x0f00_0000);
    }

    #[test]
    fn reserved_and_status_bits_cannot_be_written() {
        let mut bench = Bench::default();
        bench.set_entry(3, u64::MAX);
        assert_eq!(bench.get(0x16), 0x0001_afff);
        assert_eq!(bench.get(0x17), 0xff00_0000);
    }

    #[test]
    fn an_edge_fires_once_with_all_that_the_entry_says() {
        let mut bench = Bench::default();
        bench.set_entry(4, 0x0300_0000_0000_0931);
        bench.line(4, Level::Asserted);
        bench.line(4, Level::Asserted);
        let wanted = InterruptMessage {
            destination: 3,
            destination_mode: DestinationMode::Logical,
            delivery_mode: DeliveryMode::LowestPriority,
            vector: Vector(0x31),
            trigger_mode: TriggerMode::Edge,
        };
        assert_eq!(bench.fx.messages.as_slice(), &[wanted]);
        bench.fx.messages.clear();
        bench.line(4, Level::Deasserted);
        bench.line(4, Level::Asserted);
        assert_eq!(bench.fired(), [0x31]);
        assert_eq!(bench.get(0x18) & RIRR, 0);
    }

    #[test]
    fn an_edge_on_a_masked_pin_is_lost() {
        let mut bench = Bench::default();
        bench.set_entry(14, 0x84 | MASK);
        bench.pulse(14);
        bench.line(14, Level::Asserted);
        bench.set_entry(14, 0x84);
        assert_eq!(bench.fired(), []);
        bench.line(14, Level::Deasserted);
        bench.line(14, Level::Asserted);
        assert_eq!(bench.fired(), [0x84]);
    }

    #[test]
    fn a_level_on_a_masked_pin_fires_when_the_mask_goes_unless_it_has_gone_before() {
        let mut bench = Bench::default();
        bench.set_entry(14, 0x84 | LEVEL | MASK);
        bench.pulse(14);
        bench.set_entry(14, 0x84 | LEVEL);
        assert_eq!(bench.fired(), []);
        bench.set_entry(14, 0x84 | LEVEL | MASK);
        bench.line(14, Level::Asserted);
        assert_eq!(bench.fired(), []);
        bench.set_entry(14, 0x84 | LEVEL);
        assert_eq!(bench.fired(), [0x84]);
    }

    #[test]
    fn a_level_waits_for_its_eoi_and_fires_again_while_asserted() {
        let mut bench = Bench::default();
        bench.set_entry(9, 0x52 | LEVEL);
        bench.line(9, Level::Asserted);
        assert_eq!(bench.fired(), [0x52]);
        assert_eq!(bench.get(0x22) & RIRR, RIRR);
        bench.line(9, Level::Deasserted);
        bench.line(9, Level::Asserted);
        assert_eq!(bench.fired(), [], "not before the EOI");
        bench.eoi(0x53);
        assert_eq!(bench.fired(), [], "another vector's EOI");
        bench.eoi(0x52);
        assert_eq!(bench.fired(), [0x52]);
        bench.line(9, Level::Deasserted);
        bench.eoi(0x52);
        assert_eq!(bench.fired(), []);
        assert_eq!(bench.get(0x22) & RIRR, 0);
    }

    #[test]
    fn all_pins_that_share_a_vector_hear_of_its_eoi() {
        let mut bench = Bench::default();
        bench.set_entry(10, 0x60 | LEVEL);
        bench.set_entry(11, 0x60 | LEVEL);
        bench.line(10, Level::Asserted);
        bench.line(11, Level::Asserted);
        assert_eq!(bench.fired(), [0x60, 0x60]);
        bench.line(10, Level::Deasserted);
        bench.eoi(0x60);
        assert_eq!(bench.fired(), [0x60]);
        assert_eq!((bench.get(0x24) & RIRR, bench.get(0x26) & RIRR), (0, RIRR));
    }

    #[test]
    fn the_eoi_register_ends_an_interrupt_like_a_broadcast() {
        let mut bench = Bench::default();
        bench.set_entry(9, 0x52 | LEVEL);
        bench.line(9, Level::Asserted);
        bench.line(9, Level::Deasserted);
        bench.apic.write(0x40, Width::Dword, 0x52, &mut bench.fx);
        assert_eq!(bench.get(0x22) & RIRR, 0);
    }

    #[test]
    fn making_an_entry_edge_triggered_and_back_clears_remote_irr() {
        let mut bench = Bench::default();
        bench.set_entry(9, 0x52 | LEVEL);
        bench.line(9, Level::Asserted);
        bench.fired();
        bench.set_entry(9, 0x52 | MASK);
        bench.set_entry(9, 0x52 | LEVEL | MASK);
        assert_eq!(bench.get(0x22), 0x1_8052);
        bench.set_entry(9, 0x52 | LEVEL);
        assert_eq!(bench.fired(), [0x52]);
    }

    #[test]
    fn a_new_vector_while_the_old_is_in_service_is_not_sent_before_the_pin_is_free() {
        let mut bench = Bench::default();
        bench.set_entry(9, 0x52 | LEVEL);
        bench.line(9, Level::Asserted);
        bench.fired();
        bench.set_entry(9, 0x62 | LEVEL);
        assert_eq!(bench.fired(), []);
        bench.eoi(0x62);
        assert_eq!(bench.fired(), [0x62]);
    }

    #[test]
    fn an_edge_entry_with_the_line_asserted_fires_when_it_becomes_level_triggered() {
        let mut bench = Bench::default();
        bench.set_entry(5, 0x70);
        bench.line(5, Level::Asserted);
        assert_eq!(bench.fired(), [0x70]);
        bench.set_entry(5, 0x71);
        assert_eq!(bench.fired(), [], "a write is no edge");
        bench.set_entry(5, 0x71 | LEVEL);
        assert_eq!(bench.fired(), [0x71]);
    }

    #[test]
    fn nmi_and_ext_int_never_wait_for_an_eoi_and_reserved_modes_send_nothing() {
        let mut bench = Bench::default();
        for (mode, wanted) in [
            (2, Some(DeliveryMode::Smi)),
            (3, None),
            (4, Some(DeliveryMode::Nmi)),
            (5, Some(DeliveryMode::Init)),
            (6, None),
            (7, Some(DeliveryMode::ExtInt)),
        ] {
            bench.set_entry(2, mode << 8 | LEVEL);
            bench.pulse(2);
            let sent = bench.fx.messages.pop().map(|message| message.delivery_mode);
            assert_eq!(sent, wanted);
            assert_eq!(bench.get(0x14) & RIRR, 0);
        }
    }

    #[test]
    fn narrow_accesses_touch_their_bytes_only() {
        let mut bench = Bench::default();
        bench.apic.write(0, Width::Byte, 0x1234_5612, &mut bench.fx);
        bench
            .apic
            .write(0x10, Width::Dword, 0x0001_0341, &mut bench.fx);
        bench.apic.write(0x11, Width::Byte, 0x0b, &mut bench.fx);
        assert_eq!(bench.apic.read(0x10, Width::Dword), 0x0001_0b41);
        assert_eq!(bench.apic.read(0x11, Width::Byte), 0x0b);
        assert_eq!(bench.apic.read(0x12, Width::Word), 0x0001);
        assert_eq!(bench.apic.read(0x10, Width::Qword), 0x0001_0b41);
        assert_eq!(bench.apic.read(0x00, Width::Dword), 0x12);
        bench
            .apic
            .write(0x10, Width::Qword, 0xffff_ffff_0001_0055, &mut bench.fx);
        assert_eq!(bench.get(0x12), 0x0001_0055);
        for offset in [0x04, 0x08, 0x14, 0x20, 0x30, 0x40, 0xffc] {
            assert_eq!(bench.apic.read(offset, Width::Dword), 0, "{offset:#x}");
            bench
                .apic
                .write(offset, Width::Dword, 0xffff_ffff, &mut bench.fx);
        }
        assert_eq!(bench.get(0x12), 0x0001_0055);
    }

    #[test]
    fn handled_vectors_are_those_of_level_triggered_entries() {
        let mut bench = Bench::default();
        bench.set_entry(1, 0x31);
        bench.set_entry(2, 0x40 | LEVEL);
        bench.set_entry(3, 0xff | LEVEL | MASK);
        bench.set_entry(4, 0x41 | LEVEL | 4 << 8);
        assert_eq!(bench.apic.handled_vectors(), [0, 1, 0, 1 << 63]);
    }

    #[test]
    fn a_line_without_a_pin_is_not_connected() {
        let mut bench = Bench::default();
        for gsi in 24..=255 {
            bench.line(gsi, Level::Asserted);
        }
        assert_eq!(bench.fired(), []);
    }

    /// What one pin does, told by the data sheet's rules in the simplest way.
    #[derive(Clone, Copy, Default)]
    struct Model {
        level_triggered: bool,
        open: bool,
        line: bool,
        waiting: bool,
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Line(bool),
        Write { level_triggered: bool, open: bool },
        Eoi,
    }

    impl Model {
        fn step(&mut self, step: Step) -> bool {
            let rising = matches!(step, Step::Line(true)) && !self.line;
            match step {
                Step::Line(line) => self.line = line,
                Step::Write {
                    level_triggered,
                    open,
                } => {
                    *self = Self {
                        level_triggered,
                        open,
                        waiting: self.waiting && level_triggered,
                        ..*self
                    };
                }
                Step::Eoi => self.waiting = false,
            }
            let fires = self.open
                && if self.level_triggered {
                    self.line && !self.waiting
                } else {
                    rising
                };
            self.waiting |= fires && self.level_triggered;
            fires
        }
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            any::<bool>().prop_map(Step::Line),
            (any::<bool>(), any::<bool>()).prop_map(|(level_triggered, open)| Step::Write {
                level_triggered,
                open
            }),
            Just(Step::Eoi),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn a_pin_does_what_the_model_does(steps in steps()) {
            let mut bench = Bench::default();
            let mut model = Model::default();
            for step in steps {
                match step {
                    Step::Line(line) => bench.line(7, if line { Level::Asserted } else { Level::Deasserted }),
                    Step::Write { level_triggered, open } => {
                        let value = 0x99 | if level_triggered { LEVEL } else { 0 } | if open { 0 } else { MASK };
                        bench.set(0x1e, value as u32);
                    }
                    Step::Eoi => bench.eoi(0x99),
                }
                let fires = model.step(step);
                prop_assert_eq!(bench.fired().len(), usize::from(fires), "{:?}", step);
                prop_assert_eq!(bench.get(0x1e) & RIRR != 0, model.waiting);
            }
        }
    }
}
