//! [`TestDevices`]: what x86 test kernels expect of an emulator's board.
//!
//! | where              | what                                                                          |
//! |--------------------|-------------------------------------------------------------------------------|
//! | port 0xe0 to 0xe3  | four bytes that read back as they were written, in any width                  |
//! | port 0xe4 to 0xe7  | throws a page of the guest out of the host's page tables: takes any write     |
//! | port 0xe8 to 0xeb  | the same four bytes, one at a time; but for 0xe9                              |
//! | port 0xe9          | debug console: each byte is output; reads as 0xe9                             |
//! | port 0xf4          | ends the run; the exit status is twice the value plus one                     |
//! | port 0x510, 0x511  | firmware configuration: select an entry, read it ([`super::fw_cfg`])          |
//! | port 0x514, 0x518  | the same by requests in memory                                                |
//! | port 0x2000 to 0x2017 | the interrupt lines of GSI 0 to 23: any value but 0 raises one              |
//! | memory at 0xff00_0000 | 64 KiB that read back as they were written, always by an exit               |
//!
//! QEMU documents these as `pc-testdev`, `isa-debugcon`, `isa-debug-exit` and `fw_cfg`. All RAM of a guest stays
//! mapped here, so there is nothing that port 0xe4 could throw out. They are there only in machines that ask for them.

use alloc::boxed::Box;
use alloc::vec;

use arch::Width;
use memory::{GuestMemory, GuestPhys, Range};

use super::fw_cfg::{FirmwareConfig, FirmwareFiles, Progress};
use crate::layout::MachineLayout;
use crate::{Board, Display, Effects, Gsi, Level, Request};

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
/// The ports that take the address of a request, by doublewords: upper half, lower half.
pub(crate) const DMA_HIGH: u16 = 0x514;
pub(crate) const DMA_LOW: u16 = 0x518;
const DMA_END: u16 = 0x51c;
/// The debug console, which reads as its own number: by that, software finds it.
const CONSOLE: u16 = 0xe9;
/// The memory that is always reached by an exit.
pub(crate) const MEMORY: Range<GuestPhys> = Range {
    start: GuestPhys::new(0xff00_0000),
    end: GuestPhys::new(0xff01_0000),
};

/// The test devices.
#[derive(Debug)]
pub struct TestDevices {
    scratch: [u8; 4],
    memory: Box<[u8]>,
    firmware: FirmwareConfig,
}

impl TestDevices {
    /// The devices of a machine of this size, after a reset.
    pub fn new(layout: &MachineLayout, display: Display, files: FirmwareFiles) -> Self {
        Self {
            scratch: [0; 4],
            memory: vec![0; MEMORY.len() as usize].into(),
            firmware: FirmwareConfig::new(layout, display, files),
        }
    }

    /// Reads a port.
    pub fn read(&mut self, port: u16) -> u8 {
        match port {
            CONSOLE => CONSOLE as u8,
            0xe0..0xe4 | 0xe8..0xec => self
                .scratch
                .get(usize::from(port & 3))
                .copied()
                .unwrap_or(0xff),
            SELECT | DATA => self.firmware.read(),
            DMA_HIGH..DMA_END => FirmwareConfig::dma_signature(port - DMA_HIGH),
            EXIT => 0,
            _ => 0xff,
        }
    }

    /// Writes a byte-wide port.
    pub fn write(&mut self, port: u16, value: u8, fx: &mut Effects) {
        match port {
            CONSOLE => {
                // One access sends at most a few bytes, which the caller takes out before the next one.
                let _ = fx.output.try_push(value);
            }
            0xe0..0xe4 | 0xe8..0xec => {
                if let Some(byte) = self.scratch.get_mut(usize::from(port & 3)) {
                    *byte = value;
                }
            }
            EXIT => self.exit(u32::from(value), fx),
            _ if port.wrapping_sub(LINES) < LINE_COUNT => {
                fx.set_line(line(port), Level::asserted_if(value != 0));
            }
            _ => {}
        }
    }

    /// Reads the memory at an offset in it; zeroes behind its end.
    pub fn read_memory(&self, offset: u64, width: Width) -> u64 {
        let bytes = self.memory.iter().skip(offset as usize).take(width.bytes());
        bytes.enumerate().fold(0, |value, (index, byte)| {
            value | u64::from(*byte) << (8 * index)
        })
    }

    /// Writes the memory at an offset in it, as far as it goes.
    pub fn write_memory(&mut self, offset: u64, width: Width, value: u64) {
        let places = self.memory.iter_mut().skip(offset as usize);
        for (place, byte) in places.zip(value.to_le_bytes()).take(width.bytes()) {
            *place = byte;
        }
    }

    /// Selects an entry of the firmware configuration.
    pub const fn select(&mut self, entry: u16) {
        self.firmware.select(entry);
    }

    /// Writes one of the two ports that take the address of a request.
    pub fn write_dma(&mut self, port: u16, value: u32, fx: &mut Effects) {
        match port {
            DMA_HIGH => self.firmware.write_dma_high(value),
            _ => self.firmware.write_dma_low(value, fx),
        }
    }

    /// Whether a request is not done with.
    pub const fn is_transferring(&self) -> bool {
        self.firmware.is_busy()
    }

    /// Does a part of the request.
    pub fn transfer(&mut self, memory: &impl GuestMemory) {
        // Whether there is more to do is asked by those who want to know.
        let (Progress::Done | Progress::More) = self.firmware.transfer(memory);
    }

    /// Writes the exit port in any width.
    pub const fn exit(&self, value: u32, fx: &mut Effects) {
        fx.ask(Request::Exit(value.wrapping_shl(1) | 1));
    }
}

/// The line of one of the ports. The first is ISA interrupt 0, whose line the timer has.
const fn line(port: u16) -> Gsi {
    match port {
        LINES => Board::PIT_GSI,
        _ => Gsi(port.wrapping_sub(LINES) as u8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> TestDevices {
        TestDevices::new(
            &MachineLayout::new(1 << 20, 1),
            Display::Absent,
            FirmwareFiles::default(),
        )
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
        devices.write(0x2005, 0x80, &mut fx);
        devices.write(0x200e, 0, &mut fx);
        let lines = fx.take_lines();
        assert_eq!(lines.raised, 1 << 23 | 1 << 5);
        assert_eq!(lines.lowered, 1 << 14);
        devices.write(0x2000, 1, &mut fx);
        assert_eq!(fx.take_lines().raised, 1 << 2, "the timer's line");
    }

    #[test]
    fn the_console_outputs_and_the_scratch_bytes_keep() {
        let (mut devices, mut fx) = (devices(), Effects::new());
        assert_eq!(devices.read(0xe9), 0xe9);
        devices.write(0xe9, b'!', &mut fx);
        devices.write(0xe2, 0x5a, &mut fx);
        devices.write(0xeb, 0xa5, &mut fx);
        devices.write(0xe4, 0x77, &mut fx);
        assert_eq!(fx.output.as_slice(), b"!");
        assert_eq!(
            [0xe0, 0xe1, 0xe2, 0xe3, 0xe8, 0xea].map(|port| devices.read(port)),
            [0, 0, 0x5a, 0xa5, 0, 0x5a]
        );
    }

    #[test]
    fn the_memory_keeps_what_is_written_in_any_width_up_to_its_end() {
        let mut devices = devices();
        devices.write_memory(1, Width::Dword, 0x1234_5678);
        assert_eq!(devices.read_memory(0, Width::Qword), 0x12_3456_7800);
        assert_eq!(devices.read_memory(3, Width::Byte), 0x34);
        devices.write_memory(0xffff, Width::Qword, u64::MAX);
        assert_eq!(devices.read_memory(0xfffe, Width::Dword), 0xff00);
    }
}
