//! IRR, ISR, TMR and the priorities, one by one and against an independent model.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

#[test]
fn a_vector_goes_from_requested_to_in_service_to_done() {
    let mut bench = Bench::new();
    bench.edge(0x31);
    assert_eq!(
        (bench.vectors(IRR), bench.vectors(ISR)),
        (vec![0x31], vec![])
    );
    assert_eq!(bench.take(), Some(0x31));
    assert_eq!(
        (bench.vectors(IRR), bench.vectors(ISR)),
        (vec![], vec![0x31])
    );
    assert_eq!(bench.get(PPR), 0x30);
    bench.put(EOI, 0);
    assert_eq!(bench.vectors(ISR), []);
    assert_eq!(bench.get(PPR), 0);
}

#[test]
fn a_vector_can_be_requested_again_while_in_service() {
    let mut bench = Bench::new();
    bench.edge(0x31);
    bench.take();
    bench.edge(0x31);
    bench.edge(0x31);
    assert_eq!(bench.due(), None);
    bench.put(EOI, 0);
    assert_eq!(bench.take(), Some(0x31));
    bench.put(EOI, 0);
    assert_eq!(bench.take(), None);
}

#[test]
fn a_higher_class_interrupts_and_the_same_class_waits() {
    let mut bench = Bench::new();
    bench.edge(0x35);
    bench.take();
    bench.edge(0x3f);
    assert_eq!(bench.due(), None);
    bench.edge(0x40);
    assert_eq!(bench.take(), Some(0x40));
    bench.put(EOI, 0);
    assert_eq!(bench.due(), None);
    bench.put(EOI, 0);
    assert_eq!(bench.take(), Some(0x3f));
}

#[test]
fn the_task_priority_holds_back_its_class_and_those_below() {
    let mut bench = Bench::new();
    bench.edge(0x5f);
    for (tpr, due) in [
        (0x4f, true),
        (0x50, false),
        (0x5f, false),
        (0xff, false),
        (0, true),
    ] {
        bench.put(TPR, tpr);
        assert_eq!(bench.due().is_some(), due, "{tpr:#x}");
        assert_eq!(bench.get(PPR), tpr);
    }
}

#[test]
fn cr8_is_the_class_of_the_task_priority() {
    let mut bench = Bench::new();
    bench.put(TPR, 0x7a);
    assert_eq!(bench.lapic.cr8(), 7);
    bench.lapic.set_cr8(9);
    assert_eq!(bench.get(TPR), 0x90);
}

#[test]
fn the_arbitration_priority_follows_its_formula() {
    // SDM vol. 3, Arbitration Priority Register.
    let mut bench = Bench::new();
    bench.put(TPR, 0x4a);
    assert_eq!(bench.get(APR), 0x4a);
    bench.edge(0x62);
    assert_eq!(bench.get(APR), 0x60);
    bench.take();
    assert_eq!(bench.get(APR), 0x40);
    bench.edge(0x23);
    assert_eq!(bench.get(APR), 0x40);
}

#[test]
fn the_end_of_a_level_triggered_interrupt_is_told_and_of_an_edge_is_not() {
    let mut bench = Bench::new();
    bench.level(0x41);
    assert_eq!(bench.vectors(TMR), [0x41]);
    bench.take();
    assert_eq!(bench.set(EOI, 0), ApicAction::EndOfInterrupt(Vector(0x41)));
    bench.edge(0x41);
    assert_eq!(bench.vectors(TMR), []);
    bench.take();
    assert_eq!(bench.set(EOI, 0), ApicAction::None);
    assert_eq!(bench.set(EOI, 0), ApicAction::None, "nothing in service");
}

#[test]
fn illegal_vectors_are_logged_and_not_requested() {
    let mut bench = Bench::new();
    for vector in 0..16 {
        bench.edge(vector);
        assert_eq!(bench.errors(), 1 << 6);
    }
    bench.edge(16);
    assert_eq!(bench.errors(), 0);
    assert_eq!(bench.vectors(IRR), [16]);
}

#[test]
fn the_8259_goes_past_all_priorities() {
    let mut bench = Bench::new();
    bench.put(TPR, 0xff);
    bench.put(LVT_LINT0, 0x700);
    bench.lapic.set_lint(Lint::Lint0, Level::Asserted);
    bench.edge(0xf1);
    assert_eq!(bench.lapic.pending_interrupt(), Some(PendingInterrupt::Pic));
    bench.lapic.set_lint(Lint::Lint0, Level::Deasserted);
    assert_eq!(bench.lapic.pending_interrupt(), None);
    bench.put(TPR, 0);
    assert_eq!(
        bench.lapic.pending_interrupt(),
        Some(PendingInterrupt::Apic(Vector(0xf1)))
    );
}

/// Requested and in-service vectors as sets, and priorities straight from the manual's definitions.
#[derive(Default)]
struct Model {
    requested: BTreeSet<u8>,
    in_service: BTreeSet<u8>,
    level: BTreeSet<u8>,
    tpr: u8,
}

impl Model {
    fn ppr(&self) -> u8 {
        let isrv = self.in_service.iter().max().map_or(0, |vector| vector / 16);
        match (self.tpr / 16).cmp(&isrv) {
            core::cmp::Ordering::Less => isrv * 16,
            core::cmp::Ordering::Equal | core::cmp::Ordering::Greater => self.tpr,
        }
    }

    fn due(&self) -> Option<u8> {
        self.requested
            .iter()
            .max()
            .copied()
            .filter(|vector| vector / 16 > self.ppr() / 16)
    }

    fn take(&mut self) -> Option<u8> {
        let due = self.due()?;
        self.requested.remove(&due);
        self.in_service.insert(due);
        Some(due)
    }

    fn eoi(&mut self) -> Option<u8> {
        self.in_service
            .pop_last()
            .filter(|vector| self.level.contains(vector))
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Edge(u8),
    Level(u8),
    Take,
    Eoi,
    Tpr(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (16u8..).prop_map(Step::Edge),
        2 => (16u8..).prop_map(Step::Level),
        4 => Just(Step::Take),
        3 => Just(Step::Eoi),
        1 => any::<u8>().prop_map(Step::Tpr),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    #[test]
    fn a_local_apic_does_what_the_model_does(steps in steps(), x2apic in any::<bool>()) {
        let mut bench = if x2apic { Bench::x2() } else { Bench::new() };
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Edge(vector) => {
                    bench.edge(vector);
                    model.requested.insert(vector);
                    model.level.remove(&vector);
                }
                Step::Level(vector) => {
                    bench.level(vector);
                    model.requested.insert(vector);
                    model.level.insert(vector);
                }
                Step::Take => prop_assert_eq!(bench.take(), model.take()),
                Step::Eoi => {
                    let action =
                        if x2apic { bench.wrmsr(0x80b, 0).unwrap() } else { bench.set(EOI, 0) };
                    let wanted = model.eoi().map_or(ApicAction::None, |vector| {
                        ApicAction::EndOfInterrupt(Vector(vector))
                    });
                    prop_assert_eq!(action, wanted);
                }
                Step::Tpr(tpr) => {
                    if x2apic {
                        prop_assert!(bench.wrmsr(0x808, u64::from(tpr)).is_ok());
                    } else {
                        bench.put(TPR, tpr.into());
                    }
                    model.tpr = tpr;
                }
            }
            prop_assert_eq!(bench.due(), model.due());
            prop_assert_eq!(bench.lapic.processor_priority(), model.ppr());

            // What the hardware is told, by the definitions of RVI, SVI and the TPR threshold.
            let rvi = model.requested.iter().max().copied().unwrap_or(0);
            let svi = model.in_service.iter().max().copied().unwrap_or(0);
            prop_assert_eq!(bench.lapic.guest_interrupt_status(), u16::from_be_bytes([svi, rvi]));
            let threshold = bench.lapic.tpr_threshold();
            if threshold != 0 {
                prop_assert!(model.due().is_none());
                model.tpr = threshold * 16 - 1;
                prop_assert_eq!(model.due(), Some(rvi), "an exit that finds nothing");
                model.tpr = threshold * 16;
                prop_assert_eq!(model.due(), None, "an exit that comes too late");
                model.tpr = bench.lapic.task_priority();
            } else if model.due().is_none() {
                let tpr = core::mem::take(&mut model.tpr);
                prop_assert_eq!(model.due(), None, "no exit where the TPR holds something back");
                model.tpr = tpr;
            }
        }
    }
}
