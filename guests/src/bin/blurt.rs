//! `blurt`: says more at a time than a serial line takes: without a look at the transmitter, in one instruction, and like
//! drivers that wait for 10 ms at most. The lines are numbered, so that whoever listens knows of each that is lost.

#![no_std]
#![no_main]

use plinth_guests::cpu::{cpuid, inb, outb, rdtsc};
use plinth_guests::{Report, StartInfo, guest, x86};

guest!(main);

const DATA: u16 = 0x3f8;
const LINE_STATUS: u16 = DATA + 5;
/// LSR: the transmitter has room.
const THRE: u8 = 1 << 5;
/// Lines of each kind.
const LINES: u32 = 60;
/// How long a driver waits, in thousandths of a second.
const PATIENCE_MS: u64 = 10;

type Line = [u8; 64];

/// A line with this number, of signs that nobody confuses.
fn line(number: u32) -> Line {
    let mut line = *b"line 000 abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz.\r\n";
    for (at, unit) in [(5, 100), (6, 10), (7, 1)] {
        line[at] = b'0' + (number / unit % 10) as u8;
    }
    line
}

fn main(report: &mut Report, _: StartInfo) {
    for number in 0..LINES {
        for byte in line(number) {
            outb(DATA, byte);
        }
    }
    for number in LINES..2 * LINES {
        let line = line(number);
        x86!(
            "rep outsb",
            in("dx") DATA,
            inout("rcx") line.len() => _,
            inout("rsi") line.as_ptr() => _,
            options(nostack)
        );
    }
    let leaf = cpuid(0x15, 0);
    let tsc_hz = u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax);
    let mut gave_up = 0;
    for number in 2 * LINES..3 * LINES {
        for byte in line(number) {
            let until = rdtsc() + PATIENCE_MS * tsc_hz / 1000;
            let mut is_empty = false;
            while !is_empty && rdtsc() < until {
                is_empty = inb(LINE_STATUS) & THRE != 0;
            }
            gave_up += u64::from(!is_empty);
            outb(DATA, byte);
        }
    }
    report.case("the-transmitter-is-empty-before-drivers-give-up", |case| {
        case.equal("characters whose driver gave up", gave_up, 0);
    });
}
