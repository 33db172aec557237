//! The date in all its forms, and when the clock interrupts.

use super::*;

const SECOND: u64 = 1_000_000_000;
/// Wednesday, 31 December 2025, 23:59:58.
const NEW_YEARS_EVE: u64 = 1_767_225_598;

struct Bench {
    rtc: Rtc,
    fx: Effects,
    now: u64,
}

impl Bench {
    fn new() -> Self {
        let layout = MachineLayout::new(5 << 30, 1);
        Self {
            rtc: Rtc::new(Gsi(8), NEW_YEARS_EVE, &layout),
            fx: Effects::new(),
            now: 0,
        }
    }

    fn get(&mut self, index: u8) -> u8 {
        self.rtc.write(0, index, self.now, &mut self.fx);
        self.rtc.read(1, self.now, &mut self.fx)
    }

    fn set(&mut self, index: u8, value: u8) {
        self.rtc.write(0, index, self.now, &mut self.fx);
        self.rtc.write(1, value, self.now, &mut self.fx);
    }

    /// Century, year, month, day, hour, minute, second.
    fn date(&mut self) -> [u8; 7] {
        [0x32, 0x09, 0x08, 0x07, 0x04, 0x02, 0x00].map(|index| self.get(index))
    }

    fn rises(&mut self) -> bool {
        self.fx.take_lines().raised == 1 << 8
    }

    /// Runs to the next deadline.
    fn wait(&mut self) -> u64 {
        let due = self.rtc.next_deadline_ns().expect("a deadline");
        assert!(due > self.now);
        self.rtc.expire(due - 1, &mut self.fx);
        assert!(!self.fx.has_line_changes(), "one nanosecond early");
        self.rtc.expire(due, &mut self.fx);
        assert!(self.rises(), "nothing happened at the deadline");
        self.now = due;
        due
    }
}

#[test]
fn the_clock_shows_the_real_date_and_goes() {
    let mut bench = Bench::new();
    assert_eq!(bench.date(), [0x20, 0x25, 0x12, 0x31, 0x23, 0x59, 0x58]);
    assert_eq!(bench.get(0x06), 4, "a Wednesday");
    bench.now = 2 * SECOND;
    assert_eq!(bench.date(), [0x20, 0x26, 0x01, 0x01, 0x00, 0x00, 0x00]);
    assert_eq!(bench.get(0x06), 5);
}

#[test]
fn the_date_comes_in_all_four_forms() {
    let mut bench = Bench::new();
    bench.set(0x0b, 0x06);
    assert_eq!(bench.date(), [0x20, 25, 12, 31, 23, 59, 58]);
    bench.set(0x0b, 0x04);
    assert_eq!(bench.get(0x04), 0x80 | 11);
    bench.set(0x0b, 0x00);
    assert_eq!(bench.get(0x04), 0x80 | 0x11);
    bench.now = 2 * SECOND;
    assert_eq!(bench.get(0x04), 0x12, "midnight is 12 in the morning");
}

#[test]
fn a_guest_sets_the_clock() {
    let mut bench = Bench::new();
    bench.now = SECOND / 4;
    bench.set(0x0b, 0x82);
    bench.now = 3 * SECOND + SECOND / 4;
    assert_eq!(bench.get(0x00), 0x58, "it stands still meanwhile");
    for (index, value) in [
        (0x32, 0x19),
        (0x09, 0x99),
        (0x08, 0x02),
        (0x07, 0x28),
        (0x04, 0x23),
        (0x02, 0x59),
    ] {
        bench.set(index, value);
    }
    bench.set(0x00, 0x59);
    bench.set(0x06, 0x03);
    bench.set(0x0b, 0x02);
    assert_eq!(bench.date(), [0x19, 0x99, 0x02, 0x28, 0x23, 0x59, 0x59]);
    bench.now += SECOND / 2;
    assert_eq!(bench.get(0x00), 0x59);
    bench.now += SECOND / 4;
    assert_eq!(bench.date(), [0x19, 0x99, 0x03, 0x01, 0x00, 0x00, 0x00]);
    assert_eq!(
        bench.get(0x06),
        4,
        "the day of the week is what the guest said, plus one"
    );
}

#[test]
fn the_first_second_after_a_divider_reset_takes_half_of_one() {
    let mut bench = Bench::new();
    bench.now = 7 * SECOND / 10;
    bench.set(0x0b, 0x82);
    bench.set(0x0a, 0x76);
    bench.now = 5 * SECOND;
    bench.set(0x00, 0x10);
    bench.set(0x0b, 0x02);
    bench.set(0x0a, 0x26);
    assert_eq!(bench.get(0x00), 0x10);
    bench.now += SECOND / 2 - 1;
    assert_eq!(bench.get(0x00), 0x10);
    bench.now += 1;
    assert_eq!(bench.get(0x00), 0x11);
}

#[test]
fn update_in_progress_shows_before_a_new_second() {
    let mut bench = Bench::new();
    assert_eq!(bench.get(0x0a), 0x26);
    bench.now = SECOND - 300_000;
    assert_eq!(bench.get(0x0a), 0xa6);
    bench.now = SECOND;
    assert_eq!(bench.get(0x0a), 0x26);
}

#[test]
fn the_update_interrupt_comes_every_second_and_register_c_ends_it() {
    let mut bench = Bench::new();
    bench.set(0x0b, 0x12);
    assert_eq!(bench.wait(), SECOND);
    assert_eq!(bench.rtc.next_deadline_ns(), None);
    assert_eq!(bench.get(0x0c) & 0x90, 0x90);
    assert_eq!(bench.fx.take_lines().lowered, 1 << 8);
    assert_eq!(bench.get(0x0c), 0);
    assert_eq!(bench.wait(), 2 * SECOND);
}

/// Takes interrupts as they come until a time, each at once. Returns how many.
fn take_until(bench: &mut Bench, until: u64) -> u64 {
    let mut count = 0;
    while let Some(due) = bench.rtc.next_deadline_ns().filter(|due| *due <= until) {
        bench.now = bench.now.max(due);
        bench.rtc.expire(bench.now, &mut bench.fx);
        if bench.rises() {
            count += 1;
            let _ = bench.get(0x0c);
        }
    }
    bench.now = until;
    count
}

#[test]
fn periodic_interrupts_of_a_vm_that_waited_for_its_turn_are_made_up_for() {
    let mut bench = Bench::new();
    bench.set(0x0a, 0x26);
    bench.set(0x0b, 0x42);
    assert_eq!(take_until(&mut bench, SECOND), 1024);
    // Nobody looks for 100 ms.
    bench.now += SECOND / 10;
    bench.rtc.expire(bench.now, &mut bench.fx);
    assert!(bench.rises());
    let _ = bench.get(0x0c);
    let now = bench.now;
    assert_eq!(1 + take_until(&mut bench, now + SECOND), 1024 + 102);
    let now = bench.now;
    assert_eq!(take_until(&mut bench, now + SECOND), 1024);
}

#[test]
fn a_guest_that_does_not_look_at_its_interrupt_loses_the_next_ones() {
    let mut bench = Bench::new();
    bench.set(0x0a, 0x26);
    bench.set(0x0b, 0x42);
    bench.wait();
    bench.now += SECOND / 10;
    bench.rtc.expire(bench.now, &mut bench.fx);
    let _ = bench.get(0x0c);
    let now = bench.now;
    assert_eq!(take_until(&mut bench, now + SECOND), 1024);
    // And what is owed is forgotten when the guest wants no more of them.
    bench.now += SECOND / 10;
    bench.rtc.expire(bench.now, &mut bench.fx);
    bench.set(0x0b, 0x02);
    let _ = bench.get(0x0c);
    bench.set(0x0b, 0x42);
    let now = bench.now;
    assert_eq!(take_until(&mut bench, now + SECOND), 1024);
}

#[test]
fn the_periodic_interrupt_keeps_its_rate() {
    let mut bench = Bench::new();
    bench.set(0x0b, 0x42);
    let mut count = 0;
    while bench.now < SECOND {
        bench.wait();
        bench.get(0x0c);
        bench.fx.take_lines();
        count += 1;
    }
    assert_eq!((count, bench.now), (1024, SECOND));
    bench.set(0x0a, 0x2f);
    assert_eq!(bench.wait(), 3 * SECOND / 2);
}

#[test]
fn the_alarm_fires_at_its_time_and_any_value_matches_wildcards() {
    let mut bench = Bench::new();
    for (index, value) in [(0x01, 0x05), (0x03, 0x00), (0x05, 0x00)] {
        bench.set(index, value);
    }
    bench.set(0x0b, 0x22);
    assert_eq!(bench.wait(), 7 * SECOND);
    assert_eq!(bench.get(0x0c) & 0xa0, 0xa0);
    bench.fx.take_lines();
    assert_eq!(bench.rtc.next_deadline_ns(), Some(86_407 * SECOND));
    bench.set(0x05, 0xff);
    assert_eq!(bench.rtc.next_deadline_ns(), Some(3_607 * SECOND));
    bench.set(0x03, 0xff);
    assert_eq!(bench.rtc.next_deadline_ns(), Some(67 * SECOND));
    bench.set(0x01, 0xff);
    assert_eq!(bench.rtc.next_deadline_ns(), Some(8 * SECOND));
    bench.set(0x01, 0x99);
    assert_eq!(bench.rtc.next_deadline_ns(), None);
}

#[test]
fn flags_are_set_without_their_interrupts() {
    let mut bench = Bench::new();
    bench.now = SECOND;
    assert_eq!(bench.get(0x0c), 0x50);
    assert!(!bench.fx.has_line_changes());
}

#[test]
fn the_memory_keeps_bytes_and_knows_the_machines_size() {
    let mut bench = Bench::new();
    bench.set(0x40, 0xa5);
    assert_eq!(bench.get(0xc0), 0xa5, "bit 7 is no part of the index");
    assert_eq!([bench.get(0x15), bench.get(0x16)], [0x80, 0x02]);
    assert_eq!([bench.get(0x34), bench.get(0x35)], [0x00, 0xbf]);
    assert_eq!(
        [bench.get(0x5b), bench.get(0x5c), bench.get(0x5d)],
        [0x00, 0x80, 0x00]
    );
    assert_eq!(bench.get(0x0d), 0x80);
}

#[test]
fn any_bytes_make_some_date() {
    for byte in 0..=255 {
        let mut bench = Bench::new();
        for index in [
            0x32, 0x09, 0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, 0x00,
        ] {
            bench.set(index, byte);
        }
        bench.set(0x0b, 0x70 | byte & 0x86);
        bench.now = u64::MAX / 2;
        bench.rtc.expire(bench.now, &mut bench.fx);
        bench.date();
    }
}
