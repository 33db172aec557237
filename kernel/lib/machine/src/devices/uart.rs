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
#[cfg(test)]
mod slow_wire;
mod transmitter;

use alloc::collections::VecDeque;
use bitflags::bitflags;

use self::fifo::{Character, FIFO_BYTES, Fifo};
pub use self::transmitter::WireHold;
use self::transmitter::{Driver, Transmitter};
use crate::{Effects, Gsi, Level, OutputLine};

bitflags! {
    /// IER.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct InterruptEnable: u8 {
        const RECEIVED = 1 << 0;
        const TRANSMITTER_EMPTY = 1 << 1;
        const LINE_STATUS = 1 << 2;
        const MODEM_STATUS = 1 << 3;
    }

    /// LCR.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct LineControl: u8 {
        const WORD_LENGTH = 3;
        const TWO_STOP_BITS = 1 << 2;
        const PARITY = 1 << 3;
        const BREAK = 1 << 6;
        const DIVISOR_LATCH = 1 << 7;
        const _ = !0;
    }

    /// MCR.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct ModemControl: u8 {
        const DTR = 1 << 0;
        const RTS = 1 << 1;
        const OUT1 = 1 << 2;
        const OUT2 = 1 << 3;
        const LOOPBACK = 1 << 4;
    }

    /// LSR.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct LineStatus: u8 {
        const DATA_READY = 1 << 0;
        const OVERRUN = 1 << 1;
        const FRAMING = 1 << 3;
        const BREAK = 1 << 4;
        const HOLDING_EMPTY = 1 << 5;
        const TRANSMITTER_EMPTY = 1 << 6;
        const ERROR_IN_FIFO = 1 << 7;
        /// The transmitter has room.
        const IDLE = 0x60;
        /// What a read of LSR clears, and what makes a line-status interrupt.
        const ERRORS = 0x1e;
    }

    /// MSR.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct ModemStatus: u8 {
        const DELTA_CTS = 1 << 0;
        const DELTA_DSR = 1 << 1;
        const TRAILING_RI = 1 << 2;
        const DELTA_DCD = 1 << 3;
        const CTS = 1 << 4;
        const DSR = 1 << 5;
        const RI = 1 << 6;
        const DCD = 1 << 7;
        const DELTAS = 0xf;
        const LINES = 0xf0;
    }
}

/// What IIR says, highest priority first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    LineStatus,
    ReceivedData,
    CharacterTimeout,
    TransmitterEmpty,
    ModemStatus,
}

impl Source {
    const fn identification(self) -> u8 {
        match self {
            Self::LineStatus => 0x06,
            Self::ReceivedData => 0x04,
            Self::CharacterTimeout => 0x0c,
            Self::TransmitterEmpty => 0x02,
            Self::ModemStatus => 0x00,
        }
    }
}

/// IIR with nothing pending.
const NO_INTERRUPT: u8 = 0x01;
/// The two bits of IIR that say that the FIFOs work.
const FIFOS_ENABLED: u8 = 0xc0;
/// The clock that the divisor divides: a 1.8432 MHz crystal by 16.
const BAUD_BASE: u64 = 115_200;

/// Whether the FIFOs work (FCR bit 0), and how full the receiver's must be to interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum FifoMode {
    /// A 16450: one byte each way.
    Off,
    /// Interrupt at this many bytes.
    On { trigger: usize },
}

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
        self.transmitter.count() < self.depth()
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

    /// The four lines from the modem: the console is always there, and in loopback the four outputs come back.
    fn modem_lines(&self) -> ModemStatus {
        if !self.modem_control.contains(ModemControl::LOOPBACK) {
            return ModemStatus::CTS | ModemStatus::DSR | ModemStatus::DCD;
        }
        let mut lines = ModemStatus::empty();
        lines.set(
            ModemStatus::CTS,
            self.modem_control.contains(ModemControl::RTS),
        );
        lines.set(
            ModemStatus::DSR,
            self.modem_control.contains(ModemControl::DTR),
        );
        lines.set(
            ModemStatus::RI,
            self.modem_control.contains(ModemControl::OUT1),
        );
        lines.set(
            ModemStatus::DCD,
            self.modem_control.contains(ModemControl::OUT2),
        );
        lines
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
        if self.fifo.len() >= self.depth() {
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
        let mode = if value & 1 == 0 {
            FifoMode::Off
        } else {
            let trigger = match value >> 6 {
                0 => 1,
                1 => 4,
                2 => 8,
                _ => 14,
            };
            FifoMode::On { trigger }
        };
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

    const fn depth(&self) -> usize {
        match self.fifo_mode {
            FifoMode::Off => 1,
            FifoMode::On { .. } => FIFO_BYTES,
        }
    }

    /// Moves bytes from the backlog into the FIFO while there is room. In loopback the wire is cut off.
    fn fill(&mut self, now_ns: u64) {
        if self.modem_control.contains(ModemControl::LOOPBACK) || self.backlog.is_empty() {
            return;
        }
        let depth = self.depth();
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
                Some(now_ns.saturating_add(4 * self.character_ns()))
            }
            _ => None,
        };
    }

    /// Nanoseconds of one character at the current rate and format.
    fn character_ns(&self) -> u64 {
        let control = self.line_control;
        let data = 5 + u64::from((control & LineControl::WORD_LENGTH).bits());
        let bits = 1
            + data
            + u64::from(control.contains(LineControl::PARITY))
            + 1
            + u64::from(control.contains(LineControl::TWO_STOP_BITS));
        bits * u64::from(self.divisor.max(1)) * 1_000_000_000 / BAUD_BASE
    }

    fn source(&self) -> Option<Source> {
        let enable = self.enable;
        let trigger = match self.fifo_mode {
            FifoMode::Off => 1,
            FifoMode::On { trigger } => trigger,
        };
        if enable.contains(InterruptEnable::LINE_STATUS)
            && self.line_status().intersects(LineStatus::ERRORS)
        {
            Some(Source::LineStatus)
        } else if enable.contains(InterruptEnable::RECEIVED) && self.fifo.len() >= trigger {
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
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const DATA: u16 = 0;
    const IER: u16 = 1;
    const IIR: u16 = 2;
    const FCR: u16 = 2;
    const LCR: u16 = 3;
    const MCR: u16 = 4;
    const LSR: u16 = 5;
    const MSR: u16 = 6;
    const SCR: u16 = 7;

    struct Bench {
        uart: Uart,
        fx: Effects,
        now_ns: u64,
        high: bool,
        output: Vec<u8>,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                uart: Uart::new(Gsi(4)),
                fx: Effects::new(),
                now_ns: 0,
                high: false,
                output: Vec::new(),
            }
        }

        fn settle(&mut self) {
            let lines = self.fx.take_lines();
            if lines.lowered & 0x10 != 0 {
                self.high = false;
            }
            if lines.raised & 0x10 != 0 {
                self.high = lines.lowered_after & 0x10 == 0;
            }
            self.output.extend(self.fx.output.drain(..));
        }

        fn read(&mut self, offset: u16) -> u8 {
            let quiet = self.uart.quiet_line_status(|| self.now_ns);
            let value = self.uart.read(offset, self.now_ns, &mut self.fx);
            if offset == LSR {
                assert_eq!(quiet.unwrap_or(value), value);
            }
            self.settle();
            value
        }

        fn write(&mut self, offset: u16, value: u8) {
            self.uart.write(offset, value, self.now_ns, &mut self.fx);
            self.settle();
        }

        fn receive(&mut self, bytes: &[u8]) -> usize {
            let taken = self.uart.receive(bytes, self.now_ns, &mut self.fx);
            self.settle();
            taken
        }

        fn tend_wire(&mut self, hold: WireHold) {
            self.uart.tend_wire(hold, self.now_ns, &mut self.fx);
            self.settle();
        }

        fn run_to(&mut self, now_ns: u64) {
            self.now_ns = now_ns;
            self.uart.expire(now_ns, &mut self.fx);
            self.settle();
        }

        /// 115200 8N1, OUT2 on.
        fn usual(mut self) -> Self {
            self.write(LCR, 0x83);
            self.write(DATA, 1);
            self.write(IER, 0);
            self.write(LCR, 0x03);
            self.write(MCR, 0x0b);
            self
        }
    }

    #[test]
    fn a_busy_wire_keeps_the_transmitter_full_until_it_is_free() {
        let mut bench = Bench::new();
        bench.write(FCR, 1);
        bench.write(MCR, 0x0b);
        bench.write(IER, 2);
        assert_eq!(bench.read(IIR) & 0xf, 2);
        bench.tend_wire(WireHold::WhileDriversWait);
        bench.write(DATA, b'a');
        assert_eq!((bench.read(LSR), bench.high), (0, false));
        let due_ns = bench.uart.next_deadline_ns().unwrap();
        for _ in 1..16 {
            assert!(bench.uart.takes_character());
            bench.write(DATA, b'b');
        }
        assert!(!bench.uart.takes_character());
        assert_eq!(bench.output.len(), 16);
        bench.run_to(due_ns - 1);
        assert_eq!((bench.read(LSR), bench.high), (0, false));
        bench.run_to(due_ns);
        assert_eq!((bench.read(LSR), bench.high), (0x60, true));
        assert_eq!(bench.read(IIR) & 0xf, 2);
        assert_eq!(bench.uart.next_deadline_ns(), None);
        bench.write(DATA, b'd');
        assert_eq!((bench.read(LSR), bench.output.len()), (0x60, 17));
    }

    #[test]
    fn text_of_a_driver_that_has_given_up_waiting_was_lost() {
        let mut bench = Bench::new();
        bench.write(FCR, 1);
        bench.tend_wire(WireHold::UntilFree);
        let text: Vec<u8> = (0..100).collect();
        for &byte in &text {
            bench.write(DATA, byte);
        }
        assert_eq!((bench.read(LSR), &bench.output), (0, &text));
        // Its owner would have kept it waiting.
        assert!(!bench.uart.takes_character());
        // But not from setting the divisor, or from talking to itself.
        bench.write(LCR, 0x80);
        assert!(bench.uart.takes_character());
        bench.write(LCR, 0);
        bench.write(MCR, 0x10);
        assert!(bench.uart.takes_character());
    }

    /// Waits for an empty transmitter while others have the wire all the time; returns when that is.
    fn wait_beside_others(bench: &mut Bench, hold: WireHold, most_ns: u64) -> u64 {
        while bench.read(LSR) == 0 && bench.now_ns < most_ns {
            bench.now_ns += 10_000;
            if bench.uart.wire_is_due(bench.now_ns) {
                bench.tend_wire(hold);
            }
        }
        bench.now_ns
    }

    #[test]
    fn the_transmitter_was_full_for_longer_than_drivers_wait() {
        let mut bench = Bench::new();
        bench.tend_wire(WireHold::WhileDriversWait);
        bench.write(DATA, b'a');
        let waited_ns = wait_beside_others(&mut bench, WireHold::WhileDriversWait, 100_000_000);
        assert_eq!(waited_ns, 5_000_000);
        // From the next character on it may be full as long again.
        bench.tend_wire(WireHold::WhileDriversWait);
        bench.write(DATA, b'b');
        let waited_ns = wait_beside_others(&mut bench, WireHold::WhileDriversWait, 100_000_000);
        assert_eq!(waited_ns, 10_000_000);
    }

    #[test]
    fn a_driver_that_waits_for_an_interrupt_gets_it_when_the_wire_is_free_and_not_before() {
        let mut bench = Bench::new();
        bench.write(IER, 2);
        bench.tend_wire(WireHold::WhileDriversWait);
        bench.write(DATA, b'a');
        let waited_ns = wait_beside_others(&mut bench, WireHold::WhileDriversWait, 50_000_000);
        assert_eq!((waited_ns, bench.read(LSR)), (50_000_000, 0));
        // It polls after all, as when a kernel has something to say meanwhile, and has waited for long enough.
        bench.write(IER, 0);
        let waited_ns = wait_beside_others(&mut bench, WireHold::WhileDriversWait, 100_000_000);
        assert!((50_000_000..52_000_000).contains(&waited_ns));
    }

    #[test]
    fn where_there_is_no_room_for_more_the_transmitter_is_full_until_there_is() {
        let mut bench = Bench::new();
        bench.tend_wire(WireHold::UntilFree);
        bench.write(DATA, b'a');
        let waited_ns = wait_beside_others(&mut bench, WireHold::UntilFree, 50_000_000);
        assert_eq!((waited_ns, bench.read(LSR)), (50_000_000, 0));
        let waited_ns = wait_beside_others(&mut bench, WireHold::Not, 100_000_000);
        assert!((50_000_000..52_000_000).contains(&waited_ns));
    }

    #[test]
    fn a_wire_that_is_busy_no_more_holds_nobody_up() {
        let mut bench = Bench::new();
        bench.tend_wire(WireHold::UntilFree);
        assert_eq!(
            (bench.read(LSR), bench.uart.next_deadline_ns()),
            (0x60, None)
        );
        bench.now_ns = 2_000_000;
        bench.write(DATA, b'a');
        assert_eq!((bench.read(LSR), &bench.output[..]), (0x60, &b"a"[..]));
    }

    #[test]
    fn the_steps_by_which_drivers_tell_a_16550a_from_its_kin_find_one() {
        let mut bench = Bench::new();
        // IER keeps four bits.
        bench.write(IER, 0);
        assert_eq!(bench.read(IER), 0);
        bench.write(IER, 0xff);
        assert_eq!(bench.read(IER), 0x0f);
        bench.write(IER, 0);
        // Loopback with OUT2 and RTS shows DCD and CTS.
        bench.write(MCR, 0x1a);
        assert_eq!(bench.read(MSR) & 0xf0, 0x90);
        bench.write(MCR, 0);
        // FIFO enable shows as two bits; no EFR, no 64-byte mode.
        bench.write(LCR, 0);
        bench.write(FCR, 0x01);
        assert_eq!(bench.read(IIR) >> 6, 3);
        bench.write(FCR, 0x21);
        assert_eq!(bench.read(IIR) & 0x20, 0);
        bench.write(LCR, 0xe0);
        bench.write(FCR, 0x21);
        assert_eq!(bench.read(IIR) >> 5, 6);
        bench.write(LCR, 0);
        // The scratch register keeps what it is given.
        bench.write(SCR, 0xa5);
        assert_eq!(bench.read(SCR), 0xa5);
        bench.write(FCR, 0);
        assert_eq!(bench.read(IIR), 0x01);
    }

    #[test]
    fn what_is_sent_comes_out_at_once_and_the_transmitter_is_always_empty() {
        let mut bench = Bench::new().usual();
        for &byte in b"hello" {
            assert_eq!(bench.read(LSR) & 0x60, 0x60);
            assert_eq!(bench.uart.quiet_line_status(|| 0), Some(0x60));
            bench.write(DATA, byte);
        }
        assert_eq!(bench.output, b"hello");
        assert!(!bench.high);
    }

    #[test]
    fn the_divisor_hides_behind_dlab() {
        let mut bench = Bench::new();
        bench.write(LCR, 0x80);
        bench.write(DATA, 0x34);
        bench.write(IER, 0x12);
        assert_eq!((bench.read(DATA), bench.read(IER)), (0x34, 0x12));
        bench.write(LCR, 0x03);
        assert_eq!(bench.read(IER), 0);
        assert!(bench.output.is_empty());
    }

    #[test]
    fn enabling_the_transmitter_interrupt_fires_it_and_reading_iir_clears_it() {
        let mut bench = Bench::new().usual();
        bench.write(IER, 0x02);
        assert!(bench.high);
        assert_eq!(bench.read(IIR), 0x02);
        assert!(!bench.high);
        assert_eq!(bench.read(IIR), 0x01);
        bench.write(DATA, b'x');
        assert!(
            bench.high,
            "each character sent empties the transmitter anew"
        );
        bench.write(IER, 0);
        assert!(!bench.high);
        bench.write(IER, 0x02);
        assert_eq!(
            bench.read(IIR),
            0x02,
            "as the kernel's test for broken chips expects"
        );
    }

    #[test]
    fn without_out2_no_interrupt_leaves_the_chip() {
        let mut bench = Bench::new().usual();
        bench.write(MCR, 0x03);
        bench.write(IER, 0x01);
        bench.receive(b"a");
        assert!(!bench.high);
        assert_eq!(bench.read(IIR), 0x04);
        bench.write(MCR, 0x0b);
        assert!(bench.high);
    }

    #[test]
    fn a_byte_without_fifo_interrupts_until_it_is_read() {
        let mut bench = Bench::new().usual();
        bench.write(IER, 0x01);
        assert_eq!(bench.receive(b"ab"), 2);
        assert!(bench.high);
        assert_eq!(bench.read(LSR) & 1, 1);
        assert_eq!(bench.read(DATA), b'a');
        assert!(bench.high, "the next byte follows from the backlog");
        assert_eq!(bench.read(DATA), b'b');
        assert!(!bench.high);
        assert_eq!(bench.read(LSR), 0x60);
    }

    #[test]
    fn the_fifo_interrupts_at_each_trigger_level() {
        for (bits, level) in [(0u8, 1usize), (1, 4), (2, 8), (3, 14)] {
            let mut bench = Bench::new().usual();
            bench.write(FCR, 0x07 | (bits << 6));
            bench.write(IER, 0x01);
            for count in 1..=level {
                bench.receive(b"z");
                assert_eq!(bench.high, count == level, "{count} bytes, trigger {level}");
            }
            assert_eq!(bench.read(IIR), 0xc4);
        }
    }

    #[test]
    fn bytes_below_the_trigger_level_interrupt_after_four_character_times() {
        let mut bench = Bench::new().usual();
        bench.write(FCR, 0xc1);
        bench.write(IER, 0x01);
        bench.receive(b"q");
        assert!(!bench.high);
        // Ten bits at 115200 baud are 86.8 us.
        let due = bench.uart.next_deadline_ns().unwrap();
        assert!((340_000..350_000).contains(&due), "{due}");
        bench.run_to(due - 1);
        assert!(!bench.high);
        bench.run_to(due);
        assert!(bench.high);
        assert_eq!(bench.read(IIR), 0xcc);
        assert_eq!(bench.read(DATA), b'q');
        assert!(!bench.high);
        assert_eq!(bench.uart.next_deadline_ns(), None);
    }

    #[test]
    fn the_sources_have_the_priorities_of_the_data_sheet() {
        let mut bench = Bench::new().usual();
        bench.write(MCR, 0x18);
        bench.read(MSR);
        bench.write(FCR, 0x01);
        bench.write(IER, 0x0f);
        for byte in 0..17 {
            bench.write(DATA, byte);
        }
        bench.write(MCR, 0x19);
        assert_eq!(bench.read(IIR) & 0x0f, 0x06, "overrun");
        assert_eq!(bench.read(LSR) & 0x02, 0x02);
        assert_eq!(bench.read(IIR) & 0x0f, 0x04, "data");
        for byte in 0..16 {
            assert_eq!(
                bench.read(DATA),
                byte,
                "the byte that overran is the lost one"
            );
        }
        assert_eq!(bench.read(IIR) & 0x0f, 0x02, "transmitter");
        assert_eq!(bench.read(IIR) & 0x0f, 0x00, "modem");
        assert_eq!(bench.read(MSR), 0xa2, "DSR rose");
        assert_eq!(bench.read(IIR) & 0x0f, 0x01);
        assert!(!bench.high);
    }

    #[test]
    fn in_loopback_nothing_leaves_and_the_outputs_come_back() {
        let mut bench = Bench::new().usual();
        bench.write(MCR, 0x10);
        assert_eq!(
            bench.read(MSR),
            0x0b,
            "the three lines that were up went down"
        );
        for (mcr, msr) in [(0x11, 0x22), (0x12, 0x13), (0x14, 0x41), (0x18, 0x8c)] {
            bench.write(MCR, mcr);
            assert_eq!(bench.read(MSR), msr, "MCR {mcr:#x}");
        }
        bench.write(DATA, 0xae);
        assert_eq!(bench.read(LSR) & 1, 1);
        assert_eq!(bench.read(DATA), 0xae);
        assert!(bench.output.is_empty());
        bench.receive(b"from outside");
        assert_eq!(bench.read(LSR) & 1, 0, "the wire is cut off");
        bench.write(MCR, 0x0b);
        assert_eq!(bench.read(DATA), b'f');
    }

    #[test]
    fn a_break_in_loopback_is_received_as_one_and_reading_lsr_clears_it() {
        let mut bench = Bench::new().usual();
        bench.write(FCR, 0x01);
        bench.write(MCR, 0x1b);
        bench.write(LCR, 0x43);
        assert_eq!(bench.read(LSR), 0xf9);
        assert_eq!(bench.read(LSR), 0x61);
        assert_eq!(bench.read(DATA), 0);
    }

    #[test]
    fn while_break_is_on_characters_are_lost() {
        let mut bench = Bench::new().usual();
        bench.write(LCR, 0x43);
        bench.write(DATA, b'x');
        bench.write(LCR, 0x03);
        bench.write(DATA, b'y');
        assert_eq!(bench.output, b"y");
    }

    #[test]
    fn resetting_the_receive_fifo_drops_what_is_in_it_but_not_the_backlog() {
        let mut bench = Bench::new().usual();
        bench.write(FCR, 0x01);
        bench.receive(b"0123456789abcdefg");
        bench.write(FCR, 0x03);
        assert_eq!(bench.read(DATA), b'g');
        assert_eq!(bench.read(LSR) & 1, 0);
    }

    #[test]
    fn a_guest_that_reads_nothing_makes_the_sender_wait_and_loses_nothing() {
        let mut bench = Bench::new().usual();
        bench.write(FCR, 0x01);
        let text: Vec<u8> = (0..10_000u32).map(|index| index as u8).collect();
        let mut sent = bench.receive(&text);
        assert!(sent >= Uart::BACKLOG_BYTES && sent < text.len());
        let mut got = Vec::new();
        while got.len() < text.len() {
            assert_eq!(bench.read(LSR) & 0x03, 0x01);
            got.push(bench.read(DATA));
            sent += bench.receive(&text[sent..]);
        }
        assert_eq!(got, text);
    }

    #[test]
    fn reading_an_empty_receiver_gives_zero_and_disturbs_nothing() {
        let mut bench = Bench::new().usual();
        assert_eq!(bench.read(DATA), 0);
        assert_eq!(bench.read(LSR), 0x60);
    }
}
