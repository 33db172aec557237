//! Linux bzImages, by the kernel's own "The Linux/x86 Boot Protocol", 2.06 and later.
//!
//! A kernel that says so (XLF_KERNEL_64) is entered at its 64-bit entry point, with the first 4 GiB mapped to
//! themselves; others at the 32-bit one, and those that name none (iPXE is such an image) in real mode, where they call
//! the BIOS. Field names are those of the protocol's text.

use alloc::vec;

use arch::{Gpr, Gprs};
use memory::{GuestMemory, GuestPhys};

use super::elf::place_gdt;
use super::fields::Fields;
use super::paging::identity_map;
use super::space::{BELOW_1M, BELOW_4G, From, Placement, Space};
use super::start::InitialState;
use super::{LoadError, Request};
use crate::Display;

/// Offsets in the file, and the same in the zero page.
mod field {
    pub(super) const SCREEN_INFO: usize = 0x000;
    pub(super) const ACPI_RSDP_ADDR: usize = 0x070;
    pub(super) const E820_ENTRIES: usize = 0x1e8;
    pub(super) const SETUP_SECTS: usize = 0x1f1;
    pub(super) const SYSSIZE: usize = 0x1f4;
    pub(super) const VID_MODE: usize = 0x1fa;
    pub(super) const BOOT_FLAG: usize = 0x1fe;
    pub(super) const JUMP_LENGTH: usize = 0x201;
    pub(super) const HEADER: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const TYPE_OF_LOADER: usize = 0x210;
    pub(super) const LOADFLAGS: usize = 0x211;
    pub(super) const CODE32_START: usize = 0x214;
    pub(super) const RAMDISK_IMAGE: usize = 0x218;
    pub(super) const RAMDISK_SIZE: usize = 0x21c;
    pub(super) const HEAP_END_PTR: usize = 0x224;
    pub(super) const CMD_LINE_PTR: usize = 0x228;
    pub(super) const INITRD_ADDR_MAX: usize = 0x22c;
    pub(super) const KERNEL_ALIGNMENT: usize = 0x230;
    pub(super) const RELOCATABLE_KERNEL: usize = 0x234;
    pub(super) const XLOADFLAGS: usize = 0x236;
    pub(super) const CMDLINE_SIZE: usize = 0x238;
    pub(super) const PREF_ADDRESS: usize = 0x258;
    pub(super) const INIT_SIZE: usize = 0x260;
    pub(super) const E820_TABLE: usize = 0x2d0;
}

const MAGIC: &[u8] = b"HdrS";
const BOOT_FLAG: u16 = 0xaa55;
const SECTOR: u64 = 512;
const PARAGRAPH: u64 = 16;
const ZERO_PAGE_BYTES: u64 = 0x1000;
/// The setup header in the zero page ends here at the latest.
const HEADER_LIMIT: usize = 0x290;
const OLDEST: u16 = 0x0206;
/// The version that brought pref_address and init_size.
const WITH_PREF_ADDRESS: u16 = 0x020a;
/// The version that brought xloadflags.
const WITH_XLOADFLAGS: u16 = 0x020c;
/// loadflags: the protected-mode code belongs at 1 MiB.
const LOADED_HIGH: u8 = 1 << 0;
/// loadflags: heap_end_ptr is valid.
const CAN_USE_HEAP: u8 = 1 << 7;
/// xloadflags: there is a 64-bit entry point at 0x200.
const XLF_KERNEL_64: u16 = 1 << 0;
const ENTRY_64: u64 = 0x200;
const HIGH: u64 = 0x10_0000;
/// type_of_loader: a loader without a number of its own.
const UNDEFINED_LOADER: u8 = 0xff;
/// vid_mode: the mode that the display is in.
const NORMAL_MODE: u16 = 0xffff;
/// screen_info of a VGA in mode 3: cursor at home, 80 columns, 25 lines, 16 points each, and that it is a VGA.
const TEXT_SCREEN: [u8; 18] = [0, 0, 0, 0, 0, 0, 3, 80, 0, 0, 3, 0, 0, 0, 25, 1, 16, 0];
const PAGE: u64 = 0x1000;
const E820_ENTRY_BYTES: usize = 20;

/// Whether a file has the setup header of a Linux kernel.
pub(super) fn is_linux(file: &[u8]) -> bool {
    let fields = Fields::new(file, "");
    fields.u16(field::BOOT_FLAG as u64) == Ok(BOOT_FLAG)
        && fields.slice(field::HEADER as u64, 4) == Ok(MAGIC)
}

/// What the loader needs to know of the setup header.
#[derive(Debug)]
struct Header<'a> {
    /// The bytes that go to the zero page, from setup_sects on.
    bytes: &'a [u8],
    /// The protected-mode code.
    code: &'a [u8],
    initrd_addr_max: u64,
    alignment: Alignment,
    entry: Entry,
    /// The real-mode code, from the start of the file.
    setup: &'a [u8],
    loadflags: u8,
    cmdline_size: u64,
    preferred: u64,
    init_size: u64,
}

/// Where the kernel is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entry {
    /// At [`ENTRY_64`] of the protected-mode code, in 64-bit mode.
    Long,
    /// At the start of that code, in protected mode.
    Protected,
    /// In the real-mode code: there is no other entry (code32_start is 0).
    Real,
}

/// Where the kernel can be put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Alignment {
    /// Only at its preferred address.
    Fixed,
    /// At every multiple of this, too.
    Relocatable(u64),
}

impl<'a> Header<'a> {
    fn parse(file: &'a [u8]) -> Result<Self, LoadError> {
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

    /// Finds and takes room for the kernel and what it unpacks to.
    fn place(&self, space: &mut Space) -> Result<GuestPhys, LoadError> {
        const WHAT: &str = "the Linux kernel";
        match (
            space.claim(WHAT, self.preferred, self.init_size),
            self.alignment,
        ) {
            (Ok(range), _) if range.end.as_u64() <= BELOW_4G => Ok(range.start),
            (_, Alignment::Relocatable(align)) => {
                let range = space.place(
                    WHAT,
                    self.init_size,
                    align.max(HIGH),
                    BELOW_4G,
                    From::Bottom,
                )?;
                Ok(range.start)
            }
            (Ok(_), Alignment::Fixed) => Err(LoadError::Unsupported(
                "a Linux kernel that must be loaded above 4 GiB",
            )),
            (Err(error), Alignment::Fixed) => Err(error),
        }
    }
}

/// Loads a bzImage.
pub(super) fn load(
    request: &Request<'_>,
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<InitialState, LoadError> {
    let header = Header::parse(request.kernel)?;
    let kernel = header.place(space)?;
    memory.write(kernel, header.code)?;

    let initrd = place_initrd(request, &header, memory, space)?;
    let cmdline = place_cmdline(request, &header, memory, space)?;
    space.placement = Placement {
        kernel: Some(kernel),
        initrd: initrd.map(|(address, _)| address),
        cmdline: Some(cmdline),
        setup_bytes: header.setup.len(),
        ..Placement::default()
    };
    if header.entry == Entry::Real {
        return enter_real_mode(&header, kernel, initrd, cmdline, memory, space);
    }
    let zero_page = space
        .place(
            "the zero page",
            ZERO_PAGE_BYTES,
            PAGE,
            BELOW_1M,
            From::Bottom,
        )?
        .start;
    let mut page = ZeroPage::new(&header);
    page.set(field::TYPE_OF_LOADER, &[UNDEFINED_LOADER]);
    page.set(field::VID_MODE, &NORMAL_MODE.to_le_bytes());
    page.set(field::CODE32_START, &low_half(kernel));
    page.set(field::CMD_LINE_PTR, &low_half(cmdline));
    if let Some((address, bytes)) = initrd {
        page.set(field::RAMDISK_IMAGE, &low_half(address));
        page.set(field::RAMDISK_SIZE, &bytes.to_le_bytes());
    }
    if let Some(rsdp) = request.rsdp {
        page.set(field::ACPI_RSDP_ADDR, &rsdp.as_u64().to_le_bytes());
    }
    if request.display == Display::Vga {
        page.set(field::SCREEN_INFO, &TEXT_SCREEN);
    }
    page.set_memory_map(request);
    memory.write(zero_page, &page.0)?;
    space.placement.setup = Some(zero_page);

    let gdt = place_gdt(space)?;
    let mut gprs = Gprs::new();
    gprs.set(Gpr::Rsi, zero_page.as_u64());
    let state = if header.entry == Entry::Long {
        let cr3 = identity_map(memory, space)?;
        InitialState::long(kernel.wrapping_add(ENTRY_64).as_u64(), cr3, gdt, gprs)
    } else {
        InitialState::protected(kernel.as_u64() as u32, gdt, gprs)
    };
    state.write_gdt(memory, gdt)?;
    Ok(state)
}

/// Puts the real-mode code where old boot loaders have it, tells it what else there is, and enters it. Its segment also has
/// its heap and stack, up to the end of the segment's first 56 KiB.
fn enter_real_mode(
    header: &Header<'_>,
    kernel: GuestPhys,
    initrd: Option<(GuestPhys, u32)>,
    cmdline: GuestPhys,
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<InitialState, LoadError> {
    const SEGMENT_BYTES: u64 = 0x1_0000;
    const STACK: u16 = 0xe000;
    /// heap_end_ptr counts from behind the boot sector.
    const HEAP_END: u16 = STACK - 0x200;
    /// Where the real-mode code is entered, from its start.
    const ENTRY_16_PARAGRAPHS: u16 = 0x20;
    const WHAT: &str = "the Linux setup code";
    if header.setup.len() > usize::from(STACK / 2) {
        return Err(LoadError::Malformed(
            "the Linux setup code leaves no room for its heap and stack",
        ));
    }
    let range = space.place(WHAT, SEGMENT_BYTES, SEGMENT_BYTES, BELOW_1M, From::Bottom)?;
    let mut setup = ZeroPage(header.setup.to_vec());
    setup.set(field::TYPE_OF_LOADER, &[UNDEFINED_LOADER]);
    setup.set(field::LOADFLAGS, &[header.loadflags | CAN_USE_HEAP]);
    setup.set(field::VID_MODE, &NORMAL_MODE.to_le_bytes());
    setup.set(field::CODE32_START, &low_half(kernel));
    setup.set(field::HEAP_END_PTR, &HEAP_END.to_le_bytes());
    setup.set(field::CMD_LINE_PTR, &low_half(cmdline));
    if let Some((address, bytes)) = initrd {
        setup.set(field::RAMDISK_IMAGE, &low_half(address));
        setup.set(field::RAMDISK_SIZE, &bytes.to_le_bytes());
    }
    memory.write(range.start, &setup.0)?;
    space.placement.setup = Some(range.start);
    let segment = (range.start.as_u64() >> 4) as u16;
    let mut gprs = Gprs::new();
    gprs.set(Gpr::Rsp, u64::from(STACK));
    let code = segment + ENTRY_16_PARAGRAPHS;
    Ok(InitialState::real(code, 0, segment, gprs))
}

/// The address in 32 bits; everything is placed below 4 GiB.
const fn low_half(address: GuestPhys) -> [u8; 4] {
    (address.as_u64() as u32).to_le_bytes()
}

/// The initial RAM disk goes as high as the kernel allows, where it is in nobody's way.
fn place_initrd(
    request: &Request<'_>,
    header: &Header<'_>,
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<Option<(GuestPhys, u32)>, LoadError> {
    const WHAT: &str = "the initial RAM disk";
    let Some(initrd) = request.initrd.filter(|initrd| !initrd.is_empty()) else {
        return Ok(None);
    };
    let bytes = initrd.len() as u64;
    let size = u32::try_from(bytes).map_err(|_| LoadError::NoRoom { what: WHAT, bytes })?;
    let limit = header.initrd_addr_max.saturating_add(1);
    let at = space.place(WHAT, bytes, PAGE, limit, From::Top)?.start;
    memory.write(at, initrd)?;
    Ok(Some((at, size)))
}

fn place_cmdline(
    request: &Request<'_>,
    header: &Header<'_>,
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<GuestPhys, LoadError> {
    let bytes = request.cmdline.len() as u64;
    if bytes > header.cmdline_size {
        return Err(LoadError::CommandLineTooLong {
            bytes,
            limit: header.cmdline_size,
        });
    }
    let at = space
        .place("the command line", bytes + 1, 16, BELOW_1M, From::Bottom)?
        .start;
    memory.write(at, request.cmdline.as_bytes())?;
    memory.write(at.wrapping_add(bytes), &[0])?;
    Ok(at)
}

/// `struct boot_params`, which begins as zeroes and the file's setup header.
struct ZeroPage(alloc::vec::Vec<u8>);

impl ZeroPage {
    fn new(header: &Header<'_>) -> Self {
        let mut page = Self(vec![0; ZERO_PAGE_BYTES as usize]);
        page.set(field::SETUP_SECTS, header.bytes);
        page
    }

    fn set(&mut self, offset: usize, bytes: &[u8]) {
        for (place, byte) in self.0.iter_mut().skip(offset).zip(bytes) {
            *place = *byte;
        }
    }

    fn set_memory_map(&mut self, request: &Request<'_>) {
        let map = request.layout.memory_map();
        for (index, region) in map.iter().enumerate() {
            let at = field::E820_TABLE + index * E820_ENTRY_BYTES;
            self.set(at, &region.range.start.as_u64().to_le_bytes());
            self.set(at + 8, &region.range.len().to_le_bytes());
            self.set(at + 16, &(region.kind as u32).to_le_bytes());
        }
        self.set(field::E820_ENTRIES, &[map.len() as u8]);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::fake::FakeMemory;
    use super::super::{Format, detect, load, tests::request};
    use super::*;
    use crate::Handover;
    use crate::layout::MachineLayout;
    use alloc::vec::Vec;
    use arch::{AccessRights, Cr0, Efer, SegmentName};

    /// A bzImage of a version, with one setup sector and 0x400 bytes of code; 64-bit from 2.12 on.
    pub(in super::super) fn bzimage(version: u16) -> Vec<u8> {
        let mut file = vec![0; 0x400];
        let mut set = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        set(0x1f1, &[1]);
        set(0x1f4, &0x40u32.to_le_bytes());
        set(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
        set(0x202, b"HdrS");
        set(0x206, &version.to_le_bytes());
        set(0x211, &[1]);
        set(0x214, &0x10_0000u32.to_le_bytes());
        set(0x22c, &0x7fff_ffffu32.to_le_bytes());
        set(0x230, &0x20_0000u32.to_le_bytes());
        set(0x234, &[1]);
        set(0x236, &[if version >= 0x20c { 1 } else { 0 }]);
        set(0x238, &255u32.to_le_bytes());
        set(0x258, &0x100_0000u64.to_le_bytes());
        set(0x260, &0x10_0000u32.to_le_bytes());
        file.extend((0..0x400u32).map(|index| index as u8));
        file
    }

    fn with_memory(kernel: &[u8], mib: u64) -> (Request<'_>, FakeMemory) {
        let layout = MachineLayout::new(mib << 20, 1);
        (
            Request {
                layout,
                ..request(kernel)
            },
            FakeMemory::new((mib << 20) as usize),
        )
    }

    fn word(memory: &FakeMemory, at: u64) -> u32 {
        memory.read_u32(GuestPhys::new(at)).unwrap()
    }

    #[test]
    fn a_64_bit_kernel_is_entered_at_0x200_with_its_zero_page() {
        let kernel = bzimage(0x20f);
        let (mut request, memory) = with_memory(&kernel, 32);
        request.cmdline = "console=ttyS0";
        request.initrd = Some(b"an initial RAM disk");
        request.rsdp = Some(GuestPhys::new(0xe_0000));
        request.display = Display::Vga;
        let loaded = load(&request, &memory).unwrap();
        assert_eq!(loaded.format, Format::Linux);
        assert_eq!(loaded.state.rip, 0x100_0200);
        assert!(loaded.state.efer.contains(Efer::LMA));
        let cs = loaded.state.segment(SegmentName::Cs);
        assert_eq!(cs.selector, 0x10);
        assert!(cs.access.contains(AccessRights::LONG));
        assert_eq!(loaded.state.segment(SegmentName::Ds).selector, 0x18);
        assert_eq!(memory.bytes(0x100_0000, 0x400), kernel[0x400..]);

        let zero_page = loaded.state.gprs.get(Gpr::Rsi);
        assert_eq!(memory.bytes(zero_page + 0x202, 4), b"HdrS");
        assert_eq!(memory.bytes(zero_page + 0x210, 1), [0xff]);
        assert_eq!(memory.bytes(zero_page + 0x1ef, 1), [0], "the sentinel");
        assert_eq!(word(&memory, zero_page + 0x214), 0x100_0000);
        assert_eq!(
            memory.string(word(&memory, zero_page + 0x228).into()),
            b"console=ttyS0"
        );
        let initrd = u64::from(word(&memory, zero_page + 0x218));
        assert_eq!(initrd, 0x1ff_f000, "the last page of memory");
        assert_eq!(word(&memory, zero_page + 0x21c), 19);
        assert_eq!(memory.bytes(initrd, 19), b"an initial RAM disk");
        assert_eq!(word(&memory, zero_page + 0x70), 0xe_0000);
        assert_eq!(memory.bytes(zero_page + 6, 2), [3, 80], "mode and columns");
        assert_eq!(memory.bytes(zero_page + 14, 3), [25, 1, 16]);
        assert_eq!(memory.bytes(zero_page + 0x1e8, 1), [5]);
        let e820 = memory.bytes(zero_page + 0x2d0, 20);
        assert_eq!(e820[8..20], [0, 0xfc, 9, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn an_older_kernel_is_entered_in_protected_mode_at_1_mib() {
        let kernel = bzimage(0x206);
        let (request, memory) = with_memory(&kernel, 32);
        let state = load(&request, &memory).unwrap().state;
        assert_eq!(state.rip, 0x10_0000);
        assert!(!state.efer.contains(Efer::LMA));
        assert_eq!(state.segment(SegmentName::Cs).selector, 0x10);
        assert_ne!(state.gprs.get(Gpr::Rsi), 0);
    }

    #[test]
    fn a_kernel_without_a_32_bit_entry_starts_in_real_mode_with_a_bios() {
        let mut kernel = bzimage(0x207);
        kernel[0x214..0x218].fill(0);
        let (mut request, memory) = with_memory(&kernel, 32);
        request.cmdline = "shell";
        request.initrd = Some(b"disk");
        let loaded = load(&request, &memory).unwrap();
        assert_eq!(loaded.handover, Handover::Bios);
        let cs = loaded.state.segment(SegmentName::Cs);
        let base = cs.base - 0x200;
        assert_eq!((loaded.state.rip, base % 0x1_0000), (0, 0));
        assert!(!loaded.state.cr0.contains(Cr0::PE));
        for name in [SegmentName::Ds, SegmentName::Es, SegmentName::Ss] {
            assert_eq!(loaded.state.segment(name).base, base);
        }
        assert_eq!(loaded.state.gprs.get(Gpr::Rsp), 0xe000);
        assert_eq!(memory.bytes(base, 0x1f1), kernel[..0x1f1]);
        assert_eq!(memory.bytes(base + 0x210, 2), [0xff, 0x81]);
        assert_eq!(memory.bytes(base + 0x224, 2), [0x00, 0xde]);
        assert_eq!(word(&memory, base + 0x214), 0x10_0000);
        assert_eq!(memory.string(word(&memory, base + 0x228).into()), b"shell");
        assert_eq!(memory.bytes(word(&memory, base + 0x218).into(), 4), b"disk");
        assert_eq!(memory.bytes(0x10_0000, 0x400), kernel[0x400..]);
    }

    #[test]
    fn a_kernel_that_prefers_an_address_beyond_its_memory_is_moved() {
        let kernel = bzimage(0x20f);
        let (request, memory) = with_memory(&kernel, 8);
        assert_eq!(load(&request, &memory).unwrap().state.rip, 0x20_0200);
        let mut fixed = kernel.clone();
        fixed[0x234] = 0;
        let (request, memory) = with_memory(&fixed, 8);
        let error = load(&request, &memory).unwrap_err();
        assert!(matches!(
            error,
            LoadError::OutsideMemory {
                start: 0x100_0000,
                ..
            }
        ));
    }

    #[test]
    fn the_initial_ram_disk_stays_below_the_kernels_limit() {
        let mut kernel = bzimage(0x20f);
        kernel[0x22c..0x230].copy_from_slice(&0x17f_ffffu32.to_le_bytes());
        let initrd = vec![7; 0x1001];
        let (mut request, memory) = with_memory(&kernel, 32);
        request.initrd = Some(&initrd);
        let zero_page = load(&request, &memory).unwrap().state.gprs.get(Gpr::Rsi);
        assert_eq!(word(&memory, zero_page + 0x218), 0x17f_e000);
        assert_eq!(memory.bytes(0x17f_e000, 0x1001), initrd);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let kernel = bzimage(0x20f);
        let initrd = vec![0; 15 << 20];
        let (mut request, memory) = with_memory(&kernel, 16);
        request.initrd = Some(&initrd);
        assert!(matches!(
            load(&request, &memory),
            Err(LoadError::NoRoom { .. })
        ));
        request.initrd = None;
        let cmdline = "x".repeat(256);
        request.cmdline = &cmdline;
        assert_eq!(
            load(&request, &memory).unwrap_err(),
            LoadError::CommandLineTooLong {
                bytes: 256,
                limit: 255
            }
        );
    }

    #[test]
    fn a_corrupt_header_is_refused_with_the_reason() {
        let with = |at: usize, bytes: &[u8]| {
            let mut kernel = bzimage(0x20f);
            kernel[at..at + bytes.len()].copy_from_slice(bytes);
            let (request, memory) = with_memory(&kernel, 32);
            load(&request, &memory)
                .map(|loaded| loaded.format)
                .unwrap_err()
        };
        assert_eq!(with(0x206, &[5, 2]), LoadError::OldBootProtocol(0x205));
        assert!(matches!(with(0x211, &[0]), LoadError::Unsupported(_)));
        assert!(matches!(with(0x201, &[0x10]), LoadError::Malformed(_)));
        assert!(matches!(with(0x201, &[0xff]), LoadError::Malformed(_)));
        assert!(matches!(with(0x1f1, &[60]), LoadError::Truncated(_)));
        assert!(matches!(with(0x1f4, &[0x41]), LoadError::Truncated(_)));
        assert!(matches!(with(0x1f4, &[0; 4]), LoadError::Malformed(_)));
        assert!(matches!(
            with(0x230, &[3, 0, 0, 0]),
            LoadError::Malformed(_)
        ));
        // Without its magic number, it looks like a boot sector, which a kernel of this size is not.
        let mut kernel = bzimage(0x20f);
        kernel[0x202] = 0;
        assert_eq!(
            detect(&kernel),
            Ok(Format::Flat {
                address: GuestPhys::new(0x7c00)
            })
        );
    }

    #[test]
    fn a_file_that_ends_within_its_last_paragraph_is_whole() {
        let kernel = bzimage(0x20f);
        let (request, memory) = with_memory(&kernel[..0x7f1], 32);
        assert!(load(&request, &memory).is_ok());
        assert_eq!(memory.bytes(0x100_03f0, 3), [0xf0, 0, 0]);
    }

    #[test]
    fn a_file_that_is_cut_anywhere_else_is_refused() {
        let kernel = bzimage(0x20f);
        for length in 0x264..kernel.len() - 15 {
            let (request, memory) = with_memory(&kernel[..length], 2);
            assert!(
                matches!(load(&request, &memory), Err(LoadError::Truncated(_))),
                "{length:#x}"
            );
        }
    }
}
