//! [`Pit`]: the 8254 interval timer with the parts of port 0x61 that belong to it.
//!
//! Its three counters (`counter.rs`) do not count: what one holds is computed from the time at which it was loaded, so a timer
//! that nobody reads costs nothing. Channel 0 drives the timer interrupt, channel 1 (memory refresh) only
//! shows in port 0x61, channel 2 has a gate there and is the clock for calibration loops.
//!
//! Written after Intel's 8254 data sheet.

mod counter;

use self::counter::Counter;
use crate::{Effects, Gsi, Level, OutputLine};

/// The input clock is 1.193182 MHz; both sides of the fraction that makes ticks of nanoseconds, reduced.
const TICKS: u64 = 596_591;
const PER_NS: u64 = 500_000_000;
/// Memory refresh toggles its bit in port 0x61 this often.
const REFRESH_NS: u64 = 15_085;

/// Port 0x61: the gate of channel 2.
const GATE_2: u8 = 1 << 0;
/// Port 0x61: the bits that keep what is written (gate, speaker, parity and channel check enables).
const CONTROL_KEPT: u8 = 0x0f;
const REFRESH: u8 = 1 << 4;
const OUT_2: u8 = 1 << 5;

const fn ticks(now_ns: u64) -> u64 {
    (now_ns / PER_NS) * TICKS + (now_ns % PER_NS) * TICKS / PER_NS
}

/// The first nanosecond at which `ticks` ticks have passed.
const fn tick_ns(ticks: u64) -> u64 {
    let whole = (ticks / TICKS).saturating_mul(PER_NS);
    whole.saturating_add((ticks % TICKS * PER_NS).div_ceil(TICKS))
}

/// The interval timer.
#[derive(Debug)]
pub struct Pit {
    counters: [Counter; 3],
    /// Port 0x61.
    control: u8,
    line: OutputLine,
    /// Up to this tick, the line has followed channel 0.
    seen: u64,
    /// Edges of channel 0 that fell into a time in which nobody looked, and when the next of them is made up for.
    owed: u64,
    owed_at: u64,
}

/// Edges are made up for so many times as fast as they come.
const CATCH_UP: u64 = 4;
/// More than that are not owed.
const OWED_AT_MOST: u64 = 1024;

impl Pit {
    /// A timer that nobody has programmed, whose channel 0 is wired to this line. Its output counts as high
    /// already, so that programming it makes no edge of its own.
    pub const fn new(gsi: Gsi) -> Self {
        let free = Counter::new(Level::Asserted);
        let gated = Counter::new(Level::Deasserted);
        Self {
            counters: [free, free, gated],
            control: 0,
            line: OutputLine::new(gsi, Level::Asserted),
            seen: 0,
            owed: 0,
            owed_at: 0,
        }
    }

    /// Reads port 0x40 plus `offset`; the control port (3) cannot be read.
    pub fn read(&mut self, offset: u16, now_ns: u64) -> u8 {
        let now = ticks(now_ns);
        match self.counters.get_mut(usize::from(offset & 3)) {
            Some(counter) => {
                counter.advance(now);
                counter.read(now)
            }
            None => 0xff,
        }
    }

    /// Writes port 0x40 plus `offset`.
    pub fn write(&mut self, offset: u16, value: u8, now_ns: u64, fx: &mut Effects) {
        // Two CPUs that look at the clock one after the other may come here in the other order.
        let now = ticks(now_ns).max(self.seen);
        self.follow(now, fx);
        match self.counters.get_mut(usize::from(offset & 3)) {
            Some(counter) => {
                counter.advance(now);
                counter.write(value, now);
            }
            None => self.command(value, now),
        }
        if offset & 3 == 0 || offset & 3 == 3 && value >> 6 == 0 && value & 0x30 != 0 {
            // The guest begins a new count: nobody waits for the old one's edges any more.
            self.owed = 0;
        }
        self.drive(now, fx);
    }

    /// Reads port 0x61.
    pub fn read_control(&self, now_ns: u64) -> u8 {
        let [_, _, counter] = &self.counters;
        let mut value = self.control;
        if (now_ns / REFRESH_NS) & 1 != 0 {
            value |= REFRESH;
        }
        if counter.out(ticks(now_ns)) == Level::Asserted {
            value |= OUT_2;
        }
        value
    }

    /// Writes port 0x61.
    pub fn write_control(&mut self, value: u8, now_ns: u64) {
        self.control = value & CONTROL_KEPT;
        let gate = Level::asserted_if(value & GATE_2 != 0);
        let [_, _, counter] = &mut self.counters;
        counter.set_gate(gate, ticks(now_ns));
    }

    /// When channel 0 raises its line next.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let [counter, _, _] = &self.counters;
        let owed_at = (self.owed > 0).then_some(self.owed_at);
        let next = [counter.next_rise(self.seen), owed_at];
        next.into_iter().flatten().min().map(tick_ns)
    }

    /// Lets the line follow channel 0. It is called at every edge while the guest has a processor. Several edges at
    /// once fell into a time when it had none: on hardware it would have taken them one by one, so all but the first
    /// are made up for, a little faster than they come. A guest that keeps interrupts off loses edges as ever.
    pub fn expire(&mut self, now_ns: u64, fx: &mut Effects) {
        let now = ticks(now_ns).max(self.seen);
        self.follow(now, fx);
        self.drive(now, fx);
    }

    fn follow(&mut self, now: u64, fx: &mut Effects) {
        let [counter, _, _] = &mut self.counters;
        if now <= self.seen {
            return;
        }
        let rise = counter.next_rise(self.seen).filter(|rise| *rise <= now);
        self.seen = now;
        counter.advance(now);
        if let Some(rise) = rise {
            self.line.rise(fx);
            if counter.is_periodic() {
                let missed = (now - rise) / counter.count();
                self.owed = (self.owed + missed).min(OWED_AT_MOST);
                self.owed_at = now + (counter.count() / CATCH_UP).max(1);
            }
        } else if self.owed > 0 && self.owed_at <= now {
            self.line.rise(fx);
            self.owed -= 1;
            self.owed_at = now + (counter.count() / CATCH_UP).max(1);
        }
    }

    fn drive(&mut self, now: u64, fx: &mut Effects) {
        let [counter, _, _] = &self.counters;
        self.line.set(counter.out(now), fx);
    }

    /// The control port: a control word, a counter latch or a read-back.
    fn command(&mut self, word: u8, now: u64) {
        let read_back = word >> 6 == 3;
        for (index, counter) in self.counters.iter_mut().enumerate() {
            counter.advance(now);
            if read_back {
                if word >> (index + 1) & 1 != 0 {
                    if word & 0x20 == 0 {
                        counter.latch_count(now);
                    }
                    if word & 0x10 == 0 {
                        counter.latch_status(now);
                    }
                }
            } else if usize::from(word >> 6) == index {
                if word & 0x30 == 0 {
                    counter.latch_count(now);
                } else {
                    counter.control(word);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
