//! The wire behind the serial port, as far as the board's owner knows it: whether it is busy.

use super::Board;

impl Board {
    /// Whether the guest waits until the serial port has sent something, and it is time to look whether it has.
    #[inline]
    pub fn wire_is_due(&self, now_ns: u64) -> bool {
        self.uart.wire_is_due(now_ns)
    }

    /// What the guest has sent by its serial port keeps that busy until then.
    pub fn occupy_wire(&mut self, until_ns: u64) {
        self.uart.occupy_wire(until_ns);
        self.uart_accessed();
    }
}
