//! What is executed when, and what becomes of the pages: against tables in a vector.

use super::*;
use crate::capability::{Capabilities, RawCapabilities};
use crate::testing::{Memory, Reserve, skylake};
use memory::HostPhys;
use memory::table::Translation;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const DATA: LargePages = LargePages::DataOnly;

/// A guest's RAM: pieces whose start and length are multiples of their length, a power of two.
fn ram_of(pieces: &[(u64, u64)]) -> Vec<Range<GuestPhys>> {
    let range = |&(start, bytes): &(u64, u64)| Range {
        start: GuestPhys::new(start),
        end: GuestPhys::new(start + bytes),
    };
    pieces.iter().map(range).collect()
}

/// Tables of this RAM, which lies at twice its addresses, as the backend makes them.
fn tables_of(memory: &mut Memory, large: LargePages, ram: &[Range<GuestPhys>]) -> Tables<Ept> {
    let largest = large.largest(&features(skylake()));
    let mut tables = Tables::<Ept>::new(memory).expect("endless memory");
    for piece in ram {
        let size = [PageSize::Size1G, PageSize::Size2M, PageSize::Size4K]
            .into_iter()
            .find(|&size| size <= largest && piece.len() >= size.bytes())
            .expect("whole pages");
        let frame = HostPhys::new(2 * piece.start.as_u64());
        let _ = tables
            .map(
                memory,
                piece.start.as_u64(),
                frame,
                piece.len(),
                large.ram(size),
                largest,
            )
            .expect("endless memory");
    }
    tables
}

fn features(raw: RawCapabilities) -> Features {
    Features::new(&Capabilities::new(raw))
}

fn at(tables: &Tables<Ept>, memory: &Memory, gpa: u64) -> Translation<EptFlags> {
    tables.translate(memory, gpa).expect("RAM")
}

#[test]
fn a_processor_that_minds_no_sizes_has_the_largest_pages_for_everything() {
    let all = LargePages::ForAll;
    assert_eq!(all.largest(&features(skylake())), PageSize::Size1G);
    let mut without = skylake();
    without.ept_vpid &= !(1 << 17);
    assert_eq!(all.largest(&features(without)), PageSize::Size2M);
    for size in [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G] {
        assert_eq!(all.ram(size).bits(), 0x37);
    }
    let ram = ram_of(&[(0, 4 * GIB)]);
    assert_eq!(all.most_splits(ram.iter().copied()), 0);
    let mut memory = Memory::default();
    let mut tables = tables_of(&mut memory, all, &ram);
    let fetched = all.fetched(&mut tables, &mut memory, GuestPhys::new(0));
    assert_eq!(fetched, Ok(Fetched::Refused));
}

#[test]
fn a_guest_that_changes_its_page_sizes_stopped_the_machine() {
    let ram = ram_of(&[(0, MIB), (2 * MIB, 2 * MIB), (4 * MIB, 4 * MIB)]);
    let mut memory = Memory::default();
    let mut tables = tables_of(&mut memory, DATA, &ram);
    let large = at(&tables, &memory, 6 * MIB + 5);
    assert_eq!(large.size, PageSize::Size2M);
    assert_eq!(large.flags.bits(), 0x33, "it may be read and written");
    assert_eq!(at(&tables, &memory, 0x9_f000).flags.bits(), 0x37);

    let page = GuestPhys::new(6 * MIB + 0x1234);
    let split = DATA.fetched(&mut tables, &mut memory, page);
    let whole = Range {
        start: GuestPhys::new(6 * MIB),
        end: GuestPhys::new(8 * MIB),
    };
    assert_eq!(split, Ok(Fetched::Split(whole)));
    let small = at(&tables, &memory, 6 * MIB + 5);
    assert_eq!(small.size, PageSize::Size4K);
    assert_eq!(
        small.flags.bits(),
        0x337,
        "executable, and known as written"
    );
    assert_eq!(small.address, large.address);
    assert_eq!(at(&tables, &memory, 4 * MIB).size, PageSize::Size2M);
}

#[test]
fn a_fetch_by_the_translation_that_another_cpu_has_just_replaced_is_repeated() {
    let ram = ram_of(&[(0, MIB), (2 * MIB, 2 * MIB)]);
    let mut memory = Memory::default();
    let mut tables = tables_of(&mut memory, DATA, &ram);
    let page = GuestPhys::new(2 * MIB);
    let first = DATA.fetched(&mut tables, &mut memory, page);
    assert!(matches!(first, Ok(Fetched::Split(_))));
    let used = memory.used();
    for address in [2 * MIB, 4 * MIB - 1, 0] {
        let again = DATA.fetched(&mut tables, &mut memory, GuestPhys::new(address));
        assert_eq!(again, Ok(Fetched::Executable));
    }
    assert_eq!(memory.used(), used);
}

#[test]
fn nobody_executes_where_there_is_no_ram_nor_in_the_apic_access_page() {
    let mut memory = Memory::default();
    let mut tables = tables_of(&mut memory, DATA, &ram_of(&[(0, MIB)]));
    let apic = 0xfee0_0000;
    let mapped = tables.map(
        &mut memory,
        apic,
        HostPhys::new(0x9000),
        0x1000,
        EptFlags::APIC_ACCESS,
        PageSize::Size4K,
    );
    assert!(mapped.is_ok());
    for address in [apic, MIB, 1 << 50] {
        let fetched = DATA.fetched(&mut tables, &mut memory, GuestPhys::new(address));
        assert_eq!(fetched, Ok(Fetched::Refused), "{address:#x}");
    }
}

#[test]
fn pages_of_a_gigabyte_are_not_used_where_they_would_have_to_be_split_twice() {
    let ram = ram_of(&[(0, 4 * GIB)]);
    assert_eq!(DATA.largest(&features(skylake())), PageSize::Size2M);
    assert_eq!(DATA.most_splits(ram.iter().copied()), 2048);
    assert_eq!(DATA.most_splits(ram_of(&[(0, MIB)]).into_iter()), 0);
}

/// Pieces of RAM of 4 KiB to 16 MiB in ascending order, without overlap.
fn pieces() -> impl Strategy<Value = Vec<Range<GuestPhys>>> {
    prop::collection::vec((12u32..25, 0u64..3), 1..6).prop_map(|sizes| {
        let mut from = 0;
        let place = |(shift, gap): (u32, u64)| {
            let bytes = 1 << shift;
            let start = (from + gap * bytes).next_multiple_of(bytes);
            from = start + bytes;
            (start, bytes)
        };
        ram_of(&sizes.into_iter().map(place).collect::<Vec<_>>())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// With what was put aside, whatever is executed in which order.
    #[test]
    fn only_the_right_to_execute_and_the_size_change_and_no_code_is_in_a_large_page(
        ram in pieces(),
        fetches in prop::collection::vec((0usize..6, any::<u64>()), 0..40),
    ) {
        let mut memory = Memory::default();
        let mut tables = tables_of(&mut memory, DATA, &ram);
        let mut before = vec![];
        tables.for_each_page(&memory, |page| before.push(page));
        let mut left = DATA.most_splits(ram.iter().copied());
        let mut split = BTreeSet::new();
        for (piece, offset) in fetches {
            let piece = ram[piece % ram.len()];
            let gpa = piece.start.wrapping_add(offset % piece.len());
            let is_small = at(&tables, &memory, gpa.as_u64()).size == PageSize::Size4K;
            let mut reserve = Reserve::new(&mut memory, left);
            let fetched = DATA.fetched(&mut tables, &mut reserve, gpa);
            left = reserve.left();
            match fetched.expect("a table was put aside for it") {
                Fetched::Split(range) => {
                    prop_assert!(!is_small && range.contains(gpa));
                    prop_assert_eq!(range.start, gpa.align_down(PageSize::Size2M));
                    split.insert(range.start);
                }
                Fetched::Executable => prop_assert!(is_small),
                Fetched::Refused => prop_assert!(false, "RAM"),
            }
            let now = at(&tables, &memory, gpa.as_u64());
            prop_assert!(now.flags.contains(EptFlags::EXECUTE));
        }
        for old in before {
            for offset in (0..old.size.bytes()).step_by(0x1000) {
                let now = at(&tables, &memory, old.address + offset);
                prop_assert_eq!(now.address, old.frame.wrapping_add(offset));
                let was_split = split.contains(&GuestPhys::new(old.address));
                let gained = if was_split { 0x304 } else { 0 };
                prop_assert_eq!(now.flags.bits(), old.flags.bits() | gained);
                prop_assert_eq!(now.size == PageSize::Size4K, was_split || old.size == PageSize::Size4K);
                prop_assert!(now.size == PageSize::Size4K || !now.flags.contains(EptFlags::EXECUTE));
            }
        }
    }
}
