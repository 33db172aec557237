//! Multiboot kernels, version 1: 32-bit protected mode, EAX holds a magic number and EBX points to the
//! information. By the "Multiboot Specification version 0.6.96", whose names the fields have.

mod information;

use arch::{Gpr, Gprs};
use memory::GuestMemory;

use super::elf::{Elf, MAGIC as ELF_MAGIC, place_gdt};
use super::fields::Fields;
use super::space::{BELOW_1M, Space};
use super::start::InitialState;
use super::{LoadError, Request};

const MAGIC: u32 = 0x1bad_b002;
/// What EAX tells the kernel.
const BOOTED: u32 = 0x2bad_b002;
/// The header lies within so many bytes of the file's start, at a multiple of 4.
const SEARCH_BYTES: usize = 8192;
const HEADER_BYTES: u64 = 12;
/// Header flags: modules on page boundaries, memory information, video mode; each is a wish, the first two of
/// which are always met. The last is answered with the text mode that there is, whatever mode was wished for.
const KNOWN_REQUIREMENTS: u32 = 0x7;
/// The half of the flags in which unknown bits mean that the kernel cannot be booted.
const REQUIREMENTS: u32 = 0xffff;
/// Header flag: load addresses in the header rather than an ELF header.
const ADDRESSES: u32 = 1 << 16;

/// The text screen, as both versions describe a framebuffer: address, bytes of a line, columns, lines, bits of a cell, and
/// that it holds characters with attributes.
pub(super) const TEXT_SCREEN: [u8; 22] = [
    0x00, 0x80, 0x0b, 0, 0, 0, 0, 0, 160, 0, 0, 0, 80, 0, 0, 0, 25, 0, 0, 0, 16, 2,
];
pub(super) const LOADER_NAME: &str = "Plinth";
/// By custom the command line begins with the kernel's name, which is not known here.
pub(super) const KERNEL_NAME: &str = "kernel";

/// Where and what the header of a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Header {
    offset: u64,
    flags: u32,
}

/// Looks for a header in a file.
fn find(file: &[u8]) -> Option<Header> {
    let searched = file.get(..file.len().min(SEARCH_BYTES))?;
    let fields = Fields::new(searched, "the Multiboot header");
    (0..searched.len() as u64).step_by(4).find_map(|offset| {
        if fields.u32(offset).ok()? != MAGIC {
            return None;
        }
        let flags = fields.u32(offset + 4).ok()?;
        let checksum = fields.u32(offset + 8).ok()?;
        let sum = MAGIC.wrapping_add(flags).wrapping_add(checksum);
        (sum == 0).then_some(Header { offset, flags })
    })
}

/// Whether a file has a Multiboot header.
pub(super) fn is_multiboot(file: &[u8]) -> bool {
    find(file).is_some()
}

/// Where a kernel that is no ELF file wants to lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Addresses {
    /// Where the file's header is in memory.
    pub(super) header: u32,
    /// Where loading starts; all ones for the start of the file.
    pub(super) load: u32,
    /// Where the file's part ends; 0 for the end of the file.
    pub(super) load_end: u32,
    /// Where memory to be cleared ends; 0 for none.
    pub(super) bss_end: u32,
}

impl Addresses {
    /// The first three words behind `offset`, and the fourth.
    pub(super) fn read(fields: &Fields<'_>, offset: u64) -> Result<Self, LoadError> {
        Ok(Self {
            header: fields.u32(offset)?,
            load: fields.u32(offset + 4)?,
            load_end: fields.u32(offset + 8)?,
            bss_end: fields.u32(offset + 12)?,
        })
    }

    /// Copies the file to where these addresses say, `header_offset` being where its header is in the file.
    pub(super) fn load(
        &self,
        file: &[u8],
        header_offset: u64,
        memory: &impl GuestMemory,
        space: &mut Space,
    ) -> Result<(), LoadError> {
        const WRONG: LoadError = LoadError::Malformed("its Multiboot load addresses contradict");
        let (load, before) = if self.load == u32::MAX {
            let load = u64::from(self.header)
                .checked_sub(header_offset)
                .ok_or(WRONG)?;
            (load, header_offset)
        } else {
            let before = self.header.checked_sub(self.load).ok_or(WRONG)?;
            (u64::from(self.load), u64::from(before))
        };
        let file_start = header_offset.checked_sub(before).ok_or(WRONG)?;
        let file_bytes = match self.load_end {
            0 => (file.len() as u64).checked_sub(file_start).ok_or(WRONG)?,
            end => u64::from(end).checked_sub(load).ok_or(WRONG)?,
        };
        let contents = Fields::new(file, "the kernel that the Multiboot header describes")
            .slice(file_start, file_bytes)?;
        let memory_bytes = match self.bss_end {
            0 => file_bytes,
            end => u64::from(end)
                .checked_sub(load)
                .filter(|&all| all >= file_bytes)
                .ok_or(WRONG)?,
        };
        if memory_bytes == 0 {
            return Err(LoadError::Malformed(
                "its Multiboot header describes an empty kernel",
            ));
        }
        let range = space.claim_kernel("the kernel", load, memory_bytes)?;
        memory.write(range.start, contents)?;
        memory.zero(
            range.start.wrapping_add(file_bytes),
            memory_bytes - file_bytes,
        )?;
        Ok(())
    }
}

/// The ELF entry point as a 32-bit physical address.
pub(super) fn load_elf(
    file: &[u8],
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<u32, LoadError> {
    if !file.starts_with(&ELF_MAGIC) {
        return Err(LoadError::Malformed(
            "its Multiboot header has no addresses, and it is no ELF file",
        ));
    }
    let elf = Elf::parse(file)?;
    elf.load(memory, space)?;
    u32::try_from(elf.physical_entry()?)
        .map_err(|_| LoadError::Unsupported("a Multiboot entry point above 4 GiB"))
}

/// KiB of memory below 640 KiB, and from 1 MiB up to the first hole.
pub(super) fn memory_sizes_kib(request: &Request<'_>) -> [u32; 2] {
    let low_end = request.layout.low_ram().end.as_u64();
    let lower = low_end.min(crate::layout::EBDA.start.as_u64()) / 1024;
    let upper = low_end.saturating_sub(BELOW_1M) / 1024;
    [lower as u32, upper as u32]
}

/// Loads a Multiboot kernel.
pub(super) fn load(
    request: &Request<'_>,
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<InitialState, LoadError> {
    let file = request.kernel;
    let header = find(file).ok_or(LoadError::Malformed("it has no Multiboot header"))?;
    if header.flags & REQUIREMENTS & !KNOWN_REQUIREMENTS != 0 {
        return Err(LoadError::Unsupported(
            "its Multiboot header requires what nobody knows",
        ));
    }
    let is_elf = header.flags & ADDRESSES == 0;
    let entry = if is_elf {
        load_elf(file, memory, space)?
    } else {
        let fields = Fields::new(file, "the Multiboot header");
        let addresses = Addresses::read(&fields, header.offset + HEADER_BYTES)?;
        addresses.load(file, header.offset, memory, space)?;
        fields.u32(header.offset + HEADER_BYTES + 16)?
    };
    let info = information::write(request, is_elf, memory, space)?;
    let gdt = place_gdt(space)?;
    let mut gprs = Gprs::new();
    gprs.set(Gpr::Rax, u64::from(BOOTED));
    gprs.set(Gpr::Rbx, info.as_u64());
    let state = InitialState::protected(entry, gdt, gprs);
    state.write_gdt(memory, gdt)?;
    Ok(state)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::fake::{FakeMemory, FakeSegment, elf};
    use super::super::{Format, Module, detect, load, tests::request};
    use super::*;
    use crate::Display;
    use alloc::vec::Vec;
    use memory::GuestPhys;

    fn header(flags: u32, words: &[u32]) -> Vec<u8> {
        let sum = 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
        [0x1bad_b002, flags, sum]
            .iter()
            .chain(words)
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    /// An ELF32 kernel with a header at the start of its only segment.
    pub(in super::super) fn elf_kernel() -> Vec<u8> {
        let mut code = header(3, &[]);
        code.resize(64, 0x90);
        let segment = FakeSegment {
            kind: 1,
            virtual_address: 0x10_0000,
            physical_address: 0x10_0000,
            memory_bytes: 128,
            contents: &code,
        };
        elf(1, 0x10_0010, &[segment])
    }

    /// A flat kernel whose header, 16 bytes into the file, says where it goes.
    pub(in super::super) fn flat_kernel() -> Vec<u8> {
        let mut file = alloc::vec![0x11; 16];
        file.extend(header(
            0x1_0000,
            &[0x10_0010, 0x10_0000, 0x10_0040, 0x10_0080, 0x10_0030],
        ));
        file.resize(80, 0x22);
        file
    }

    #[test]
    fn an_elf_kernel_finds_its_information() {
        let memory = FakeMemory::new(2 << 20);
        let kernel = elf_kernel();
        let modules = [Module {
            bytes: b"module",
            cmdline: "mod args",
        }];
        let request = Request {
            modules: &modules,
            cmdline: "a b",
            ..request(&kernel)
        };
        let loaded = load(&request, &memory).unwrap();
        assert_eq!(loaded.format, Format::Multiboot);
        assert_eq!(loaded.state.rip, 0x10_0010);
        assert_eq!(loaded.state.gprs.get(Gpr::Rax), 0x2bad_b002);
        let info = loaded.state.gprs.get(Gpr::Rbx);
        let word = |at: u64| memory.read_u32(GuestPhys::new(at)).unwrap();
        assert_eq!(word(info), 0x34d);
        assert_eq!(word(info + 60), 0xf_e500);
        assert_eq!((word(info + 4), word(info + 8)), (639, 1024));
        assert_eq!(memory.string(word(info + 16).into()), b"kernel a b");
        assert_eq!(memory.string(word(info + 64).into()), b"Plinth");
        assert_eq!(word(info + 20), 1);
        let module = u64::from(word(info + 24));
        assert_eq!(memory.bytes(word(module).into(), 6), b"module");
        assert_eq!(word(module + 4) - word(module), 6);
        assert_eq!(memory.string(word(module + 8).into()), b"mod args");
        assert_eq!(word(info + 44), 5 * 24);
        let map = u64::from(word(info + 48));
        assert_eq!(
            [0, 4, 12, 20].map(|at| word(map + at)),
            [20, 0, 0x9_fc00, 1]
        );
        assert_eq!(word(map + 24), 20);
    }

    #[test]
    fn a_wish_for_graphics_is_answered_with_the_text_screen_that_there_is() {
        // 1024 by 768 by 32.
        let words = [0, 0, 0, 0, 0, 0, 1024, 768, 32];
        let mut code = header(4, &words);
        code.resize(64, 0x90);
        let segment = FakeSegment {
            kind: 1,
            virtual_address: 0x10_0000,
            physical_address: 0x10_0000,
            memory_bytes: 128,
            contents: &code,
        };
        let kernel = elf(1, 0x10_0010, &[segment]);
        for (display, flag) in [(Display::Absent, 0), (Display::Vga, 1 << 12)] {
            let memory = FakeMemory::new(2 << 20);
            let request = Request {
                display,
                ..request(&kernel)
            };
            let info = load(&request, &memory).unwrap().state.gprs.get(Gpr::Rbx);
            let word = |at: u64| memory.read_u32(GuestPhys::new(info + at)).unwrap();
            assert_eq!(word(0) & 1 << 12, flag);
            if flag != 0 {
                assert_eq!((word(88), word(92)), (0xb_8000, 0));
                assert_eq!((word(96), word(100), word(104)), (160, 80, 25));
                assert_eq!(memory.bytes(info + 108, 2), [16, 2]);
            }
        }
    }

    #[test]
    fn a_flat_kernel_goes_where_its_header_says() {
        let memory = FakeMemory::new(2 << 20);
        memory
            .write(GuestPhys::new(0x10_0000), &[0xff; 256])
            .unwrap();
        let kernel = flat_kernel();
        let loaded = load(&request(&kernel), &memory).unwrap();
        assert_eq!(
            (loaded.format, loaded.state.rip),
            (Format::Multiboot, 0x10_0030)
        );
        assert_eq!(memory.bytes(0x10_0000, 0x40), kernel[..0x40]);
        assert_eq!(memory.bytes(0x10_0040, 0x40), [0; 0x40]);
        assert_eq!(memory.bytes(0x10_0080, 1), [0xff]);
    }

    #[test]
    fn load_addresses_that_contradict_are_refused() {
        for (index, value) in [
            (0, 0x0f_ffffu32),
            (1, 0x10_0020),
            (2, 0x0f_0000),
            (3, 0x10_0010),
        ] {
            let memory = FakeMemory::new(2 << 20);
            let mut kernel = flat_kernel();
            kernel[28 + 4 * index..][..4].copy_from_slice(&value.to_le_bytes());
            let error = load(&request(&kernel), &memory).unwrap_err();
            assert!(matches!(error, LoadError::Malformed(_)), "{index}: {error}");
        }
        let memory = FakeMemory::new(2 << 20);
        let mut kernel = flat_kernel();
        kernel[36..40].copy_from_slice(&0x10_0100u32.to_le_bytes());
        kernel[40..44].copy_from_slice(&0x10_0100u32.to_le_bytes());
        assert!(matches!(
            load(&request(&kernel), &memory),
            Err(LoadError::Truncated(_))
        ));
    }

    #[test]
    fn a_header_counts_only_in_its_place_and_with_its_checksum() {
        let good = header(0, &[]);
        let at = |offset: usize, header: &[u8]| {
            let mut file = alloc::vec![0; 16384];
            file[offset..offset + header.len()].copy_from_slice(header);
            detect(&file)
        };
        assert_eq!(at(8180, &good), Ok(Format::Multiboot));
        assert_eq!(at(8184, &good), Err(LoadError::UnknownFormat));
        assert_eq!(at(2, &good), Err(LoadError::UnknownFormat));
        let mut bad = good.clone();
        bad[8] ^= 1;
        assert_eq!(at(0, &bad), Err(LoadError::UnknownFormat));
    }

    #[test]
    fn unknown_requirements_are_refused() {
        let memory = FakeMemory::new(2 << 20);
        let file = header(0x8, &[]);
        assert!(matches!(
            load(&request(&file), &memory),
            Err(LoadError::Unsupported(_))
        ));
    }
}
