//! What is seen by a view, and how it gets on with few tables.

use super::*;
use crate::testing::{Memory, Reserve};
use std::vec;

const MIB: u64 = 1 << 20;
const CLOSED: Peculiarity = Peculiarity {
    gate: A20Gate::Closed,
    hidden: None,
};

fn ram() -> Pieces {
    let piece = |start: u64, end: u64| {
        let range = Range {
            start: GuestPhys::new(start),
            end: GuestPhys::new(end),
        };
        (range, HostPhys::new(start + (1 << 32)))
    };
    Pieces::new(
        vec![
            piece(0, MIB),
            piece(2 * MIB, 4 * MIB),
            piece(256 * MIB, 512 * MIB),
        ]
        .into_iter(),
    )
}

fn view(tables: u64) -> PrivateView<Reserve<Memory>> {
    let reserve = Reserve::new(Memory::default(), tables);
    PrivateView::new(reserve, AccessedDirty::Tracked).expect("a root")
}

fn access(gpa: u64, kind: AccessKind) -> MemoryAccess {
    MemoryAccess {
        gpa: GuestPhys::new(gpa),
        gva: None,
        kind,
        during_page_walk: false,
    }
}

fn fill(view: &mut PrivateView<Reserve<Memory>>, gpa: u64, kind: AccessKind) -> Filled {
    view.fill(&ram(), LargePages::DataOnly, &access(gpa, kind))
        .expect("enough tables")
}

/// Where the tables lead, and by which page.
fn at(view: &PrivateView<Reserve<Memory>>, gpa: u64) -> Option<(u64, PageSize, u64)> {
    let found = view.tables.translate(&view.memory, gpa)?;
    Some((found.address.as_u64(), found.size, found.flags.bits()))
}

#[test]
fn an_odd_mib_shows_the_even_one_below_it_while_the_gate_is_closed() {
    let mut view = view(64);
    view.begin(CLOSED).unwrap();
    for gpa in [2 * MIB + 0x5123, 3 * MIB + 0x5123] {
        let seen = GuestPhys::new(2 * MIB + 0x5123);
        let filled = fill(&mut view, gpa, AccessKind::Read);
        assert_eq!(filled, Filled::Mapped(seen, TlbEffect::None));
        let there = (1 << 32) + 2 * MIB + 0x5123;
        assert_eq!(at(&view, gpa), Some((there, PageSize::Size4K, 0x37)));
    }
    assert_eq!(view.turn_into(CLOSED), Ok(TlbEffect::None));
    assert_eq!(view.turn_into(Peculiarity::NONE), Ok(TlbEffect::Stale));
    assert_eq!(at(&view, 3 * MIB + 0x5123), None);
}

#[test]
fn the_page_of_an_apic_that_lies_over_ram_is_no_ram_for_its_cpu() {
    let mut view = view(64);
    let hidden = GuestPhys::new(2 * MIB + 0x7000);
    view.begin(Peculiarity {
        gate: A20Gate::Open,
        hidden: Some(hidden),
    })
    .unwrap();
    let inside = hidden.as_u64() + 0x30;
    let filled = fill(&mut view, inside, AccessKind::Write);
    assert_eq!(filled, Filled::NoRam(GuestPhys::new(inside)));
    fill(&mut view, inside + 0x1000, AccessKind::Write);
    assert_eq!(at(&view, inside), None);
    fill(&mut view, 300 * MIB, AccessKind::Read);
    assert_eq!(
        at(&view, 300 * MIB).map(|(_, size, _)| size),
        Some(PageSize::Size2M)
    );
}

#[test]
fn code_in_a_view_of_ones_own_is_in_small_pages_too() {
    let mut view = view(64);
    view.begin(Peculiarity::NONE).unwrap();
    fill(&mut view, 256 * MIB, AccessKind::Write);
    let large = (256 * MIB) + (1 << 32);
    assert_eq!(at(&view, 256 * MIB), Some((large, PageSize::Size2M, 0x33)));
    let fetched = fill(&mut view, 256 * MIB + 0x1000, AccessKind::Execute);
    let seen = GuestPhys::new(256 * MIB + 0x1000);
    assert_eq!(fetched, Filled::Mapped(seen, TlbEffect::Stale));
    for page in [0, 0x1000, 0x1f_f000] {
        let there = Some((large + page, PageSize::Size4K, 0x37));
        assert_eq!(at(&view, 256 * MIB + page), there);
    }
    let mut usual = self::view(64);
    let filled = usual.fill(
        &ram(),
        LargePages::ForAll,
        &access(256 * MIB, AccessKind::Execute),
    );
    assert!(filled.is_ok());
    assert_eq!(at(&usual, 256 * MIB), Some((large, PageSize::Size2M, 0x37)));
}

#[test]
fn a_guest_that_moves_its_gate_and_runs_everywhere_uses_up_no_tables() {
    let mut view = view(6);
    for round in 0..3 {
        view.begin(CLOSED).unwrap();
        for page in 0..40 {
            let gpa = 256 * MIB + page * 4 * MIB + round * 0x1000;
            let filled = fill(&mut view, gpa, AccessKind::Execute);
            // Two tables of the lowest level come, and with them a flush once there is none left.
            let effect = match page % 3 {
                0 if page > 0 => TlbEffect::Stale,
                _ => TlbEffect::None,
            };
            assert_eq!(filled, Filled::Mapped(GuestPhys::new(gpa), effect));
            assert!(at(&view, gpa).is_some());
        }
    }
}

#[test]
fn with_fewer_tables_than_a_page_takes_it_is_an_error_and_no_end() {
    let mut view = view(3);
    let error = view.fill(
        &ram(),
        LargePages::DataOnly,
        &access(256 * MIB, AccessKind::Execute),
    );
    assert_eq!(error, Err(TableError::OutOfTables));
}
