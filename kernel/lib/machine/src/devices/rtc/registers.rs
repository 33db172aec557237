//! The registers of an MC146818 as data: their indices, their bits, and the index of the century.

use bitflags::bitflags;

pub(super) const SECONDS: u8 = 0x00;
pub(super) const SECONDS_ALARM: u8 = 0x01;
pub(super) const MINUTES: u8 = 0x02;
pub(super) const MINUTES_ALARM: u8 = 0x03;
pub(super) const HOURS: u8 = 0x04;
pub(super) const HOURS_ALARM: u8 = 0x05;
pub(super) const WEEKDAY: u8 = 0x06;
pub(super) const DAY: u8 = 0x07;
pub(super) const MONTH: u8 = 0x08;
pub(super) const YEAR: u8 = 0x09;
pub(super) const REGISTER_A: u8 = 0x0a;
pub(super) const REGISTER_B: u8 = 0x0b;
pub(super) const REGISTER_C: u8 = 0x0c;
pub(super) const REGISTER_D: u8 = 0x0d;
/// Where the FADT says that the century is.
pub const CENTURY: u8 = 0x32;

/// Register A: an update is in progress or near.
pub(super) const UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// Register A: the divider's control bits, and the value at which the clock runs.
pub(super) const DIVIDER: u8 = 0x70;
pub(super) const DIVIDER_RUNS: u8 = 0x20;
pub(super) const RATE: u8 = 0x0f;
/// Register D: the battery is good.
pub(super) const VALID: u8 = 0x80;
/// An alarm field with these bits matches every value.
pub(super) const ANY: u8 = 0xc0;
/// The afternoon, in 12-hour form.
pub(super) const PM: u8 = 0x80;

bitflags! {
    /// Register B.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Control: u8 {
        const DAYLIGHT_SAVING = 1 << 0;
        const HOURS_24 = 1 << 1;
        const BINARY = 1 << 2;
        const SQUARE_WAVE = 1 << 3;
        const UPDATE_INTERRUPT = 1 << 4;
        const ALARM_INTERRUPT = 1 << 5;
        const PERIODIC_INTERRUPT = 1 << 6;
        const SET = 1 << 7;
    }

    /// Register C; the first three bits lie where register B enables them.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Flags: u8 {
        const UPDATE = 1 << 4;
        const ALARM = 1 << 5;
        const PERIODIC = 1 << 6;
        const REQUEST = 1 << 7;
    }
}

/// What the date and the time of day are read from.
pub(super) const TIME_FIELDS: [u8; 8] =
    [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY];
