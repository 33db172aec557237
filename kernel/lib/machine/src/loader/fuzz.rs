//! Valid images of every format with some of their fields changed: whatever a file says, a loader ends with a kernel or
//! with an error of one line, and has written to nothing but free RAM.
//!
//! The changes know the formats: they hit the fields that loaders read, with values around what stands there, around the
//! file's and the machine's size, and at the ends of the number range; and they mend the checksums of Multiboot headers,
//! so that what is behind them is read at all.

use alloc::string::ToString;
use alloc::vec::Vec;

use proptest::collection::vec;
use proptest::prelude::*;

use super::fake::{FakeMemory, FakeSegment, elf};
use super::sections::tests::with_sections;
use super::tests::request;
use super::{Format, LoadError, Module, Request, linux, load, multiboot, multiboot2};
use crate::Display;
use crate::layout::MachineLayout;
use memory::GuestPhys;

/// A field: its place in the file and its width.
type Field = (usize, usize);

/// A good file and the fields of it that its loader reads.
struct Seed {
    file: Vec<u8>,
    fields: Vec<Field>,
}

const CODE: &[u8] = &[0x90; 0x100];
const PVH_NOTE: &[u8] = b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0\x04\0\x10\0\0\0\0\0";

/// The fields of an ELF file's headers.
fn elf_fields(class: u8, segments: usize) -> Vec<Field> {
    let (word, header, entry) = if class == 1 { (4, 52, 32) } else { (8, 64, 56) };
    let mut fields = [(4, 1), (5, 1), (16, 2), (18, 2)].to_vec();
    // Entry point and program header table; entry size and count are in the last 12 bytes.
    fields.extend([
        (24, word),
        (24 + word, word),
        (header - 10, 2),
        (header - 8, 2),
    ]);
    for segment in 0..segments {
        let at = header + segment * entry;
        fields.push((at, 4));
        let first = if class == 1 { at + 4 } else { at + 8 };
        fields.extend((0..5).map(|index| (first + index * word, word)));
    }
    fields
}

fn segment(kind: u32, contents: &[u8]) -> FakeSegment<'_> {
    FakeSegment {
        kind,
        virtual_address: 0x10_0000,
        physical_address: 0x10_0000,
        memory_bytes: 0x200,
        contents,
    }
}

/// Consecutive fields of one width.
fn words(at: usize, count: usize, width: usize) -> impl Iterator<Item = Field> {
    (0..count).map(move |index| (at + index * width, width))
}

fn seeds() -> [Seed; 12] {
    let plain = |class| Seed {
        file: elf(class, 0x10_0000, &[segment(1, CODE)]),
        fields: elf_fields(class, 1),
    };
    let pvh = {
        let file = elf(2, 0x10_0000, &[segment(1, CODE), segment(4, PVH_NOTE)]);
        let note = file.len() - PVH_NOTE.len();
        let mut fields = elf_fields(2, 2);
        fields.extend(words(note, 6, 4));
        Seed { file, fields }
    };
    let linux = |version, entry: u32| {
        let mut file = linux::tests::bzimage(version);
        file[0x214..0x218].copy_from_slice(&entry.to_le_bytes());
        let fields = [
            (0x1f1, 1),
            (0x1f4, 4),
            (0x201, 1),
            (0x206, 2),
            (0x211, 1),
            (0x214, 4),
            (0x22c, 4),
            (0x230, 4),
            (0x234, 1),
            (0x236, 2),
            (0x238, 4),
            (0x258, 8),
            (0x260, 4),
        ];
        Seed {
            file,
            fields: fields.to_vec(),
        }
    };
    let multiboot_elf = {
        let file = multiboot::tests::elf_kernel();
        let mut fields = elf_fields(1, 1);
        fields.push((52 + 32 + 4, 4));
        Seed { file, fields }
    };
    let with_sections = |file, class, header: usize, shoff: usize| {
        let file = with_sections(file);
        let entry = if class == 1 { 40 } else { 64 };
        let table = file.len() - 3 * entry;
        let mut fields = elf_fields(class, 1);
        fields.push((shoff, if class == 1 { 4 } else { 8 }));
        fields.extend(words(header - 6, 3, 2));
        fields.extend(words(table, 3 * entry / 4, 4));
        Seed { file, fields }
    };
    let multiboot_flat = Seed {
        file: multiboot::tests::flat_kernel(),
        fields: words(16 + 4, 1, 4).chain(words(28, 5, 4)).collect(),
    };
    let multiboot2 = {
        let file = multiboot2::tests::kernel();
        let header = 64 + 56;
        let mut fields = elf_fields(2, 1);
        // Architecture and length; then the tags' types, flags, sizes and contents.
        fields.extend(words(header + 4, 2, 4));
        fields.extend(words(header + 16, (file.len() - header - 16) / 2, 2));
        fields.extend(words(header + 16, (file.len() - header - 16) / 4, 4));
        Seed { file, fields }
    };
    [
        plain(1),
        plain(2),
        pvh,
        linux(0x20f, 0x10_0000),
        linux(0x206, 0x10_0000),
        linux(0x207, 0),
        multiboot_elf,
        with_sections(multiboot::tests::elf_kernel(), 1, 52, 32),
        with_sections(multiboot2::tests::insisting_on(&[9]), 2, 64, 40),
        multiboot_flat,
        multiboot2,
        Seed {
            file: multiboot2::tests::flat_kernel(),
            fields: words(8, 30, 4).collect(),
        },
    ]
}

/// How a field is changed.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// To something near what it is.
    Near(i8),
    /// To something near the file's size, the machine's, or the start of a part of its memory.
    NearSize(usize, i8),
    /// To something near the end of the numbers of this many bits.
    NearEnd(u32, i8),
    /// To anything.
    Any(u64),
    /// One bit.
    Flip(u32),
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<i8>().prop_map(Change::Near),
        (0usize..6, -9i8..9).prop_map(|(which, by)| Change::NearSize(which, by)),
        (
            prop_oneof![Just(0u32), Just(8), Just(16), Just(31), Just(32), Just(63)],
            -9i8..9
        )
            .prop_map(|(bits, by)| Change::NearEnd(bits, by)),
        any::<u64>().prop_map(Change::Any),
        (0u32..64).prop_map(Change::Flip),
    ]
}

fn change(file: &mut [u8], (at, width): Field, change: Change, ram_bytes: u64) {
    let file_bytes = file.len() as u64;
    let Some(place) = file.get_mut(at..at + width) else {
        return;
    };
    let mut bytes = [0; 8];
    bytes[..width].copy_from_slice(place);
    let old = u64::from_le_bytes(bytes);
    let sizes = [file_bytes, ram_bytes, 0x9_fc00, 0xa_0000, 0x10_0000, 0x1000];
    let new = match change {
        Change::Near(by) => old.wrapping_add_signed(by.into()),
        Change::NearSize(which, by) => sizes[which].wrapping_add_signed(by.into()),
        Change::NearEnd(bits, by) => (1u64 << bits).wrapping_add_signed(by.into()),
        Change::Any(value) => value,
        Change::Flip(bit) => old ^ 1 << bit,
    };
    place.copy_from_slice(&new.to_le_bytes()[..width]);
}

/// Makes the checksums of Multiboot headers right again.
fn mend(file: &mut [u8]) {
    let word = |file: &[u8], at: usize| {
        let bytes = file.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    for at in (0..file.len().min(8192)).step_by(4) {
        let (words, checksum) = match word(file, at) {
            Some(0x1bad_b002) => (2, at + 8),
            Some(0xe852_50d6) => (3, at + 12),
            _ => continue,
        };
        let sum = (0..words).filter_map(|index| word(file, at + 4 * index));
        let sum = sum.fold(0u32, u32::wrapping_add);
        if let Some(place) = file.get_mut(checksum..checksum + 4) {
            place.copy_from_slice(&sum.wrapping_neg().to_le_bytes());
        }
    }
}

/// Loads a file and checks the promises.
fn load_safely(request: &Request<'_>) -> Result<(), TestCaseError> {
    let memory = FakeMemory::of(&request.layout);
    match load(request, &memory) {
        Err(LoadError::Unbacked(gpa)) => {
            return Err(TestCaseError::fail(alloc::format!(
                "wrote to what is no free RAM, at {gpa}"
            )));
        }
        Err(error) => {
            let text = error.to_string();
            prop_assert!(text.len() > 20 && !text.contains('\n'), "{text}");
        }
        Ok(_) => {}
    }
    Ok(())
}

#[test]
fn every_seed_is_good_and_every_field_is_in_its_file() {
    for (index, seed) in seeds().into_iter().enumerate() {
        let layout = MachineLayout::new(32 << 20, 1);
        let loaded = load(
            &Request {
                layout,
                ..request(&seed.file)
            },
            &FakeMemory::of(&layout),
        );
        assert!(loaded.is_ok(), "seed {index}: {loaded:?}");
        for (at, width) in seed.fields {
            assert!(at + width <= seed.file.len(), "seed {index}: {at:#x}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_file_with_changed_fields_does_no_harm(
        seed in 0usize..10,
        hits in vec((any::<prop::sample::Index>(), changes()), 1..5),
        cut in prop_oneof![4 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)],
        mib in prop_oneof![Just(1u64), Just(2), Just(17)],
        module_bytes in prop_oneof![Just(0usize), Just(1), Just(0x1801), Just(3 << 20)],
        with_cmdline in any::<bool>(),
    ) {
        let Seed { mut file, fields } = seeds().into_iter().nth(seed).unwrap();
        for (index, how) in hits {
            let field = *index.get(&fields);
            change(&mut file, field, how, mib << 20);
        }
        mend(&mut file);
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len() + 1));
        }
        let bytes = alloc::vec![0xa5; module_bytes];
        let module = [Module { bytes: &bytes, cmdline: "a module" }];
        let is_linux = (3..6).contains(&seed);
        let takes_files = is_linux || seed == 2 || seed >= 6;
        let request = Request {
            layout: MachineLayout::new(mib << 20, 1),
            initrd: (module_bytes != 0 && takes_files).then_some(&bytes),
            modules: if module_bytes != 0 && takes_files && !is_linux { &module } else { &[] },
            cmdline: if with_cmdline && takes_files { "quiet" } else { "" },
            rsdp: None,
            display: Display::Vga,
            ..request(&file)
        };
        load_safely(&request)?;
    }

    #[test]
    fn random_bytes_behind_each_magic_number_do_no_harm(
        magic in prop_oneof![
            Just((0usize, &b"\x7fELF"[..])),
            Just((0x202, &b"HdrS"[..])),
            Just((0, &b"\x02\xb0\xad\x1b"[..])),
            Just((0, &b"\xd6\x50\x52\xe8"[..])),
        ],
        bytes in vec(any::<u8>(), 0..0x500),
        mib in 0u64..4,
    ) {
        let mut file = bytes;
        for (place, byte) in file.iter_mut().skip(magic.0).zip(magic.1) {
            *place = *byte;
        }
        if let Some(flag) = file.get_mut(0x1fe..0x200) {
            flag.copy_from_slice(&[0x55, 0xaa]);
        }
        mend(&mut file);
        let layout = MachineLayout::new(mib << 20, 1);
        load_safely(&Request { layout, ..request(&file) })?;
    }

    #[test]
    fn a_flat_binary_at_any_address_does_no_harm(
        address in prop_oneof![any::<u64>(), 0u64..0x20_0000],
        bytes in 0usize..0x1000,
    ) {
        let file = alloc::vec![0x90; bytes];
        let format = Some(Format::Flat { address: GuestPhys::new(address) });
        load_safely(&Request { format, ..request(&file) })?;
    }

    #[test]
    fn a_file_that_is_said_to_be_of_another_format_does_no_harm(
        seed in 0usize..10,
        format in prop_oneof![
            Just(Format::Linux),
            Just(Format::Pvh),
            Just(Format::Multiboot),
            Just(Format::Multiboot2),
            Just(Format::Elf),
            Just(Format::BOOT_SECTOR),
        ],
    ) {
        let Seed { file, .. } = seeds().into_iter().nth(seed).unwrap();
        load_safely(&Request { format: Some(format), ..request(&file) })?;
    }
}
