//! Entry layouts, and walks through broken tables.

use super::*;
use crate::capability::AddressWidths;
use crate::testing::{Memory, skylake};
use memory::Tables;
use std::string::ToString;

fn caps() -> Capabilities {
    Capabilities::new(skylake()).with_address_widths(AddressWidths {
        physical: 46,
        linear: 48,
    })
}

fn hpa(address: u64) -> HostPhys {
    HostPhys::new(address)
}

/// One 4 KiB page at guest address 0x5000: four tables, at 0x1000 to 0x4000.
fn one_page(flags: EptFlags) -> Memory {
    let mut memory = Memory::default();
    let mut tables = Tables::<Ept>::new(&mut memory).unwrap();
    let _ = tables
        .map(
            &mut memory,
            0x5000,
            hpa(0x9_9000),
            0x1000,
            flags,
            PageSize::Size1G,
        )
        .unwrap();
    memory
}

fn walk(memory: &Memory, gpa: u64, kind: AccessKind) -> Walk {
    explain(memory, hpa(0x1000), GuestPhys::new(gpa), kind, &caps())
}

#[test]
fn entries_have_the_bits_of_the_manual() {
    assert_eq!(Ept::table_entry(hpa(0x7000)), 0x7407);
    assert_eq!(
        Ept::leaf_entry(hpa(0x1234_5000), PageSize::Size4K, EptFlags::RAM),
        0x1234_5037
    );
    assert_eq!(
        Ept::leaf_entry(hpa(0x4020_0000), PageSize::Size2M, EptFlags::RAM),
        0x4020_00b7
    );
    assert_eq!(
        Ept::leaf_entry(hpa(0x4000_0000), PageSize::Size1G, EptFlags::ROM),
        0x4000_00b5
    );
    assert_eq!(
        Ept::leaf_entry(hpa(0xfee0_0000), PageSize::Size4K, EptFlags::DEVICE),
        0xfee0_0043
    );
}

#[test]
fn an_entry_decodes_to_what_it_was_made_of() {
    for (size, level) in [
        (PageSize::Size4K, 1),
        (PageSize::Size2M, 2),
        (PageSize::Size1G, 3),
    ] {
        for flags in [
            EptFlags::RAM,
            EptFlags::ROM,
            EptFlags::DEVICE | EptFlags::SUPPRESS_VE,
        ] {
            let entry = Ept::leaf_entry(hpa(0x80_0000_0000), size, flags);
            assert_eq!(
                Ept::decode(entry, level),
                Entry::Leaf {
                    frame: hpa(0x80_0000_0000),
                    flags
                }
            );
        }
    }
    assert_eq!(
        Ept::decode(Ept::table_entry(hpa(0x7000)), 4),
        Entry::Table(hpa(0x7000))
    );
    assert_eq!(Ept::decode(0x7000 | 1 << 63 | 1 << 8, 1), Entry::Empty);
}

#[test]
fn accessed_and_dirty_flags_survive_a_change_of_rights() {
    let mut memory = one_page(EptFlags::RAM | EptFlags::ACCESSED | EptFlags::DIRTY);
    let mut tables = Tables::<Ept>::from_root(hpa(0x1000));
    let _ = tables
        .protect(&mut memory, 0x5000, 0x1000, |flags| {
            flags.difference(EptFlags::WRITE)
        })
        .unwrap();
    assert_eq!(memory.entries(4)[5], 0x9_9335);
}

#[test]
fn each_flag_has_its_bit() {
    for (flag, bit) in [
        (EptFlags::IGNORE_PAT, 6),
        (EptFlags::ACCESSED, 8),
        (EptFlags::DIRTY, 9),
        (EptFlags::USER_EXECUTE, 10),
        (EptFlags::SUB_PAGE_WRITE, 61),
        (EptFlags::SUPPRESS_VE, 63),
    ] {
        assert_eq!(flag.bits(), 1 << bit);
    }
}

#[test]
fn the_memory_type_is_a_number_in_three_bits() {
    let flags = EptFlags::READ.with_memory_type(MemoryType::WriteThrough);
    assert_eq!(flags.bits(), 0x21);
    assert_eq!(flags.memory_type(), Some(MemoryType::WriteThrough));
    assert_eq!(flags.with_memory_type(MemoryType::Uncacheable).bits(), 1);
    assert_eq!(EptFlags::from_bits_retain(7 << 3).memory_type(), None);
}

#[test]
fn the_ept_pointer_has_the_bits_of_the_manual() {
    let pointer = EptPointer::new(hpa(0x1234_5000), AccessedDirty::Tracked);
    assert_eq!(pointer.as_u64(), 0x1234_505e);
    assert_eq!(pointer.root(), hpa(0x1234_5000));
    assert_eq!(pointer.accessed_dirty(), AccessedDirty::Tracked);
    assert_eq!(
        EptPointer::new(hpa(0x1000), AccessedDirty::Ignored).as_u64(),
        0x101e
    );
}

#[test]
fn an_allowed_access_ends_at_its_byte() {
    let memory = one_page(EptFlags::RAM);
    for kind in [AccessKind::Read, AccessKind::Write, AccessKind::Execute] {
        assert_eq!(
            walk(&memory, 0x5abc, kind).verdict,
            Verdict::Allowed(hpa(0x9_9abc))
        );
    }
}

#[test]
fn a_missing_page_shows_how_far_the_walk_came() {
    let memory = one_page(EptFlags::RAM);
    let next_page = walk(&memory, 0x6000, AccessKind::Read);
    assert_eq!(next_page.verdict, Verdict::NotPresent);
    assert_eq!(next_page.steps[3], Some((hpa(0x4000), 0)));
    let far = walk(&memory, 0x80_0000_0000, AccessKind::Read);
    assert_eq!(far.verdict, Verdict::NotPresent);
    assert_eq!(far.steps[1], None);
    assert_eq!(
        walk(&memory, 1 << 48, AccessKind::Read).verdict,
        Verdict::OutOfRange
    );
}

#[test]
fn a_denied_access_names_the_entry_that_denies_it() {
    let memory = one_page(EptFlags::ROM);
    assert_eq!(
        walk(&memory, 0x5000, AccessKind::Write).verdict,
        Verdict::Denied {
            level: 1,
            kind: AccessKind::Write
        }
    );
    let mut memory = one_page(EptFlags::RAM);
    memory.entries(2)[0] &= !4;
    assert_eq!(
        walk(&memory, 0x5000, AccessKind::Execute).verdict,
        Verdict::Denied {
            level: 3,
            kind: AccessKind::Execute
        }
    );
}

#[test]
fn each_rule_about_entries_is_found_broken() {
    for (table, index, entry, broken) in [
        (3, 5, 0x9_9032, Misconfiguration::WriteOnly),
        (3, 5, 0x9_9036, Misconfiguration::WriteOnly),
        (
            3,
            5,
            0x9_9017 | 1 << 5 | 1 << 3,
            Misconfiguration::MemoryType(7),
        ),
        (3, 5, 0x9_9017, Misconfiguration::MemoryType(2)),
        (
            3,
            5,
            0x9_9037 | 1 << 46,
            Misconfiguration::Reserved(1 << 46),
        ),
        (2, 0, 0x4007 | 1 << 3, Misconfiguration::Reserved(1 << 3)),
        (
            2,
            0,
            0x20_00b7 | 1 << 12,
            Misconfiguration::Reserved(1 << 12),
        ),
        (
            1,
            0,
            0x4000_00b7 | 1 << 29,
            Misconfiguration::Reserved(1 << 29),
        ),
        (0, 0, 0x2007 | 1 << 7, Misconfiguration::Reserved(1 << 7)),
    ] {
        let mut memory = one_page(EptFlags::RAM);
        memory.entries(table + 1)[index] = entry;
        assert_eq!(
            walk(&memory, 0x5000, AccessKind::Read).verdict,
            Verdict::Misconfigured(broken),
            "{entry:#x} at level {}",
            4 - table
        );
    }
}

#[test]
fn what_is_misconfigured_depends_on_the_processor() {
    let execute_only = 0x9_9034;
    assert_eq!(check_entry(execute_only, 1, &caps()), Ok(()));
    let mut raw = skylake();
    raw.ept_vpid &= !(1 | 1 << 17);
    let poor = Capabilities::new(raw);
    assert_eq!(
        check_entry(execute_only, 1, &poor),
        Err(Misconfiguration::ExecuteOnly)
    );
    let one_gib = 0x4000_00b7;
    assert_eq!(check_entry(one_gib, 3, &caps()), Ok(()));
    assert_eq!(
        check_entry(one_gib, 3, &poor),
        Err(Misconfiguration::Reserved(0xb0))
    );
}

#[test]
fn the_log_shows_every_entry_and_the_rule() {
    let mut memory = one_page(EptFlags::RAM);
    memory.entries(4)[5] = 0x9_9032;
    assert_eq!(
        walk(&memory, 0x5000, AccessKind::Read).to_string(),
        "EPT walk of 0x5000:
  level 4: table 0x1000, entry 0x0000000000002407 rwx
  level 3: table 0x2000, entry 0x0000000000003407 rwx
  level 2: table 0x3000, entry 0x0000000000004407 rwx
  level 1: table 0x4000, entry 0x0000000000099032 -w-
  the last entry is misconfigured: it allows writes without reads"
    );
}

#[test]
fn the_tables_of_ram_are_as_many_as_were_counted_beforehand() {
    const MIB: u64 = 1 << 20;
    let pieces = [
        (0, 512),
        (512, 128),
        (640, 1),
        (641, 1),
        (1024, 1024),
        (4096, 2),
    ];
    let ranges = pieces.map(|(start, mib)| Range {
        start: GuestPhys::new(start * MIB),
        end: GuestPhys::new((start + mib) * MIB),
    });
    for largest in [PageSize::Size1G, PageSize::Size2M] {
        let mut memory = Memory::default();
        let mut tables = Tables::<Ept>::new(&mut memory).expect("a root");
        for range in &ranges {
            let start = range.start.as_u64();
            let _ = tables
                .map(
                    &mut memory,
                    start,
                    HostPhys::new(start),
                    range.len(),
                    EptFlags::RAM,
                    largest,
                )
                .expect("there are tables enough");
        }
        let counted = tables_of(ranges.iter().copied(), largest);
        assert_eq!(counted, memory.used() as u64, "{largest:?}");
    }
}
