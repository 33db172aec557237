//! Edges and levels, entry by entry, and any sequence of them against a model.

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
