//! [`Form`]: how date and time are written into bytes. Register B chooses: BCD or binary, 12 hours or 24.

use super::registers::{CENTURY, Control, DAY, HOURS, MINUTES, MONTH, PM, SECONDS, WEEKDAY, YEAR};
use crate::devices::calendar::{DateTime, weekday};

/// The form that register B asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form(pub(super) Control);

impl Form {
    /// The byte of one of the [time fields](super::registers::TIME_FIELDS), this many seconds after 1970. The day of the
    /// week is `weekday_shift` later than that of the date.
    pub(super) fn encode_date(self, index: u8, seconds: i64, weekday_shift: u8) -> u8 {
        let date = DateTime::from_seconds(seconds);
        match index {
            SECONDS => self.encode(date.second),
            MINUTES => self.encode(date.minute),
            HOURS => self.encode_hour(date.hour),
            WEEKDAY => self.encode((weekday(seconds) - 1 + weekday_shift) % 7 + 1),
            DAY => self.encode(date.day),
            MONTH => self.encode(date.month),
            YEAR => self.encode(date.year.rem_euclid(100) as u8),
            // The century is BCD in either mode, as PC firmware keeps it.
            _ => to_bcd((date.year / 100).clamp(0, 99) as u8),
        }
    }

    /// Seconds since 1970 of the date in these fields.
    pub(super) fn decode_date(self, byte_at: impl Fn(u8) -> u8) -> i64 {
        let field = |index| self.decode(byte_at(index));
        let century = i64::from(from_bcd(byte_at(CENTURY)));
        DateTime {
            // Nanoseconds since 1970 in 64 bits end in 2262.
            year: (century * 100 + i64::from(field(YEAR))).clamp(1700, 2199),
            month: field(MONTH),
            day: field(DAY),
            hour: self.decode_hour(byte_at(HOURS)),
            minute: field(MINUTES),
            second: field(SECONDS),
        }
        .to_seconds()
    }

    fn encode(self, value: u8) -> u8 {
        if self.0.contains(Control::BINARY) {
            value
        } else {
            to_bcd(value)
        }
    }

    pub(super) fn decode(self, byte: u8) -> u8 {
        if self.0.contains(Control::BINARY) {
            byte
        } else {
            from_bcd(byte)
        }
    }

    fn encode_hour(self, hour: u8) -> u8 {
        if self.0.contains(Control::HOURS_24) {
            return self.encode(hour);
        }
        let twelve = (hour + 11) % 12 + 1;
        self.encode(twelve) | if hour >= 12 { PM } else { 0 }
    }

    pub(super) fn decode_hour(self, byte: u8) -> u8 {
        if self.0.contains(Control::HOURS_24) {
            return self.decode(byte);
        }
        let afternoon = if byte & PM != 0 { 12 } else { 0 };
        self.decode(byte & !PM) % 12 + afternoon
    }
}

const fn to_bcd(value: u8) -> u8 {
    ((value / 10 % 10) << 4) | (value % 10)
}

const fn from_bcd(byte: u8) -> u8 {
    (byte >> 4) * 10 + (byte & 0xf)
}
