//! [`Counter`]: one of the three counters of an 8254, in ticks of its clock.
//!
//! It does not count: what it holds follows from the tick at which it took its count. One liberty: in modes 2 and 3 a new
//! count starts with the next full period, where the chip takes it at the next half period of mode 3.

use crate::Level;

/// The six modes of a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Mode {
    TerminalCount = 0,
    OneShot = 1,
    RateGenerator = 2,
    SquareWave = 3,
    SoftwareStrobe = 4,
    HardwareStrobe = 5,
}

impl Mode {
    const fn from_control(word: u8) -> Self {
        match word >> 1 & 7 {
            0 => Self::TerminalCount,
            1 => Self::OneShot,
            2 | 6 => Self::RateGenerator,
            3 | 7 => Self::SquareWave,
            4 => Self::SoftwareStrobe,
            _ => Self::HardwareStrobe,
        }
    }

    const fn is_periodic(self) -> bool {
        matches!(self, Self::RateGenerator | Self::SquareWave)
    }

    /// Started by a rising edge of the gate rather than by writing a count.
    const fn is_triggered(self) -> bool {
        matches!(self, Self::OneShot | Self::HardwareStrobe)
    }
}

/// Which bytes of a count are read and written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Access {
    Low = 1,
    High = 2,
    LowThenHigh = 3,
}

/// Which byte comes next where both do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Half {
    Low,
    High,
}

impl Half {
    const fn other(self) -> Self {
        match self {
            Self::Low => Self::High,
            Self::High => Self::Low,
        }
    }
}

/// How a counter counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Radix {
    Binary,
    Decimal,
}

impl Radix {
    /// A count of 0 stands for this, and a counter that ran out goes on from here.
    const fn modulus(self) -> u64 {
        match self {
            Self::Binary => 0x1_0000,
            Self::Decimal => 10_000,
        }
    }

    fn decode(self, count: u16) -> u64 {
        let value = match self {
            Self::Binary => count as u64,
            Self::Decimal => {
                let digit = |shift: u32| (count >> shift & 0xf) as u64;
                digit(12) * 1000 + digit(8) * 100 + digit(4) * 10 + digit(0)
            }
        };
        if value == 0 { self.modulus() } else { value }
    }

    fn encode(self, value: u64) -> u16 {
        let value = value % self.modulus();
        match self {
            Self::Binary => value as u16,
            Self::Decimal => {
                let digit = |of: u64| value / of % 10;
                let digits = (digit(1000) << 12) | (digit(100) << 8) | (digit(10) << 4) | digit(1);
                digits as u16
            }
        }
    }
}

/// Where a counter stands, in ticks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Run {
    /// No count was written, or no trigger came, since the mode was set.
    Idle,
    /// Counting since this tick.
    Since(u64),
    /// Stopped by its gate after this many ticks.
    Held(u64),
}

/// One counter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counter {
    mode: Mode,
    access: Access,
    radix: Radix,
    /// The count of the running period.
    count: u64,
    /// A count that waits for the end of the running period (modes 2 and 3) or for a trigger (modes 1 and 5).
    next_count: Option<u64>,
    /// The tick at which the running period ends, where a count waits for that.
    next_at: u64,
    run: Run,
    gate: Level,
    write_half: Half,
    read_half: Half,
    low_written: u8,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Counter {
    pub(super) const fn new(gate: Level) -> Self {
        Self {
            mode: Mode::SquareWave,
            access: Access::LowThenHigh,
            radix: Radix::Binary,
            count: 0x1_0000,
            next_count: None,
            next_at: 0,
            run: Run::Idle,
            gate,
            write_half: Half::Low,
            read_half: Half::Low,
            low_written: 0,
            latched_count: None,
            latched_status: None,
        }
    }

    /// Whether it starts anew when it has run out.
    pub(super) const fn is_periodic(&self) -> bool {
        self.mode.is_periodic()
    }

    /// The count of the running period.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// Takes over a count that waited for the end of a period.
    pub(super) fn advance(&mut self, now: u64) {
        if self.mode.is_periodic()
            && now >= self.next_at
            && let Some(next) = self.next_count.take()
        {
            self.count = next;
            self.run = Run::Since(self.next_at);
        }
    }

    pub(super) fn control(&mut self, word: u8) {
        let access = match word >> 4 & 3 {
            1 => Access::Low,
            2 => Access::High,
            _ => Access::LowThenHigh,
        };
        *self = Self {
            mode: Mode::from_control(word),
            access,
            radix: if word & 1 != 0 {
                Radix::Decimal
            } else {
                Radix::Binary
            },
            count: self.count,
            ..Self::new(self.gate)
        };
    }

    pub(super) fn latch_count(&mut self, now: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.value(now));
        }
    }

    pub(super) fn latch_status(&mut self, now: u64) {
        if self.latched_status.is_some() {
            return;
        }
        let loaded = self.run != Run::Idle && self.next_count.is_none();
        let out = u8::from(self.out(now) == Level::Asserted) << 7;
        let null = u8::from(!loaded) << 6;
        let access = (self.access as u8) << 4;
        let radix = u8::from(self.radix == Radix::Decimal);
        self.latched_status = Some(out | null | access | (self.mode as u8) << 1 | radix);
    }

    pub(super) fn write(&mut self, value: u8, now: u64) {
        let count = match (self.access, self.write_half) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::LowThenHigh, Half::Low) => {
                self.low_written = value;
                self.write_half = Half::High;
                if self.mode == Mode::TerminalCount {
                    // The first byte stops the counter; OUT is low until the second one has counted down.
                    self.run = Run::Idle;
                }
                return;
            }
            (Access::LowThenHigh, Half::High) => {
                self.write_half = Half::Low;
                u16::from_le_bytes([self.low_written, value])
            }
        };
        let count = self.radix.decode(count);
        if self.mode.is_triggered() {
            self.next_count = Some(count);
            return;
        }
        match self.run {
            Run::Since(start) if self.mode.is_periodic() && now >= start => {
                self.next_at = start + ((now - start) / self.count + 1) * self.count;
                self.next_count = Some(count);
            }
            _ => {
                self.count = count;
                self.next_count = None;
                // The counter takes the count with the next tick of its clock.
                self.run = match self.gate {
                    Level::Asserted => Run::Since(now + 1),
                    Level::Deasserted => Run::Held(0),
                };
            }
        }
    }

    pub(super) fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self
            .latched_count
            .unwrap_or_else(|| self.value(now))
            .to_le_bytes();
        let (byte, done) = match (self.access, self.read_half) {
            (Access::Low, _) => (low, true),
            (Access::High, _) => (high, true),
            (Access::LowThenHigh, half) => {
                self.read_half = half.other();
                (
                    if half == Half::Low { low } else { high },
                    half == Half::High,
                )
            }
        };
        if done {
            self.latched_count = None;
        }
        byte
    }

    pub(super) fn set_gate(&mut self, gate: Level, now: u64) {
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        let elapsed = self.elapsed(now);
        match (gate, self.mode) {
            (Level::Deasserted, Mode::TerminalCount | Mode::SoftwareStrobe) => {
                if let Some(elapsed) = elapsed {
                    self.run = Run::Held(elapsed);
                }
            }
            (Level::Asserted, Mode::TerminalCount | Mode::SoftwareStrobe) => {
                if let Run::Held(elapsed) = self.run {
                    self.run = Run::Since((now + 1).saturating_sub(elapsed));
                }
            }
            (Level::Deasserted, Mode::RateGenerator | Mode::SquareWave) => {
                if self.run != Run::Idle {
                    self.run = Run::Held(0);
                }
            }
            (Level::Asserted, Mode::RateGenerator | Mode::SquareWave) => {
                if self.run != Run::Idle {
                    self.count = self.next_count.take().unwrap_or(self.count);
                    self.run = Run::Since(now + 1);
                }
            }
            (Level::Deasserted, Mode::OneShot | Mode::HardwareStrobe) => {}
            (Level::Asserted, Mode::OneShot | Mode::HardwareStrobe) => {
                if self.next_count.is_some() || self.run != Run::Idle {
                    self.count = self.next_count.take().unwrap_or(self.count);
                    self.run = Run::Since(now + 1);
                }
            }
        }
    }

    /// Ticks since the count was taken; `None` before that.
    const fn elapsed(&self, now: u64) -> Option<u64> {
        match self.run {
            Run::Idle => None,
            Run::Since(start) => now.checked_sub(start),
            Run::Held(elapsed) => Some(elapsed),
        }
    }

    /// The count as it reads now.
    fn value(&self, now: u64) -> u16 {
        let count = self.count;
        let Some(elapsed) = self.elapsed(now) else {
            return self.radix.encode(count);
        };
        let modulus = self.radix.modulus();
        let value = match self.mode {
            Mode::TerminalCount | Mode::OneShot | Mode::SoftwareStrobe | Mode::HardwareStrobe => {
                (count + modulus - elapsed % modulus) % modulus
            }
            Mode::RateGenerator => count - elapsed % count,
            // Counts down by two, twice in a period: an odd count is one longer in the high half.
            Mode::SquareWave => {
                let phase = elapsed % count;
                let high = count.div_ceil(2);
                let within = if phase < high { phase } else { phase - high };
                (count & !1).saturating_sub(2 * within)
            }
        };
        self.radix.encode(value)
    }

    /// The output pin.
    pub(super) fn out(&self, now: u64) -> Level {
        let count = self.count;
        let high = match (self.mode, self.elapsed(now)) {
            (Mode::TerminalCount, None) => false,
            (_, None) => true,
            (Mode::TerminalCount | Mode::OneShot, Some(elapsed)) => elapsed >= count,
            (Mode::RateGenerator | Mode::SquareWave, Some(_)) if self.gate == Level::Deasserted => {
                true
            }
            (Mode::RateGenerator, Some(elapsed)) => elapsed % count != count - 1,
            (Mode::SquareWave, Some(elapsed)) => elapsed % count < count.div_ceil(2),
            (Mode::SoftwareStrobe | Mode::HardwareStrobe, Some(elapsed)) => elapsed != count,
        };
        Level::asserted_if(high)
    }

    /// The first tick after `now` at which the output rises.
    pub(super) fn next_rise(&self, now: u64) -> Option<u64> {
        let Run::Since(start) = self.run else {
            return None;
        };
        let count = self.count;
        match self.mode {
            Mode::TerminalCount | Mode::OneShot => Some(start + count),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => Some(start + count + 1),
            Mode::RateGenerator | Mode::SquareWave if self.next_count.is_some() => {
                Some(self.next_at)
            }
            Mode::RateGenerator | Mode::SquareWave => {
                let periods = now.checked_sub(start).map_or(0, |elapsed| elapsed / count);
                Some(start + (periods + 1) * count)
            }
        }
        .filter(|&rise| rise > now)
    }
}
