//! The guest's console: the 16550 UART at 0x3f8, by polling.

use core::fmt::{self, Write};

use crate::cpu::{inb, outb};

const BASE: u16 = 0x3f8;
const LINE_CONTROL: u16 = BASE + 3;
const LINE_STATUS: u16 = BASE + 5;
/// LSR: the transmit holding register is empty.
const THRE: u8 = 1 << 5;
/// LSR: nothing is left to be sent.
const TEMT: u8 = 1 << 6;

/// 115200 baud, 8N1, FIFO on, no interrupts.
pub fn init() {
    outb(BASE + 1, 0);
    outb(LINE_CONTROL, 0x80);
    outb(BASE, 1);
    outb(BASE + 1, 0);
    outb(LINE_CONTROL, 0x03);
    outb(BASE + 2, 0x07);
    outb(BASE + 4, 0x03);
}

/// Waits until the last byte has left: a machine that goes off takes with it what the UART still holds.
pub fn drain() {
    while inb(LINE_STATUS) & TEMT == 0 {
        core::hint::spin_loop();
    }
}

/// Sends bytes as they are, each as soon as the UART takes it.
pub fn send(bytes: &[u8]) {
    for byte in bytes {
        while inb(LINE_STATUS) & THRE == 0 {
            core::hint::spin_loop();
        }
        outb(BASE, *byte);
    }
}

/// Sends text; a line feed gets its carriage return.
pub struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                send(b"\r");
            }
            send(&[byte]);
        }
        Ok(())
    }
}

/// What `print!` and `println!` write through.
pub fn print(arguments: fmt::Arguments<'_>) {
    // The serial port takes everything: the result is `Ok` unless an argument's own formatting fails.
    let _ = Serial.write_fmt(arguments);
}

/// Prints to the serial port.
#[macro_export]
macro_rules! print {
    ($($arguments:tt)*) => { $crate::serial::print(::core::format_args!($($arguments)*)) };
}

/// Prints a line to the serial port.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arguments:tt)*) => {{
        $crate::print!($($arguments)*);
        $crate::print!("\n");
    }};
}
