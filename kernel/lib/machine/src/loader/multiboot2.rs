//! Multiboot kernels, version 2: 32-bit protected mode, EAX holds a magic number and EBX points to a list of tags.
//! By the "Multiboot2 Specification version 2.0", whose names the tags have.

use alloc::format;
use alloc::vec::Vec;

use arch::{Gpr, Gprs};
use memory::{GuestMemory, GuestPhys};

use super::elf::place_gdt;
use super::fields::Fields;
use super::multiboot::{
    Addresses, KERNEL_NAME, LOADER_NAME, TEXT_SCREEN, load_elf, memory_sizes_kib,
};
use super::parts::place_modules;
use super::sections::Sections;
use super::space::{BELOW_4G, From, Space};
use super::start::InitialState;
use super::{LoadError, Request};
use crate::Display;

const MAGIC: u32 = 0xe852_50d6;
/// What EAX tells the kernel.
const BOOTED: u32 = 0x36d7_6289;
/// The header lies within so many bytes of the file's start, at a multiple of 8.
const SEARCH_BYTES: usize = 32_768;
const HEADER_BYTES: u64 = 16;
/// The architecture that is 32-bit protected mode of i386.
const I386: u32 = 0;
/// A tag's flag: a loader that does not know it may go on.
const OPTIONAL: u16 = 1;
const RSDP_BYTES: usize = 36;
/// What of it the first version of ACPI has.
const OLD_RSDP_BYTES: usize = 20;
/// Console flag: one of the consoles that the kernel knows must be there.
const CONSOLE_REQUIRED: u32 = 1;

/// Tags of the header.
mod wish {
    pub(super) const END: u16 = 0;
    pub(super) const INFORMATION: u16 = 1;
    pub(super) const ADDRESS: u16 = 2;
    pub(super) const ENTRY_ADDRESS: u16 = 3;
    pub(super) const CONSOLE_FLAGS: u16 = 4;
    pub(super) const FRAMEBUFFER: u16 = 5;
    pub(super) const MODULE_ALIGNMENT: u16 = 6;
    pub(super) const EFI_I386_ENTRY: u16 = 8;
    pub(super) const EFI_AMD64_ENTRY: u16 = 9;
    pub(super) const RELOCATABLE: u16 = 10;
}

/// Tags of the information.
mod info {
    use crate::Display;

    pub(super) const END: u32 = 0;
    pub(super) const COMMAND_LINE: u32 = 1;
    pub(super) const LOADER_NAME: u32 = 2;
    pub(super) const MODULE: u32 = 3;
    pub(super) const BASIC_MEMORY: u32 = 4;
    pub(super) const MEMORY_MAP: u32 = 6;
    pub(super) const FRAMEBUFFER: u32 = 8;
    pub(super) const ELF_SECTIONS: u32 = 9;
    pub(super) const ACPI_OLD: u32 = 14;
    pub(super) const ACPI_NEW: u32 = 15;
    /// What a kernel may insist on in any machine.
    const PROVIDED: [u32; 7] = [
        COMMAND_LINE,
        LOADER_NAME,
        MODULE,
        BASIC_MEMORY,
        MEMORY_MAP,
        ACPI_OLD,
        ACPI_NEW,
    ];

    /// Whether a kernel may insist on it here.
    pub(super) fn is_provided(kind: u32, display: Display) -> bool {
        PROVIDED.contains(&kind) || kind == FRAMEBUFFER && display == Display::Vga
    }
}

/// Where the header of a file is, and how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Header {
    offset: u64,
    bytes: u64,
}

fn find(file: &[u8]) -> Option<Header> {
    let searched = file.get(..file.len().min(SEARCH_BYTES))?;
    let fields = Fields::new(searched, "the Multiboot2 header");
    (0..searched.len() as u64).step_by(8).find_map(|offset| {
        let mut sum = 0u32;
        for index in 0..4 {
            sum = sum.wrapping_add(fields.u32(offset + 4 * index).ok()?);
        }
        let good = fields.u32(offset).ok()? == MAGIC && sum == 0;
        let bytes = u64::from(fields.u32(offset + 8).ok()?);
        good.then_some(Header { offset, bytes })
    })
}

/// Whether a file has a Multiboot2 header.
pub(super) fn is_multiboot2(file: &[u8]) -> bool {
    find(file).is_some()
}

/// What the tags of the header ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Wishes {
    addresses: Option<Addresses>,
    entry: Option<u32>,
    /// It insists on its section headers.
    sections: bool,
}

impl Wishes {
    fn parse(file: &[u8], header: Header, display: Display) -> Result<Self, LoadError> {
        let fields = Fields::new(file, "the Multiboot2 header");
        if fields.u32(header.offset + 4)? != I386 {
            return Err(LoadError::Unsupported(
                "a Multiboot2 kernel for another processor",
            ));
        }
        let end = header.offset + header.bytes;
        let mut wishes = Self::default();
        let mut at = header.offset + HEADER_BYTES;
        while at < end {
            let kind = fields.u16(at)?;
            let flags = fields.u16(at + 2)?;
            let size = u64::from(fields.u32(at + 4)?);
            if size < 8 || at + size > end {
                return Err(LoadError::Malformed(
                    "a tag of the Multiboot2 header has a wrong size",
                ));
            }
            match kind {
                wish::END => break,
                wish::INFORMATION => {
                    let requests = Fields::new(fields.slice(at, size)?, "a Multiboot2 request");
                    for offset in (8..size - size % 4).step_by(4) {
                        match requests.u32(offset)? {
                            _ if flags & OPTIONAL != 0 => {}
                            info::ELF_SECTIONS => wishes.sections = true,
                            kind if info::is_provided(kind, display) => {}
                            _ => {
                                return Err(LoadError::Unsupported(
                                    "it insists on Multiboot2 information that this machine has not",
                                ));
                            }
                        }
                    }
                }
                wish::ADDRESS => wishes.addresses = Some(Addresses::read(&fields, at + 8)?),
                wish::ENTRY_ADDRESS => wishes.entry = Some(fields.u32(at + 8)?),
                wish::CONSOLE_FLAGS => {
                    let required = fields.u32(at + 8)? & CONSOLE_REQUIRED != 0;
                    if required && flags & OPTIONAL == 0 && display == Display::Absent {
                        return Err(LoadError::Unsupported(
                            "it insists on a console that Multiboot2 knows: give it a screen (--screen)",
                        ));
                    }
                }
                // Met anyway, or about firmware that the machine has not. A wish for graphics is answered with the text
                // screen that there is; a relocatable kernel is loaded where it was linked.
                wish::FRAMEBUFFER
                | wish::MODULE_ALIGNMENT
                | wish::EFI_I386_ENTRY
                | wish::EFI_AMD64_ENTRY
                | wish::RELOCATABLE => {}
                _ if flags & OPTIONAL != 0 => {}
                _ => {
                    return Err(LoadError::Unsupported(
                        "its Multiboot2 header requires what nobody knows",
                    ));
                }
            }
            at += size.next_multiple_of(8);
        }
        Ok(wishes)
    }
}

/// Loads a Multiboot2 kernel.
pub(super) fn load(
    request: &Request<'_>,
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<InitialState, LoadError> {
    let file = request.kernel;
    let header = find(file).ok_or(LoadError::Malformed("it has no Multiboot2 header"))?;
    let wishes = Wishes::parse(file, header, request.display)?;
    let elf_entry = match wishes.addresses {
        Some(addresses) => {
            addresses.load(file, header.offset, memory, space)?;
            None
        }
        None => Some(load_elf(file, memory, space)?),
    };
    let entry = wishes.entry.or(elf_entry).ok_or(LoadError::Malformed(
        "its Multiboot2 header has no entry address",
    ))?;
    let sections = match elf_entry {
        Some(_) => Sections::find(file)?,
        None => None,
    };
    let sections = match sections {
        Some(sections) => sections
            .place(memory, space)?
            .map(|table| (sections, table)),
        None => None,
    };
    if wishes.sections && sections.is_none() {
        return Err(LoadError::Unsupported(
            "it insists on being told its ELF sections: it has none, or there is no room for them",
        ));
    }
    let information = write_info(request, sections, memory, space)?;
    let gdt = place_gdt(space)?;
    let mut gprs = Gprs::new();
    gprs.set(Gpr::Rax, u64::from(BOOTED));
    gprs.set(Gpr::Rbx, information.as_u64());
    let state = InitialState::protected(entry, gdt, gprs);
    state.write_gdt(memory, gdt)?;
    Ok(state)
}

/// The list of tags as it grows.
struct Tags(Vec<u8>);

impl Tags {
    /// Adds a tag: type, size with the eight bytes of both, contents, and padding to a multiple of 8.
    fn add(&mut self, kind: u32, contents: &[&[u8]]) {
        let size: usize = contents.iter().map(|part| part.len()).sum();
        self.0.extend_from_slice(&kind.to_le_bytes());
        self.0.extend_from_slice(&(size as u32 + 8).to_le_bytes());
        for part in contents {
            self.0.extend_from_slice(part);
        }
        self.0.resize(self.0.len().next_multiple_of(8), 0);
    }
}

fn write_info(
    request: &Request<'_>,
    sections: Option<(Sections<'_>, Vec<u8>)>,
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<GuestPhys, LoadError> {
    // The total size, known at the end, and a reserved word.
    let mut tags = Tags(alloc::vec![0; 8]);
    let cmdline = format!("{KERNEL_NAME} {}", request.cmdline);
    tags.add(info::COMMAND_LINE, &[cmdline.as_bytes(), &[0]]);
    tags.add(info::LOADER_NAME, &[LOADER_NAME.as_bytes(), &[0]]);
    let [lower, upper] = memory_sizes_kib(request);
    tags.add(
        info::BASIC_MEMORY,
        &[&lower.to_le_bytes(), &upper.to_le_bytes()],
    );

    for (module, cmdline) in place_modules(request, memory, space)? {
        let [start, end] =
            [module.start, module.end].map(|address| (address.as_u64() as u32).to_le_bytes());
        tags.add(info::MODULE, &[&start, &end, cmdline.as_bytes(), &[0]]);
    }

    const ENTRY_BYTES: u32 = 24;
    let mut map = Vec::new();
    map.extend_from_slice(&ENTRY_BYTES.to_le_bytes());
    map.extend_from_slice(&0u32.to_le_bytes());
    for region in &request.layout.memory_map() {
        map.extend_from_slice(&region.range.start.as_u64().to_le_bytes());
        map.extend_from_slice(&region.range.len().to_le_bytes());
        map.extend_from_slice(&(region.kind as u64).to_le_bytes());
    }
    tags.add(info::MEMORY_MAP, &[&map]);

    if let Some(rsdp) = request.rsdp {
        let mut copy = [0; RSDP_BYTES];
        memory.read(rsdp, &mut copy)?;
        let old = copy.get(..OLD_RSDP_BYTES).unwrap_or_default();
        tags.add(info::ACPI_OLD, &[old]);
        tags.add(info::ACPI_NEW, &[&copy]);
    }
    if let Some((sections, table)) = sections {
        let words = [sections.count, sections.entry_bytes, sections.names];
        let [count, entry_bytes, names] = words.map(|word| u32::from(word).to_le_bytes());
        tags.add(info::ELF_SECTIONS, &[&count, &entry_bytes, &names, &table]);
    }
    if request.display == Display::Vga {
        tags.add(info::FRAMEBUFFER, &[&TEXT_SCREEN, &[0, 0]]);
    }
    tags.add(info::END, &[]);

    let Tags(mut bytes) = tags;
    let size = bytes.len() as u32;
    for (place, byte) in bytes.iter_mut().zip(size.to_le_bytes()) {
        *place = byte;
    }
    let at = space
        .place(
            "the Multiboot2 information",
            u64::from(size),
            8,
            BELOW_4G,
            From::Bottom,
        )?
        .start;
    memory.write(at, &bytes)?;
    // Behind the size of all, the head of the first tag, and the kernel's name.
    let before = 8 + 8 + KERNEL_NAME.len() as u64 + 1;
    space.placement.cmdline = Some(at.wrapping_add(before));
    Ok(at)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::fake::{FakeMemory, FakeSegment, elf};
    use super::super::{Format, Module, load, tests::request};
    use super::*;

    fn tag(kind: u16, flags: u16, words: &[u32]) -> Vec<u8> {
        let size = 8 + 4 * words.len();
        let mut tag = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
        tag.extend((size as u32).to_le_bytes());
        tag.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        tag.resize(size.next_multiple_of(8), 0);
        tag
    }

    fn header(tags: &[Vec<u8>]) -> Vec<u8> {
        let tags = tags.concat();
        let bytes = 16 + tags.len() as u32;
        let sum = 0u32.wrapping_sub(0xe852_50d6).wrapping_sub(bytes);
        let mut header: Vec<u8> = [0xe852_50d6, 0, bytes, sum]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        header.extend(tags);
        header
    }

    /// A kernel that insists on information of these kinds.
    pub(in super::super) fn insisting_on(kinds: &[u32]) -> Vec<u8> {
        kernel_with(&[tag(1, 0, kinds), tag(0, 0, &[])])
    }

    /// An ELF64 kernel with this header at the start of its only segment, at an aligned place of the file.
    fn kernel_with(tags: &[Vec<u8>]) -> Vec<u8> {
        let code = header(tags);
        let segment = FakeSegment {
            kind: 1,
            virtual_address: 0x10_0000,
            physical_address: 0x10_0000,
            memory_bytes: 0x200,
            contents: &code,
        };
        elf(2, 0x10_0100, &[segment])
    }

    pub(in super::super) fn kernel() -> Vec<u8> {
        kernel_with(&[tag(1, 0, &[6, 15]), tag(6, 0, &[]), tag(0, 0, &[])])
    }

    /// A kernel whose header, at the start of the file, says where it goes.
    pub(in super::super) fn flat_kernel() -> Vec<u8> {
        let mut file = header(&[
            tag(2, 0, &[0x10_0000, 0x10_0000, 0, 0]),
            tag(3, 0, &[0x10_0040]),
            tag(0, 0, &[]),
        ]);
        file.resize(0x80, 0x90);
        file
    }

    #[test]
    fn a_kernel_finds_its_tags() {
        let memory = FakeMemory::new(2 << 20);
        memory.write(GuestPhys::new(0xe_0000), b"RSD PTR ").unwrap();
        let kernel = kernel();
        let modules = [Module {
            bytes: b"module",
            cmdline: "mod args",
        }];
        let rsdp = Some(GuestPhys::new(0xe_0000));
        let request = Request {
            modules: &modules,
            cmdline: "a b",
            rsdp,
            display: Display::Vga,
            ..request(&kernel)
        };
        let loaded = load(&request, &memory).unwrap();
        assert_eq!(
            (loaded.format, loaded.state.rip),
            (Format::Multiboot2, 0x10_0100)
        );
        assert_eq!(loaded.state.gprs.get(Gpr::Rax), 0x36d7_6289);
        let at = loaded.state.gprs.get(Gpr::Rbx);
        assert_eq!(at % 8, 0);
        let word = |at: u64| memory.read_u32(GuestPhys::new(at)).unwrap();
        let end = at + u64::from(word(at));
        let mut tags = Vec::new();
        let mut next = at + 8;
        while next < end {
            let size = u64::from(word(next + 4));
            tags.push((word(next), memory.bytes(next + 8, size as usize - 8)));
            next += size.next_multiple_of(8);
        }
        let kinds: Vec<u32> = tags.iter().map(|tag| tag.0).collect();
        assert_eq!(kinds, [1, 2, 4, 3, 6, 14, 15, 8, 0]);
        assert_eq!(tags[0].1, b"kernel a b\0");
        assert_eq!(
            tags[2].1,
            [639u32.to_le_bytes(), 1024u32.to_le_bytes()].concat()
        );
        let start = u32::from_le_bytes(tags[3].1[..4].try_into().unwrap());
        assert_eq!(memory.bytes(start.into(), 6), b"module");
        assert_eq!(&tags[3].1[8..], b"mod args\0");
        assert_eq!(tags[4].1.len(), 8 + 5 * 24);
        for (tag, bytes) in [(5, 20), (6, 36)] {
            assert_eq!(&tags[tag].1[..8], b"RSD PTR ");
            assert_eq!(tags[tag].1.len(), bytes);
        }
        let screen = &tags[7].1;
        assert_eq!(screen[..8], 0xb_8000u64.to_le_bytes());
        assert_eq!(
            screen[8..],
            [160, 0, 0, 0, 80, 0, 0, 0, 25, 0, 0, 0, 16, 2, 0, 0]
        );
    }

    #[test]
    fn a_console_or_a_framebuffer_can_be_insisted_on_where_there_is_a_screen() {
        let end = tag(0, 0, &[]);
        for wish in [tag(4, 0, &[3]), tag(1, 0, &[8])] {
            let kernel = kernel_with(&[wish, end.clone()]);
            let with = |display| {
                let memory = FakeMemory::new(2 << 20);
                let request = Request {
                    display,
                    ..request(&kernel)
                };
                load(&request, &memory).map(|loaded| loaded.format)
            };
            assert_eq!(with(Display::Vga), Ok(Format::Multiboot2));
            assert!(matches!(
                with(Display::Absent),
                Err(LoadError::Unsupported(_))
            ));
        }
    }

    #[test]
    fn addresses_in_the_header_replace_those_of_the_elf_file() {
        let memory = FakeMemory::new(2 << 20);
        let file = flat_kernel();
        let loaded = load(&request(&file), &memory).unwrap();
        assert_eq!(
            (loaded.format, loaded.state.rip),
            (Format::Multiboot2, 0x10_0040)
        );
        assert_eq!(memory.bytes(0x10_0000, 0x80), file);
    }

    #[test]
    fn what_the_kernel_insists_on_and_nobody_has_is_refused_unless_optional() {
        let format = |tags: &[Vec<u8>]| {
            let memory = FakeMemory::new(2 << 20);
            load(&request(&kernel_with(tags)), &memory).map(|loaded| loaded.format)
        };
        let end = tag(0, 0, &[]);
        for (kind, words) in [(1, &[13u32][..]), (77, &[])] {
            let required = format(&[tag(kind, 0, words), end.clone()]);
            assert!(
                matches!(required, Err(LoadError::Unsupported(_))),
                "tag {kind}"
            );
            assert_eq!(
                format(&[tag(kind, 1, words), end.clone()]),
                Ok(Format::Multiboot2)
            );
        }
        let mut small = tag(6, 0, &[]);
        small[4] = 7;
        assert!(matches!(
            format(&[small, end.clone()]),
            Err(LoadError::Malformed(_))
        ));
        let mut large = end;
        large[4] = 0xff;
        assert!(matches!(format(&[large]), Err(LoadError::Malformed(_))));
    }
}
