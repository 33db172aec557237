//! [`FirmwareConfig`]: QEMU's fw_cfg, read by ports, with the entries that test kernels look at.
//!
//! A 16-bit write to port 0x510 selects an entry, and each read of port 0x511 gives its next byte; past the end
//! there are zeroes. Numbers are little-endian but in the file directory, which is empty here. There is no DMA
//! interface, as the ID says. By QEMU's "QEMU Firmware Configuration (fw_cfg) Device".

use crate::layout::MachineLayout;

/// Entries by their number.
mod entry {
    pub(super) const SIGNATURE: u16 = 0x00;
    pub(super) const ID: u16 = 0x01;
    pub(super) const RAM_BYTES: u16 = 0x03;
    pub(super) const CPU_COUNT: u16 = 0x05;
    pub(super) const MAX_CPUS: u16 = 0x0f;
}

/// ID: the traditional interface alone.
const TRADITIONAL: u64 = 1;

/// The configuration device.
#[derive(Debug)]
pub(super) struct FirmwareConfig {
    ram_bytes: u64,
    cpus: u32,
    selected: u16,
    position: u32,
}

impl FirmwareConfig {
    /// The device of a machine of this size.
    pub(super) const fn new(layout: &MachineLayout) -> Self {
        Self {
            ram_bytes: layout.ram_bytes(),
            cpus: layout.cpus(),
            selected: entry::SIGNATURE,
            position: 0,
        }
    }

    /// Selects an entry, and its first byte.
    pub(super) const fn select(&mut self, entry: u16) {
        self.selected = entry;
        self.position = 0;
    }

    /// The next byte of the selected entry.
    pub(super) fn read(&mut self) -> u8 {
        let (value, bytes) = match self.selected {
            entry::SIGNATURE => (u64::from(u32::from_le_bytes(*b"QEMU")), 4),
            entry::ID => (TRADITIONAL, 4),
            entry::RAM_BYTES => (self.ram_bytes, 8),
            entry::CPU_COUNT | entry::MAX_CPUS => (u64::from(self.cpus), 2),
            _ => (0, 0),
        };
        if self.position >= bytes {
            return 0;
        }
        let byte = value >> (8 * self.position);
        self.position += 1;
        byte as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_byte_by_byte_and_end_in_zeroes() {
        let mut config = FirmwareConfig::new(&MachineLayout::new(0x1_2345_6000, 3));
        let mut entry = |number| {
            config.select(number);
            [(); 9].map(|()| config.read())
        };
        assert_eq!(&entry(0), b"QEMU\0\0\0\0\0");
        assert_eq!(entry(1), [1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(entry(3), [0, 0x60, 0x45, 0x23, 1, 0, 0, 0, 0]);
        assert_eq!(entry(5), [3, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(entry(0x19), [0; 9], "no files");
    }
}
