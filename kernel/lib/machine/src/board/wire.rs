//! The wire behind the serial port, as far as the board's owner knows it: whether it is busy.

use super::Board;

impl Board {
    /// Whether the guest waits until the serial port has sent something.
    #[inline]
    pub const fn waits_for_wire(&self) -> bool {
        self.uart.is_transmitting()
    }

    /// What the guest has sent by its serial port keeps that busy until then.
    pub fn occupy_wire(&mut self, until_ns: u64) {
        self.uart.occupy_wire(until_ns);
        self.uart_accessed();
    }
}
