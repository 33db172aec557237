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
    /// The guest's kernel has panicked.
    Panic,
    /// The guest ends its run with this exit status (the test boards' debug-exit device).
    Exit(u32),
    /// The firmware configuration wants to write to the guest's memory (`Board::transfer_firmware`).
    FirmwareTransfer,
    /// The gate of address line 20 moves.
    AddressLine20(A20Gate),
}

/// What address line 20 of the processors does. The gate is there for programs that rely on addresses above 1 MiB
/// wrapping to 0, as on an 8086.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum A20Gate {
    /// What the address says.
    #[default]
    Open = 0,
    /// It is always 0, so that every odd MiB shows the even one below it.
    Closed = 1,
}

impl A20Gate {
    /// The address line.
    pub const LINE: u64 = 1 << 20;

    /// Open if so.
    #[must_use]
    pub const fn open_if(open: bool) -> Self {
        if open { Self::Open } else { Self::Closed }
    }

    /// Whether it is open.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Open)
    }

    /// The bits of a physical address that get through.
    #[must_use]
    pub const fn mask(self) -> u64 {
        match self {
            Self::Open => u64::MAX,
            Self::Closed => !Self::LINE,
        }
    }
}

/// What happened to the interrupt lines during one access, one bit for each GSI; the three happen in the
/// order of the fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LineChanges {
    /// Lines that went low before anything else.
    pub lowered: u32,
    /// Lines that then went high.
    pub raised: u32,
    /// Lines that went low after that.
    pub lowered_after: u32,
}

/// Collected while a device handles an access; applied by its caller after the device has returned.
///
/// Creating one costs a few stores. The board consumes the line changes; messages, output and the request
/// travel on to the virtual machine.
#[derive(Debug, Default)]
pub struct Effects {
    lines: LineChanges,
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
            lines: LineChanges {
                lowered: 0,
                raised: 0,
                lowered_after: 0,
            },
            messages: ArrayVec::new_const(),
            output: ArrayVec::new_const(),
            request: None,
        }
    }

    /// Sets the level of a line. A line that goes low and high again within one access, or high and low, has
    /// an edge that is seen.
    pub const fn set_line(&mut self, gsi: Gsi, level: Level) {
        let bit = 1u32.wrapping_shl(gsi.0 as u32);
        let lines = &mut self.lines;
        match level {
            Level::Asserted => {
                lines.lowered |= lines.lowered_after & bit;
                lines.lowered_after &= !bit;
                lines.raised |= bit;
            }
            Level::Deasserted if lines.raised & bit != 0 => lines.lowered_after |= bit,
            Level::Deasserted => lines.lowered |= bit,
        }
    }

    /// Whether any line was touched.
    pub const fn has_line_changes(&self) -> bool {
        (self.lines.lowered | self.lines.raised) != 0
    }

    /// Takes the line changes.
    pub const fn take_lines(&mut self) -> LineChanges {
        let lines = self.lines;
        self.lines = LineChanges {
            lowered: 0,
            raised: 0,
            lowered_after: 0,
        };
        lines
    }

    /// Asks for something that concerns the whole machine, unless something was asked for already.
    pub const fn ask(&mut self, request: Request) {
        if self.request.is_none() {
            self.request = Some(request);
        }
    }
}

/// The interrupt line that a device drives. Only changes of its level become effects.
#[derive(Debug)]
pub struct OutputLine {
    gsi: Gsi,
    level: Level,
}

impl OutputLine {
    /// This line, which has this level as long as the device does nothing.
    #[must_use]
    pub const fn new(gsi: Gsi, level: Level) -> Self {
        Self { gsi, level }
    }

    /// Drives the line to a level.
    #[inline]
    pub fn set(&mut self, level: Level, fx: &mut Effects) {
        if level != self.level {
            self.level = level;
            fx.set_line(self.gsi, level);
        }
    }

    /// Drives the line high by an edge, also where it is high already.
    pub const fn rise(&mut self, fx: &mut Effects) {
        fx.set_line(self.gsi, Level::Deasserted);
        fx.set_line(self.gsi, Level::Asserted);
        self.level = Level::Asserted;
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
        let wanted = LineChanges {
            lowered: 0,
            raised: 1 << 4,
            lowered_after: 1 << 4,
        };
        assert_eq!(effects.take_lines(), wanted);
        assert!(!effects.has_line_changes());
    }

    #[test]
    fn a_line_that_dips_has_a_rising_edge_and_stays_high() {
        let mut effects = Effects::new();
        effects.set_line(Gsi(2), Level::Deasserted);
        effects.set_line(Gsi(2), Level::Asserted);
        let wanted = LineChanges {
            lowered: 1 << 2,
            raised: 1 << 2,
            lowered_after: 0,
        };
        assert_eq!(effects.take_lines(), wanted);
    }

    #[test]
    fn a_pulse_followed_by_an_assertion_ends_high() {
        let mut effects = Effects::new();
        effects.set_line(Gsi(1), Level::Asserted);
        effects.set_line(Gsi(1), Level::Deasserted);
        effects.set_line(Gsi(1), Level::Asserted);
        assert_eq!(effects.take_lines().lowered_after, 0);
    }

    #[test]
    fn a_line_that_is_set_to_the_level_it_has_is_no_change() {
        let mut effects = Effects::new();
        let mut line = OutputLine::new(Gsi(3), Level::Deasserted);
        line.set(Level::Deasserted, &mut effects);
        assert_eq!(effects.take_lines(), LineChanges::default());
        line.set(Level::Asserted, &mut effects);
        line.set(Level::Asserted, &mut effects);
        assert_eq!(effects.take_lines().raised, 1 << 3);
        line.set(Level::Asserted, &mut effects);
        assert_eq!(effects.take_lines(), LineChanges::default());
    }

    #[test]
    fn the_first_request_counts() {
        let mut effects = Effects::new();
        effects.ask(Request::PowerOff);
        effects.ask(Request::Reset);
        assert_eq!(effects.request, Some(Request::PowerOff));
    }
}
