//! [`BoardConfig`]: what differs between boards.

use crate::devices::FirmwareFiles;
use crate::layout::MachineLayout;

/// Whether a machine has the test devices.
#[derive(Clone, Debug, Default)]
pub enum TestBoard {
    /// It has not: their ports belong to nobody.
    #[default]
    Absent,
    /// It has, and they tell of these files.
    Present(FirmwareFiles),
}

/// Whether a machine has a display and a keyboard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Display {
    /// It has neither.
    #[default]
    Absent,
    /// It has a VGA and a keyboard, which takes the console's input.
    Vga,
}

/// In which state the devices are when a guest starts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Handover {
    /// As after power-on: for guests that set up all that they use.
    #[default]
    PowerOn,
    /// As a BIOS leaves them: interrupt controllers and timer at work.
    Bios,
}

/// What differs between boards.
#[derive(Clone, Debug)]
pub struct BoardConfig {
    /// Memory and CPUs, of which the CMOS tells.
    pub layout: MachineLayout,
    /// Seconds since 1970-01-01 00:00 UTC at guest time 0, for the real-time clock.
    pub epoch_s: u64,
    /// The display.
    pub display: Display,
    /// The test devices.
    pub test_board: TestBoard,
    /// The state at the start.
    pub handover: Handover,
}
