//! The real-time clock, read once at boot.

use host::{Reading, RtcFormat};
use x86_64::instructions::port::Port;

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
/// Register A says that an update is in progress, register B how to read the others.
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// Reads of register A before the clock counts as absent; an update takes about 2 ms.
const POLLS: u32 = 20_000;

/// Seconds since the start of 1970 by the real-time clock, taken to be in UTC; `None` without a clock.
pub(crate) fn read_seconds() -> Option<u64> {
    // Two equal readings outside an update are right (MC146818 data sheet, Update Cycle).
    let mut last = read_outside_update()?;
    for _ in 0..4 {
        let next = read_outside_update()?;
        if next == last {
            return last.seconds_since_1970(RtcFormat::from_register_b(register(REGISTER_B)));
        }
        last = next;
    }
    None
}

fn register(index: u8) -> u8 {
    // SAFETY: the two ports are the clock's on every PC. The top bit of the index masks the NMI, and stays
    // clear.
    unsafe {
        Port::new(INDEX).write(index);
        Port::new(DATA).read()
    }
}

fn read_outside_update() -> Option<Reading> {
    // A missing clock reads as all ones, and so as in an update for ever.
    (0..POLLS).find(|_| register(REGISTER_A) & UPDATE_IN_PROGRESS == 0)?;
    Some(Reading {
        second: register(0x00),
        minute: register(0x02),
        hour: register(0x04),
        day: register(0x07),
        month: register(0x08),
        year: register(0x09),
    })
}
