//! What a device wants done beyond its own registers.

use arrayvec::ArrayVec;

use crate::{Gsi, InterruptMessage, Level};

/// A wish that concerns the whole machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Request {
    /// Soft off (ACPI S5).
    PowerOff,
    /// A reset of the whole machine, as by port 0xcf9 or the keyboard controller.
    Reset,
    /// The guest ends its run with this exit status (the test boards' debug-exit device).
    Exit(u32),
}

/// Collected while a device handles an access; applied by its caller after the device has returned.
///
/// Creating one costs a few stores. The board consumes the line changes; messages, output and the request
/// travel on to the virtual machine.
#[derive(Debug, Default)]
pub struct Effects {
    asserted: u32,
    deasserted: u32,
    /// Interrupt messages for the local APICs, in order.
    pub messages: ArrayVec<InterruptMessage, { Effects::MESSAGES }>,
    /// Bytes that the guest says on its console.
    pub output: ArrayVec<u8, { Effects::OUTPUT }>,
    /// A wish that concerns the whole machine; the first one counts.
    pub request: Option<Request>,
}

impl Effects {
    /// Room for messages: every pin of an I/O APIC may fire at once, and each CPU may be told of the 8259.
    pub const MESSAGES: usize = 32;
    /// Room for output: the FIFO of one UART, twice.
    pub const OUTPUT: usize = 32;

    /// Nothing to do.
    pub const fn new() -> Self {
        Self {
            asserted: 0,
            deasserted: 0,
            messages: ArrayVec::new_const(),
            output: ArrayVec::new_const(),
            request: None,
        }
    }

    /// Sets the level of a line. Assert and then deassert within one access is a pulse: both are seen.
    pub const fn set_line(&mut self, gsi: Gsi, level: Level) {
        let bit = 1u32.wrapping_shl(gsi.0 as u32);
        match level {
            Level::Asserted => {
                self.asserted |= bit;
                self.deasserted &= !bit;
            }
            Level::Deasserted => self.deasserted |= bit,
        }
    }

    /// Whether any line was touched.
    pub const fn has_line_changes(&self) -> bool {
        self.asserted | self.deasserted != 0
    }

    /// Takes the line changes: the masks of lines to assert and of lines to deassert after that.
    pub const fn take_lines(&mut self) -> (u32, u32) {
        let lines = (self.asserted, self.deasserted);
        self.asserted = 0;
        self.deasserted = 0;
        lines
    }

    /// Asks for something that concerns the whole machine, unless something was asked for already.
    pub const fn ask(&mut self, request: Request) {
        if self.request.is_none() {
            self.request = Some(request);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_is_seen_as_both_edges() {
        let mut effects = Effects::new();
        effects.set_line(Gsi(4), Level::Asserted);
        effects.set_line(Gsi(4), Level::Deasserted);
        assert_eq!(effects.take_lines(), (1 << 4, 1 << 4));
        assert!(!effects.has_line_changes());
    }

    #[test]
    fn an_assertion_after_a_deassertion_stays() {
        let mut effects = Effects::new();
        effects.set_line(Gsi(1), Level::Deasserted);
        effects.set_line(Gsi(1), Level::Asserted);
        assert_eq!(effects.take_lines(), (1 << 1, 0));
    }

    #[test]
    fn the_first_request_counts() {
        let mut effects = Effects::new();
        effects.ask(Request::PowerOff);
        effects.ask(Request::Reset);
        assert_eq!(effects.request, Some(Request::PowerOff));
    }
}
