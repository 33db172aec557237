//! `screen`: a text display and a keyboard. It draws, waits for the keys `k` and then Escape, and says what it found.
//!
//! It expects somebody at the keyboard; Plinth has these devices on `--screen` only.

#![no_std]
#![no_main]

use plinth_guests::cpu::{inb, outb, outw};
use plinth_guests::{Case, Report, StartInfo, guest, println, x86};

guest!(main);

const COLUMNS: usize = 80;
const CRTC: u16 = 0x3d4;
/// Keys in scan code set 1.
const K: u8 = 0x25;
const ESCAPE: u8 = 0x01;
const RELEASED: u8 = 0x80;

fn draw(row: usize, column: usize, attribute: u8, text: &[u8]) {
    for (index, &byte) in text.iter().enumerate() {
        let at = 0xb_8000 + 2 * (row * COLUMNS + column + index);
        // SAFETY: the display's text memory lies there, and nothing else uses it.
        unsafe { (at as *mut u16).write_volatile(u16::from(attribute) << 8 | u16::from(byte)) };
    }
}

fn set_cursor(row: usize, column: usize) {
    let at = (row * COLUMNS + column) as u16;
    outw(CRTC, 0x0e | at & 0xff00);
    outw(CRTC, 0x0f | at << 8);
}

/// The next byte of the keyboard, polled.
fn key() -> u8 {
    while inb(0x64) & 1 == 0 {
        x86!("pause", options(nomem, nostack));
    }
    inb(0x60)
}

fn main(report: &mut Report, _: StartInfo) {
    report.case("the-display-is-in-text-mode", |case| {
        outb(CRTC, 0x01);
        case.equal("columns - 1", inb(CRTC + 1), 79);
        outb(0x3ce, 6);
        case.equal("graphics", inb(0x3cf) & 1, 0);
        case.ensure(
            (0..1_000_000).any(|_| inb(0x3da) & 8 != 0),
            "no frame ever ends",
        );
    });
    for row in 0..25 {
        draw(row, 0, 0x07, &[b' '; COLUMNS]);
    }
    draw(0, 0, 0x1e, b"yellow on blue at the top");
    // A box of code page 437's lines in the last corner.
    draw(23, 78, 0x07, &[0xda, 0xbf]);
    draw(24, 78, 0x07, &[0xc0, 0xd9]);
    set_cursor(12, 34);
    println!("drawn");
    report.case("keys-are-pressed-and-released", |case| {
        expect(case, K);
        draw(2, 5, 0x07, b"K was pressed");
        expect(case, ESCAPE);
        draw(3, 5, 0x07, b"Escape was pressed");
    });
    report.case("the-keyboard-answers-to-commands", |case| {
        for (command, answer) in [(0xf2, &[0xfa, 0xab, 0x41][..]), (0xff, &[0xfa, 0xaa])] {
            outb(0x60, command);
            for &byte in answer {
                case.equal("a byte of the answer", key(), byte);
            }
        }
    });
}

fn expect(case: &mut Case, code: u8) {
    case.equal("the key", key(), code);
    case.equal("its release", key(), code | RELEASED);
}
