//! What software does together with hardware that virtualises the APIC: here the test plays the hardware, on the
//! page alone (SDM vol. 3, APIC Virtualization and Virtual Interrupts).

use core::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;

use super::page::{Bank, Register};
use super::*;

/// The processor's side of virtual-interrupt delivery: RVI and SVI, beside the page.
struct Processor {
    rvi: u8,
    svi: u8,
    eoi_exits: [u64; 4],
}

impl Processor {
    /// Loads the vCPU.
    fn load(lapic: &mut Lapic) -> Self {
        let [svi, rvi] = lapic
            .take_guest_interrupt_status(|| 0)
            .unwrap_or_default()
            .to_be_bytes();
        Self {
            rvi,
            svi,
            eoi_exits: lapic.take_eoi_exits().unwrap_or_default(),
        }
    }

    /// Delivers what RVI and PPR say is due, as the manual's pseudocode has it.
    fn deliver(&mut self, page: &ApicPage) -> Option<u8> {
        let tpr = page.get(Register::TaskPriority) as u8;
        let ppr = if tpr >> 4 >= self.svi >> 4 {
            tpr
        } else {
            self.svi & 0xf0
        };
        if self.rvi >> 4 <= ppr >> 4 {
            return None;
        }
        let vector = self.rvi;
        page.insert(Bank::InService, Vector(vector));
        self.svi = vector;
        page.remove(Bank::Request, Vector(vector));
        self.rvi = page.highest(Bank::Request).map_or(0, |vector| vector.0);
        Some(vector)
    }

    /// EOI virtualisation; the vector if it causes an exit.
    fn end(&mut self, page: &ApicPage) -> Option<u8> {
        let vector = self.svi;
        page.remove(Bank::InService, Vector(vector));
        self.svi = page.highest(Bank::InService).map_or(0, |vector| vector.0);
        (self.eoi_exits[usize::from(vector >> 6)] >> (vector & 63) & 1 != 0).then_some(vector)
    }
}

#[test]
fn the_eoi_exit_bitmap_follows_the_trigger_modes_and_is_told_once() {
    let mut bench = Bench::new();
    assert_eq!(bench.lapic.take_eoi_exits(), Some([0; 4]));
    assert_eq!(bench.lapic.take_eoi_exits(), None);
    bench.edge(0x50);
    assert_eq!(bench.lapic.take_eoi_exits(), None);
    bench.level(0x50);
    assert_eq!(bench.lapic.take_eoi_exits(), Some([0, 1 << 0x10, 0, 0]));
    bench.level(0x50);
    assert_eq!(bench.lapic.take_eoi_exits(), None);
    bench.edge(0x50);
    assert_eq!(bench.lapic.take_eoi_exits(), Some([0; 4]));
}

#[test]
fn the_guest_interrupt_status_is_told_when_software_has_changed_it() {
    let mut bench = Bench::new();
    let told = |bench: &mut Bench, present| bench.lapic.take_guest_interrupt_status(|| present);
    assert_eq!(told(&mut bench, 0xffff), Some(0));
    assert_eq!(told(&mut bench, 0), None);
    bench.edge(0x50);
    bench.edge(0x61);
    assert_eq!(told(&mut bench, 0), Some(0x0061));
    assert_eq!(told(&mut bench, 0x61), None);
    assert_eq!(bench.take(), Some(0x61));
    assert_eq!(told(&mut bench, 0x61), Some(0x6150));
    bench.put(EOI, 0);
    assert_eq!(told(&mut bench, 0x6150), Some(0x0050));
}

#[test]
fn a_new_request_raises_rvi_and_leaves_svi_to_the_hardware() {
    let mut bench = Bench::new();
    let told = |bench: &mut Bench, present| bench.lapic.take_guest_interrupt_status(|| present);
    let _ = told(&mut bench, 0);
    bench.edge(0x50);
    // Meanwhile the hardware has put another one in service.
    assert_eq!(told(&mut bench, 0x4130), Some(0x4150));
    bench.edge(0x40);
    assert_eq!(told(&mut bench, 0x4150), None, "one that is higher waits");
    assert_eq!(told(&mut bench, 0x4130), None, "it was told once");
}

#[test]
fn a_hardware_eoi_of_a_level_triggered_pin_looks_at_the_pin_again() {
    let mut bench = Bench::new();
    bench.put(LVT_LINT0, 0x8045);
    bench.lapic.set_lint(Lint::Lint0, Level::Asserted);
    let mut processor = Processor::load(&mut bench.lapic);
    assert_eq!(processor.deliver(bench.lapic.page()), Some(0x45));
    assert_eq!(processor.end(bench.lapic.page()), Some(0x45));
    bench.lapic.hardware_ended(Vector(0x45));
    assert_eq!(bench.lapic.guest_interrupt_status(), 0x0045);
}

#[test]
fn a_halted_cpu_is_woken_by_what_the_hardware_left_in_the_page() {
    let mut bench = Bench::new();
    bench.edge(0x61);
    let mut processor = Processor::load(&mut bench.lapic);
    processor.deliver(bench.lapic.page());
    bench.edge(0x62);
    assert_eq!(bench.due(), None, "the class in service holds it back");
    processor.end(bench.lapic.page());
    assert_eq!(bench.due(), Some(0x62));
}

#[test]
fn writes_that_the_hardware_has_done_are_completed() {
    /// What the hardware leaves in the page, and what a guest then reads.
    fn completed(bench: &mut Bench, offset: u16, raw: u32) -> (ApicAction, u32) {
        let bank = bench.lapic.page.bank(Bank::InService, 0);
        assert_eq!(bank.load(Relaxed), 0);
        bench.lapic.page.store_raw(offset, raw);
        let action = bench.lapic.complete_write(offset, &bench.now);
        (action, bench.get(offset))
    }
    let mut bench = Bench::new();
    assert_eq!(
        completed(&mut bench, ID, 0x7700_0000),
        (ApicAction::None, 0x0300_0000)
    );
    assert_eq!(
        completed(&mut bench, LDR, 0x7777_7777),
        (ApicAction::Rerouted, 0x7700_0000)
    );
    assert_eq!(
        completed(&mut bench, DFR, 0),
        (ApicAction::Rerouted, 0x0fff_ffff)
    );
    assert_eq!(
        completed(&mut bench, LVT_LINT1, 0xffff_f400),
        (ApicAction::None, 0x0001_a400)
    );
    assert_eq!(
        completed(&mut bench, ICR_HIGH, 0x0102_0304),
        (ApicAction::None, 0x0100_0000)
    );
    let (action, icr) = completed(&mut bench, ICR_LOW, 0xfff0_50fb);
    assert!(matches!(action, ApicAction::Send(ipi) if ipi.message.destination == 1));
    assert_eq!(icr, 0x0000_40fb);
    assert_eq!(bench.get(0x010), 0);
    assert_eq!(
        completed(&mut bench, ESR, 0xffff_ffff),
        (ApicAction::None, 1 << 7)
    );
    assert_eq!(
        completed(&mut bench, SVR, 0xffff_f0ff),
        (ApicAction::Rerouted, 0xff)
    );
    assert_eq!(bench.get(LVT_LINT1), 0x0001_a400, "masked with all others");
}

#[test]
fn a_timer_that_the_hardware_has_written_runs() {
    let mut bench = Bench::new();
    for (offset, value) in [(DIVIDE, 0xb), (LVT_TIMER, 0x30), (INITIAL_COUNT, 1000)] {
        bench.lapic.page.store_raw(offset, value);
        assert_eq!(
            bench.lapic.complete_write(offset, &bench.now),
            ApicAction::None
        );
    }
    bench.now.ns = 1000;
    bench.lapic.expire(&bench.now);
    assert_eq!(bench.due(), Some(0x30));
}

#[test]
fn an_initial_count_that_the_hardware_wrote_in_tsc_deadline_mode_is_taken_back() {
    let mut bench = Bench::new();
    bench.put(LVT_TIMER, 0x30);
    bench.put(INITIAL_COUNT, 1000);
    bench.put(LVT_TIMER, 0x4_0030);
    bench.lapic.page.store_raw(INITIAL_COUNT, 77);
    assert_eq!(
        bench.lapic.complete_write(INITIAL_COUNT, &bench.now),
        ApicAction::None
    );
    assert_eq!(bench.get(INITIAL_COUNT), 1000);
}

#[test]
fn an_x2apic_self_ipi_that_the_hardware_passes_on_is_completed() {
    let mut bench = Bench::x2();
    bench.lapic.page.store_raw(0x3f0, 0x0f);
    assert_eq!(
        bench.lapic.complete_write(0x3f0, &bench.now),
        ApicAction::None
    );
    assert!(bench.wrmsr(0x828, 0).is_ok());
    assert_eq!(bench.rdmsr(0x828), Ok(1 << 5));
}

#[test]
fn what_the_hardware_may_read_by_itself_is_what_software_would_read() {
    let mut bench = Bench::x2();
    assert!(bench.wrmsr(0x830, 0x1234_5678_0000_40fb).is_ok());
    bench.edge(0x77);
    for msr in 0x800..0x900 {
        if !Lapic::reads_from_page(msr) {
            continue;
        }
        let number = (msr - 0x800) as u8;
        let by_hardware = bench.lapic.page.get_number_wide(number);
        assert_eq!(bench.rdmsr(msr), Ok(by_hardware), "{msr:#x}");
    }
    assert!(Lapic::reads_from_page(0x802) && Lapic::reads_from_page(0x80a));
    for msr in [0x7ff, 0x80b, 0x80e, 0x831, 0x839, 0x83f, 0x900] {
        assert!(!Lapic::reads_from_page(msr), "{msr:#x}");
    }
}

proptest! {
    /// The same requests, priorities and EOIs once by software alone and once with the processor's help.
    #[test]
    fn hardware_and_software_deliver_the_same(
        steps in prop::collection::vec((0u8..5, 16u8..), 0..80),
    ) {
        let mut soft = Bench::new();
        let mut hard = Bench::new();
        let mut processor = Processor::load(&mut hard.lapic);
        for (step, value) in steps {
            match step {
                0 => {
                    soft.edge(value);
                    hard.edge(value);
                }
                1 => {
                    soft.level(value);
                    hard.level(value);
                }
                2 => prop_assert_eq!(soft.take(), processor.deliver(hard.lapic.page())),
                3 => {
                    let told = match soft.set(EOI, 0) {
                        ApicAction::EndOfInterrupt(vector) => Some(vector.0),
                        _ => None,
                    };
                    let in_service = processor.svi != 0;
                    let exit = if in_service { processor.end(hard.lapic.page()) } else { None };
                    prop_assert_eq!(told, exit);
                    if let Some(vector) = exit {
                        hard.lapic.hardware_ended(Vector(vector));
                    }
                }
                _ => {
                    soft.put(TPR, value.into());
                    hard.lapic.page.store_raw(TPR, value.into());
                }
            }
            let status = u16::from_be_bytes([processor.svi, processor.rvi]);
            match hard.lapic.take_guest_interrupt_status(|| status) {
                None => prop_assert_eq!(hard.lapic.guest_interrupt_status(), status),
                Some(changed) => {
                    [processor.svi, processor.rvi] = changed.to_be_bytes();
                    prop_assert_eq!(status >> 8, changed >> 8, "SVI is the hardware's");
                }
            }
            if let Some(bitmap) = hard.lapic.take_eoi_exits() {
                processor.eoi_exits = bitmap;
            }
        }
    }
}
