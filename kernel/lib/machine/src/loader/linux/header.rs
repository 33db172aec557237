//! The setup header of a Linux kernel: where its parts lie in the file, and where and how it wants to be started.

use super::super::LoadError;
use super::super::fields::Fields;

/// Offsets in the file, and the same in the zero page.
pub(super) mod field {
    pub(in super::super) const SCREEN_INFO: usize = 0x000;
    pub(in super::super) const ACPI_RSDP_ADDR: usize = 0x070;
    pub(in super::super) const E820_ENTRIES: usize = 0x1e8;
    pub(in super::super) const SETUP_SECTS: usize = 0x1f1;
    pub(in super::super) const SYSSIZE: usize = 0x1f4;
    pub(in super::super) const VID_MODE: usize = 0x1fa;
    pub(in super::super) const BOOT_FLAG: usize = 0x1fe;
    pub(in super::super) const JUMP_LENGTH: usize = 0x201;
    pub(in super::super) const HEADER: usize = 0x202;
    pub(in super::super) const VERSION: usize = 0x206;
    pub(in super::super) const TYPE_OF_LOADER: usize = 0x210;
    pub(in super::super) const LOADFLAGS: usize = 0x211;
    pub(in super::super) const CODE32_START: usize = 0x214;
    pub(in super::super) const RAMDISK_IMAGE: usize = 0x218;
    pub(in super::super) const RAMDISK_SIZE: usize = 0x21c;
    pub(in super::super) const HEAP_END_PTR: usize = 0x224;
    pub(in super::super) const CMD_LINE_PTR: usize = 0x228;
    pub(in super::super) const INITRD_ADDR_MAX: usize = 0x22c;
    pub(in super::super) const KERNEL_ALIGNMENT: usize = 0x230;
    pub(in super::super) const RELOCATABLE_KERNEL: usize = 0x234;
    pub(in super::super) const XLOADFLAGS: usize = 0x236;
    pub(in super::super) const CMDLINE_SIZE: usize = 0x238;
    pub(in super::super) const PREF_ADDRESS: usize = 0x258;
    pub(in super::super) const INIT_SIZE: usize = 0x260;
    pub(in super::super) const E820_TABLE: usize = 0x2d0;
}

const MAGIC: &[u8] = b"HdrS";
const BOOT_FLAG: u16 = 0xaa55;
const SECTOR: u64 = 512;
const PARAGRAPH: u64 = 16;
/// The setup header in the zero page ends here at the latest.
const HEADER_LIMIT: usize = 0x290;
const OLDEST: u16 = 0x0206;
/// The version that brought pref_address and init_size.
const WITH_PREF_ADDRESS: u16 = 0x020a;
/// The version that brought xloadflags.
const WITH_XLOADFLAGS: u16 = 0x020c;
/// loadflags: the protected-mode code belongs at 1 MiB.
const LOADED_HIGH: u8 = 1 << 0;
/// xloadflags: there is a 64-bit entry point at 0x200.
const XLF_KERNEL_64: u16 = 1 << 0;
/// Where the 64-bit entry point is in the protected-mode code.
pub(super) const ENTRY_64: u64 = 0x200;
/// Where a kernel belongs that does not say.
pub(super) const HIGH: u64 = 0x10_0000;

/// Whether a file has the setup header of a Linux kernel.
pub(in super::super) fn is_linux(file: &[u8]) -> bool {
    let fields = Fields::new(file, "");
    fields.u16(field::BOOT_FLAG as u64) == Ok(BOOT_FLAG)
        && fields.slice(field::HEADER as u64, 4) == Ok(MAGIC)
}

/// What the loader needs to know of the setup header.
#[derive(Debug)]
pub(super) struct Header<'a> {
    /// The bytes that go to the zero page, from setup_sects on.
    pub(super) bytes: &'a [u8],
    /// The protected-mode code.
    pub(super) code: &'a [u8],
    pub(super) initrd_addr_max: u64,
    pub(super) alignment: Alignment,
    pub(super) entry: Entry,
    /// The real-mode code, from the start of the file.
    pub(super) setup: &'a [u8],
    pub(super) loadflags: u8,
    pub(super) cmdline_size: u64,
    pub(super) preferred: u64,
    pub(super) init_size: u64,
}

/// Where the kernel is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// At [`ENTRY_64`] of the protected-mode code, in 64-bit mode.
    Long,
    /// At the start of that code, in protected mode.
    Protected,
    /// In the real-mode code: there is no other entry (code32_start is 0).
    Real,
}

/// Where the kernel can be put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Alignment {
    /// Only at its preferred address.
    Fixed,
    /// At every multiple of this, too.
    Relocatable(u64),
}

impl<'a> Header<'a> {
    /// Reads it, and checks it against the file.
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, LoadError> {
        let header = Fields::new(file, "the Linux setup header");
        let u8_at = |offset: usize| header.u8(offset as u64);
        let u16_at = |offset: usize| header.u16(offset as u64);
        let u32_at = |offset: usize| header.u32(offset as u64);
        if !is_linux(file) {
            return Err(LoadError::Malformed("it has no Linux setup header"));
        }
        let version = u16_at(field::VERSION)?;
        if version < OLDEST {
            return Err(LoadError::OldBootProtocol(version));
        }
        let loadflags = u8_at(field::LOADFLAGS)?;
        if loadflags & LOADED_HIGH == 0 {
            return Err(LoadError::Unsupported(
                "a Linux zImage, which is loaded below 640 KiB",
            ));
        }
        let end = field::HEADER + usize::from(u8_at(field::JUMP_LENGTH)?);
        if !(field::CMDLINE_SIZE + 4..=HEADER_LIMIT).contains(&end) {
            return Err(LoadError::Malformed(
                "the Linux setup header has an impossible length",
            ));
        }
        let has = |offset: usize, bytes: usize| offset + bytes <= end;
        let bytes = header.slice(field::SETUP_SECTS as u64, (end - field::SETUP_SECTS) as u64)?;

        let setup_sectors = match u8_at(field::SETUP_SECTS)? {
            0 => 4,
            count => u64::from(count),
        };
        let code_start = (setup_sectors + 1) * SECTOR;
        let code_bytes = u64::from(u32_at(field::SYSSIZE)?) * PARAGRAPH;
        // The size counts paragraphs, and not every linker fills the last one.
        let left = (file.len() as u64).saturating_sub(code_start);
        let in_file = if code_bytes.saturating_sub(left) < PARAGRAPH {
            code_bytes.min(left)
        } else {
            code_bytes
        };
        let code = Fields::new(file, "the Linux kernel behind its setup code")
            .slice(code_start, in_file)?;
        if code.len() as u64 <= ENTRY_64 {
            return Err(LoadError::Malformed(
                "the Linux kernel behind its setup code is empty",
            ));
        }

        let (preferred, init_size) = if version >= WITH_PREF_ADDRESS && has(field::INIT_SIZE, 4) {
            (
                header.u64(field::PREF_ADDRESS as u64)?,
                u64::from(u32_at(field::INIT_SIZE)?),
            )
        } else {
            (HIGH, 0)
        };
        let alignment = u64::from(u32_at(field::KERNEL_ALIGNMENT)?);
        let alignment = match u8_at(field::RELOCATABLE_KERNEL)? {
            0 => Alignment::Fixed,
            _ if alignment.is_power_of_two() => Alignment::Relocatable(alignment),
            _ => {
                return Err(LoadError::Malformed(
                    "the Linux kernel's alignment is no power of two",
                ));
            }
        };
        let xloadflags = if version >= WITH_XLOADFLAGS {
            u16_at(field::XLOADFLAGS)?
        } else {
            0
        };
        Ok(Self {
            bytes,
            code,
            initrd_addr_max: u64::from(u32_at(field::INITRD_ADDR_MAX)?),
            alignment,
            entry: match u32_at(field::CODE32_START)? {
                0 => Entry::Real,
                _ if xloadflags & XLF_KERNEL_64 != 0 => Entry::Long,
                _ => Entry::Protected,
            },
            setup: Fields::new(file, "the Linux setup code").slice(0, code_start)?,
            loadflags,
            cmdline_size: u64::from(u32_at(field::CMDLINE_SIZE)?),
            preferred,
            init_size: init_size.max(code_bytes),
        })
    }
}
