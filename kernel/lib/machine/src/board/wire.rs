//! The wire behind the serial port, as far as the board's owner knows it: whether it is busy.

use super::Board;
use crate::Effects;
use crate::devices::WireHold;

impl Board {
    /// Where the serial port's characters are written to.
    const DATA_PORT: u16 = Self::LINE_STATUS_PORT - 5;

    /// Whether the device at this port takes a byte now. Who writes one when it does not is to be kept waiting.
    #[inline]
    pub const fn takes_byte(&self, port: u16) -> bool {
        port != Self::DATA_PORT || self.uart.takes_character()
    }

    /// Whether the guest waits for the wire, and it is time to [look](Self::tend_wire) whether it is free.
    #[inline]
    pub const fn wire_is_due(&self, now_ns: u64) -> bool {
        self.uart.wire_is_due(now_ns)
    }

    /// Whether what the guest sends now has to wait for the wire.
    #[inline]
    pub const fn wire_is_busy(&self, now_ns: u64) -> bool {
        self.uart.wire_is_busy(now_ns)
    }

    /// The wire was looked at.
    pub fn tend_wire(&mut self, hold: WireHold, now_ns: u64, fx: &mut Effects) {
        self.uart.tend_wire(hold, now_ns, fx);
        self.uart_accessed();
        self.settle(fx);
    }
}
