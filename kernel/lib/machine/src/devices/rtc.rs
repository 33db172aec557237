//! [`Rtc`]: the MC146818 real-time clock with its battery-backed memory (CMOS).
//!
//! The clock does not tick: the date follows from guest time and an offset that changes when the guest sets the
//! clock, and the flags of register C are found by asking which of their events lie between the last look and
//! now. Periodic interrupts that fall into a time in which nobody looked, because all of the VM waited for a turn,
//! are made up for afterwards, as the PIT's are.
//!
//! Written after Motorola's MC146818A data sheet. The battery-backed memory holds what a PC's firmware leaves
//! there: the memory sizes, and the century at 0x32 as the FADT says.

mod alarm;
mod form;
mod registers;

use self::alarm::Alarm;
use self::form::Form;
pub use self::registers::CENTURY;
use self::registers::{
    Control, DAY, DIVIDER, DIVIDER_RUNS, Flags, HOURS, HOURS_ALARM, MINUTES, MINUTES_ALARM, MONTH,
    RATE, REGISTER_A, REGISTER_B, REGISTER_C, REGISTER_D, SECONDS, SECONDS_ALARM, TIME_FIELDS,
    UPDATE_IN_PROGRESS, VALID, WEEKDAY, YEAR,
};
use super::calendar::weekday;
use crate::layout::MachineLayout;
use crate::{Effects, Gsi, Level, OutputLine};

const SECOND_NS: i64 = 1_000_000_000;
/// UIP rises 244 us before an update, which takes 1984 us; the new time is there at its end.
const UPDATE_NS: i64 = 2_228_000;

/// Periodic interrupts are made up for so many times as fast as they come, and so many at most.
const CATCH_UP: i64 = 4;
const OWED_AT_MOST: i64 = 8192;

/// The real-time clock.
#[derive(Debug)]
pub struct Rtc {
    index: u8,
    /// The date in nanoseconds since 1970, less guest time; while the clock stands still, the date itself.
    offset_ns: i64,
    /// What the guest added to the day of the week, which the chip does not know to follow from the date.
    weekday_shift: u8,
    rate_and_divider: u8,
    control: Control,
    flags: Flags,
    /// Up to this date, in nanoseconds, the flags have been looked for.
    seen_ns: i64,
    /// Periodic interrupts that nobody has looked for in time, and the date when the next is made up for.
    owed: i64,
    owed_at_ns: i64,
    alarm: Alarm,
    memory: [u8; 128],
    line: OutputLine,
}

impl Rtc {
    /// A clock that shows `epoch_s` seconds after 1970 at guest time 0, in the memory of a machine of this size.
    pub fn new(gsi: Gsi, epoch_s: u64, layout: &MachineLayout) -> Self {
        let seconds = i64::try_from(epoch_s)
            .unwrap_or(0)
            .min(i64::MAX / SECOND_NS / 2);
        let offset_ns = seconds * SECOND_NS;
        let mut rtc = Self {
            index: 0,
            offset_ns,
            weekday_shift: 0,
            rate_and_divider: DIVIDER_RUNS | 6,
            control: Control::HOURS_24,
            flags: Flags::empty(),
            seen_ns: offset_ns,
            owed: 0,
            owed_at_ns: 0,
            alarm: Alarm::new(),
            memory: [0; 128],
            line: OutputLine::new(gsi, Level::Deasserted),
        };
        rtc.describe(layout);
        rtc
    }

    /// Writes the memory sizes where PC firmware does.
    fn describe(&mut self, layout: &MachineLayout) {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        let low = layout.low_ram().end.as_u64();
        let above_1m_kib = (low.saturating_sub(MIB) / KIB).min(0xffff);
        let above_16m = (low.saturating_sub(16 * MIB) / (64 * KIB)).min(0xffff);
        let above_4g = (layout.high_ram().len() / (64 * KIB)).min(0xff_ffff);
        let [ext_low, ext_high, ..] = above_1m_kib.to_le_bytes();
        let [mid_low, mid_high, ..] = above_16m.to_le_bytes();
        let [high_low, high_mid, high_high, ..] = above_4g.to_le_bytes();
        for (index, value) in [
            // Equipment: a coprocessor, no floppy drive.
            (0x14, 0x02),
            // 640 KiB of conventional memory.
            (0x15, 0x80),
            (0x16, 0x02),
            (0x17, ext_low),
            (0x18, ext_high),
            (0x30, ext_low),
            (0x31, ext_high),
            (0x34, mid_low),
            (0x35, mid_high),
            (0x5b, high_low),
            (0x5c, high_mid),
            (0x5d, high_high),
        ] {
            self.set_memory(index, value);
        }
    }

    /// Reads port 0x70 (offset 0) or 0x71 (offset 1). The index port cannot be read.
    pub fn read(&mut self, offset: u16, now_ns: u64, fx: &mut Effects) -> u8 {
        if offset & 1 == 0 {
            return 0xff;
        }
        match self.index {
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY => {
                self.time_field(self.index, now_ns)
            }
            SECONDS_ALARM | MINUTES_ALARM | HOURS_ALARM => self.alarm.byte(self.index),
            REGISTER_A => {
                let left_ns = SECOND_NS - self.date_ns(now_ns).rem_euclid(SECOND_NS);
                let updating = self.runs() && left_ns <= UPDATE_NS;
                self.rate_and_divider | if updating { UPDATE_IN_PROGRESS } else { 0 }
            }
            REGISTER_B => self.control.bits(),
            REGISTER_C => {
                self.collect(now_ns);
                let flags = self.requested();
                self.flags = Flags::empty();
                self.make_up_later(now_ns);
                self.update_line(fx);
                flags.bits()
            }
            REGISTER_D => VALID,
            index => self.memory.get(usize::from(index)).copied().unwrap_or(0xff),
        }
    }

    /// Writes port 0x70 (offset 0) or 0x71 (offset 1). Bit 7 of the index masks NMIs on a PC; there is no source
    /// of them on this board.
    pub fn write(&mut self, offset: u16, value: u8, now_ns: u64, fx: &mut Effects) {
        if offset & 1 == 0 {
            self.index = value & 0x7f;
            return;
        }
        self.collect(now_ns);
        match self.index {
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY => {
                self.set_time_field(self.index, value, now_ns);
            }
            SECONDS_ALARM | MINUTES_ALARM | HOURS_ALARM => self.alarm.set_byte(self.index, value),
            REGISTER_A => self.set_register_a(value, now_ns),
            REGISTER_B => self.set_register_b(Control::from_bits_retain(value), now_ns),
            // Registers C and D only report.
            REGISTER_C | REGISTER_D => {}
            index => self.set_memory(index, value),
        }
        self.update_line(fx);
    }

    /// When the next enabled interrupt is due.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        // With a request standing, nothing more can happen on the line.
        if self.requested().contains(Flags::REQUEST) || !self.divider_runs() {
            return None;
        }
        let mut next: Option<i64> = None;
        let mut consider = |date_ns: i64| {
            next = Some(next.map_or(date_ns, |other| other.min(date_ns)));
        };
        if self.control.contains(Control::PERIODIC_INTERRUPT)
            && let Some(hertz) = self.periodic_hertz()
        {
            let count = periods(self.seen_ns, hertz) + 1;
            consider(period_start(count, hertz));
            if self.owed > 0 {
                consider(self.owed_at_ns);
            }
        }
        if self.runs() {
            let second = self.seen_ns.div_euclid(SECOND_NS);
            if self.control.contains(Control::UPDATE_INTERRUPT) {
                consider((second + 1) * SECOND_NS);
            }
            if self.control.contains(Control::ALARM_INTERRUPT)
                && let Some(alarm) = self.alarm.next(second, self.form())
            {
                consider(alarm * SECOND_NS);
            }
        }
        next.and_then(|date_ns| u64::try_from(date_ns - self.offset_ns).ok())
    }

    /// Sets the flags of all that has happened.
    pub fn expire(&mut self, now_ns: u64, fx: &mut Effects) {
        self.count_missed(now_ns);
        self.collect(now_ns);
        self.update_line(fx);
    }

    /// Of several periods that have ended since somebody last looked, one is seen now and the others are owed; or one
    /// that is owed comes. While an interrupt waits for the guest to look at it, periods are the guest's to lose.
    fn count_missed(&mut self, now_ns: u64) {
        let date_ns = self.date_ns(now_ns);
        if !self.control.contains(Control::PERIODIC_INTERRUPT)
            || self.requested().contains(Flags::REQUEST)
            || !self.divider_runs()
        {
            return;
        }
        let Some(hertz) = self.periodic_hertz() else {
            return;
        };
        let ended = periods(date_ns, hertz).saturating_sub(periods(self.seen_ns, hertz));
        if ended > 1 {
            self.owed = self.owed.saturating_add(ended - 1).min(OWED_AT_MOST);
        } else if ended == 0 && self.owed > 0 && self.owed_at_ns <= date_ns {
            self.owed -= 1;
            self.flags |= Flags::PERIODIC;
        }
    }

    /// The guest has taken an interrupt: the next that is owed comes a part of a period later.
    fn make_up_later(&mut self, now_ns: u64) {
        if self.owed > 0
            && let Some(hertz) = self.periodic_hertz()
        {
            self.owed_at_ns = self
                .date_ns(now_ns)
                .saturating_add(SECOND_NS / hertz / CATCH_UP);
        }
    }

    const fn divider_runs(&self) -> bool {
        self.rate_and_divider & DIVIDER == DIVIDER_RUNS
    }

    /// Whether the date advances.
    const fn runs(&self) -> bool {
        self.divider_runs() && !self.control.contains(Control::SET)
    }

    /// The date in nanoseconds since 1970.
    fn date_ns(&self, now_ns: u64) -> i64 {
        if self.divider_runs() {
            self.offset_ns
                .saturating_add(now_ns.min(i64::MAX as u64 / 4) as i64)
        } else {
            self.offset_ns
        }
    }

    /// Makes the clock show this date now.
    fn set_date_ns(&mut self, date_ns: i64, now_ns: u64) {
        let now_ns = now_ns.min(i64::MAX as u64 / 4) as i64;
        self.offset_ns = if self.divider_runs() {
            date_ns - now_ns
        } else {
            date_ns
        };
        self.seen_ns = date_ns;
    }

    fn set_register_a(&mut self, value: u8, now_ns: u64) {
        let date_ns = self.date_ns(now_ns);
        let ran = self.divider_runs();
        self.rate_and_divider = value & (DIVIDER | RATE);
        self.owed = 0;
        if ran == self.divider_runs() {
            // What was counted at the old rate says nothing about the new one.
            self.set_date_ns(date_ns, now_ns);
            return;
        }
        // Out of its reset, the divider has the first update half a second later.
        let second_ns = date_ns - date_ns.rem_euclid(SECOND_NS);
        let date_ns = if ran {
            date_ns
        } else {
            second_ns + SECOND_NS / 2
        };
        self.set_date_ns(date_ns, now_ns);
    }

    fn set_register_b(&mut self, control: Control, now_ns: u64) {
        let was_set = self.control.contains(Control::SET);
        let is_set = control.contains(Control::SET);
        let date_ns = self.date_ns(now_ns);
        if was_set != is_set {
            if is_set {
                // The bytes of the date stand still from here on; SET also forbids the update interrupt.
                self.freeze(date_ns);
            } else {
                self.thaw(date_ns, now_ns);
            }
        }
        self.control = control;
        if !control.contains(Control::PERIODIC_INTERRUPT) {
            self.owed = 0;
        }
        if is_set {
            self.control.remove(Control::UPDATE_INTERRUPT);
        }
    }

    /// Keeps the bytes of the date in the memory behind the registers.
    fn freeze(&mut self, date_ns: i64) {
        let bytes = TIME_FIELDS.map(|index| (index, self.encode_date(index, date_ns)));
        for (index, byte) in bytes {
            self.set_memory(index, byte);
        }
    }

    /// Takes the date from those bytes; the fraction of the second runs on.
    fn thaw(&mut self, date_ns: i64, now_ns: u64) {
        let seconds = self.form().decode_date(|index| self.memory_at(index));
        let wanted = self.form().decode(self.memory_at(WEEKDAY));
        let natural = weekday(seconds);
        self.weekday_shift = (wanted + 14).saturating_sub(natural) % 7;
        self.set_date_ns(seconds * SECOND_NS + date_ns.rem_euclid(SECOND_NS), now_ns);
    }

    fn time_field(&self, index: u8, now_ns: u64) -> u8 {
        if self.control.contains(Control::SET) {
            self.memory_at(index)
        } else {
            self.encode_date(index, self.date_ns(now_ns))
        }
    }

    fn encode_date(&self, index: u8, date_ns: i64) -> u8 {
        let seconds = date_ns.div_euclid(SECOND_NS);
        self.form().encode_date(index, seconds, self.weekday_shift)
    }

    fn set_time_field(&mut self, index: u8, value: u8, now_ns: u64) {
        if self.control.contains(Control::SET) {
            self.set_memory(index, value);
            return;
        }
        // A write to a running clock counts, too.
        let date_ns = self.date_ns(now_ns);
        self.freeze(date_ns);
        self.set_memory(index, value);
        self.thaw(date_ns, now_ns);
    }

    const fn form(&self) -> Form {
        Form(self.control)
    }

    fn memory_at(&self, index: u8) -> u8 {
        self.memory.get(usize::from(index)).copied().unwrap_or(0)
    }

    fn set_memory(&mut self, index: u8, value: u8) {
        if let Some(byte) = self.memory.get_mut(usize::from(index)) {
            *byte = value;
        }
    }

    /// Flags with the request bit as register C shows them.
    fn requested(&self) -> Flags {
        let mut flags = self.flags;
        let enabled = Flags::from_bits_truncate(self.control.bits()) - Flags::REQUEST;
        flags.set(Flags::REQUEST, flags.intersects(enabled));
        flags
    }

    /// Sets the flags of the events between the last look and now.
    fn collect(&mut self, now_ns: u64) {
        let date_ns = self.date_ns(now_ns);
        if !self.divider_runs() || date_ns <= self.seen_ns {
            return;
        }
        if let Some(hertz) = self.periodic_hertz()
            && periods(date_ns, hertz) != periods(self.seen_ns, hertz)
        {
            self.flags |= Flags::PERIODIC;
        }
        let before = self.seen_ns.div_euclid(SECOND_NS);
        let after = date_ns.div_euclid(SECOND_NS);
        if self.runs() && before != after {
            self.flags |= Flags::UPDATE;
            let alarm = self.alarm.next(before, self.form());
            if alarm.is_some_and(|alarm| alarm <= after) {
                self.flags |= Flags::ALARM;
            }
        }
        self.seen_ns = date_ns;
    }

    /// The rate of the periodic interrupt (data sheet, "Periodic Interrupt Rate", 32.768 kHz time base).
    const fn periodic_hertz(&self) -> Option<i64> {
        match self.rate_and_divider & RATE {
            0 => None,
            1 => Some(256),
            2 => Some(128),
            rate => Some(32_768 >> (rate - 1)),
        }
    }

    fn update_line(&mut self, fx: &mut Effects) {
        self.line.set(
            Level::asserted_if(self.requested().contains(Flags::REQUEST)),
            fx,
        );
    }
}

/// Whole periods of an event with this rate, up to a date.
const fn periods(date_ns: i64, hertz: i64) -> i64 {
    let second = date_ns.div_euclid(SECOND_NS);
    let fraction = date_ns.rem_euclid(SECOND_NS);
    second * hertz + fraction * hertz / SECOND_NS
}

/// The first nanosecond of a period.
const fn period_start(count: i64, hertz: i64) -> i64 {
    let second = count.div_euclid(hertz);
    let within = count.rem_euclid(hertz) * SECOND_NS;
    second * SECOND_NS + (within + hertz - 1) / hertz
}

#[cfg(test)]
mod tests;
