//! The real-time clock, read once at boot.

use x86_64::instructions::port::Port;

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
/// Reads of register A before the clock counts as absent; an update takes about 2 ms.
const POLLS: u32 = 20_000;

/// Seconds since the start of 1970 by the real-time clock, taken to be in UTC; `None` without a clock.
pub(crate) fn read_seconds() -> Option<u64> {
    // Two equal readings outside an update are right (MC146818 data sheet, Update Cycle).
    let mut last = read_consistent()?;
    for _ in 0..4 {
        let next = read_consistent()?;
        if next == last {
            return last.seconds_since_1970();
        }
        last = next;
    }
    None
}

fn register(index: u8) -> u8 {
    // SAFETY: the two ports are the clock's on every PC. The top bit of the index masks the NMI, and stays clear.
    unsafe {
        Port::new(INDEX).write(index);
        Port::new(DATA).read()
    }
}

/// What the clock shows, in binary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reading {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

fn read_consistent() -> Option<Reading> {
    // Register A, bit 7: an update is in progress. A missing clock reads as all ones for ever.
    (0..POLLS).find(|_| register(0x0a) & 0x80 == 0)?;
    let status = register(0x0b);
    let number = |value: u8| {
        let binary = status & 1 << 2 != 0;
        u64::from(if binary { value } else { (value >> 4) * 10 + (value & 0xf) })
    };
    let raw_hour = register(0x04);
    let mut hour = number(raw_hour & 0x7f);
    if status & 1 << 1 == 0 {
        // Twelve hours, and the top bit for the afternoon.
        hour = hour % 12 + if raw_hour & 0x80 != 0 { 12 } else { 0 };
    }
    Some(Reading {
        // No PC with VT-x was made before 2005, so two digits are enough until 2099.
        year: 2000 + number(register(0x09)),
        month: number(register(0x08)),
        day: number(register(0x07)),
        hour,
        minute: number(register(0x02)),
        second: number(register(0x00)),
    })
}

impl Reading {
    fn seconds_since_1970(self) -> Option<u64> {
        if !(1..=12).contains(&self.month)
            || !(1..=31).contains(&self.day)
            || self.hour > 23
            || self.minute > 59
        {
            return None;
        }
        // Days before the month in a year that starts in March, so that the leap day is the last.
        let (year, month) = if self.month > 2 {
            (self.year, self.month - 3)
        } else {
            (self.year - 1, self.month + 9)
        };
        let leap_days = year / 4 - year / 100 + year / 400;
        let days = year * 365 + leap_days + (month * 153 + 2) / 5 + self.day - 1;
        // 1970-01-01 in the same count.
        let days = days.checked_sub(719_468)?;
        Some(((days * 24 + self.hour) * 60 + self.minute) * 60 + self.second)
    }
}
