//! [`FirmwareConfig`]: QEMU's fw_cfg, read by ports, with the entries that test kernels look at.
//!
//! A 16-bit write to port 0x510 selects an entry, and each read of port 0x511 gives its next byte; past the end
//! there are zeroes. Numbers are little-endian but in the file directory. There is no DMA interface, as the ID says,
//! which every reader has to ask first. By QEMU's "QEMU Firmware Configuration (fw_cfg) Device".

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::layout::MachineLayout;

/// Entries by their number.
mod entry {
    pub(super) const SIGNATURE: u16 = 0x00;
    pub(super) const ID: u16 = 0x01;
    pub(super) const RAM_BYTES: u16 = 0x03;
    /// Whether there is no display.
    pub(super) const NO_GRAPHIC: u16 = 0x04;
    pub(super) const CPU_COUNT: u16 = 0x05;
    pub(super) const KERNEL_BYTES: u16 = 0x08;
    pub(super) const INITRD_BYTES: u16 = 0x0b;
    pub(super) const MAX_CPUS: u16 = 0x0f;
    pub(super) const KERNEL: u16 = 0x11;
    pub(super) const INITRD: u16 = 0x12;
    pub(super) const CMDLINE_BYTES: u16 = 0x14;
    pub(super) const CMDLINE: u16 = 0x15;
    pub(super) const DIRECTORY: u16 = 0x19;
    /// The first file of the directory.
    pub(super) const E820_FILE: u16 = 0x20;
    /// The memory map, also as an entry of the PC's own.
    pub(super) const E820: u16 = 0x8003;
}

/// ID: the traditional interface alone.
const TRADITIONAL: u32 = 1;
/// The name of the file with the memory map.
const E820_NAME: &[u8] = b"etc/e820";
/// Bytes of a name in the directory.
const NAME_BYTES: usize = 56;

/// What the machine was started from, as it is told to the guest.
#[derive(Clone, Default, Debug)]
pub struct FirmwareFiles {
    /// The kernel file.
    pub kernel: Arc<Vec<u8>>,
    /// The initial RAM disk, empty if there is none.
    pub initrd: Arc<Vec<u8>>,
    /// The kernel's command line.
    pub cmdline: Arc<str>,
}

/// The configuration device.
#[derive(Debug)]
pub(super) struct FirmwareConfig {
    layout: MachineLayout,
    files: FirmwareFiles,
    /// Contents of the selected entry, where they are not one of the files.
    contents: Vec<u8>,
    selected: u16,
    position: usize,
}

impl FirmwareConfig {
    /// The device of a machine of this size.
    pub(super) fn new(layout: &MachineLayout, files: FirmwareFiles) -> Self {
        Self {
            layout: *layout,
            files,
            contents: Vec::new(),
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
        if self.position == 0 {
            self.contents = self.made();
        }
        let bytes: &[u8] = match self.selected {
            entry::KERNEL => &self.files.kernel,
            entry::INITRD => &self.files.initrd,
            entry::CMDLINE => self.files.cmdline.as_bytes(),
            _ => &self.contents,
        };
        let byte = bytes.get(self.position).copied();
        // Past the end it stays, and the string's zero byte is among the zeroes there.
        if byte.is_some() {
            self.position += 1;
        }
        byte.unwrap_or(0)
    }

    /// The contents of an entry that is no file.
    fn made(&self) -> Vec<u8> {
        let dword = |value: usize| (value as u32).to_le_bytes().to_vec();
        let word = |value: u16| value.to_le_bytes().to_vec();
        match self.selected {
            entry::SIGNATURE => b"QEMU".to_vec(),
            entry::ID => TRADITIONAL.to_le_bytes().to_vec(),
            entry::RAM_BYTES => self.layout.ram_bytes().to_le_bytes().to_vec(),
            entry::NO_GRAPHIC => word(1),
            entry::CPU_COUNT | entry::MAX_CPUS => word(self.layout.cpus() as u16),
            entry::KERNEL_BYTES => dword(self.files.kernel.len()),
            entry::INITRD_BYTES => dword(self.files.initrd.len()),
            // With its zero byte.
            entry::CMDLINE_BYTES => dword(self.files.cmdline.len() + 1),
            entry::DIRECTORY => self.directory(),
            entry::E820_FILE => self.e820(),
            entry::E820 => {
                let table = self.e820();
                [dword(table.len() / E820_ENTRY_BYTES), table].concat()
            }
            _ => Vec::new(),
        }
    }

    fn e820(&self) -> Vec<u8> {
        let mut table = Vec::new();
        for region in &self.layout.memory_map() {
            table.extend_from_slice(&region.range.start.as_u64().to_le_bytes());
            table.extend_from_slice(&region.range.len().to_le_bytes());
            table.extend_from_slice(&(region.kind as u32).to_le_bytes());
        }
        table
    }

    /// The list of files: their number, then size, entry and name of each, all numbers big-endian.
    fn directory(&self) -> Vec<u8> {
        let mut list = 1u32.to_be_bytes().to_vec();
        list.extend_from_slice(&(self.e820().len() as u32).to_be_bytes());
        list.extend_from_slice(&entry::E820_FILE.to_be_bytes());
        list.extend_from_slice(&[0, 0]);
        list.extend_from_slice(E820_NAME);
        list.resize(list.len() + NAME_BYTES - E820_NAME.len(), 0);
        list
    }
}

const E820_ENTRY_BYTES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> FirmwareConfig {
        let files = FirmwareFiles {
            kernel: Arc::new(b"\x7fELF".to_vec()),
            initrd: Arc::new(b"disk".to_vec()),
            cmdline: "quiet".into(),
        };
        FirmwareConfig::new(&MachineLayout::new(0x1_2345_6000, 3), files)
    }

    fn entry<const BYTES: usize>(config: &mut FirmwareConfig, number: u16) -> [u8; BYTES] {
        config.select(number);
        [(); BYTES].map(|()| config.read())
    }

    #[test]
    fn entries_are_read_byte_by_byte_and_end_in_zeroes() {
        let mut config = config();
        assert_eq!(entry(&mut config, 0), *b"QEMU\0\0\0\0\0");
        assert_eq!(entry(&mut config, 1), [1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(entry(&mut config, 3), [0, 0x60, 0x45, 0x23, 1, 0, 0, 0, 0]);
        assert_eq!(entry(&mut config, 5), [3, 0, 0, 0]);
        assert_eq!(entry(&mut config, 15), [3, 0, 0, 0]);
        assert_eq!(entry(&mut config, 0x7777), [0; 4], "nobody's");
    }

    #[test]
    fn kernel_ram_disk_and_command_line_are_told_with_their_sizes() {
        let mut config = config();
        assert_eq!(entry(&mut config, 0x08), [4, 0, 0, 0]);
        assert_eq!(entry(&mut config, 0x11), *b"\x7fELF\0\0");
        assert_eq!(entry(&mut config, 0x0b), [4, 0, 0, 0]);
        assert_eq!(entry(&mut config, 0x12), *b"disk\0");
        assert_eq!(entry(&mut config, 0x14), [6, 0, 0, 0]);
        assert_eq!(entry(&mut config, 0x15), *b"quiet\0");
    }

    #[test]
    fn the_directory_leads_to_the_memory_map() {
        let mut config = config();
        let directory: [u8; 70] = entry(&mut config, 0x19);
        assert_eq!(directory[..4], [0, 0, 0, 1]);
        assert_eq!(directory[4..12], [0, 0, 0, 7 * 20 - 20, 0, 0x20, 0, 0]);
        assert_eq!(directory[12..22], *b"etc/e820\0\0");
        let map: [u8; 20] = entry(&mut config, 0x20);
        assert_eq!(
            map,
            [
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfc, 9, 0, 0, 0, 0, 0, 1, 0, 0, 0
            ]
        );
        assert_eq!(entry(&mut config, 0x8003), [6, 0, 0, 0, 0, 0]);
    }
}
