//! [`FirmwareConfig`]: QEMU's fw_cfg, with the entries that test kernels look at.
//!
//! A 16-bit write to port 0x510 selects an entry, and each read of port 0x511 gives its next byte; past the end
//! there are zeroes. Or a guest writes to ports 0x514 and 0x518 where in its memory a request lies, and finds what it
//! asked for there ([`FirmwareConfig::transfer`]). Numbers are little-endian but in the file directory and in such requests.
//! By QEMU's "QEMU Firmware Configuration (fw_cfg) Device".

use alloc::sync::Arc;
use alloc::vec::Vec;

use memory::{GuestMemory, GuestPhys};

use crate::layout::MachineLayout;
use crate::loader::Placement;
use crate::{Display, Effects, Request};

/// Entries by their number.
mod entry {
    pub(super) const SIGNATURE: u16 = 0x00;
    pub(super) const ID: u16 = 0x01;
    pub(super) const RAM_BYTES: u16 = 0x03;
    /// Whether there is no display.
    pub(super) const NO_GRAPHIC: u16 = 0x04;
    pub(super) const CPU_COUNT: u16 = 0x05;
    pub(super) const KERNEL_ADDRESS: u16 = 0x07;
    pub(super) const KERNEL_BYTES: u16 = 0x08;
    pub(super) const INITRD_ADDRESS: u16 = 0x0a;
    pub(super) const INITRD_BYTES: u16 = 0x0b;
    pub(super) const MAX_CPUS: u16 = 0x0f;
    pub(super) const KERNEL_ENTRY: u16 = 0x10;
    pub(super) const KERNEL: u16 = 0x11;
    pub(super) const INITRD: u16 = 0x12;
    pub(super) const CMDLINE_ADDRESS: u16 = 0x13;
    pub(super) const CMDLINE_BYTES: u16 = 0x14;
    pub(super) const CMDLINE: u16 = 0x15;
    pub(super) const SETUP_ADDRESS: u16 = 0x16;
    pub(super) const SETUP_BYTES: u16 = 0x17;
    pub(super) const SETUP: u16 = 0x18;
    pub(super) const DIRECTORY: u16 = 0x19;
    /// The first file of the directory.
    pub(super) const E820_FILE: u16 = 0x20;
    /// The memory map, also as an entry of the PC's own.
    pub(super) const E820: u16 = 0x8003;
}

/// ID: both interfaces.
const TRADITIONAL_AND_DMA: u32 = 3;
/// What the ports of the DMA interface read as.
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";
/// Bytes that are transferred at once.
const MOST_AT_ONCE: u32 = 64 << 10;

/// The control word of a request.
mod control {
    pub(super) const ERROR: u32 = 1 << 0;
    pub(super) const READ: u32 = 1 << 1;
    pub(super) const SKIP: u32 = 1 << 2;
    pub(super) const SELECT: u32 = 1 << 3;
    pub(super) const WRITE: u32 = 1 << 4;
}

/// A request that a guest has made.
#[derive(Clone, Copy, Debug)]
struct DmaRequest {
    /// Where it lies: control, length, address.
    at: GuestPhys,
    /// What is left of it, once it has been looked at.
    rest: Option<(GuestPhys, u32)>,
}

/// Whether a request is done with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    Done,
    More,
}
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
    /// Where the loader has put them.
    pub placement: Placement,
}

impl FirmwareFiles {
    /// Of a Linux kernel, its setup code; the kernel is what follows it.
    fn setup(&self) -> &[u8] {
        let setup = self.kernel.get(..self.placement.setup_bytes);
        setup.unwrap_or_default()
    }

    fn kernel(&self) -> &[u8] {
        self.kernel.get(self.setup().len()..).unwrap_or_default()
    }
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
    display: Display,
    /// The upper half of the address of the next request.
    dma_high: u32,
    dma: Option<DmaRequest>,
}

impl FirmwareConfig {
    /// The device of a machine of this size.
    pub(super) fn new(layout: &MachineLayout, display: Display, files: FirmwareFiles) -> Self {
        Self {
            layout: *layout,
            files,
            contents: Vec::new(),
            selected: entry::SIGNATURE,
            position: 0,
            display,
            dma_high: 0,
            dma: None,
        }
    }

    /// Selects an entry, and its first byte.
    pub(super) const fn select(&mut self, entry: u16) {
        self.selected = entry;
        self.position = 0;
    }

    /// The next byte of the selected entry.
    pub(super) fn read(&mut self) -> u8 {
        let byte = self.rest().first().copied();
        // Past the end it stays, and the string's zero byte is among the zeroes there.
        if byte.is_some() {
            self.position += 1;
        }
        byte.unwrap_or(0)
    }

    /// What of the selected entry has not been read.
    fn rest(&mut self) -> &[u8] {
        if self.position == 0 {
            self.contents = self.made();
        }
        let bytes: &[u8] = match self.selected {
            entry::KERNEL => self.files.kernel(),
            entry::SETUP => self.files.setup(),
            entry::INITRD => &self.files.initrd,
            entry::CMDLINE => self.files.cmdline.as_bytes(),
            _ => &self.contents,
        };
        bytes.get(self.position..).unwrap_or_default()
    }

    /// Reads one of the eight ports of the DMA interface.
    pub(super) fn dma_signature(index: u16) -> u8 {
        DMA_SIGNATURE
            .get(usize::from(index))
            .copied()
            .unwrap_or(0xff)
    }

    /// Writes the upper half of a request's address, big-endian.
    pub(super) const fn write_dma_high(&mut self, value: u32) {
        self.dma_high = value.swap_bytes();
    }

    /// Writes the lower half, by which the request is made.
    pub(super) fn write_dma_low(&mut self, value: u32, fx: &mut Effects) {
        let high = core::mem::take(&mut self.dma_high);
        self.dma = Some(DmaRequest {
            at: GuestPhys::new(u64::from(high) << 32 | u64::from(value.swap_bytes())),
            rest: None,
        });
        fx.ask(Request::FirmwareTransfer);
    }

    /// Whether a request is not done with.
    pub(super) const fn is_busy(&self) -> bool {
        self.dma.is_some()
    }

    /// Does a part of the request, so that nobody has to wait for all of a long one. When it is done with, its control
    /// word says how it went. One that lies outside of RAM is dropped.
    pub(super) fn transfer(&mut self, memory: &impl GuestMemory) -> Progress {
        let Some(request) = self.dma.take() else {
            return Progress::Done;
        };
        let (to, left) = match request.rest {
            Some(rest) => rest,
            None => match self.begin(request.at, memory) {
                Ok(Some(rest)) => rest,
                Ok(None) => return finish(request.at, 0, memory),
                Err(status) => return finish(request.at, status, memory),
            },
        };
        let now = left.min(MOST_AT_ONCE);
        let known = self.rest();
        let known = known.get(..now as usize).unwrap_or(known);
        let zeroes = to.wrapping_add(known.len() as u64);
        let done = memory
            .write(to, known)
            .and_then(|()| memory.zero(zeroes, u64::from(now) - known.len() as u64));
        self.position += known.len();
        if done.is_err() {
            return finish(request.at, control::ERROR, memory);
        }
        if now == left {
            return finish(request.at, 0, memory);
        }
        self.dma = Some(DmaRequest {
            rest: Some((to.wrapping_add(u64::from(now)), left - now)),
            ..request
        });
        Progress::More
    }

    /// Looks at a request: where to read to, and how much; or how it ended at once.
    fn begin(
        &mut self,
        at: GuestPhys,
        memory: &impl GuestMemory,
    ) -> Result<Option<(GuestPhys, u32)>, u32> {
        let mut raw = [0; 16];
        memory.read(at, &mut raw).map_err(|_| control::ERROR)?;
        let raw = u128::from_be_bytes(raw);
        let (word, length) = ((raw >> 96) as u32, (raw >> 64) as u32);
        if word & control::SELECT != 0 {
            self.select((word >> 16) as u16);
        }
        if word & control::READ != 0 {
            return Ok(Some((GuestPhys::new(raw as u64), length)));
        }
        if word & control::WRITE != 0 {
            // All entries are read only.
            return Err(control::ERROR);
        }
        if word & control::SKIP != 0 {
            let skipped = self.rest().len().min(length as usize);
            self.position += skipped;
        }
        Ok(None)
    }

    /// The contents of an entry that is no file.
    fn made(&self) -> Vec<u8> {
        let dword = |value: usize| (value as u32).to_le_bytes().to_vec();
        let word = |value: u16| value.to_le_bytes().to_vec();
        // 0 where the guest was given no such thing.
        let address = |at: Option<GuestPhys>| dword(at.map_or(0, GuestPhys::as_u64) as usize);
        let placement = &self.files.placement;
        match self.selected {
            entry::SIGNATURE => b"QEMU".to_vec(),
            entry::ID => TRADITIONAL_AND_DMA.to_le_bytes().to_vec(),
            entry::RAM_BYTES => self.layout.ram_bytes().to_le_bytes().to_vec(),
            entry::NO_GRAPHIC => word(u16::from(self.display == Display::Absent)),
            entry::CPU_COUNT | entry::MAX_CPUS => word(self.layout.cpus() as u16),
            entry::KERNEL_ADDRESS => address(placement.kernel),
            entry::KERNEL_ENTRY => address(Some(placement.entry)),
            entry::INITRD_ADDRESS => address(placement.initrd),
            entry::CMDLINE_ADDRESS => address(placement.cmdline),
            entry::SETUP_ADDRESS => address(placement.setup),
            entry::SETUP_BYTES => dword(self.files.setup().len()),
            entry::KERNEL_BYTES => dword(self.files.kernel().len()),
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

fn finish(at: GuestPhys, status: u32, memory: &impl GuestMemory) -> Progress {
    // Where there is no memory, nobody waits for an answer.
    let _ = memory.write(at, &status.to_be_bytes());
    Progress::Done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::FakeMemory;

    fn config() -> FirmwareConfig {
        let files = FirmwareFiles {
            kernel: Arc::new(b"\x7fELF".to_vec()),
            initrd: Arc::new(b"disk".to_vec()),
            cmdline: "quiet".into(),
            placement: Placement {
                kernel: Some(GuestPhys::new(0x10_0000)),
                entry: GuestPhys::new(0x10_0010),
                initrd: Some(GuestPhys::new(0x20_0000)),
                cmdline: Some(GuestPhys::new(0x1234)),
                ..Placement::default()
            },
        };
        FirmwareConfig::new(
            &MachineLayout::new(0x1_2345_6000, 3),
            Display::Absent,
            files,
        )
    }

    fn entry<const BYTES: usize>(config: &mut FirmwareConfig, number: u16) -> [u8; BYTES] {
        config.select(number);
        [(); BYTES].map(|()| config.read())
    }

    #[test]
    fn entries_are_read_byte_by_byte_and_end_in_zeroes() {
        let mut config = config();
        assert_eq!(entry(&mut config, 0), *b"QEMU\0\0\0\0\0");
        assert_eq!(entry(&mut config, 1), [3, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(entry(&mut config, 4), [1, 0, 0]);
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
    fn addresses_are_those_where_the_loader_has_put_things() {
        let mut config = config();
        assert_eq!(entry(&mut config, 0x07), [0, 0, 0x10, 0, 0]);
        assert_eq!(entry(&mut config, 0x10), [0x10, 0, 0x10, 0, 0]);
        assert_eq!(entry(&mut config, 0x0a), [0, 0, 0x20, 0, 0]);
        assert_eq!(entry(&mut config, 0x13), [0x34, 0x12, 0, 0, 0]);
        // It is no Linux kernel.
        assert_eq!(entry(&mut config, 0x16), [0; 4]);
        assert_eq!(entry(&mut config, 0x17), [0; 4]);
        assert_eq!(entry(&mut config, 0x18), [0; 4]);
    }

    #[test]
    fn the_setup_code_of_a_linux_kernel_is_an_entry_of_its_own() {
        let mut config = config();
        config.files.kernel = Arc::new(b"setupkernel".to_vec());
        config.files.placement.setup_bytes = 5;
        config.files.placement.setup = Some(GuestPhys::new(0x2000));
        assert_eq!(entry(&mut config, 0x16), [0, 0x20, 0, 0, 0]);
        assert_eq!(entry(&mut config, 0x17), [5, 0, 0, 0]);
        assert_eq!(entry(&mut config, 0x18), *b"setup\0");
        assert_eq!(entry(&mut config, 0x08), [6, 0, 0, 0]);
        assert_eq!(entry(&mut config, 0x11), *b"kernel\0");
    }

    /// Makes a request, and does it to its end; how many parts that took, and the control word then.
    fn request(config: &mut FirmwareConfig, memory: &FakeMemory, words: [u32; 4]) -> (u32, u32) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        memory.write(GuestPhys::new(0x1000), &bytes).unwrap();
        let mut fx = Effects::new();
        config.write_dma_high(0);
        config.write_dma_low(0x1000u32.swap_bytes(), &mut fx);
        assert_eq!(fx.request, Some(Request::FirmwareTransfer));
        let mut parts = 1;
        while config.transfer(memory) == Progress::More {
            assert!(config.is_busy());
            parts += 1;
        }
        let word = memory.bytes(0x1000, 4);
        (parts, u32::from_be_bytes(word[..].try_into().unwrap()))
    }

    #[test]
    fn a_request_selects_skips_and_reads_to_memory() {
        let (mut config, memory) = (config(), FakeMemory::new(1 << 20));
        memory.write(GuestPhys::new(0x2000), &[0xff; 8]).unwrap();
        let command_line = 0x15 << 16;
        assert_eq!(
            request(&mut config, &memory, [command_line | 0xa, 3, 0, 0x2000]),
            (1, 0)
        );
        assert_eq!(memory.bytes(0x2000, 4), *b"qui\xff");
        // One is skipped, and then what is left is read, and zeroes behind it.
        assert_eq!(request(&mut config, &memory, [4, 1, 0, 0]), (1, 0));
        assert_eq!(request(&mut config, &memory, [2, 4, 0, 0x2000]), (1, 0));
        assert_eq!(memory.bytes(0x2000, 5), *b"t\0\0\0\xff");
    }

    #[test]
    fn a_long_request_is_done_in_parts() {
        let (mut config, memory) = (config(), FakeMemory::new(1 << 20));
        memory.write(GuestPhys::new(0x4_0004), &[1; 4]).unwrap();
        let kernel = 0x11 << 16;
        let words = [kernel | 0xa, 0x2_0008, 0, 0x2_0000];
        assert_eq!(request(&mut config, &memory, words), (3, 0));
        assert_eq!(memory.bytes(0x2_0000, 4), *b"\x7fELF");
        assert_eq!(memory.bytes(0x4_0004, 5), [0; 5]);
    }

    #[test]
    fn writes_and_addresses_outside_of_ram_are_errors() {
        let (mut config, memory) = (config(), FakeMemory::new(1 << 20));
        assert_eq!(request(&mut config, &memory, [0x10, 4, 0, 0x2000]), (1, 1));
        let outside = [0x15 << 16 | 0xa, 4, 0, 0x10_0000];
        assert_eq!(request(&mut config, &memory, outside), (1, 1));
        let mut fx = Effects::new();
        config.write_dma_low(0x7000_0000u32.swap_bytes(), &mut fx);
        assert_eq!(config.transfer(&memory), Progress::Done);
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
