//! ELF kernels: the segments, the entry point, and the PVH note.
//!
//! An own parser rather than the `object` crate, whose types want an aligned file: a kernel in a bundle lies
//! at any address. Field names are those of the System V ABI, "ELF Header" and "Program Header".

use alloc::vec::Vec;

use arch::Gprs;
use memory::{GuestMemory, GuestPhys};

use super::fields::Fields;
use super::paging::identity_map;
use super::space::{BELOW_4G, From, Space};
use super::start::{GDT_BYTES, InitialState};
use super::{LoadError, Request};

pub(super) const MAGIC: [u8; 4] = *b"\x7fELF";
const LITTLE_ENDIAN: u8 = 1;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// The note that names the 32-bit PVH entry point.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
const XEN: &[u8] = b"Xen\0";
/// Program headers beyond this number are not a kernel's.
const MAX_SEGMENTS: u16 = 256;

/// EI_CLASS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    Elf32,
    Elf64,
}

/// One program header.
#[derive(Clone, Copy, Debug)]
struct Segment<'a> {
    kind: u32,
    virtual_address: u64,
    physical_address: u64,
    memory_bytes: u64,
    align: u64,
    contents: &'a [u8],
}

/// A parsed ELF file.
#[derive(Debug)]
pub(super) struct Elf<'a> {
    pub(super) class: Class,
    entry: u64,
    segments: Vec<Segment<'a>>,
}

impl<'a> Elf<'a> {
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, LoadError> {
        let header = Fields::new(file, "the ELF header");
        if header.slice(0, 4)? != MAGIC {
            return Err(LoadError::UnknownFormat);
        }
        let class = match header.u8(4)? {
            1 => Class::Elf32,
            2 => Class::Elf64,
            _ => {
                return Err(LoadError::Malformed(
                    "the ELF class is neither 32 nor 64 bits",
                ));
            }
        };
        if header.u8(5)? != LITTLE_ENDIAN {
            return Err(LoadError::Unsupported("a big-endian ELF file"));
        }
        if !matches!(header.u16(16)?, ET_EXEC | ET_DYN) {
            return Err(LoadError::Unsupported(
                "an ELF file that is not an executable",
            ));
        }
        match (class, header.u16(18)?) {
            (_, EM_X86_64) | (Class::Elf32, EM_386) => {}
            _ => return Err(LoadError::Unsupported("an ELF file for another processor")),
        }
        let (entry, table, entry_bytes, count) = match class {
            Class::Elf32 => (
                u64::from(header.u32(24)?),
                u64::from(header.u32(28)?),
                header.u16(42)?,
                header.u16(44)?,
            ),
            Class::Elf64 => (
                header.u64(24)?,
                header.u64(32)?,
                header.u16(54)?,
                header.u16(56)?,
            ),
        };
        let wanted = match class {
            Class::Elf32 => 32,
            Class::Elf64 => 56,
        };
        if count > MAX_SEGMENTS || (count != 0 && entry_bytes < wanted) {
            return Err(LoadError::Malformed(
                "the ELF program header table has a wrong size",
            ));
        }
        let table_bytes = u64::from(count) * u64::from(entry_bytes);
        let table = Fields::new(file, "the ELF program header table").slice(table, table_bytes)?;
        let segments = table
            .chunks_exact(usize::from(entry_bytes).max(1))
            .map(|entry| Segment::parse(file, class, entry))
            .collect::<Result<Vec<_>, _>>()?;
        if !segments
            .iter()
            .any(|segment| segment.kind == PT_LOAD && segment.memory_bytes != 0)
        {
            return Err(LoadError::Malformed("the ELF file has nothing to load"));
        }
        Ok(Self {
            class,
            entry,
            segments,
        })
    }

    /// The physical address of the PVH entry point, if a note names one.
    pub(super) fn pvh_entry(&self) -> Option<u32> {
        self.segments
            .iter()
            .filter(|segment| segment.kind == PT_NOTE)
            .find_map(pvh_note)
    }

    /// The physical address of the entry point: as it is where a segment is loaded there, or else, for kernels
    /// linked to the upper half, where the segment with that virtual address is loaded.
    pub(super) fn physical_entry(&self) -> Result<u64, LoadError> {
        let loaded = || {
            self.segments
                .iter()
                .filter(|segment| segment.kind == PT_LOAD)
        };
        let holds = |start: u64, bytes: u64| {
            self.entry
                .checked_sub(start)
                .filter(|&offset| offset < bytes)
        };
        if loaded().any(|segment| holds(segment.physical_address, segment.memory_bytes).is_some()) {
            return Ok(self.entry);
        }
        loaded()
            .find_map(|segment| {
                let offset = holds(segment.virtual_address, segment.memory_bytes)?;
                segment.physical_address.checked_add(offset)
            })
            .ok_or(LoadError::Malformed(
                "the ELF entry point lies outside all segments",
            ))
    }

    /// Copies the segments to their physical addresses and clears what the file leaves out.
    pub(super) fn load(
        &self,
        memory: &impl GuestMemory,
        space: &mut Space,
    ) -> Result<(), LoadError> {
        for segment in self
            .segments
            .iter()
            .filter(|segment| segment.kind == PT_LOAD && segment.memory_bytes != 0)
        {
            let start = segment.physical_address;
            let range =
                space.claim_kernel("a segment of the kernel", start, segment.memory_bytes)?;
            memory.write(range.start, segment.contents)?;
            let file_bytes = segment.contents.len() as u64;
            memory.zero(
                range.start.wrapping_add(file_bytes),
                segment.memory_bytes - file_bytes,
            )?;
        }
        Ok(())
    }
}

impl<'a> Segment<'a> {
    fn parse(file: &'a [u8], class: Class, entry: &[u8]) -> Result<Self, LoadError> {
        let entry = Fields::new(entry, "the ELF program header table");
        let word = |offset32: u64, offset64: u64| match class {
            Class::Elf32 => entry.u32(offset32).map(u64::from),
            Class::Elf64 => entry.u64(offset64),
        };
        let kind = entry.u32(0)?;
        let memory_bytes = word(20, 40)?;
        let contents = match kind {
            PT_LOAD | PT_NOTE => {
                Fields::new(file, "a segment of the ELF file").slice(word(4, 8)?, word(16, 32)?)?
            }
            _ => &[],
        };
        if kind == PT_LOAD && contents.len() as u64 > memory_bytes {
            return Err(LoadError::Malformed(
                "an ELF segment is larger in the file than in memory",
            ));
        }
        Ok(Self {
            kind,
            virtual_address: word(8, 16)?,
            physical_address: word(12, 24)?,
            memory_bytes,
            align: word(28, 48)?,
            contents,
        })
    }
}

/// Looks through a note segment. Each note has three words (name size, descriptor size, type), the name and
/// the descriptor, both padded.
fn pvh_note(segment: &Segment<'_>) -> Option<u32> {
    let align = if segment.align == 8 { 8 } else { 4 };
    let fields = Fields::new(segment.contents, "a note of the ELF file");
    let mut at = 0u64;
    loop {
        let name_bytes = u64::from(fields.u32(at).ok()?);
        let descriptor_bytes = u64::from(fields.u32(at + 4).ok()?);
        let kind = fields.u32(at + 8).ok()?;
        let name = at + 12;
        let descriptor = (name + name_bytes).next_multiple_of(align);
        if kind == XEN_ELFNOTE_PHYS32_ENTRY && fields.slice(name, name_bytes).ok()? == XEN {
            return match descriptor_bytes {
                4 => fields.u32(descriptor).ok(),
                8 => fields.u64(descriptor).ok()?.try_into().ok(),
                _ => None,
            };
        }
        at = (descriptor + descriptor_bytes).next_multiple_of(align);
    }
}

/// Loads a plain ELF kernel: a 64-bit one is entered in 64-bit mode with the first 4 GiB mapped to themselves,
/// a 32-bit one in protected mode. Registers are zero.
pub(super) fn load(
    request: &Request<'_>,
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<InitialState, LoadError> {
    let elf = Elf::parse(request.kernel)?;
    let entry = elf.physical_entry()?;
    elf.load(memory, space)?;
    let gdt = place_gdt(space)?;
    let state = match elf.class {
        Class::Elf64 => {
            let cr3 = identity_map(memory, space)?;
            if entry >= BELOW_4G {
                return Err(LoadError::Unsupported("an ELF entry point above 4 GiB"));
            }
            InitialState::long(entry, cr3, gdt, Gprs::new())
        }
        Class::Elf32 => {
            let entry = u32::try_from(entry)
                .map_err(|_| LoadError::Malformed("the ELF entry point lies above 4 GiB"))?;
            InitialState::protected(entry, gdt, Gprs::new())
        }
    };
    state.write_gdt(memory, gdt)?;
    Ok(state)
}

/// Room for the descriptor table of the first segments.
pub(super) fn place_gdt(space: &mut Space) -> Result<GuestPhys, LoadError> {
    let range = space.place(
        "the descriptor table",
        GDT_BYTES,
        16,
        BELOW_4G,
        From::Bottom,
    )?;
    Ok(range.start)
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeMemory, FakeSegment, elf};
    use super::super::{Format, detect, load, tests::request};
    use super::*;
    use alloc::vec;
    use arch::{AccessRights, Cr0, Efer, SegmentName};

    fn segment(virt: u64, phys: u64, memory_bytes: u64, contents: &[u8]) -> FakeSegment<'_> {
        FakeSegment {
            kind: 1,
            virtual_address: virt,
            physical_address: phys,
            memory_bytes,
            contents,
        }
    }

    #[test]
    fn a_64_bit_kernel_is_entered_in_64_bit_mode_with_its_bss_cleared() {
        let memory = FakeMemory::new(2 << 20);
        memory
            .write(GuestPhys::new(0x10_0000), &[0xff; 64])
            .unwrap();
        let file = elf(
            2,
            0x10_0002,
            &[segment(0x10_0000, 0x10_0000, 16, &[1, 2, 3])],
        );
        let loaded = load(&request(&file), &memory).unwrap();
        assert_eq!(loaded.format, Format::Elf);
        assert_eq!(loaded.state.rip, 0x10_0002);
        assert!(loaded.state.cr0.contains(Cr0::PG));
        assert!(loaded.state.efer.contains(Efer::LMA));
        assert!(
            loaded
                .state
                .segment(SegmentName::Cs)
                .access
                .contains(AccessRights::LONG)
        );
        assert_eq!(memory.bytes(0x10_0000, 4), [1, 2, 3, 0]);
        assert_eq!(memory.bytes(0x10_000f, 2), [0, 0xff]);
    }

    #[test]
    fn a_32_bit_kernel_is_entered_in_protected_mode() {
        let memory = FakeMemory::new(2 << 20);
        let file = elf(1, 0x10_0000, &[segment(0x10_0000, 0x10_0000, 1, &[0xf4])]);
        let loaded = load(&request(&file), &memory).unwrap();
        assert_eq!(loaded.state.rip, 0x10_0000);
        assert_eq!(loaded.state.cr0, Cr0::PE | Cr0::ET);
        assert!(
            !loaded
                .state
                .segment(SegmentName::Cs)
                .access
                .contains(AccessRights::LONG)
        );
    }

    #[test]
    fn an_entry_point_in_the_upper_half_is_entered_where_its_segment_is_loaded() {
        let memory = FakeMemory::new(2 << 20);
        let high = 0xffff_ffff_8010_0000;
        let file = elf(2, high + 8, &[segment(high, 0x10_0000, 16, &[0x90; 16])]);
        assert_eq!(load(&request(&file), &memory).unwrap().state.rip, 0x10_0008);
    }

    #[test]
    fn a_segment_outside_ram_is_refused() {
        let memory = FakeMemory::new(2 << 20);
        for (start, bytes) in [
            (0x1f_ffff, 2),
            (0xa_0000, 1),
            (u64::MAX, 16),
            (0x10_0000, u64::MAX),
        ] {
            let file = elf(2, start, &[segment(start, start, bytes, &[0x90])]);
            let wanted = LoadError::OutsideMemory {
                what: "a segment of the kernel",
                start,
                bytes,
            };
            assert_eq!(load(&request(&file), &memory).unwrap_err(), wanted);
        }
    }

    #[test]
    fn an_empty_segment_may_be_anywhere() {
        let memory = FakeMemory::new(2 << 20);
        let one = segment(0x10_0000, 0x10_0000, 16, &[0x90]);
        let nowhere = segment(u64::MAX, u64::MAX, 0, &[]);
        let file = elf(2, 0x10_0000, &[one, nowhere]);
        assert!(load(&request(&file), &memory).is_ok());
    }

    #[test]
    fn segments_that_overlap_are_refused() {
        let memory = FakeMemory::new(2 << 20);
        let one = segment(0x10_0000, 0x10_0000, 16, &[0x90]);
        let two = segment(0x10_0008, 0x10_0008, 16, &[0x90]);
        let file = elf(2, 0x10_0000, &[one, two]);
        assert!(matches!(
            load(&request(&file), &memory),
            Err(LoadError::OutsideMemory { .. })
        ));
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_refused() {
        let file = elf(
            2,
            0x10_0000,
            &[segment(0x10_0000, 0x10_0000, 16, &[0x90; 16])],
        );
        for length in 4..file.len() {
            assert!(
                matches!(detect(&file[..length]), Err(LoadError::Truncated(_))),
                "{length}"
            );
        }
    }

    #[test]
    fn files_for_others_are_refused_with_the_reason() {
        let good = elf(
            2,
            0x10_0000,
            &[segment(0x10_0000, 0x10_0000, 16, &[0x90; 16])],
        );
        let with = |offset: usize, value: u8| {
            let mut file = good.clone();
            file[offset] = value;
            detect(&file).unwrap_err()
        };
        assert!(matches!(with(4, 3), LoadError::Malformed(_)));
        assert!(matches!(with(5, 2), LoadError::Unsupported(_)));
        assert!(matches!(with(16, 1), LoadError::Unsupported(_)));
        assert!(matches!(with(18, 183), LoadError::Unsupported(_)));
        assert!(matches!(with(54, 8), LoadError::Malformed(_)));
        assert!(matches!(with(64, 2), LoadError::Malformed(_)));
        assert!(matches!(with(64 + 40, 15), LoadError::Malformed(_)));
    }

    #[test]
    fn the_pvh_note_is_found_behind_other_notes_and_in_both_widths() {
        let other = [4u32.to_le_bytes(), 1u32.to_le_bytes(), 18u32.to_le_bytes()].concat();
        let other = [&other[..], b"GNU\0", &[9, 0, 0, 0]].concat();
        for width in [4usize, 8] {
            let mut note = other.clone();
            note.extend(4u32.to_le_bytes());
            note.extend((width as u32).to_le_bytes());
            note.extend(18u32.to_le_bytes());
            note.extend(b"Xen\0");
            note.extend(&0x10_0040u64.to_le_bytes()[..width]);
            let notes = FakeSegment {
                kind: 4,
                virtual_address: 0,
                physical_address: 0,
                memory_bytes: 0,
                contents: &note,
            };
            let code = vec![0x90; 128];
            let file = elf(2, 0, &[segment(0x10_0000, 0x10_0000, 128, &code), notes]);
            assert_eq!(Elf::parse(&file).unwrap().pvh_entry(), Some(0x10_0040));
        }
    }
}
