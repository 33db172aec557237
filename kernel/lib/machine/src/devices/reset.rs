//! [`ResetControl`]: the chipset's two reset ports, 0xcf9 (RST_CNT) and 0x92 (fast reset and A20).
//!
//! The gate of address line A20 is one, here and in the keyboard controller: whoever wrote last has moved it, and both
//! read it back. The board keeps them alike.

use crate::{A20Gate, Effects, Request};

/// RST_CNT: a change from 0 to 1 resets.
const RESET_CPU: u8 = 1 << 2;
/// RST_CNT: the bits that keep what is written (SYS_RST, RST_CPU, FULL_RST).
const RESET_KEPT: u8 = 0x0e;
/// Port 0x92: a change from 0 to 1 resets.
const FAST_RESET: u8 = 1 << 0;
/// Port 0x92: the gate of A20.
const A20: u8 = 1 << 1;

/// The two reset ports.
#[derive(Debug)]
pub struct ResetControl {
    reset: u8,
    system: u8,
}

impl Default for ResetControl {
    fn default() -> Self {
        Self::new()
    }
}

impl ResetControl {
    /// The ports as firmware leaves them: A20 open.
    pub const fn new() -> Self {
        Self {
            reset: 0,
            system: A20,
        }
    }

    /// Reads port 0xcf9.
    pub const fn read_reset(&self) -> u8 {
        self.reset
    }

    /// Writes port 0xcf9.
    pub const fn write_reset(&mut self, value: u8, fx: &mut Effects) {
        if value & !self.reset & RESET_CPU != 0 {
            fx.ask(Request::Reset);
        }
        self.reset = value & RESET_KEPT;
    }

    /// Reads port 0x92.
    pub const fn read_system(&self) -> u8 {
        self.system
    }

    /// Writes port 0x92.
    pub const fn write_system(&mut self, value: u8, fx: &mut Effects) {
        if value & !self.system & FAST_RESET != 0 {
            fx.ask(Request::Reset);
        }
        if (value ^ self.system) & A20 != 0 {
            fx.ask(Request::AddressLine20(A20Gate::open_if(value & A20 != 0)));
        }
        self.system = value & (FAST_RESET | A20);
    }

    /// The gate was moved, here or elsewhere.
    pub const fn set_a20(&mut self, gate: A20Gate) {
        self.system = self.system & !A20 | if gate.is_open() { A20 } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_asked_for_by_raising_its_bit() {
        let (mut ports, mut fx) = (ResetControl::new(), Effects::new());
        ports.write_reset(0x02, &mut fx);
        assert_eq!(fx.request, None);
        ports.write_reset(0x06, &mut fx);
        assert_eq!(fx.request, Some(Request::Reset));
    }

    #[test]
    fn the_fast_reset_port_resets_and_keeps_the_a20_gate() {
        let (mut ports, mut fx) = (ResetControl::new(), Effects::new());
        assert_eq!(ports.read_system(), 0x02);
        ports.write_system(0x02, &mut fx);
        assert_eq!((ports.read_system(), fx.request), (0x02, None));
        ports.write_system(0x03, &mut fx);
        assert_eq!(fx.request, Some(Request::Reset));
    }

    #[test]
    fn only_a_change_moves_the_a20_gate() {
        let mut ports = ResetControl::new();
        for (value, wanted) in [
            (0x02, None),
            (0x00, Some(Request::AddressLine20(A20Gate::Closed))),
            (0x00, None),
            (0x02, Some(Request::AddressLine20(A20Gate::Open))),
        ] {
            let mut fx = Effects::new();
            ports.write_system(value, &mut fx);
            assert_eq!((fx.request, ports.read_system()), (wanted, value));
        }
    }
}
