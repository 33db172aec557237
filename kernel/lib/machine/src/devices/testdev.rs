//! [`TestDevices`]: what x86 test kernels expect of an emulator's board.
//!
//! | port             | what                                                                            |
//! |------------------|---------------------------------------------------------------------------------|
//! | 0xe0 to 0xe3     | four bytes that read back as they were written, in any width                    |
//! | 0xe9             | debug console: each byte is output; reads as 0xe9                               |
//! | 0xf4             | ends the run; the exit status is twice the value plus one                       |
//! | 0x510, 0x511     | firmware configuration: select an entry, read it                                |
//! | 0x2000 to 0x2017 | the interrupt lines of GSI 0 to 23: bit 0 is the level                          |
//!
//! QEMU documents these as `isa-debugcon`, `isa-debug-exit`, `fw_cfg` and `pc-testdev`. They are there only in machines
//! that ask for them.

use super::fw_cfg::FirmwareConfig;
use crate::layout::MachineLayout;
use crate::{Effects, Gsi, Level, Request};

/// The first port of the interrupt lines.
pub(crate) const LINES: u16 = 0x2000;
/// Number of these ports.
pub(crate) const LINE_COUNT: u16 = 24;
/// The port that ends the run.
pub(crate) const EXIT: u16 = 0xf4;
/// The port that selects an entry of the firmware configuration, by words.
pub(crate) const SELECT: u16 = 0x510;
/// The port that reads it.
const DATA: u16 = 0x511;
/// What the debug console reads as, by which software finds it.
const CONSOLE: u8 = 0xe9;

/// The test devices.
#[derive(Debug)]
pub struct TestDevices {
    scratch: [u8; 4],
    firmware: FirmwareConfig,
}

impl TestDevices {
    /// The devices of a machine of this size, after a reset.
    pub const fn new(layout: &MachineLayout) -> Self {
        Self {
            scratch: [0; 4],
            firmware: FirmwareConfig::new(layout),
        }
    }

    /// Reads a port.
    pub fn read(&mut self, port: u16) -> u8 {
        match port {
            0xe0..0xe4 => self
                .scratch
                .get(usize::from(port & 3))
                .copied()
                .unwrap_or(0xff),
            0xe9 => CONSOLE,
            DATA => self.firmware.read(),
            _ => 0xff,
        }
    }

    /// Writes a byte-wide port.
    pub fn write(&mut self, port: u16, value: u8, fx: &mut Effects) {
        match port {
            0xe0..0xe4 => {
                if let Some(byte) = self.scratch.get_mut(usize::from(port & 3)) {
                    *byte = value;
                }
            }
            0xe9 => {
                // One access sends at most a few bytes, which the caller takes out before the next one.
                let _ = fx.output.try_push(value);
            }
            EXIT => self.exit(u32::from(value), fx),
            _ if port.wrapping_sub(LINES) < LINE_COUNT => {
                let level = Level::asserted_if(value & 1 != 0);
                fx.set_line(Gsi(port.wrapping_sub(LINES) as u8), level);
            }
            _ => {}
        }
    }

    /// Selects an entry of the firmware configuration.
    pub const fn select(&mut self, entry: u16) {
        self.firmware.select(entry);
    }

    /// Writes the exit port in any width.
    pub const fn exit(&self, value: u32, fx: &mut Effects) {
        fx.ask(Request::Exit(value.wrapping_shl(1) | 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> TestDevices {
        TestDevices::new(&MachineLayout::new(1 << 20, 1))
    }

    #[test]
    fn the_exit_status_is_twice_the_value_plus_one() {
        for (value, status) in [(0, 1), (1, 3), (0x10, 0x21), (0x8000_0000, 1)] {
            let mut fx = Effects::new();
            devices().exit(value, &mut fx);
            assert_eq!(fx.request, Some(Request::Exit(status)));
        }
    }

    #[test]
    fn a_line_follows_its_port() {
        let (mut devices, mut fx) = (devices(), Effects::new());
        devices.write(0x2017, 1, &mut fx);
        devices.write(0x200e, 0, &mut fx);
        let lines = fx.take_lines();
        assert_eq!((lines.raised, lines.lowered), (1 << 23, 1 << 14));
    }

    #[test]
    fn the_console_outputs_and_the_scratch_bytes_keep() {
        let (mut devices, mut fx) = (devices(), Effects::new());
        assert_eq!(devices.read(0xe9), 0xe9);
        devices.write(0xe9, b'!', &mut fx);
        devices.write(0xe2, 0x5a, &mut fx);
        assert_eq!(fx.output.as_slice(), b"!");
        assert_eq!(
            [0xe0, 0xe1, 0xe2, 0xe3].map(|port| devices.read(port)),
            [0, 0, 0x5a, 0]
        );
    }
}
