//! The timer as software drives it.

use super::*;

impl Bench {
    fn at_ns(&mut self, ns: u64) {
        self.now.ns = ns;
        self.lapic.expire(&self.now);
    }

    fn at_tsc(&mut self, tsc: u64) {
        self.now.guest_tsc = tsc;
        self.lapic.expire(&self.now);
    }

    fn one_shot(vector: u32, count: u32) -> Self {
        let mut bench = Self::new();
        bench.put(DIVIDE, 0xb);
        bench.put(LVT_TIMER, vector);
        bench.put(INITIAL_COUNT, count);
        bench
    }
}

#[test]
fn a_one_shot_timer_counts_down_and_fires_once() {
    let mut bench = Bench::one_shot(0x30, 1000);
    assert_eq!(
        bench.lapic.next_deadline(),
        Some(Deadline::Nanoseconds(1001))
    );
    bench.at_ns(400);
    assert_eq!(bench.get(CURRENT_COUNT), 600);
    assert_eq!(bench.get(INITIAL_COUNT), 1000);
    bench.at_ns(999);
    assert_eq!(bench.due(), None);
    bench.at_ns(1000);
    assert_eq!(bench.get(CURRENT_COUNT), 0);
    assert_eq!(bench.take(), Some(0x30));
    bench.put(EOI, 0);
    bench.at_ns(100_000);
    assert_eq!(bench.due(), None);
    assert_eq!(bench.lapic.next_deadline(), None);
}

#[test]
fn a_periodic_timer_fires_every_period() {
    let mut bench = Bench::new();
    bench.put(DIVIDE, 0x3);
    bench.put(LVT_TIMER, 0x2_0040);
    bench.put(INITIAL_COUNT, 10_000);
    for round in 1..10 {
        bench.at_ns(round * 160_000 - 1);
        assert_eq!(bench.due(), None);
        bench.at_ns(round * 160_000);
        assert_eq!(bench.take(), Some(0x40));
        bench.put(EOI, 0);
    }
}

#[test]
fn a_write_of_zero_stops_the_timer() {
    let mut bench = Bench::one_shot(0x30, 1000);
    bench.put(INITIAL_COUNT, 0);
    assert_eq!(bench.lapic.next_deadline(), None);
    assert_eq!(bench.get(CURRENT_COUNT), 0);
    bench.at_ns(5000);
    assert_eq!(bench.due(), None);
}

#[test]
fn a_masked_timer_counts_on_but_does_not_interrupt_later_either() {
    let mut bench = Bench::one_shot(0x30 | MASK, 1000);
    assert_eq!(bench.lapic.next_deadline(), None);
    bench.now.ns = 300;
    assert_eq!(bench.get(CURRENT_COUNT), 700);
    bench.now.ns = 2000;
    bench.put(LVT_TIMER, 0x30);
    assert_eq!(bench.due(), None, "it ran out while masked");
    bench.put(INITIAL_COUNT, 1000);
    bench.put(LVT_TIMER, 0x31 | MASK);
    bench.put(LVT_TIMER, 0x32);
    assert_eq!(
        bench.lapic.next_deadline(),
        Some(Deadline::Nanoseconds(3001))
    );
    bench.at_ns(3000);
    assert_eq!(bench.take(), Some(0x32), "unmasked in time");
}

#[test]
fn software_disable_silences_the_timer() {
    let mut bench = Bench::one_shot(0x30, 1000);
    let _ = bench.set(SVR, 0xff);
    assert_eq!(bench.lapic.next_deadline(), None);
    bench.at_ns(2000);
    let _ = bench.set(SVR, 0x1ff);
    assert_eq!(bench.due(), None);
}

#[test]
fn an_interrupt_that_is_due_is_not_lost_by_a_new_count_or_deadline() {
    let mut bench = Bench::one_shot(0x30, 1000);
    bench.now.ns = 1500;
    bench.put(INITIAL_COUNT, 1000);
    assert_eq!(bench.take(), Some(0x30));

    let mut bench = Bench::x2();
    assert!(bench.wrmsr(0x832, 0x4_0050).is_ok());
    assert_eq!(
        bench.lapic.set_tsc_deadline(100, &bench.now),
        Armed::ForLater
    );
    bench.now.guest_tsc = 150;
    assert_eq!(bench.lapic.set_tsc_deadline(1000, &bench.now), Armed::Fired);
    assert_eq!(bench.take(), Some(0x50));
    assert_eq!(bench.lapic.next_deadline(), Some(Deadline::GuestTsc(1000)));
}

#[test]
fn the_deadline_timer_fires_when_the_tsc_reaches_it_and_disarms() {
    let mut bench = Bench::x2();
    bench.now.guest_tsc = 10;
    assert!(bench.wrmsr(0x832, 0x4_0050).is_ok());
    assert_eq!(bench.lapic.tsc_deadline(&bench.now), 0);
    let _ = bench.lapic.set_tsc_deadline(1000, &bench.now);
    assert_eq!(bench.lapic.tsc_deadline(&bench.now), 1000);
    bench.at_tsc(999);
    assert_eq!(bench.due(), None);
    bench.at_tsc(1000);
    assert_eq!(bench.take(), Some(0x50));
    assert_eq!(bench.lapic.tsc_deadline(&bench.now), 0);
    assert_eq!(bench.lapic.next_deadline(), None);
}

#[test]
fn a_deadline_in_the_past_fires_at_once_and_zero_disarms() {
    let mut bench = Bench::x2();
    bench.now.guest_tsc = 5000;
    assert!(bench.wrmsr(0x832, 0x4_0050).is_ok());
    assert_eq!(bench.lapic.set_tsc_deadline(1, &bench.now), Armed::Fired);
    assert_eq!(bench.take(), Some(0x50));
    let _ = bench.lapic.set_tsc_deadline(6000, &bench.now);
    let _ = bench.lapic.set_tsc_deadline(0, &bench.now);
    bench.at_tsc(7000);
    assert!(bench.wrmsr(0x80b, 0).is_ok());
    assert_eq!(bench.due(), None);
}

#[test]
fn each_timer_mode_ignores_the_others_registers() {
    let mut bench = Bench::x2();
    let _ = bench.lapic.set_tsc_deadline(1, &bench.now);
    bench.at_tsc(100);
    assert_eq!(
        bench.due(),
        None,
        "in one-shot mode the deadline is ignored"
    );
    assert!(bench.wrmsr(0x832, 0x4_0050).is_ok());
    assert!(bench.wrmsr(0x838, 55).is_ok());
    assert_eq!(bench.rdmsr(0x838), Ok(0));
    assert_eq!(bench.rdmsr(0x839), Ok(0));
    assert_eq!(bench.lapic.next_deadline(), None);
}

#[test]
fn a_timer_with_an_illegal_vector_is_an_error() {
    let mut bench = Bench::one_shot(0x0a, 100);
    bench.at_ns(100);
    assert_eq!(bench.due(), None);
    assert_eq!(bench.errors(), 1 << 6);
}

#[test]
fn the_bus_clock_is_the_boards_choice() {
    let mut bench = Bench::with(LapicConfig {
        bus_hz: 25_000_000,
        ..CONFIG
    });
    let _ = bench.set(SVR, 0x1ff);
    bench.put(DIVIDE, 0xb);
    bench.put(LVT_TIMER, 0x30);
    bench.put(INITIAL_COUNT, 25_000);
    bench.at_ns(500_000);
    assert_eq!(bench.get(CURRENT_COUNT), 12_500);
    bench.at_ns(999_900);
    assert_eq!(bench.due(), None);
    bench.at_ns(1_000_000);
    assert_eq!(bench.due(), Some(0x30));
}
