//! [`Sections`]: the section headers of an ELF kernel, as both versions of Multiboot hand them on: a copy of the table,
//! with all that the file's segments leave out (symbols, names, debugging information) in memory as well.
//!
//! Field names are those of the System V ABI, "Sections".

use alloc::vec::Vec;

use memory::{GuestMemory, GuestPhys};

use super::LoadError;
use super::elf::{Class, MAGIC};
use super::fields::Fields;
use super::space::{BELOW_4G, From, Space};

const SHT_NULL: u32 = 0;
const SHT_NOBITS: u32 = 8;
/// Where contents of sections begin.
const ALIGN: u64 = 16;
const PAGE: u64 = 0x1000;

/// Section headers in a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sections<'a> {
    file: &'a [u8],
    class: Class,
    table: &'a [u8],
    /// Headers in it.
    pub(super) count: u16,
    /// Bytes of each.
    pub(super) entry_bytes: u16,
    /// The number of the section with the names of all.
    pub(super) names: u16,
}

/// A section that no segment has loaded.
struct Unloaded<'a> {
    /// Where its sh_addr is in the table.
    address_at: usize,
    contents: &'a [u8],
}

impl<'a> Sections<'a> {
    /// The section headers of an ELF file that has been parsed as one; `None` if it has none.
    pub(super) fn find(file: &'a [u8]) -> Result<Option<Self>, LoadError> {
        if !file.starts_with(&MAGIC) {
            return Ok(None);
        }
        let header = Fields::new(file, "the ELF header");
        let class = match header.u8(4)? {
            1 => Class::Elf32,
            _ => Class::Elf64,
        };
        let (table, counts, wanted) = match class {
            Class::Elf32 => (u64::from(header.u32(32)?), 46, 40),
            Class::Elf64 => (header.u64(40)?, 58, 64),
        };
        let [entry_bytes, count, names] = [
            header.u16(counts)?,
            header.u16(counts + 2)?,
            header.u16(counts + 4)?,
        ];
        if count == 0 {
            return Ok(None);
        }
        if entry_bytes < wanted {
            return Err(LoadError::Malformed(
                "the ELF section header table has a wrong size",
            ));
        }
        let bytes = u64::from(count) * u64::from(entry_bytes);
        let table = Fields::new(file, "the ELF section header table").slice(table, bytes)?;
        Ok(Some(Self {
            file,
            class,
            table,
            count,
            entry_bytes,
            names,
        }))
    }

    /// Puts into memory what is not there, and returns the table that says where everything is. `None` where there is no
    /// room: a kernel can do without.
    pub(super) fn place(
        &self,
        memory: &impl GuestMemory,
        space: &mut Space,
    ) -> Result<Option<Vec<u8>>, LoadError> {
        let unloaded = self.unloaded()?;
        let size = |section: &Unloaded<'_>| section.contents.len() as u64;
        let contents: u64 = unloaded.iter().map(size).sum();
        if contents > self.file.len() as u64 {
            return Err(LoadError::Malformed("sections of the ELF file overlap"));
        }
        let mut table = self.table.to_vec();
        if unloaded.is_empty() {
            return Ok(Some(table));
        }
        let padded = unloaded
            .iter()
            .map(|section| size(section).next_multiple_of(ALIGN))
            .sum();
        let range = match space.place("sections of the kernel", padded, PAGE, BELOW_4G, From::Top) {
            Ok(range) => range,
            Err(LoadError::NoRoom { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut at: GuestPhys = range.start;
        for section in unloaded {
            memory.write(at, section.contents)?;
            // Below 4 GiB: the upper half of a long one stays zero.
            let address = (at.as_u64() as u32).to_le_bytes();
            let field = table.iter_mut().skip(section.address_at);
            for (place, byte) in field.zip(address) {
                *place = byte;
            }
            at = at.wrapping_add((section.contents.len() as u64).next_multiple_of(ALIGN));
        }
        Ok(Some(table))
    }

    /// Sections that have contents and no address.
    fn unloaded(&self) -> Result<Vec<Unloaded<'a>>, LoadError> {
        let file = Fields::new(self.file, "a section of the ELF file");
        let entry_bytes = usize::from(self.entry_bytes);
        let mut unloaded = Vec::new();
        for (index, entry) in self.table.chunks_exact(entry_bytes).enumerate() {
            let entry = Fields::new(entry, "the ELF section header table");
            let (address_at, [address, offset, bytes]) = match self.class {
                Class::Elf32 => (12, [12, 16, 20].map(|at| entry.u32(at).map(u64::from))),
                Class::Elf64 => (16, [16, 24, 32].map(|at| entry.u64(at))),
            };
            let (address, bytes) = (address?, bytes?);
            if matches!(entry.u32(4)?, SHT_NULL | SHT_NOBITS) || address != 0 || bytes == 0 {
                continue;
            }
            unloaded.push(Unloaded {
                address_at: index * entry_bytes + address_at,
                contents: file.slice(offset?, bytes)?,
            });
        }
        Ok(unloaded)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::fake::{FakeMemory, FakeSegment, elf};
    use super::super::{load, multiboot, multiboot2, tests::request};
    use super::*;
    use arch::Gpr;

    const NAMES: &[u8] = b"\0.text\0.names\0";

    /// The file with three section headers behind it: none, one of a segment, and the names, which no segment has.
    pub(in super::super) fn with_sections(mut file: Vec<u8>) -> Vec<u8> {
        let is_long = file[4] == 2;
        let names_at = file.len() as u64;
        file.extend(NAMES);
        let table = file.len() as u64;
        let (word, shoff, counts, entry_bytes) = if is_long {
            (8, 40, 58, 64)
        } else {
            (4, 32, 46, 40u16)
        };
        for [name, kind, address, offset, bytes] in [
            [0, 0, 0, 0, 0],
            [1, 1, 0x10_0000, 0x40, 0x10],
            [7, 3, 0, names_at, NAMES.len() as u64],
        ] {
            let entry = file.len();
            file.extend((name as u32).to_le_bytes());
            file.extend((kind as u32).to_le_bytes());
            for value in [0, address, offset, bytes] {
                file.extend(&value.to_le_bytes()[..word]);
            }
            file.resize(entry + usize::from(entry_bytes), 0);
        }
        file[shoff..shoff + word].copy_from_slice(&table.to_le_bytes()[..word]);
        for (index, value) in [entry_bytes, 3, 2].into_iter().enumerate() {
            file[counts + 2 * index..][..2].copy_from_slice(&value.to_le_bytes());
        }
        file
    }

    #[test]
    fn a_multiboot_kernel_finds_the_names_of_its_sections_in_memory() {
        let memory = FakeMemory::new(2 << 20);
        let kernel = with_sections(multiboot::tests::elf_kernel());
        let info = load(&request(&kernel), &memory).unwrap().state;
        let info = info.gprs.get(Gpr::Rbx);
        let word = |at: u64| memory.read_u32(GuestPhys::new(at)).unwrap();
        assert_eq!(word(info) & 1 << 5, 1 << 5);
        assert_eq!(
            (word(info + 28), word(info + 32), word(info + 40)),
            (3, 40, 2)
        );
        let table = u64::from(word(info + 36));
        assert_eq!(word(table + 40 + 12), 0x10_0000, "in a segment");
        let names = u64::from(word(table + 80 + 12));
        assert_eq!(memory.bytes(names, NAMES.len()), NAMES);
    }

    #[test]
    fn a_multiboot2_kernel_finds_the_names_of_its_sections_in_memory() {
        let memory = FakeMemory::new(2 << 20);
        let kernel = with_sections(multiboot2::tests::insisting_on(&[9]));
        let info = load(&request(&kernel), &memory).unwrap().state;
        let info = info.gprs.get(Gpr::Rbx);
        let word = |at: u64| memory.read_u32(GuestPhys::new(at)).unwrap();
        let mut tag = info + 8;
        while word(tag) != 9 {
            assert_ne!(word(tag), 0, "there is no such tag");
            tag = (tag + u64::from(word(tag + 4))).next_multiple_of(8);
        }
        assert_eq!(
            [4, 8, 12, 16].map(|at| word(tag + at)),
            [20 + 3 * 64, 3, 64, 2]
        );
        let table = tag + 20;
        let names = u64::from(word(table + 128 + 16));
        assert_eq!(memory.bytes(names, NAMES.len()), NAMES);
    }

    #[test]
    fn a_kernel_that_insists_on_sections_and_has_none_is_refused() {
        let kernel = multiboot2::tests::insisting_on(&[9]);
        let error = load(&request(&kernel), &FakeMemory::new(2 << 20)).unwrap_err();
        assert!(matches!(error, LoadError::Unsupported(_)), "{error}");
    }

    #[test]
    fn a_kernel_whose_sections_do_not_fit_does_without() {
        let memory = FakeMemory::new(2 << 20);
        let mut kernel = multiboot::tests::elf_kernel();
        kernel.resize(2 << 20, 0);
        let mut kernel = with_sections(kernel);
        // The section with the names is most of the file.
        let at = kernel.len() - 40 + 16;
        kernel[at..at + 4].copy_from_slice(&0x1000u32.to_le_bytes());
        kernel[at + 4..at + 8].copy_from_slice(&(1u32 << 20).to_le_bytes());
        let info = load(&request(&kernel), &memory).unwrap().state;
        let info = GuestPhys::new(info.gprs.get(Gpr::Rbx));
        assert_eq!(memory.read_u32(info).unwrap() & 1 << 5, 0);
    }

    #[test]
    fn a_damaged_table_of_sections_is_refused() {
        let code = [0x90; 16];
        let segment = FakeSegment {
            kind: 1,
            virtual_address: 0x10_0000,
            physical_address: 0x10_0000,
            memory_bytes: 16,
            contents: &code,
        };
        let good = with_sections(elf(2, 0x10_0000, &[segment]));
        let place = |file: &[u8]| {
            let memory = FakeMemory::new(2 << 20);
            let mut space = Space::new(&request(file).layout);
            let sections = Sections::find(file)?.unwrap();
            sections.place(&memory, &mut space)
        };
        assert!(matches!(place(&good), Ok(Some(_))));
        // The table's place, the size of an entry, and the contents of the last section.
        let names = good.len() - 64;
        for (at, value) in [(40, 0xff), (58, 63), (names + 27, 1), (names + 34, 1)] {
            let mut file = good.clone();
            file[at] = value;
            if at == 40 {
                file[41] = 0xff;
            }
            assert!(place(&file).is_err(), "{at}");
        }
    }
}
