//! [`Uart`]: a 16550A serial port, complete but for the wire.
//!
//! What the guest sends leaves at once, and the transmitter is empty whenever the guest looks; unless the wire is
//! [busy](Uart::tend_wire) with what it has sent before. Then the transmitter is full until the wire is free again, though
//! never for longer than a driver waits that polls. Nothing is lost: a full one [takes](Uart::takes_character) what its FIFO
//! holds, for drivers that have given up waiting send all the same, and the guest is kept from sending more. What it
//! receives comes from [`Uart::receive`] into a bounded backlog and from there into the 16-byte FIFO as the guest makes
//! room, so a slow guest loses nothing; overruns happen in loopback only.
//!
//! Register names follow the data sheet of National Semiconductor's PC16550D.

mod fifo;
mod registers;
#[cfg(test)]
mod slow_wire;
mod transmitter;

use alloc::collections::VecDeque;

use self::fifo::{Character, Fifo};
use self::registers::{
    FIFOS_ENABLED, FifoMode, InterruptEnable, LineControl, LineStatus, ModemControl, ModemStatus,
    NO_INTERRUPT, Source,
};
pub use self::transmitter::WireHold;
use self::transmitter::{Driver, Transmitter};
use crate::{Effects, Gsi, Level, OutputLine};

/// A 16550A serial port.
#[derive(Debug)]
pub struct Uart {
    enable: InterruptEnable,
    line_control: LineControl,
    modem_control: ModemControl,
    /// The delta bits; the lines themselves follow from the mode.
    modem_deltas: ModemStatus,
    scratch: u8,
    divisor: u16,
    fifo_mode: FifoMode,
    fifo: Fifo,
    overrun: bool,
    /// The transmitter became empty and nobody has looked since.
    empty_pending: bool,
    transmitter: Transmitter,
    timeout_pending: bool,
    /// When characters in the FIFO have waited for too long.
    timeout_at_ns: Option<u64>,
    backlog: VecDeque<u8>,
    line: OutputLine,
}

impl Uart {
    /// Bytes that [`receive`](Self::receive) takes before it makes the sender wait.
    pub const BACKLOG_BYTES: usize = 4096;
    /// The offset of LSR.
    pub const LINE_STATUS: u16 = 5;

    /// A serial port after power-on, whose interrupt is this line.
    pub fn new(gsi: Gsi) -> Self {
        Self {
            enable: InterruptEnable::empty(),
            line_control: LineControl::empty(),
            modem_control: ModemControl::empty(),
            modem_deltas: ModemStatus::empty(),
            scratch: 0,
            divisor: 12,
            fifo_mode: FifoMode::Off,
            fifo: Fifo::new(),
            overrun: false,
            empty_pending: false,
            transmitter: Transmitter::new(),
            timeout_pending: false,
            timeout_at_ns: None,
            backlog: VecDeque::new(),
            line: OutputLine::new(gsi, Level::Deasserted),
        }
    }

    /// Reads a register, `offset` 0 to 7.
    pub fn read(&mut self, offset: u16, now_ns: u64, fx: &mut Effects) -> u8 {
        self.expire_wire(now_ns, fx);
        match offset & 7 {
            0 if self.divisor_latch() => self.divisor as u8,
            0 => self.read_data(now_ns, fx),
            1 if self.divisor_latch() => (self.divisor >> 8) as u8,
            1 => self.enable.bits(),
            2 => self.read_identification(fx),
            3 => self.line_control.bits(),
            4 => self.modem_control.bits(),
            Self::LINE_STATUS => self.read_line_status(fx),
            6 => self.read_modem_status(fx),
            _ => self.scratch,
        }
    }

    /// The line status while nothing has come in and nothing is due, so that reading it changes nothing. What time it is
    /// matters only where the transmitter is full.
    #[inline]
    pub fn quiet_line_status(&self, now_ns: impl FnOnce() -> u64) -> Option<u8> {
        if self.fifo.len() != 0 || self.overrun {
            None
        } else if self.transmitter.is_full() {
            (!self.transmitter.is_due(now_ns())).then_some(0)
        } else {
            Some(LineStatus::IDLE.bits())
        }
    }

    /// Whether the transmitter takes one more character. Who writes one when it does not is to be kept waiting: it would
    /// be taken all the same, and so would any number of them.
    #[inline]
    pub const fn takes_character(&self) -> bool {
        self.transmitter.count() < self.fifo_mode.depth()
            || self.divisor_latch()
            || self.modem_control.contains(ModemControl::LOOPBACK)
    }

    /// Writes a register, `offset` 0 to 7.
    pub fn write(&mut self, offset: u16, value: u8, now_ns: u64, fx: &mut Effects) {
        match offset & 7 {
            0 if self.divisor_latch() => self.divisor = (self.divisor & 0xff00) | u16::from(value),
            0 => self.send(value, now_ns, fx),
            1 if self.divisor_latch() => {
                self.divisor = (self.divisor & 0xff) | (u16::from(value) << 8);
            }
            1 => self.write_enable(InterruptEnable::from_bits_truncate(value), fx),
            2 => self.write_fifo_control(value, now_ns, fx),
            3 => self.write_line_control(LineControl::from_bits_retain(value), now_ns, fx),
            4 => self.write_modem_control(ModemControl::from_bits_truncate(value), now_ns, fx),
            // LSR and MSR: writes are for factory tests, says the data sheet.
            Self::LINE_STATUS | 6 => {}
            _ => self.scratch = value,
        }
    }

    /// Takes input from outside and returns how many bytes were taken. The caller keeps the rest and offers
    /// it again later: [`room`](Self::room) says when that makes sense.
    pub fn receive(&mut self, bytes: &[u8], now_ns: u64, fx: &mut Effects) -> usize {
        let taken = bytes.len().min(self.room());
        self.backlog.extend(bytes.iter().take(taken));
        self.fill(now_ns);
        self.update_line(fx);
        taken
    }

    /// How many bytes [`receive`](Self::receive) would take now.
    pub fn room(&self) -> usize {
        Self::BACKLOG_BYTES.saturating_sub(self.backlog.len())
    }

    /// Whether the guest waits for the wire, and it is time to look at that.
    #[inline]
    pub const fn wire_is_due(&self, now_ns: u64) -> bool {
        self.transmitter.is_due(now_ns)
    }

    /// Whether what the guest sends now has to wait for the wire.
    #[inline]
    pub const fn wire_is_busy(&self, now_ns: u64) -> bool {
        self.transmitter.is_busy(now_ns)
    }

    /// The wire was looked at, and is not to be had for so long; until the next look, which is [due](Self::wire_is_due)
    /// when the guest has sent something meanwhile.
    pub fn tend_wire(&mut self, hold: WireHold, now_ns: u64, fx: &mut Effects) {
        let driver = if self.enable.contains(InterruptEnable::TRANSMITTER_EMPTY) {
            Driver::WaitsForInterrupt
        } else {
            Driver::Polls
        };
        self.transmitter.hold(hold, driver, now_ns);
        self.expire_wire(now_ns, fx);
    }

    /// When [`expire`](Self::expire) is next due.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        match (self.receive_timeout_ns(), self.transmitter.due_ns()) {
            (Some(timeout), Some(free)) => Some(timeout.min(free)),
            (timeout, free) => timeout.or(free),
        }
    }

    fn receive_timeout_ns(&self) -> Option<u64> {
        self.timeout_at_ns
            .filter(|_| self.enable.contains(InterruptEnable::RECEIVED))
    }

    /// The time has come: characters below the trigger level have waited for four character times, or the wire is
    /// free.
    pub fn expire(&mut self, now_ns: u64, fx: &mut Effects) {
        if self.receive_timeout_ns().is_some_and(|at| at <= now_ns) {
            self.timeout_at_ns = None;
            self.timeout_pending = true;
            self.update_line(fx);
        }
        self.expire_wire(now_ns, fx);
    }

    /// The wire is free again, if it is time.
    #[inline]
    fn expire_wire(&mut self, now_ns: u64, fx: &mut Effects) {
        if self.transmitter.expire(now_ns) {
            self.empty_pending = true;
            self.update_line(fx);
        }
    }

    const fn divisor_latch(&self) -> bool {
        self.line_control.contains(LineControl::DIVISOR_LATCH)
    }

    fn read_data(&mut self, now_ns: u64, fx: &mut Effects) -> u8 {
        let byte = match self.fifo.pop() {
            Some(character) => character.byte,
            None => 0,
        };
        self.timeout_pending = false;
        if !self.backlog.is_empty() {
            self.fill(now_ns);
        }
        self.restart_timeout(now_ns);
        self.update_line(fx);
        byte
    }

    fn read_identification(&mut self, fx: &mut Effects) -> u8 {
        let fifos = match self.fifo_mode {
            FifoMode::Off => 0,
            FifoMode::On { .. } => FIFOS_ENABLED,
        };
        let Some(source) = self.source() else {
            return fifos | NO_INTERRUPT;
        };
        if source == Source::TransmitterEmpty {
            self.empty_pending = false;
            self.update_line(fx);
        }
        fifos | source.identification()
    }

    fn read_line_status(&mut self, fx: &mut Effects) -> u8 {
        let status = self.line_status();
        if status.intersects(LineStatus::ERRORS) {
            self.overrun = false;
            if let Some(front) = self.fifo.front_mut() {
                front.errors = LineStatus::empty();
            }
            self.update_line(fx);
        }
        status.bits()
    }

    fn read_modem_status(&mut self, fx: &mut Effects) -> u8 {
        let status = self.modem_lines() | self.modem_deltas;
        self.modem_deltas = ModemStatus::empty();
        self.update_line(fx);
        status.bits()
    }

    fn line_status(&self) -> LineStatus {
        let mut status = LineStatus::IDLE;
        if self.transmitter.is_full() {
            status = LineStatus::empty();
        }
        if let Some(front) = self.fifo.front() {
            status |= LineStatus::DATA_READY | front.errors;
            if self.fifo_mode != FifoMode::Off && self.fifo.has_errors() {
                status |= LineStatus::ERROR_IN_FIFO;
            }
        }
        status.set(LineStatus::OVERRUN, self.overrun);
        status
    }

    fn modem_lines(&self) -> ModemStatus {
        ModemStatus::lines(self.modem_control)
    }

    /// A character leaves: outside, or in loopback back in. Unless the wire is busy it is gone at once, so the holding
    /// register is empty again and says so.
    fn send(&mut self, byte: u8, now_ns: u64, fx: &mut Effects) {
        if self.modem_control.contains(ModemControl::LOOPBACK) {
            self.loop_back(
                Character {
                    byte,
                    errors: LineStatus::empty(),
                },
                now_ns,
            );
            self.empty_pending = true;
        } else {
            self.put_on_wire(byte, fx);
            self.expire_wire(now_ns, fx);
            self.empty_pending = self.transmitter.send(now_ns);
        }
        self.update_line(fx);
    }

    fn put_on_wire(&self, byte: u8, fx: &mut Effects) {
        if !self.line_control.contains(LineControl::BREAK) {
            // One access sends at most a few bytes, which the caller takes out before the next one.
            let _ = fx.output.try_push(byte);
        }
    }

    fn loop_back(&mut self, character: Character, now_ns: u64) {
        if self.fifo.len() >= self.fifo_mode.depth() {
            self.overrun = true;
            if self.fifo_mode == FifoMode::Off {
                // Without FIFOs the new character replaces the unread one; with them it is dropped.
                self.fifo.clear();
                self.fifo.push(character);
            }
            return;
        }
        self.fifo.push(character);
        self.restart_timeout(now_ns);
    }

    fn write_enable(&mut self, enable: InterruptEnable, fx: &mut Effects) {
        let turned_on = enable & !self.enable;
        self.enable = enable;
        if turned_on.contains(InterruptEnable::TRANSMITTER_EMPTY) {
            self.empty_pending = !self.transmitter.is_full();
        } else if !enable.contains(InterruptEnable::TRANSMITTER_EMPTY) {
            self.empty_pending = false;
        }
        self.update_line(fx);
    }

    fn write_fifo_control(&mut self, value: u8, now_ns: u64, fx: &mut Effects) {
        let mode = FifoMode::from_control(value);
        let was_on = self.fifo_mode != FifoMode::Off;
        let is_on = mode != FifoMode::Off;
        self.fifo_mode = mode;
        // A change of mode clears the FIFOs, and so does bit 1 where they stay on.
        if was_on != is_on || (is_on && value & 2 != 0) {
            self.fifo.clear();
            self.timeout_pending = false;
        }
        self.fill(now_ns);
        self.restart_timeout(now_ns);
        self.update_line(fx);
    }

    fn write_line_control(&mut self, control: LineControl, now_ns: u64, fx: &mut Effects) {
        let begins = control & !self.line_control;
        self.line_control = control;
        if begins.contains(LineControl::BREAK)
            && self.modem_control.contains(ModemControl::LOOPBACK)
        {
            let errors = LineStatus::BREAK | LineStatus::FRAMING;
            self.loop_back(Character { byte: 0, errors }, now_ns);
            self.update_line(fx);
        }
    }

    fn write_modem_control(&mut self, control: ModemControl, now_ns: u64, fx: &mut Effects) {
        let before = self.modem_lines();
        self.modem_control = control;
        let after = self.modem_lines();
        let changed = before ^ after;
        // Each delta bit lies four below its line; that of RI counts falling edges only.
        let deltas = ModemStatus::from_bits_truncate(changed.bits() >> 4);
        self.modem_deltas |= deltas - ModemStatus::TRAILING_RI;
        if before.contains(ModemStatus::RI) && !after.contains(ModemStatus::RI) {
            self.modem_deltas |= ModemStatus::TRAILING_RI;
        }
        self.fill(now_ns);
        self.update_line(fx);
    }

    /// Moves bytes from the backlog into the FIFO while there is room. In loopback the wire is cut off.
    fn fill(&mut self, now_ns: u64) {
        if self.modem_control.contains(ModemControl::LOOPBACK) || self.backlog.is_empty() {
            return;
        }
        let depth = self.fifo_mode.depth();
        let before = self.fifo.len();
        while self.fifo.len() < depth {
            let Some(byte) = self.backlog.pop_front() else {
                break;
            };
            self.fifo.push(Character {
                byte,
                errors: LineStatus::empty(),
            });
        }
        if self.fifo.len() != before {
            self.restart_timeout(now_ns);
        }
    }

    /// Starts the four character times after which characters below the trigger level interrupt anyway.
    fn restart_timeout(&mut self, now_ns: u64) {
        self.timeout_at_ns = match self.fifo_mode {
            FifoMode::On { trigger } if self.fifo.len() > 0 && self.fifo.len() < trigger => {
                let character_ns = self.line_control.character_ns(self.divisor);
                Some(now_ns.saturating_add(4 * character_ns))
            }
            _ => None,
        };
    }

    fn source(&self) -> Option<Source> {
        let enable = self.enable;
        if enable.contains(InterruptEnable::LINE_STATUS)
            && self.line_status().intersects(LineStatus::ERRORS)
        {
            Some(Source::LineStatus)
        } else if enable.contains(InterruptEnable::RECEIVED)
            && self.fifo.len() >= self.fifo_mode.trigger()
        {
            Some(Source::ReceivedData)
        } else if enable.contains(InterruptEnable::RECEIVED) && self.timeout_pending {
            Some(Source::CharacterTimeout)
        } else if enable.contains(InterruptEnable::TRANSMITTER_EMPTY) && self.empty_pending {
            Some(Source::TransmitterEmpty)
        } else if enable.contains(InterruptEnable::MODEM_STATUS)
            && self.modem_deltas.intersects(ModemStatus::DELTAS)
        {
            Some(Source::ModemStatus)
        } else {
            None
        }
    }

    /// Brings the line up to date. On a PC, OUT2 connects the chip's interrupt output to the line.
    fn update_line(&mut self, fx: &mut Effects) {
        let connected = self.modem_control.contains(ModemControl::OUT2);
        self.line.set(
            Level::asserted_if(connected && !self.enable.is_empty() && self.source().is_some()),
            fx,
        );
    }
}

#[cfg(test)]
mod tests;
