//! [`Alarm`]: at which time of the day the clock is to interrupt.

use super::form::Form;
use super::registers::ANY;
use crate::devices::calendar::DAY_S;

/// The alarm's seconds, minutes and hours, as the guest has written them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alarm([u8; 3]);

impl Alarm {
    /// Midnight.
    pub(super) const fn new() -> Self {
        Self([0; 3])
    }

    /// The byte of an alarm register: each has the index behind that of the field it is compared with.
    pub(super) fn byte(self, index: u8) -> u8 {
        self.0.get(usize::from(index / 2)).copied().unwrap_or(0)
    }

    /// Sets that byte.
    pub(super) fn set_byte(&mut self, index: u8, value: u8) {
        if let Some(byte) = self.0.get_mut(usize::from(index / 2)) {
            *byte = value;
        }
    }

    /// The first second after `second` at which the alarm fires, if there is any within a day.
    pub(super) fn next(self, second: i64, form: Form) -> Option<i64> {
        let [seconds, minutes, hours] = self.0;
        let wanted = |byte: u8, decoded: u8| (byte & ANY != ANY).then_some(i64::from(decoded));
        let second_wanted = wanted(seconds, form.decode(seconds));
        let minute_wanted = wanted(minutes, form.decode(minutes));
        let hour_wanted = wanted(hours, form.decode_hour(hours));
        let matches = |wanted: Option<i64>, value: i64| wanted.is_none_or(|wanted| wanted == value);
        let mut at = second + 1;
        // At most a day of hours, an hour of minutes and a minute of seconds are passed over, twice.
        while at <= second + DAY_S {
            let time = at.rem_euclid(DAY_S);
            if !matches(hour_wanted, time / 3600) {
                at += 3600 - time % 3600;
            } else if !matches(minute_wanted, time / 60 % 60) {
                at += 60 - time % 60;
            } else if !matches(second_wanted, time % 60) {
                // A value that no second has cannot be waited for second by second.
                if second_wanted.is_some_and(|wanted| wanted >= 60) {
                    return None;
                }
                at += 1;
            } else {
                return Some(at);
            }
        }
        None
    }
}
