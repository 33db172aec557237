//! IA32_APIC_BASE, and what the modes keep of each other.

use super::*;

/// Brings a local APIC into a mode by legal steps.
fn in_mode(mode: ApicMode) -> Bench {
    let mut bench = Bench::new();
    let bases: &[u64] = match mode {
        ApicMode::Disabled => &[0],
        ApicMode::Xapic => &[],
        ApicMode::X2apic => &[EN | EXTD],
    };
    for flags in bases {
        let done = bench.lapic.write_base(APIC_BASE | BSP | flags);
        assert_eq!(done, Ok(ApicAction::ModeChanged));
    }
    assert_eq!(bench.lapic.mode(), mode);
    bench
}

#[test]
fn the_mode_diagram_is_the_manuals() {
    // SDM vol. 3, x2APIC State Transitions.
    use ApicMode::{Disabled, X2apic, Xapic};
    let table = [
        (Disabled, 0, Some(Disabled)),
        (Disabled, EN, Some(Xapic)),
        (Disabled, EXTD, None),
        (Disabled, EN | EXTD, None),
        (Xapic, 0, Some(Disabled)),
        (Xapic, EN, Some(Xapic)),
        (Xapic, EXTD, None),
        (Xapic, EN | EXTD, Some(X2apic)),
        (X2apic, 0, Some(Disabled)),
        (X2apic, EN, None),
        (X2apic, EXTD, None),
        (X2apic, EN | EXTD, Some(X2apic)),
    ];
    for (from, flags, to) in table {
        let mut bench = in_mode(from);
        let before = bench.lapic.base();
        let result = bench.lapic.write_base(APIC_BASE | BSP | flags);
        assert_eq!(result.is_ok(), to.is_some(), "{from:?} {flags:#x}");
        assert_eq!(bench.lapic.mode(), to.unwrap_or(from));
        if to.is_none() {
            assert_eq!(bench.lapic.base(), before);
        }
    }
}

#[test]
fn reserved_bits_of_the_base_fault() {
    for bit in (0..64).filter(|bit| !matches!(bit, 8 | 10 | 11 | 12..=39)) {
        let mut bench = Bench::new();
        let value = bench.lapic.base() | 1 << bit;
        assert_eq!(
            bench.lapic.write_base(value),
            Err(InvalidAccess),
            "bit {bit}"
        );
    }
    let mut bench = Bench::with(LapicConfig {
        features: LapicFeatures::TSC_DEADLINE,
        ..CONFIG
    });
    let value = bench.lapic.base() | EXTD;
    assert_eq!(bench.lapic.write_base(value), Err(InvalidAccess));
}

#[test]
fn the_registers_move_with_the_base() {
    let mut bench = Bench::new();
    assert_eq!(bench.lapic.mmio_base(), Some(GuestPhys::new(0xfee0_0000)));
    let moved = 0x12_3456_7000 | BSP | EN;
    assert_eq!(bench.lapic.write_base(moved), Ok(ApicAction::ModeChanged));
    assert_eq!(bench.lapic.base(), moved);
    assert_eq!(
        bench.lapic.mmio_base(),
        Some(GuestPhys::new(0x12_3456_7000))
    );
    assert_eq!(bench.lapic.write_base(moved), Ok(ApicAction::None));
    assert_eq!(in_mode(ApicMode::X2apic).lapic.mmio_base(), None);
    assert_eq!(in_mode(ApicMode::Disabled).lapic.mmio_base(), None);
}

#[test]
fn the_bsp_flag_tells_the_role() {
    assert_eq!(Bench::new().lapic.role(), Role::Bootstrap);
    let mut bench = Bench::with(LapicConfig {
        role: Role::Application,
        ..CONFIG
    });
    assert_eq!(bench.lapic.base(), APIC_BASE | EN);
    assert_eq!(bench.lapic.role(), Role::Application);
    assert!(bench.lapic.write_base(APIC_BASE | EN | BSP).is_ok());
    assert_eq!(bench.lapic.role(), Role::Bootstrap);
}

#[test]
fn x2apic_mode_shows_the_wide_id_and_derives_the_logical_one() {
    for (id, ldr) in [(3, 0x0000_0008), (0x1f, 0x0001_8000), (0x123, 0x0012_0008)] {
        let mut bench = Bench::with(LapicConfig { id, ..CONFIG });
        assert_eq!(bench.get(ID), id << 24);
        assert!(bench.lapic.write_base(APIC_BASE | BSP | EN | EXTD).is_ok());
        assert_eq!(bench.rdmsr(0x802), Ok(u64::from(id)));
        assert_eq!(bench.rdmsr(0x80d), Ok(ldr));
    }
}

#[test]
fn entering_x2apic_mode_keeps_all_but_id_ldr_and_the_upper_icr() {
    let mut bench = Bench::new();
    bench.put(TPR, 0x20);
    bench.put(LVT_LINT1, 0x0400);
    bench.put(ICR_HIGH, 0x0700_0000);
    bench.edge(0x55);
    assert_eq!(bench.take(), Some(0x55));
    bench.level(0x66);
    assert!(bench.lapic.write_base(APIC_BASE | BSP | EN | EXTD).is_ok());
    assert_eq!(bench.rdmsr(0x808), Ok(0x20));
    assert_eq!(bench.rdmsr(0x80f), Ok(0x1ff));
    assert_eq!(bench.rdmsr(0x836), Ok(0x0400));
    assert_eq!(bench.rdmsr(0x830), Ok(0));
    assert_eq!(bench.rdmsr(0x812), Ok(1 << 0x15), "in service");
    assert_eq!(bench.rdmsr(0x823), Ok(1 << 6), "requested");
    assert_eq!(bench.rdmsr(0x81b), Ok(1 << 6), "by level");
}

#[test]
fn global_disable_loses_everything_and_hides_the_apic_from_messages() {
    let mut bench = Bench::x2();
    bench.edge(0x55);
    assert!(bench.lapic.write_base(APIC_BASE | BSP).is_ok());
    bench.edge(0x56);
    assert_eq!(bench.due(), None);
    assert!(bench.lapic.write_base(APIC_BASE | BSP | EN).is_ok());
    assert_eq!(bench.get(SVR), 0xff);
    assert_eq!(bench.get(ID), 0x0300_0000);
    assert_eq!(bench.get(LDR), 0);
    assert_eq!(bench.vectors(IRR), []);
}

#[test]
fn init_resets_the_registers_but_not_the_mode() {
    let mut bench = Bench::x2();
    assert!(bench.wrmsr(0x808, 0x40).is_ok());
    bench.edge(0x55);
    bench.lapic.init();
    assert_eq!(bench.lapic.mode(), ApicMode::X2apic);
    assert_eq!(bench.rdmsr(0x802), Ok(3));
    assert_eq!(bench.rdmsr(0x80d), Ok(8));
    assert_eq!(bench.rdmsr(0x808), Ok(0));
    assert_eq!(bench.rdmsr(0x80f), Ok(0xff));
    assert_eq!(bench.due(), None);
    bench.lapic.power_on();
    assert_eq!(bench.lapic.mode(), ApicMode::Xapic);
}

#[test]
fn software_disable_masks_the_lvt_and_ignores_new_vectors_but_keeps_old_ones() {
    // SDM vol. 3, Local APIC State After It Has Been Software Disabled.
    let mut bench = Bench::new();
    bench.put(LVT_LINT1, 0x0400);
    bench.edge(0x70);
    assert_eq!(bench.set(SVR, 0xff), ApicAction::Rerouted);
    bench.edge(0x71);
    assert_eq!(bench.get(LVT_LINT1), 0x0400 | MASK);
    bench.put(LVT_LINT1, 0x0400);
    assert_eq!(bench.get(LVT_LINT1), 0x0400 | MASK, "cannot be unmasked");
    assert_eq!(bench.take(), Some(0x70));
    assert_eq!(bench.take(), None);
    let _ = bench.set(SVR, 0x1ff);
    assert_eq!(bench.get(LVT_LINT1), 0x0400 | MASK, "stays masked");
}

#[test]
fn virtual_wire_mode_is_what_linux_expects_of_firmware() {
    let mut bench = Bench::cold();
    bench.lapic.set_virtual_wire();
    assert_eq!(bench.get(SVR) & 0x100, 0x100);
    bench.lapic.set_lint(Lint::Lint0, Level::Asserted);
    assert_eq!(bench.lapic.pending_interrupt(), Some(PendingInterrupt::Pic));
}
