//! The first serial port, and the emulators' debug port for machines that have none.
//!
//! [`Serial`] is the text output that always works if anything does: polled, no interrupt, no allocation.
//! `console.rs` owns the one instance and the lock around it.

use core::hint;

use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::{FifoTriggerLevel, IER, LSR};
use uart_16550::{BaudRate, Config, Uart16550};
use x86_64::instructions::port::Port;

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
/// Polls of the line status before a transmitter that takes nothing counts as broken: about a second on real
/// hardware, where one poll takes about a microsecond.
const TRANSMIT_POLLS: u32 = 1_000_000;

/// Where text goes that must get out of the machine.
#[expect(clippy::large_enum_variant, reason = "there is one instance, in a static")]
pub(crate) enum Serial {
    /// A UART at COM1.
    Uart(Uart16550<PioBackend>),
    /// Port 0xe9 of an emulator, output only.
    DebugPort(Port<u8>),
    /// Nothing to write to: the screen must do.
    Absent,
}

impl Serial {
    /// Looks for a UART and sets it up for 115200 baud, 8 data bits, no parity, 1 stop bit, with its FIFO on.
    ///
    /// # Safety
    /// Nobody else uses the serial port.
    pub(crate) unsafe fn detect() -> Self {
        // SAFETY: COM1 is where a PC has its first UART, and the caller says that it is ours alone.
        if let Ok(mut uart) = unsafe { Uart16550::new_port(COM1) }
            && uart.init(CONFIG).is_ok()
        {
            return Self::Uart(uart);
        }
        let mut debug_port = Port::new(DEBUG_PORT);
        // SAFETY: a read of this port has no effect on any PC.
        if u16::from(unsafe { debug_port.read() }) == DEBUG_PORT {
            return Self::DebugPort(debug_port);
        }
        Self::Absent
    }

    /// Sends `bytes` as they are. A UART that stops taking bytes is given up, so that nobody hangs on a broken one.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        match self {
            Self::Uart(uart) => {
                let mut left = bytes;
                let mut polls = 0;
                while !left.is_empty() {
                    let sent = uart.send_bytes(left);
                    left = left.get(sent..).unwrap_or_default();
                    if sent > 0 {
                        polls = 0;
                    } else if polls < TRANSMIT_POLLS {
                        polls += 1;
                        hint::spin_loop();
                    } else {
                        *self = Self::Absent;
                        return;
                    }
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

    /// A byte that has arrived, if any.
    pub(crate) fn try_read(&mut self) -> Option<u8> {
        match self {
            Self::Uart(uart) => uart.try_receive_byte().ok(),
            Self::DebugPort(_) | Self::Absent => None,
        }
    }

    /// Lets the UART raise its interrupt for each byte that arrives.
    pub(crate) fn enable_input_interrupt(&mut self) {
        if let Self::Uart(uart) = self {
            uart.enable_interrupts(IER::DATA_READY);
        }
    }

    /// Waits until the last byte has left the machine: what is still in the transmitter when an emulator ends or
    /// a machine powers off is lost.
    pub(crate) fn drain(&mut self) {
        if let Self::Uart(uart) = self {
            for _ in 0..TRANSMIT_POLLS {
                if uart.lsr().contains(LSR::TRANSMITTER_EMPTY) {
                    return;
                }
                hint::spin_loop();
            }
        }
    }
}
