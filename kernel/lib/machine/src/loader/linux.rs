//! Linux bzImages, by the kernel's own "The Linux/x86 Boot Protocol", 2.06 and later.
//!
//! A kernel that says so (XLF_KERNEL_64) is entered at its 64-bit entry point, with the first 4 GiB mapped to
//! themselves; others at the 32-bit one, and those that name none (iPXE is such an image) in real mode, where they call
//! the BIOS. Field names are those of the protocol's text. `header` reads what the file says.

mod header;
#[cfg(test)]
pub(super) mod tests;

use alloc::vec;

use arch::{Gpr, Gprs};
use memory::{GuestMemory, GuestPhys};

use self::header::{Alignment, ENTRY_64, Entry, HIGH, Header, field};
use super::elf::place_gdt;
use super::paging::identity_map;
use super::space::{BELOW_1M, BELOW_4G, From, Placement, Space};
use super::start::InitialState;
use super::{LoadError, Request};
use crate::Display;

pub(super) use self::header::is_linux;

const ZERO_PAGE_BYTES: u64 = 0x1000;
/// loadflags: heap_end_ptr is valid.
const CAN_USE_HEAP: u8 = 1 << 7;
/// type_of_loader: a loader without a number of its own.
const UNDEFINED_LOADER: u8 = 0xff;
/// vid_mode: the mode that the display is in.
const NORMAL_MODE: u16 = 0xffff;
/// screen_info of a VGA in mode 3: cursor at home, 80 columns, 25 lines, 16 points each, and that it is a VGA.
const TEXT_SCREEN: [u8; 18] = [0, 0, 0, 0, 0, 0, 3, 80, 0, 0, 3, 0, 0, 0, 25, 1, 16, 0];
const PAGE: u64 = 0x1000;
const E820_ENTRY_BYTES: usize = 20;

/// Loads a bzImage.
pub(super) fn load(
    request: &Request<'_>,
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<InitialState, LoadError> {
    let header = Header::parse(request.kernel)?;
    let kernel = place_kernel(&header, space)?;
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

/// Finds and takes room for the kernel and what it unpacks to.
fn place_kernel(header: &Header<'_>, space: &mut Space) -> Result<GuestPhys, LoadError> {
    const WHAT: &str = "the Linux kernel";
    match (
        space.claim(WHAT, header.preferred, header.init_size),
        header.alignment,
    ) {
        (Ok(range), _) if range.end.as_u64() <= BELOW_4G => Ok(range.start),
        (_, Alignment::Relocatable(align)) => {
            let range = space.place(
                WHAT,
                header.init_size,
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
