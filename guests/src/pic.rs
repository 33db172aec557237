//! The two 8259As: [`init`] moves their vectors out of the exceptions' way and masks all lines.

use crate::cpu::outb;

/// The vector of line 0; line 8 is eight further.
pub const FIRST_VECTOR: u8 = 0x20;
/// The command port of the first, and the data port behind it.
const FIRST: u16 = 0x20;
/// The same of the second.
const SECOND: u16 = 0xa0;
/// The command "end of interrupt", not specific.
const END: u8 = 0x20;

/// Initialises both, with everything masked.
pub fn init() {
    for (port, value) in [
        (FIRST, 0x11),
        (FIRST + 1, FIRST_VECTOR),
        (FIRST + 1, 4),
        (FIRST + 1, 1),
        (SECOND, 0x11),
        (SECOND + 1, FIRST_VECTOR + 8),
        (SECOND + 1, 2),
        (SECOND + 1, 1),
        (FIRST + 1, 0xff),
        (SECOND + 1, 0xff),
    ] {
        outb(port, value);
    }
}

/// Masks all lines of the first but those in `open`, one bit each; all of the second stay masked.
pub fn open_lines(open: u8) {
    outb(FIRST + 1, !open);
}

/// Ends the interrupt of one of the first eight lines.
pub fn end_of_interrupt() {
    outb(FIRST, END);
}
