//! The counters' modes, latches and gates, and ticks that come late.

use super::*;

struct Bench {
    pit: Pit,
    fx: Effects,
    /// Nanoseconds.
    now: u64,
    edges: u32,
}

impl Bench {
    fn new() -> Self {
        Self {
            pit: Pit::new(Gsi(2)),
            fx: Effects::new(),
            now: 0,
            edges: 0,
        }
    }

    fn settle(&mut self) {
        self.edges += self.fx.take_lines().raised.count_ones();
    }

    /// Moves to the time at which this many ticks have passed in all.
    fn at(&mut self, ticks: u64) -> &mut Self {
        self.now = tick_ns(ticks);
        self
    }

    fn read(&mut self, offset: u16) -> u8 {
        self.pit.read(offset, self.now)
    }

    fn read16(&mut self, offset: u16) -> u16 {
        u16::from_le_bytes([self.read(offset), self.read(offset)])
    }

    fn write(&mut self, offset: u16, value: u8) {
        self.pit.write(offset, value, self.now, &mut self.fx);
        self.settle();
    }

    fn write16(&mut self, offset: u16, value: u16) {
        for byte in value.to_le_bytes() {
            self.write(offset, byte);
        }
    }

    fn gate(&mut self, value: u8) {
        self.pit.write_control(value, self.now);
    }

    fn out2(&self) -> bool {
        self.pit.read_control(self.now) & 0x20 != 0
    }

    /// Runs up to a tick with exact deadlines and counts the interrupts.
    fn run_to(&mut self, ticks: u64) -> u32 {
        let end = tick_ns(ticks);
        let before = self.edges;
        while let Some(due) = self.pit.next_deadline_ns().filter(|&due| due <= end) {
            assert!(due > self.now, "a deadline in the past");
            self.now = due;
            self.pit.expire(due, &mut self.fx);
            self.settle();
        }
        self.now = end;
        self.edges - before
    }
}

#[test]
fn ticks_that_fall_into_another_guests_turn_are_not_lost() {
    let mut bench = Bench::new();
    // Mode 2, 11932 ticks: a hundred hertz.
    for (offset, value) in [(3, 0x34), (0, 0x9c), (0, 0x2e)] {
        bench.write(offset, value);
    }
    let edges = bench.edges;
    let begin = bench.now;
    // Every other 35 ms the guest has no processor, and nobody looks.
    while bench.now < begin + 1_000_000_000 {
        let until = bench.now + 35_000_000;
        while let Some(due) = bench.pit.next_deadline_ns().filter(|due| *due <= until) {
            bench.now = due;
            bench.pit.expire(due, &mut bench.fx);
            bench.settle();
        }
        bench.now = until + 35_000_000;
        let now = bench.now;
        bench.pit.expire(now, &mut bench.fx);
        bench.settle();
    }
    let got = bench.edges - edges;
    assert!(
        (97..=105).contains(&got),
        "{got} edges in a second and a little"
    );
    // A new count begins with a clean sheet.
    bench.now += 500_000_000;
    let now = bench.now;
    bench.pit.expire(now, &mut bench.fx);
    bench.settle();
    for (offset, value) in [(3, 0x30), (0, 0), (0, 0)] {
        bench.write(offset, value);
    }
    let edges = bench.edges;
    bench.now += 30_000_000;
    let now = bench.now;
    bench.pit.expire(now, &mut bench.fx);
    bench.settle();
    assert_eq!(bench.edges, edges);
}

#[test]
fn ticks_and_nanoseconds_agree() {
    assert_eq!(ticks(1_000_000_000), 1_193_182);
    for tick in [0, 1, 2, 3, 1000, 65_536, 1_193_182, 1 << 40] {
        assert_eq!(ticks(tick_ns(tick)), tick);
        assert!(tick == 0 || ticks(tick_ns(tick) - 1) == tick - 1);
    }
}

#[test]
fn mode_2_interrupts_once_a_period() {
    let mut bench = Bench::new();
    bench.write(3, 0x34);
    bench.write16(0, 1193);
    assert_eq!(bench.run_to(11_930), 9);
    assert_eq!(
        bench.run_to(11_931),
        1,
        "periods start one tick after the count was written"
    );
}

#[test]
fn mode_3_interrupts_once_a_period_and_spends_half_of_it_high() {
    let mut bench = Bench::new();
    bench.write(3, 0xb6);
    bench.gate(1);
    bench.write16(2, 11);
    let high = (1..=22).filter(|&tick| bench.at(tick).out2()).count();
    assert_eq!(high, 12, "an odd count is one tick longer in the high half");
    let mut bench = Bench::new();
    bench.write(3, 0x36);
    bench.write16(0, 0);
    assert_eq!(bench.run_to(3 * 65_536 + 1), 3, "a count of 0 is 65536");
}

#[test]
fn mode_0_interrupts_once_and_counts_on() {
    let mut bench = Bench::new();
    bench.write(3, 0x30);
    bench.write16(0, 100);
    assert_eq!(bench.run_to(100), 0);
    assert_eq!(bench.run_to(101), 1);
    assert_eq!(bench.run_to(1_000_000), 0);
    bench.at(1_000_001);
    bench.write(3, 0x30);
    bench.write16(0, 5);
    assert_eq!(
        bench.run_to(1_000_020),
        1,
        "a new control word lowers the output"
    );
    bench.at(1_000_022);
    assert_eq!(bench.read16(0), 0xfff1, "15 ticks past zero");
}

#[test]
fn a_latched_count_stays_until_both_bytes_are_read() {
    let mut bench = Bench::new();
    bench.write(3, 0x34);
    bench.write16(0, 0x1000);
    bench.at(1 + 0x123);
    bench.write(3, 0x00);
    bench.at(1 + 0x456);
    assert_eq!(bench.read(0), 0xdd);
    bench.write(3, 0x00);
    assert_eq!(bench.read(0), 0x0e);
    assert_eq!(bench.read16(0), 0x1000 - 0x456);
}

#[test]
fn single_byte_access_reads_and_writes_only_that_byte() {
    let mut bench = Bench::new();
    bench.write(3, 0x14);
    bench.write(0, 50);
    bench.at(11);
    assert_eq!((bench.read(0), bench.read(0)), (40, 40));
    bench.write(3, 0x24);
    bench.write(0, 0x12);
    bench.at(12);
    assert_eq!(bench.read(0), 0x12);
}

#[test]
fn read_back_latches_status_before_count() {
    let mut bench = Bench::new();
    bench.write(3, 0xb4);
    bench.write(3, 0xe8);
    assert_eq!(
        bench.read(2),
        0xf4,
        "OUT high, no count yet, both bytes, mode 2"
    );
    bench.gate(1);
    bench.write16(2, 0x2000);
    bench.at(0x101);
    bench.write(3, 0xc8);
    assert_eq!(bench.read(2), 0xb4);
    assert_eq!(bench.read16(2), 0x1f00);
}

#[test]
fn decimal_counters_count_in_decimal() {
    let mut bench = Bench::new();
    bench.write(3, 0x31);
    bench.write16(0, 0x1000);
    bench.at(2);
    assert_eq!(bench.read16(0), 0x0999);
    bench.at(1002);
    assert_eq!(bench.read16(0), 0x9999);
}

#[test]
fn the_gate_holds_channel_2_and_its_output_shows_in_port_61() {
    let mut bench = Bench::new();
    bench.write(3, 0xb0);
    bench.write16(2, 1000);
    bench.at(5000);
    assert!(!bench.out2(), "the gate is closed");
    assert_eq!(bench.read16(2), 1000);
    bench.gate(1);
    bench.at(5501);
    assert_eq!(bench.read16(2), 500);
    bench.gate(0);
    bench.at(9000);
    assert_eq!(bench.read16(2), 500);
    bench.gate(1);
    bench.at(9499);
    assert!(!bench.out2());
    bench.at(9501);
    assert!(bench.out2());
}

#[test]
fn a_rising_gate_triggers_the_one_shot_again() {
    let mut bench = Bench::new();
    bench.write(3, 0xb2);
    bench.write16(2, 10);
    bench.at(100);
    assert!(bench.out2());
    bench.gate(1);
    bench.at(105);
    assert!(!bench.out2());
    bench.gate(0);
    bench.gate(1);
    bench.at(115);
    assert!(!bench.out2());
    bench.at(116);
    assert!(bench.out2());
}

#[test]
fn the_software_strobe_falls_for_one_tick() {
    let mut bench = Bench::new();
    bench.write(3, 0xb8);
    bench.gate(1);
    bench.write16(2, 10);
    let low: alloc::vec::Vec<u64> = (0..30).filter(|&tick| !bench.at(tick).out2()).collect();
    assert_eq!(low, [11]);
}

#[test]
fn a_new_count_in_mode_2_waits_for_the_end_of_the_period() {
    let mut bench = Bench::new();
    bench.write(3, 0x34);
    bench.write16(0, 1000);
    assert_eq!(bench.run_to(500), 0);
    bench.write16(0, 100);
    assert_eq!(bench.run_to(1000), 0);
    assert_eq!(bench.run_to(1001), 1);
    assert_eq!(bench.run_to(1500), 4);
}

#[test]
fn a_look_at_the_clock_that_comes_late_takes_no_interrupt_back() {
    let mut bench = Bench::new();
    bench.write(3, 0x36);
    bench.write16(0, 1000);
    assert_eq!(bench.run_to(1001), 1);
    bench.now -= 10_000;
    bench.write(3, 0x00);
    bench.pit.expire(bench.now, &mut bench.fx);
    assert_eq!(bench.fx.take_lines().lowered, 0);
}

#[test]
fn the_refresh_bit_toggles() {
    let pit = Pit::new(Gsi(2));
    let toggles = (0..100u64)
        .map(|index| pit.read_control(index * 5_000) & 0x10)
        .collect::<alloc::vec::Vec<_>>()
        .windows(2)
        .filter(|pair| pair[0] != pair[1])
        .count();
    assert!((32..=34).contains(&toggles), "{toggles}");
}
