//! The register map in both modes, and what accesses of the wrong kind get.

use super::*;

#[test]
fn the_registers_after_power_on_are_the_manuals() {
    // SDM vol. 3, Local APIC State After Power-Up or Reset.
    let mut bench = Bench::cold();
    let table = [
        (ID, 0x0300_0000),
        (VERSION, 0x0005_0014),
        (TPR, 0),
        (APR, 0),
        (PPR, 0),
        (LDR, 0),
        (DFR, 0xffff_ffff),
        (SVR, 0xff),
        (ESR, 0),
        (ICR_LOW, 0),
        (ICR_HIGH, 0),
        (LVT_TIMER, MASK),
        (0x330, MASK),
        (0x340, MASK),
        (LVT_LINT0, MASK),
        (LVT_LINT1, MASK),
        (LVT_ERROR, MASK),
        (INITIAL_COUNT, 0),
        (CURRENT_COUNT, 0),
        (DIVIDE, 0),
    ];
    for (offset, value) in table {
        assert_eq!(bench.get(offset), value, "{offset:#x}");
    }
    for first in [ISR, TMR, IRR] {
        assert_eq!(bench.vectors(first), []);
    }
    assert_eq!(bench.errors(), 0);
}

#[test]
fn xapic_registers_hold_what_they_have_bits_for() {
    let mut bench = Bench::new();
    let table = [
        (TPR, 0xff),
        (LDR, 0xff00_0000),
        (DFR, 0xffff_ffff),
        (SVR, 0x3ff),
        (ICR_HIGH, 0xff00_0000),
        (LVT_TIMER, 0x0007_00ff),
        (0x330, 0x0001_07ff),
        (0x340, 0x0001_07ff),
        (LVT_LINT0, 0x0001_a7ff),
        (LVT_LINT1, 0x0001_a7ff),
        (LVT_ERROR, 0x0001_00ff),
        (DIVIDE, 0xb),
    ];
    for (offset, wanted) in table {
        let _ = bench.set(offset, 0xffff_ffff);
        assert_eq!(bench.get(offset), wanted, "{offset:#x}");
    }
    let _ = bench.set(DFR, 0);
    assert_eq!(bench.get(DFR), 0x0fff_ffff);
    assert_eq!(bench.errors(), 0);
}

#[test]
fn read_only_registers_stay_as_they_are() {
    let mut bench = Bench::new();
    let read_only = [ID, VERSION, APR, PPR, 0x0c0, CURRENT_COUNT];
    let banks = (0x100..0x280).step_by(0x10);
    for offset in read_only.into_iter().chain(banks) {
        let before = bench.get(offset);
        bench.put(offset, !before);
        assert_eq!(bench.get(offset), before, "{offset:#x}");
    }
    assert_eq!(bench.errors(), 0);
}

#[test]
fn reserved_offsets_read_zero_and_are_logged() {
    let mut bench = Bench::new();
    let exists = |number: u16| matches!(number, 2 | 3 | 8..=0x28 | 0x30..=0x39 | 0x3e);
    for number in (0..0x100).filter(|&number| !exists(number)) {
        assert_eq!(bench.get(number << 4), 0);
        assert_eq!(bench.errors(), 1 << 7, "reading {number:#x}0");
        bench.put(number << 4, 0x55);
        assert_eq!(bench.errors(), 1 << 7, "writing {number:#x}0");
    }
    assert_eq!(bench.errors(), 0);
}

#[test]
fn accesses_of_other_widths_get_the_registers_bytes_and_write_nothing() {
    let mut bench = Bench::new();
    let _ = bench.set(LDR, 0xa5ff_ffff);
    let now = bench.now;
    assert_eq!(bench.lapic.read_mmio(LDR, Width::Byte, &now), 0);
    assert_eq!(bench.lapic.read_mmio(LDR + 3, Width::Byte, &now), 0xa5);
    assert_eq!(bench.lapic.read_mmio(LDR + 2, Width::Word, &now), 0xa500);
    assert_eq!(bench.lapic.read_mmio(LDR, Width::Qword, &now), 0xa500_0000);
    assert_eq!(bench.lapic.read_mmio(LDR + 4, Width::Dword, &now), 0);
    for (offset, width) in [
        (LDR + 3, Width::Byte),
        (LDR, Width::Word),
        (LDR, Width::Qword),
        (LDR + 4, Width::Dword),
    ] {
        assert_eq!(
            bench.lapic.write_mmio(offset, width, 0, &now),
            ApicAction::None
        );
        assert_eq!(bench.get(LDR), 0xa500_0000);
    }
}

#[test]
fn x2apic_msrs_are_readable_writable_or_not_there() {
    // SDM vol. 3, Local APIC Register Address Map Supported by x2APIC.
    let readable = |number: u32| matches!(number, 2 | 3 | 8 | 0xa | 0xd | 0xf..=0x28 | 0x30 | 0x32..=0x39 | 0x3e);
    let writable = |number: u32| {
        matches!(
            number,
            8 | 0xb | 0xf | 0x28 | 0x30 | 0x32..=0x38 | 0x3e | 0x3f
        )
    };
    let mut bench = Bench::x2();
    for number in 0..0x100 {
        assert_eq!(
            bench.rdmsr(0x800 + number).is_ok(),
            readable(number),
            "RDMSR {number:#x}"
        );
        assert_eq!(
            bench.wrmsr(0x800 + number, 0).is_ok(),
            writable(number),
            "WRMSR {number:#x}"
        );
    }
    for msr in [0, 0x7ff, 0x900, 0xffff_ffff] {
        assert_eq!(bench.rdmsr(msr), Err(InvalidAccess));
        assert_eq!(bench.wrmsr(msr, 0), Err(InvalidAccess));
    }
}

#[test]
fn x2apic_reserved_bits_fault_and_leave_the_register_alone() {
    let mut bench = Bench::x2();
    let allowed: [(u32, u64); 14] = [
        (0x808, 0xff),
        (0x80b, 0),
        (0x80f, 0x3ff),
        (0x828, 0),
        (0x830, 0xffff_ffff_000c_dfff),
        (0x832, 0x0007_10ff),
        (0x833, 0x0001_17ff),
        (0x834, 0x0001_17ff),
        (0x835, 0x0001_f7ff),
        (0x836, 0x0001_f7ff),
        (0x837, 0x0001_10ff),
        (0x838, 0xffff_ffff),
        (0x83e, 0xb),
        (0x83f, 0xff),
    ];
    for (msr, allowed) in allowed {
        for bit in 0..64 {
            let before = bench.rdmsr(msr);
            let result = bench.wrmsr(msr, 1 << bit);
            assert_eq!(
                result.is_ok(),
                allowed >> bit & 1 != 0,
                "MSR {msr:#x} bit {bit}"
            );
            if result.is_err() {
                assert_eq!(bench.rdmsr(msr), before);
            }
            assert_eq!(bench.wrmsr(0x80f, 0x1ff), Ok(ApicAction::Rerouted));
        }
    }
}

#[test]
fn x2apic_registers_are_out_of_reach_in_xapic_mode() {
    let mut bench = Bench::new();
    assert_eq!(bench.rdmsr(0x802), Err(InvalidAccess));
    assert_eq!(bench.wrmsr(0x808, 0), Err(InvalidAccess));
}

#[test]
fn without_the_deadline_feature_its_mode_bit_is_reserved() {
    let config = LapicConfig {
        features: LapicFeatures::X2APIC,
        ..CONFIG
    };
    let mut bench = Bench::with(config);
    let _ = bench.set(SVR, 0x1ff);
    bench.put(LVT_TIMER, 0x0004_0030);
    assert_eq!(bench.get(LVT_TIMER), 0x30);
    let base = bench.lapic.base() | EXTD;
    assert_eq!(bench.lapic.write_base(base), Ok(ApicAction::ModeChanged));
    assert_eq!(bench.wrmsr(0x832, 0x0004_0030), Err(InvalidAccess));
}

#[test]
fn the_error_status_shows_what_was_logged_before_its_last_write() {
    let mut bench = Bench::new();
    assert_eq!(bench.get(0x010), 0);
    assert_eq!(bench.get(ESR), 0, "not before the write");
    bench.put(ESR, 0xffff_ffff);
    assert_eq!(bench.get(ESR), 1 << 7);
    assert_eq!(bench.get(ESR), 1 << 7, "reading changes nothing");
    bench.put(ESR, 0);
    assert_eq!(bench.get(ESR), 0);
}

#[test]
fn an_error_interrupts_once_until_the_error_status_is_written() {
    let mut bench = Bench::new();
    bench.put(LVT_ERROR, 0xfe);
    bench.get(0x010);
    assert_eq!(bench.take(), Some(0xfe));
    bench.put(EOI, 0);
    bench.get(0x010);
    assert_eq!(bench.take(), None);
    bench.put(ESR, 0);
    bench.get(0x010);
    assert_eq!(bench.take(), Some(0xfe));
}

#[test]
fn an_error_interrupt_with_an_illegal_vector_is_an_error_itself() {
    let mut bench = Bench::new();
    bench.put(LVT_ERROR, 0x0f);
    bench.get(0x010);
    assert_eq!(bench.due(), None);
    assert_eq!(bench.errors(), 1 << 7 | 1 << 6);
}
