//! `ioapic`: the I/O APIC's registers, edge- and level-triggered pins, remote IRR and EOI, masking and changes while
//! something is pending; and the 8259A behind LINT0 (82093AA and ICH9 data sheets; SDM vol. 3, Handling Local Interrupts).
//!
//! The line that the cases move is IRQ 4, that of the serial port: with its transmitter empty, the interrupt
//! enable register alone decides about its level.

#![no_std]
#![no_main]

mod lint;
mod pins;

use plinth_guests::apic;
use plinth_guests::cpu::{inb, outb};
use plinth_guests::paging::{peek_32, poke_32};
use plinth_guests::places::IO_APIC;
use plinth_guests::recorder::{self, came, taken};
use plinth_guests::{Case, Report, StartInfo, guest};

guest!(main);

/// Offsets of the select register, the window, and the EOI register of versions from 0x20 on.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;
/// The serial port's pin.
const PIN: u8 = 4;
/// The pin of PIT channel 0.
const PIT_PIN: u8 = 2;

const LEVEL: u32 = 1 << 15;
const REMOTE_IRR: u32 = 1 << 14;
const MASKED: u32 = 1 << 16;

/// The vectors of the cases.
const VECTOR: u8 = 0x51;
const OTHER: u8 = 0x61;

/// The serial port's interrupt-enable, modem-control and line-status registers.
const IER: u16 = 0x3f9;
const MCR: u16 = 0x3fc;
const LSR: u16 = 0x3fd;

fn read_at(offset: u64) -> u32 {
    peek_32(IO_APIC + offset)
}

fn write_at(offset: u64, value: u32) {
    poke_32(IO_APIC + offset, value);
}

fn read(register: u8) -> u32 {
    write_at(SELECT, u32::from(register));
    read_at(WINDOW)
}

fn write(register: u8, value: u32) {
    write_at(SELECT, u32::from(register));
    write_at(WINDOW, value);
}

/// The low half of a pin's entry.
fn entry(pin: u8) -> u32 {
    read(0x10 + 2 * pin)
}

/// Writes a pin's entry for physical destinations, masked in between.
fn set_entry(pin: u8, low: u32, destination: u32) {
    write(0x10 + 2 * pin, MASKED);
    write(0x11 + 2 * pin, destination << 24);
    write(0x10 + 2 * pin, low);
}

/// Opens the serial port's pin for this processor.
fn open(low: u32) {
    set_entry(PIN, low, apic::id());
}

/// Lets go of the line or pulls it, once the transmitter is empty.
fn set_line(asserted: bool) {
    while inb(LSR) & 0x60 != 0x60 {
        core::hint::spin_loop();
    }
    outb(IER, if asserted { 2 } else { 0 });
    apic::settle();
}

fn pulse() {
    set_line(true);
    set_line(false);
}

fn quiet() {
    set_line(false);
    apic::enable();
    // A level-triggered interrupt that nobody ended would keep its pin waiting: as edge-triggered it forgets.
    set_entry(PIN, MASKED, 0);
    set_entry(PIT_PIN, MASKED, 0);
    apic::open_window();
    for _ in 0..4 {
        apic::end_of_interrupt();
    }
    recorder::clear();
}

/// Runs a case with everything quiet, and makes it quiet again.
fn case(report: &mut Report, name: &str, body: fn(&mut Case)) {
    report.case(name, |case| {
        quiet();
        body(case);
        quiet();
    });
}

fn main(report: &mut Report, _: StartInfo) {
    if !recorder::begin(report, &[VECTOR, OTHER]) {
        return;
    }
    outb(MCR, 0x0b);
    pins::registers(report);
    pins::edge(report);
    pins::level(report);
    pins::changes(report);
    pins::destinations(report);
    lint::through_lint0(report);
    outb(MCR, 0x03);
}
