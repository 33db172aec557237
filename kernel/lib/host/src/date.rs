//! What the real-time clock shows (MC146818 data sheet), as seconds.

/// How the clock's registers are to be read: bits of its register B.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RtcFormat(u8);

impl RtcFormat {
    const HOURS_24: u8 = 1 << 1;
    const BINARY: u8 = 1 << 2;
    const AFTERNOON: u8 = 1 << 7;

    /// The format that register B selects.
    pub const fn from_register_b(register_b: u8) -> Self {
        Self(register_b)
    }

    const fn number(self, value: u8) -> u64 {
        let binary = self.0 & Self::BINARY != 0;
        (if binary {
            value
        } else {
            (value >> 4) * 10 + (value & 0xf)
        }) as u64
    }

    const fn hour(self, value: u8) -> u64 {
        if self.0 & Self::HOURS_24 != 0 {
            return self.number(value);
        }
        let half = if value & Self::AFTERNOON != 0 { 12 } else { 0 };
        self.number(value & !Self::AFTERNOON) % 12 + half
    }
}

/// The clock's registers, as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the units of a date")]
pub struct Reading {
    pub year: u8,
    pub month: u8,
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
}

impl Reading {
    /// Seconds since the start of 1970, or `None` where this is no date. The year has two digits; no
    /// machine with VT-x is older than 2005, so they are those of 2000 to 2099.
    pub const fn seconds_since_1970(self, format: RtcFormat) -> Option<u64> {
        let (month, day) = (format.number(self.month), format.number(self.day));
        let (hour, minute) = (format.hour(self.hour), format.number(self.minute));
        let (year, second) = (format.number(self.year), format.number(self.second));
        if month == 0 || month > 12 || day == 0 || day > 31 {
            return None;
        }
        if hour > 23 || minute > 59 || second > 59 || year > 99 {
            return None;
        }
        // Years that start in March have their leap day at the end. 1 January 1970 is day 719,468 of that
        // count.
        let year = 2000 + year;
        let (year, month) = if month > 2 {
            (year, month - 3)
        } else {
            (year - 1, month + 9)
        };
        let leap_days = year / 4 - year / 100 + year / 400;
        let days = year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468;
        Some(((days * 24 + hour) * 60 + minute) * 60 + second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BCD_24: RtcFormat = RtcFormat::from_register_b(0b010);

    const fn bcd(year: u8, month: u8, day: u8, hour: u8, minute: u8, second: u8) -> Reading {
        Reading {
            year,
            month,
            day,
            hour,
            minute,
            second,
        }
    }

    #[test]
    fn dates_are_the_seconds_that_calendars_say() {
        // By `date -u -d ... +%s`.
        assert_eq!(
            bcd(0x00, 0x01, 0x01, 0, 0, 0).seconds_since_1970(BCD_24),
            Some(946_684_800)
        );
        assert_eq!(
            bcd(0x00, 0x02, 0x29, 0x23, 0x59, 0x59).seconds_since_1970(BCD_24),
            Some(951_868_799)
        );
        assert_eq!(
            bcd(0x00, 0x03, 0x01, 0, 0, 0).seconds_since_1970(BCD_24),
            Some(951_868_800)
        );
        assert_eq!(
            bcd(0x26, 0x11, 0x22, 0x15, 0x20, 0x07).seconds_since_1970(BCD_24),
            Some(1_795_360_807)
        );
        assert_eq!(
            bcd(0x99, 0x12, 0x31, 0x23, 0x59, 0x59).seconds_since_1970(BCD_24),
            Some(4_102_444_799)
        );
        assert_eq!(
            bcd(0x24, 0x02, 0x29, 0x12, 0, 0).seconds_since_1970(BCD_24),
            Some(1_709_208_000)
        );
    }

    #[test]
    fn noon_and_midnight_are_twelve_on_a_twelve_hour_clock() {
        let format = RtcFormat::from_register_b(0b100);
        let midnight = bcd(0, 1, 1, 12, 0, 0).seconds_since_1970(format);
        let noon = bcd(0, 1, 1, 0x80 | 12, 0, 0).seconds_since_1970(format);
        let evening = bcd(0, 1, 1, 0x80 | 11, 30, 0).seconds_since_1970(format);
        assert_eq!(midnight, Some(946_684_800));
        assert_eq!(noon, Some(946_684_800 + 12 * 3600));
        assert_eq!(evening, Some(946_684_800 + 23 * 3600 + 1800));
    }

    #[test]
    fn a_clock_that_is_not_there_shows_no_date() {
        assert_eq!(
            bcd(0xff, 0xff, 0xff, 0xff, 0xff, 0xff).seconds_since_1970(BCD_24),
            None
        );
        assert_eq!(bcd(0, 0, 0, 0, 0, 0).seconds_since_1970(BCD_24), None);
    }
}
