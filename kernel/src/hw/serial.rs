//! The first serial port, and the emulators' debug port for machines that have none.
//!
//! [`Serial`] works from the first moment, polled. Once interrupts are on ([`Serial::enable_interrupts`]),
//! bytes that nobody has to wait for go into a ring and leave by interrupt ([`Serial::service`]): a UART
//! takes 87 us for each, which is a long time for a guest to be kept from running. `console.rs` owns the
//! one instance and the lock around it.

use core::hint;
use core::sync::atomic::{AtomicBool, Ordering};

use host::Ring;
use host::on_its_way::Queue;
use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::{FifoTriggerLevel, IER, LSR};
use uart_16550::{BaudRate, Config, Uart16550};
use x86_64::instructions::port::Port;

use crate::hw::clock;

/// I/O port of the first serial port of a PC.
const COM1: u16 = 0x3f8;
/// The debug port of Bochs and QEMU. Reading it gives its own number where it is there.
const DEBUG_PORT: u16 = 0xe9;
/// As fast as the first PC's UART goes; what terminals and test harnesses expect of a hypervisor.
const CONFIG: Config = Config {
    baud_rate: BaudRate::Baud115200,
    // A single key is to be seen at once.
    fifo_trigger_level: Some(FifoTriggerLevel::One),
    ..Config::DEFAULT
};
/// Polls of the line status before a transmitter that takes nothing counts as broken: about a second on
/// real hardware, where one poll takes about a microsecond.
const TRANSMIT_POLLS: u32 = 1_000_000;
/// Bytes that a UART takes at once.
const FIFO_BYTES: usize = 16;
/// Bytes that may wait to be sent, and to be read.
const SEND_BYTES: usize = 16 * 1024;
const RECEIVE_BYTES: usize = 256;
/// When it has sent nothing for so long, the port is looked at: its interrupt may be held back (README, Bochs).
const QUIET_NS: u64 = 20_000_000;
/// The same where it is known to be.
const HELD_BACK_NS: u64 = 3_000_000;
/// Causes of an interrupt that are looked into at a time; a UART that has more is broken.
const SERVICE_ROUNDS: u32 = 64;

/// Where text goes that must get out of the machine.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one instance, in a static"
)]
pub(crate) enum Serial {
    /// A UART at COM1.
    Uart(Uart),
    /// Port 0xe9 of an emulator, output only.
    DebugPort(Port<u8>),
    /// Nothing to write to: the screen must do.
    Absent,
}

/// A UART and the bytes on their way through it.
pub(crate) struct Uart {
    device: Uart16550<PioBackend>,
    sending: Ring<SEND_BYTES>,
    /// How many bytes have gone into that ring since the start.
    queued: u64,
    received: Ring<RECEIVE_BYTES>,
    mode: Mode,
    /// When it last took some of them.
    moved_ns: u64,
    /// Its interrupt was not there when it could have taken more.
    is_held_back: bool,
}

/// Whether so much waits to be sent that everybody's share is small.
static IS_CROWDED: AtomicBool = AtomicBool::new(false);

/// Whether so much waits to be sent that everybody's share is small, as it was a moment ago.
#[inline]
pub(crate) fn is_crowded() -> bool {
    IS_CROWDED.load(Ordering::Relaxed)
}

/// Who moves the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// Whoever has some to send or wants to read.
    Polled,
    /// The UART's interrupt.
    Interrupts,
    /// Nobody any more: the UART has stopped taking bytes.
    Broken,
}

impl Uart {
    /// Gives the UART as many bytes as it takes now. Whether it took some.
    fn pump(&mut self) -> bool {
        let before = self.sending.len();
        while let Some(bytes) = self.sending.first_piece() {
            let sent = self.device.send_bytes(bytes);
            if sent == 0 {
                break;
            }
            self.sending.discard(sent);
        }
        let has_moved = self.sending.len() != before;
        if has_moved {
            self.note_crowd();
            self.moved_ns = clock::now_ns();
        }
        has_moved
    }

    fn note_crowd(&self) {
        IS_CROWDED.store(self.state().is_crowded(), Ordering::Relaxed);
    }

    fn state(&self) -> Queue {
        let waiting = self.sending.len();
        Queue {
            sent: self.queued - waiting as u64,
            waiting,
            size: SEND_BYTES,
        }
    }

    /// Pumps because it may be time, and not because the UART says so.
    fn pump_unasked(&mut self) {
        let moved_ns = self.moved_ns;
        if self.pump() && self.mode == Mode::Interrupts {
            self.is_held_back = self.moved_ns.saturating_sub(moved_ns) >= HELD_BACK_NS;
        }
    }

    /// Waits until so many bytes or fewer wait to be sent, or the UART proves broken.
    fn wait_until_left(&mut self, bytes: usize) {
        let mut polls = 0;
        let mut before = self.sending.len();
        while self.sending.len() > bytes && self.mode != Mode::Broken {
            self.pump();
            if self.sending.len() < before {
                before = self.sending.len();
                polls = 0;
            } else if polls < TRANSMIT_POLLS {
                polls += 1;
                hint::spin_loop();
            } else {
                self.mode = Mode::Broken;
                self.sending.clear();
            }
        }
    }

    fn queue(&mut self, bytes: &[u8]) {
        self.queued += bytes.len() as u64;
        for &byte in bytes {
            if self.sending.push(byte).is_err() {
                // Not longer than it has to: whoever waits here keeps a CPU and the console from the others.
                self.wait_until_left(SEND_BYTES - FIFO_BYTES);
                // There is room now, unless the UART is broken.
                let _ = self.sending.push(byte);
            }
        }
        if self.mode == Mode::Broken {
            self.sending.clear();
        }
        self.note_crowd();
    }

    fn receive(&mut self) {
        while let Ok(byte) = self.device.try_receive_byte() {
            // What nobody reads in time is lost, as in the UART itself.
            let _ = self.received.push(byte);
        }
    }
}

impl Serial {
    /// Looks for a UART and sets it up for 115200 baud, 8 data bits, no parity, 1 stop bit, with its FIFO
    /// on.
    ///
    /// # Safety
    /// Nobody else uses the serial port.
    pub(crate) unsafe fn detect() -> Self {
        // SAFETY: COM1 is where a PC has its first UART, and the caller says that it is ours alone.
        if let Ok(mut device) = unsafe { Uart16550::new_port(COM1) }
            && device.init(CONFIG).is_ok()
        {
            let (sending, received) = (Ring::new(), Ring::new());
            return Self::Uart(Uart {
                device,
                sending,
                queued: 0,
                received,
                mode: Mode::Polled,
                moved_ns: 0,
                is_held_back: false,
            });
        }
        let mut debug_port = Port::new(DEBUG_PORT);
        // SAFETY: a read of this port has no effect on any PC.
        if u16::from(unsafe { debug_port.read() }) == DEBUG_PORT {
            return Self::DebugPort(debug_port);
        }
        Self::Absent
    }

    /// Sends `bytes` as they are. With interrupts on, they may still be on their way when this returns.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        match self {
            Self::Uart(uart) => {
                uart.queue(bytes);
                uart.pump();
                if uart.mode == Mode::Polled {
                    uart.wait_until_left(0);
                }
            }
            Self::DebugPort(port) => {
                for &byte in bytes {
                    // SAFETY: the port was found to be the emulator's debug port, which only prints.
                    unsafe { port.write(byte) };
                }
            }
            Self::Absent => {}
        }
    }

    /// Bytes that can be written without waiting.
    pub(crate) fn room(&self) -> usize {
        match self {
            Self::Uart(uart) => SEND_BYTES - uart.sending.len(),
            Self::DebugPort(_) | Self::Absent => SEND_BYTES,
        }
    }

    /// How many bytes have been written since the start.
    pub(crate) fn queued(&self) -> u64 {
        match self {
            Self::Uart(uart) => uart.queued,
            Self::DebugPort(_) | Self::Absent => 0,
        }
    }

    /// Sends what can be sent, and tells what is left.
    pub(crate) fn look(&mut self) -> Queue {
        match self {
            Self::Uart(uart) => {
                uart.pump_unasked();
                uart.state()
            }
            Self::DebugPort(_) | Self::Absent => Queue {
                sent: 0,
                waiting: 0,
                size: SEND_BYTES,
            },
        }
    }

    /// When the port is to be looked at although it does not interrupt, as something waits to be sent.
    pub(crate) fn sending_due_ns(&self) -> Option<u64> {
        match self {
            Self::Uart(uart) if uart.mode == Mode::Interrupts && !uart.sending.is_empty() => {
                let quiet_ns = if uart.is_held_back {
                    HELD_BACK_NS
                } else {
                    QUIET_NS
                };
                Some(uart.moved_ns + quiet_ns)
            }
            _ => None,
        }
    }

    /// Waits until the UART has taken all bytes.
    pub(crate) fn flush(&mut self) {
        if let Self::Uart(uart) = self {
            uart.wait_until_left(0);
        }
    }

    /// Bytes that wait to be sent.
    pub(crate) fn backlog(&self) -> usize {
        match self {
            Self::Uart(uart) => uart.sending.len(),
            Self::DebugPort(_) | Self::Absent => 0,
        }
    }

    /// A byte that has arrived, if any.
    pub(crate) fn try_read(&mut self) -> Option<u8> {
        match self {
            Self::Uart(uart) => {
                // Not only where there is no interrupt: Bochs keeps it back while a guest runs with its own off.
                uart.receive();
                uart.pump_unasked();
                uart.received.pop()
            }
            Self::DebugPort(_) | Self::Absent => None,
        }
    }

    /// Lets the UART interrupt for each byte that arrives, and each time that it has sent all it had.
    pub(crate) fn enable_interrupts(&mut self) {
        if let Self::Uart(uart) = self
            && uart.mode == Mode::Polled
        {
            uart.mode = Mode::Interrupts;
            uart.device
                .enable_interrupts(IER::DATA_READY | IER::THR_EMPTY);
        }
    }

    /// Handles the UART's interrupt. Whether something is there for [`try_read`](Self::try_read).
    pub(crate) fn service(&mut self) -> bool {
        let Self::Uart(uart) = self else {
            return false;
        };
        // The interrupt comes at an edge: until the UART has nothing more to report, there will be no
        // other.
        for _ in 0..SERVICE_ROUNDS {
            // Reading the register also ends the report of an empty transmitter.
            if !uart.device.isr().has_pending_interrupt() {
                break;
            }
            uart.receive();
            if uart.pump() {
                uart.is_held_back = false;
            }
        }
        !uart.received.is_empty()
    }

    /// Waits until the last byte has left the machine: what is still in the transmitter when an emulator
    /// ends or a machine powers off is lost.
    pub(crate) fn drain(&mut self) {
        self.flush();
        if let Self::Uart(uart) = self {
            for _ in 0..TRANSMIT_POLLS {
                if uart.device.lsr().contains(LSR::TRANSMITTER_EMPTY) {
                    return;
                }
                hint::spin_loop();
            }
        }
    }
}
