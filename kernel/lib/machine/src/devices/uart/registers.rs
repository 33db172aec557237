//! The registers of a 16550A as data: the bits of each, what interrupts, and how long a character takes.

use bitflags::bitflags;

use super::fifo::FIFO_BYTES;

bitflags! {
    /// IER.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct InterruptEnable: u8 {
        const RECEIVED = 1 << 0;
        const TRANSMITTER_EMPTY = 1 << 1;
        const LINE_STATUS = 1 << 2;
        const MODEM_STATUS = 1 << 3;
    }

    /// LCR.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct LineControl: u8 {
        const WORD_LENGTH = 3;
        const TWO_STOP_BITS = 1 << 2;
        const PARITY = 1 << 3;
        const BREAK = 1 << 6;
        const DIVISOR_LATCH = 1 << 7;
        const _ = !0;
    }

    /// MCR.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct ModemControl: u8 {
        const DTR = 1 << 0;
        const RTS = 1 << 1;
        const OUT1 = 1 << 2;
        const OUT2 = 1 << 3;
        const LOOPBACK = 1 << 4;
    }

    /// LSR.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct LineStatus: u8 {
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
    pub(super) struct ModemStatus: u8 {
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
pub(super) enum Source {
    LineStatus,
    ReceivedData,
    CharacterTimeout,
    TransmitterEmpty,
    ModemStatus,
}

impl Source {
    pub(super) const fn identification(self) -> u8 {
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
pub(super) const NO_INTERRUPT: u8 = 0x01;
/// The two bits of IIR that say that the FIFOs work.
pub(super) const FIFOS_ENABLED: u8 = 0xc0;
/// Whether the FIFOs work (FCR bit 0), and how full the receiver's must be to interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FifoMode {
    /// A 16450: one byte each way.
    Off,
    /// Interrupt at this many bytes.
    On { trigger: usize },
}

impl FifoMode {
    /// What a write to FCR asks for.
    pub(super) const fn from_control(fcr: u8) -> Self {
        if fcr & 1 == 0 {
            return Self::Off;
        }
        let trigger = match fcr >> 6 {
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        };
        Self::On { trigger }
    }

    /// How many characters each side holds.
    pub(super) const fn depth(self) -> usize {
        match self {
            Self::Off => 1,
            Self::On { .. } => FIFO_BYTES,
        }
    }

    /// At how many received characters there is an interrupt.
    pub(super) const fn trigger(self) -> usize {
        match self {
            Self::Off => 1,
            Self::On { trigger } => trigger,
        }
    }
}

/// The clock that the divisor divides: a 1.8432 MHz crystal by 16.
const BAUD_BASE: u64 = 115_200;

impl LineControl {
    /// Nanoseconds of one character in this format, at the rate of this divisor.
    pub(super) fn character_ns(self, divisor: u16) -> u64 {
        let data = 5 + u64::from((self & Self::WORD_LENGTH).bits());
        let bits = 1
            + data
            + u64::from(self.contains(Self::PARITY))
            + 1
            + u64::from(self.contains(Self::TWO_STOP_BITS));
        bits * u64::from(divisor.max(1)) * 1_000_000_000 / BAUD_BASE
    }
}

impl ModemStatus {
    /// The four lines from the modem: the console is always there, and in loopback the four outputs come back.
    pub(super) fn lines(control: ModemControl) -> Self {
        if !control.contains(ModemControl::LOOPBACK) {
            return Self::CTS | Self::DSR | Self::DCD;
        }
        let mut lines = Self::empty();
        lines.set(Self::CTS, control.contains(ModemControl::RTS));
        lines.set(Self::DSR, control.contains(ModemControl::DTR));
        lines.set(Self::RI, control.contains(ModemControl::OUT1));
        lines.set(Self::DCD, control.contains(ModemControl::OUT2));
        lines
    }
}
