//! The pins LINT0 and LINT1.

use super::*;

fn signals(bench: &mut Bench) -> Signals {
    PostedInterrupts::new().drain(&mut bench.lapic)
}

fn assert_pin(bench: &mut Bench, pin: Lint) {
    bench.lapic.set_lint(pin, Level::Asserted);
}

fn deassert_pin(bench: &mut Bench, pin: Lint) {
    bench.lapic.set_lint(pin, Level::Deasserted);
}

#[test]
fn an_ext_int_entry_shows_the_8259_to_the_cpu_while_its_wire_is_asserted() {
    let mut bench = Bench::new();
    assert_pin(&mut bench, Lint::Lint0);
    assert_eq!(bench.lapic.pending_interrupt(), None, "masked");
    bench.put(LVT_LINT0, 0x700);
    assert_eq!(bench.lapic.pending_interrupt(), Some(PendingInterrupt::Pic));
    bench.put(LVT_LINT0, 0x700 | MASK);
    assert_eq!(bench.lapic.pending_interrupt(), None);
    bench.put(LVT_LINT0, 0x700);
    deassert_pin(&mut bench, Lint::Lint0);
    assert_eq!(bench.lapic.pending_interrupt(), None);
}

#[test]
fn a_globally_disabled_apic_leaves_the_wires_to_the_cpu() {
    let mut bench = Bench::new();
    assert!(bench.lapic.write_base(APIC_BASE | BSP).is_ok());
    assert_pin(&mut bench, Lint::Lint0);
    assert_eq!(bench.lapic.pending_interrupt(), Some(PendingInterrupt::Pic));
    assert_pin(&mut bench, Lint::Lint1);
    assert_eq!(signals(&mut bench).nmis(), 1);
}

#[test]
fn an_nmi_entry_signals_each_rising_edge() {
    for (pin, register) in [(Lint::Lint0, LVT_LINT0), (Lint::Lint1, LVT_LINT1)] {
        let mut bench = Bench::new();
        assert_pin(&mut bench, pin);
        assert_eq!(signals(&mut bench), Signals::NONE, "masked");
        bench.put(register, 0x400);
        assert_pin(&mut bench, pin);
        assert_eq!(signals(&mut bench), Signals::NONE, "no edge");
        deassert_pin(&mut bench, pin);
        assert_pin(&mut bench, pin);
        assert_eq!(signals(&mut bench).nmis(), 1);
    }
}

#[test]
fn a_fixed_edge_entry_requests_its_vector_at_each_rising_edge() {
    let mut bench = Bench::new();
    bench.put(LVT_LINT0, 0x45);
    assert_pin(&mut bench, Lint::Lint0);
    assert_pin(&mut bench, Lint::Lint0);
    assert_eq!(bench.take(), Some(0x45));
    assert_eq!(bench.set(EOI, 0), ApicAction::None);
    assert_eq!(bench.due(), None);
    deassert_pin(&mut bench, Lint::Lint0);
    assert_pin(&mut bench, Lint::Lint0);
    assert_eq!(bench.due(), Some(0x45));
}

#[test]
fn a_fixed_level_entry_repeats_after_each_eoi_while_asserted() {
    let mut bench = Bench::new();
    bench.put(LVT_LINT0, 0x8045);
    assert_pin(&mut bench, Lint::Lint0);
    assert_eq!(bench.get(LVT_LINT0), 0xc045, "remote IRR");
    assert_eq!(bench.take(), Some(0x45));
    bench.put(LVT_LINT0, 0x8045);
    assert_eq!(bench.get(LVT_LINT0), 0xc045, "remote IRR is read only");
    assert_eq!(bench.due(), None);
    assert_eq!(bench.set(EOI, 0), ApicAction::EndOfInterrupt(Vector(0x45)));
    assert_eq!(bench.take(), Some(0x45));
    deassert_pin(&mut bench, Lint::Lint0);
    let _ = bench.set(EOI, 0);
    assert_eq!(bench.get(LVT_LINT0), 0x8045);
    assert_eq!(bench.due(), None);
}

#[test]
fn an_entry_that_is_no_longer_level_triggered_does_not_wait() {
    let mut bench = Bench::new();
    bench.put(LVT_LINT0, 0x8045);
    assert_pin(&mut bench, Lint::Lint0);
    bench.put(LVT_LINT0, 0x0045);
    assert_eq!(bench.get(LVT_LINT0), 0x0045);
    bench.put(LVT_LINT0, 0x8046);
    assert_eq!(bench.vectors(IRR), [0x45, 0x46]);
}

#[test]
fn unmasking_a_level_entry_looks_at_the_pin() {
    let mut bench = Bench::new();
    bench.put(LVT_LINT1, 0x8045 | MASK);
    assert_pin(&mut bench, Lint::Lint1);
    assert_eq!(bench.due(), None);
    bench.put(LVT_LINT1, 0x8045);
    assert_eq!(bench.due(), Some(0x45));
}

#[test]
fn smi_and_reserved_modes_do_nothing_and_init_signals() {
    for mode in [2, 3, 6] {
        let mut bench = Bench::new();
        bench.put(LVT_LINT1, mode << 8);
        assert_pin(&mut bench, Lint::Lint1);
        assert_eq!(signals(&mut bench), Signals::NONE);
    }
    let mut bench = Bench::new();
    bench.put(LVT_LINT1, 0x500);
    assert_pin(&mut bench, Lint::Lint1);
    assert!(signals(&mut bench).init());
}
