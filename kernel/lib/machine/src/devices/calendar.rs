//! Dates: between seconds since 1970 and the fields of a real-time clock, in the Gregorian calendar.

/// A date and a time of day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DateTime {
    pub(super) year: i64,
    /// 1 to 12.
    pub(super) month: u8,
    /// 1 to 31.
    pub(super) day: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
}

pub(super) const DAY_S: i64 = 86_400;
/// Days from 1 March of year 0 to 1 January 1970.
const EPOCH_DAYS: i64 = 719_468;
/// Days of 400 years, after which the calendar repeats.
const ERA_DAYS: i64 = 146_097;

impl DateTime {
    /// The date this many seconds after 1970-01-01 00:00.
    pub(super) const fn from_seconds(seconds: i64) -> Self {
        let time = seconds.rem_euclid(DAY_S);
        // Years are counted from 1 March here: the leap day is the last day of its year, and the month follows
        // from the day of the year by one division.
        let days = seconds.div_euclid(DAY_S) + EPOCH_DAYS;
        let era = days.div_euclid(ERA_DAYS);
        let day_of_era = days.rem_euclid(ERA_DAYS);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        let year = era * 400 + year_of_era + if month <= 2 { 1 } else { 0 };
        Self {
            year,
            month: month as u8,
            day: day as u8,
            hour: (time / 3600) as u8,
            minute: (time / 60 % 60) as u8,
            second: (time % 60) as u8,
        }
    }

    /// Seconds since 1970-01-01 00:00. Fields out of range count on, as 31 April is 1 May; months are cut to
    /// the year.
    pub(super) const fn to_seconds(self) -> i64 {
        let month = if self.month < 1 {
            1
        } else if self.month > 12 {
            12
        } else {
            self.month as i64
        };
        let year = if month <= 2 { self.year - 1 } else { self.year };
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let month_from_march = (month + 9) % 12;
        let day_of_year = (153 * month_from_march + 2) / 5 + self.day as i64 - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * ERA_DAYS + day_of_era - EPOCH_DAYS;
        days * DAY_S + self.hour as i64 * 3600 + self.minute as i64 * 60 + self.second as i64
    }
}

/// The day of the week, 1 for Sunday.
pub(super) const fn weekday(seconds: i64) -> u8 {
    // 1 January 1970 was a Thursday.
    (seconds.div_euclid(DAY_S) + 4).rem_euclid(7) as u8 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates_come_out_right() {
        for (seconds, year, month, day, hour, minute, second, weekday_wanted) in [
            (0, 1970, 1, 1, 0, 0, 0, 5),
            (951_782_399, 2000, 2, 28, 23, 59, 59, 2),
            (951_782_400, 2000, 2, 29, 0, 0, 0, 3),
            (1_709_164_800, 2024, 2, 29, 0, 0, 0, 5),
            (4_107_542_400, 2100, 3, 1, 0, 0, 0, 2),
            (-1, 1969, 12, 31, 23, 59, 59, 4),
        ] {
            let date = DateTime {
                year,
                month,
                day,
                hour,
                minute,
                second,
            };
            assert_eq!(DateTime::from_seconds(seconds), date);
            assert_eq!(date.to_seconds(), seconds);
            assert_eq!(weekday(seconds), weekday_wanted);
        }
    }

    #[test]
    fn every_day_of_six_centuries_comes_back() {
        let mut before = DateTime::from_seconds(-100 * 365 * DAY_S);
        for day in -100 * 365..500 * 365 {
            let date = DateTime::from_seconds(day * DAY_S);
            assert_eq!(date.to_seconds(), day * DAY_S);
            let next = date.day == before.day + 1 && date.month == before.month;
            assert!(next || date.day == 1 || day == -100 * 365);
            before = date;
        }
    }
}
