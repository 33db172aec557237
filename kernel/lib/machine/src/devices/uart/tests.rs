//! What the data sheet of a 16550A says, register by register, and what drivers of it met.

use super::*;
use alloc::vec::Vec;

const DATA: u16 = 0;
const IER: u16 = 1;
const IIR: u16 = 2;
const FCR: u16 = 2;
const LCR: u16 = 3;
const MCR: u16 = 4;
const LSR: u16 = 5;
const MSR: u16 = 6;
const SCR: u16 = 7;

struct Bench {
    uart: Uart,
    fx: Effects,
    now_ns: u64,
    high: bool,
    output: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        Self {
            uart: Uart::new(Gsi(4)),
            fx: Effects::new(),
            now_ns: 0,
            high: false,
            output: Vec::new(),
        }
    }

    fn settle(&mut self) {
        let lines = self.fx.take_lines();
        if lines.lowered & 0x10 != 0 {
            self.high = false;
        }
        if lines.raised & 0x10 != 0 {
            self.high = lines.lowered_after & 0x10 == 0;
        }
        self.output.extend(self.fx.output.drain(..));
    }

    fn read(&mut self, offset: u16) -> u8 {
        let quiet = self.uart.quiet_line_status(|| self.now_ns);
        let value = self.uart.read(offset, self.now_ns, &mut self.fx);
        if offset == LSR {
            assert_eq!(quiet.unwrap_or(value), value);
        }
        self.settle();
        value
    }

    fn write(&mut self, offset: u16, value: u8) {
        self.uart.write(offset, value, self.now_ns, &mut self.fx);
        self.settle();
    }

    fn receive(&mut self, bytes: &[u8]) -> usize {
        let taken = self.uart.receive(bytes, self.now_ns, &mut self.fx);
        self.settle();
        taken
    }

    fn tend_wire(&mut self, hold: WireHold) {
        self.uart.tend_wire(hold, self.now_ns, &mut self.fx);
        self.settle();
    }

    fn run_to(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.uart.expire(now_ns, &mut self.fx);
        self.settle();
    }

    /// 115200 8N1, OUT2 on.
    fn usual(mut self) -> Self {
        self.write(LCR, 0x83);
        self.write(DATA, 1);
        self.write(IER, 0);
        self.write(LCR, 0x03);
        self.write(MCR, 0x0b);
        self
    }
}

#[test]
fn a_busy_wire_keeps_the_transmitter_full_until_it_is_free() {
    let mut bench = Bench::new();
    bench.write(FCR, 1);
    bench.write(MCR, 0x0b);
    bench.write(IER, 2);
    assert_eq!(bench.read(IIR) & 0xf, 2);
    bench.tend_wire(WireHold::WhileDriversWait);
    bench.write(DATA, b'a');
    assert_eq!((bench.read(LSR), bench.high), (0, false));
    let due_ns = bench.uart.next_deadline_ns().unwrap();
    for _ in 1..16 {
        assert!(bench.uart.takes_character());
        bench.write(DATA, b'b');
    }
    assert!(!bench.uart.takes_character());
    assert_eq!(bench.output.len(), 16);
    bench.run_to(due_ns - 1);
    assert_eq!((bench.read(LSR), bench.high), (0, false));
    bench.run_to(due_ns);
    assert_eq!((bench.read(LSR), bench.high), (0x60, true));
    assert_eq!(bench.read(IIR) & 0xf, 2);
    assert_eq!(bench.uart.next_deadline_ns(), None);
    bench.write(DATA, b'd');
    assert_eq!((bench.read(LSR), bench.output.len()), (0x60, 17));
}

#[test]
fn text_of_a_driver_that_has_given_up_waiting_was_lost() {
    let mut bench = Bench::new();
    bench.write(FCR, 1);
    bench.tend_wire(WireHold::UntilFree);
    let text: Vec<u8> = (0..100).collect();
    for &byte in &text {
        bench.write(DATA, byte);
    }
    assert_eq!((bench.read(LSR), &bench.output), (0, &text));
    // Its owner would have kept it waiting.
    assert!(!bench.uart.takes_character());
    // But not from setting the divisor, or from talking to itself.
    bench.write(LCR, 0x80);
    assert!(bench.uart.takes_character());
    bench.write(LCR, 0);
    bench.write(MCR, 0x10);
    assert!(bench.uart.takes_character());
}

/// Waits for an empty transmitter while others have the wire all the time; returns when that is.
fn wait_beside_others(bench: &mut Bench, hold: WireHold, most_ns: u64) -> u64 {
    while bench.read(LSR) == 0 && bench.now_ns < most_ns {
        bench.now_ns += 10_000;
        if bench.uart.wire_is_due(bench.now_ns) {
            bench.tend_wire(hold);
        }
    }
    bench.now_ns
}

#[test]
fn the_transmitter_was_full_for_longer_than_drivers_wait() {
    let mut bench = Bench::new();
    bench.tend_wire(WireHold::WhileDriversWait);
    bench.write(DATA, b'a');
    let waited_ns = wait_beside_others(&mut bench, WireHold::WhileDriversWait, 100_000_000);
    assert_eq!(waited_ns, 5_000_000);
    // From the next character on it may be full as long again.
    bench.tend_wire(WireHold::WhileDriversWait);
    bench.write(DATA, b'b');
    let waited_ns = wait_beside_others(&mut bench, WireHold::WhileDriversWait, 100_000_000);
    assert_eq!(waited_ns, 10_000_000);
}

#[test]
fn a_driver_that_waits_for_an_interrupt_gets_it_when_the_wire_is_free_and_not_before() {
    let mut bench = Bench::new();
    bench.write(IER, 2);
    bench.tend_wire(WireHold::WhileDriversWait);
    bench.write(DATA, b'a');
    let waited_ns = wait_beside_others(&mut bench, WireHold::WhileDriversWait, 50_000_000);
    assert_eq!((waited_ns, bench.read(LSR)), (50_000_000, 0));
    // It polls after all, as when a kernel has something to say meanwhile, and has waited for long enough.
    bench.write(IER, 0);
    let waited_ns = wait_beside_others(&mut bench, WireHold::WhileDriversWait, 100_000_000);
    assert!((50_000_000..52_000_000).contains(&waited_ns));
}

#[test]
fn where_there_is_no_room_for_more_the_transmitter_is_full_until_there_is() {
    let mut bench = Bench::new();
    bench.tend_wire(WireHold::UntilFree);
    bench.write(DATA, b'a');
    let waited_ns = wait_beside_others(&mut bench, WireHold::UntilFree, 50_000_000);
    assert_eq!((waited_ns, bench.read(LSR)), (50_000_000, 0));
    let waited_ns = wait_beside_others(&mut bench, WireHold::Not, 100_000_000);
    assert!((50_000_000..52_000_000).contains(&waited_ns));
}

#[test]
fn a_wire_that_is_busy_no_more_holds_nobody_up() {
    let mut bench = Bench::new();
    bench.tend_wire(WireHold::UntilFree);
    assert_eq!(
        (bench.read(LSR), bench.uart.next_deadline_ns()),
        (0x60, None)
    );
    bench.now_ns = 2_000_000;
    bench.write(DATA, b'a');
    assert_eq!((bench.read(LSR), &bench.output[..]), (0x60, &b"a"[..]));
}

#[test]
fn the_steps_by_which_drivers_tell_a_16550a_from_its_kin_find_one() {
    let mut bench = Bench::new();
    // IER keeps four bits.
    bench.write(IER, 0);
    assert_eq!(bench.read(IER), 0);
    bench.write(IER, 0xff);
    assert_eq!(bench.read(IER), 0x0f);
    bench.write(IER, 0);
    // Loopback with OUT2 and RTS shows DCD and CTS.
    bench.write(MCR, 0x1a);
    assert_eq!(bench.read(MSR) & 0xf0, 0x90);
    bench.write(MCR, 0);
    // FIFO enable shows as two bits; no EFR, no 64-byte mode.
    bench.write(LCR, 0);
    bench.write(FCR, 0x01);
    assert_eq!(bench.read(IIR) >> 6, 3);
    bench.write(FCR, 0x21);
    assert_eq!(bench.read(IIR) & 0x20, 0);
    bench.write(LCR, 0xe0);
    bench.write(FCR, 0x21);
    assert_eq!(bench.read(IIR) >> 5, 6);
    bench.write(LCR, 0);
    // The scratch register keeps what it is given.
    bench.write(SCR, 0xa5);
    assert_eq!(bench.read(SCR), 0xa5);
    bench.write(FCR, 0);
    assert_eq!(bench.read(IIR), 0x01);
}

#[test]
fn what_is_sent_comes_out_at_once_and_the_transmitter_is_always_empty() {
    let mut bench = Bench::new().usual();
    for &byte in b"hello" {
        assert_eq!(bench.read(LSR) & 0x60, 0x60);
        assert_eq!(bench.uart.quiet_line_status(|| 0), Some(0x60));
        bench.write(DATA, byte);
    }
    assert_eq!(bench.output, b"hello");
    assert!(!bench.high);
}

#[test]
fn the_divisor_hides_behind_dlab() {
    let mut bench = Bench::new();
    bench.write(LCR, 0x80);
    bench.write(DATA, 0x34);
    bench.write(IER, 0x12);
    assert_eq!((bench.read(DATA), bench.read(IER)), (0x34, 0x12));
    bench.write(LCR, 0x03);
    assert_eq!(bench.read(IER), 0);
    assert!(bench.output.is_empty());
}

#[test]
fn enabling_the_transmitter_interrupt_fires_it_and_reading_iir_clears_it() {
    let mut bench = Bench::new().usual();
    bench.write(IER, 0x02);
    assert!(bench.high);
    assert_eq!(bench.read(IIR), 0x02);
    assert!(!bench.high);
    assert_eq!(bench.read(IIR), 0x01);
    bench.write(DATA, b'x');
    assert!(
        bench.high,
        "each character sent empties the transmitter anew"
    );
    bench.write(IER, 0);
    assert!(!bench.high);
    bench.write(IER, 0x02);
    assert_eq!(
        bench.read(IIR),
        0x02,
        "as the kernel's test for broken chips expects"
    );
}

#[test]
fn without_out2_no_interrupt_leaves_the_chip() {
    let mut bench = Bench::new().usual();
    bench.write(MCR, 0x03);
    bench.write(IER, 0x01);
    bench.receive(b"a");
    assert!(!bench.high);
    assert_eq!(bench.read(IIR), 0x04);
    bench.write(MCR, 0x0b);
    assert!(bench.high);
}

#[test]
fn a_byte_without_fifo_interrupts_until_it_is_read() {
    let mut bench = Bench::new().usual();
    bench.write(IER, 0x01);
    assert_eq!(bench.receive(b"ab"), 2);
    assert!(bench.high);
    assert_eq!(bench.read(LSR) & 1, 1);
    assert_eq!(bench.read(DATA), b'a');
    assert!(bench.high, "the next byte follows from the backlog");
    assert_eq!(bench.read(DATA), b'b');
    assert!(!bench.high);
    assert_eq!(bench.read(LSR), 0x60);
}

#[test]
fn the_fifo_interrupts_at_each_trigger_level() {
    for (bits, level) in [(0u8, 1usize), (1, 4), (2, 8), (3, 14)] {
        let mut bench = Bench::new().usual();
        bench.write(FCR, 0x07 | (bits << 6));
        bench.write(IER, 0x01);
        for count in 1..=level {
            bench.receive(b"z");
            assert_eq!(bench.high, count == level, "{count} bytes, trigger {level}");
        }
        assert_eq!(bench.read(IIR), 0xc4);
    }
}

#[test]
fn bytes_below_the_trigger_level_interrupt_after_four_character_times() {
    let mut bench = Bench::new().usual();
    bench.write(FCR, 0xc1);
    bench.write(IER, 0x01);
    bench.receive(b"q");
    assert!(!bench.high);
    // Ten bits at 115200 baud are 86.8 us.
    let due = bench.uart.next_deadline_ns().unwrap();
    assert!((340_000..350_000).contains(&due), "{due}");
    bench.run_to(due - 1);
    assert!(!bench.high);
    bench.run_to(due);
    assert!(bench.high);
    assert_eq!(bench.read(IIR), 0xcc);
    assert_eq!(bench.read(DATA), b'q');
    assert!(!bench.high);
    assert_eq!(bench.uart.next_deadline_ns(), None);
}

#[test]
fn the_sources_have_the_priorities_of_the_data_sheet() {
    let mut bench = Bench::new().usual();
    bench.write(MCR, 0x18);
    bench.read(MSR);
    bench.write(FCR, 0x01);
    bench.write(IER, 0x0f);
    for byte in 0..17 {
        bench.write(DATA, byte);
    }
    bench.write(MCR, 0x19);
    assert_eq!(bench.read(IIR) & 0x0f, 0x06, "overrun");
    assert_eq!(bench.read(LSR) & 0x02, 0x02);
    assert_eq!(bench.read(IIR) & 0x0f, 0x04, "data");
    for byte in 0..16 {
        assert_eq!(
            bench.read(DATA),
            byte,
            "the byte that overran is the lost one"
        );
    }
    assert_eq!(bench.read(IIR) & 0x0f, 0x02, "transmitter");
    assert_eq!(bench.read(IIR) & 0x0f, 0x00, "modem");
    assert_eq!(bench.read(MSR), 0xa2, "DSR rose");
    assert_eq!(bench.read(IIR) & 0x0f, 0x01);
    assert!(!bench.high);
}

#[test]
fn in_loopback_nothing_leaves_and_the_outputs_come_back() {
    let mut bench = Bench::new().usual();
    bench.write(MCR, 0x10);
    assert_eq!(
        bench.read(MSR),
        0x0b,
        "the three lines that were up went down"
    );
    for (mcr, msr) in [(0x11, 0x22), (0x12, 0x13), (0x14, 0x41), (0x18, 0x8c)] {
        bench.write(MCR, mcr);
        assert_eq!(bench.read(MSR), msr, "MCR {mcr:#x}");
    }
    bench.write(DATA, 0xae);
    assert_eq!(bench.read(LSR) & 1, 1);
    assert_eq!(bench.read(DATA), 0xae);
    assert!(bench.output.is_empty());
    bench.receive(b"from outside");
    assert_eq!(bench.read(LSR) & 1, 0, "the wire is cut off");
    bench.write(MCR, 0x0b);
    assert_eq!(bench.read(DATA), b'f');
}

#[test]
fn a_break_in_loopback_is_received_as_one_and_reading_lsr_clears_it() {
    let mut bench = Bench::new().usual();
    bench.write(FCR, 0x01);
    bench.write(MCR, 0x1b);
    bench.write(LCR, 0x43);
    assert_eq!(bench.read(LSR), 0xf9);
    assert_eq!(bench.read(LSR), 0x61);
    assert_eq!(bench.read(DATA), 0);
}

#[test]
fn while_break_is_on_characters_are_lost() {
    let mut bench = Bench::new().usual();
    bench.write(LCR, 0x43);
    bench.write(DATA, b'x');
    bench.write(LCR, 0x03);
    bench.write(DATA, b'y');
    assert_eq!(bench.output, b"y");
}

#[test]
fn resetting_the_receive_fifo_drops_what_is_in_it_but_not_the_backlog() {
    let mut bench = Bench::new().usual();
    bench.write(FCR, 0x01);
    bench.receive(b"0123456789abcdefg");
    bench.write(FCR, 0x03);
    assert_eq!(bench.read(DATA), b'g');
    assert_eq!(bench.read(LSR) & 1, 0);
}

#[test]
fn a_guest_that_reads_nothing_makes_the_sender_wait_and_loses_nothing() {
    let mut bench = Bench::new().usual();
    bench.write(FCR, 0x01);
    let text: Vec<u8> = (0..10_000u32).map(|index| index as u8).collect();
    let mut sent = bench.receive(&text);
    assert!(sent >= Uart::BACKLOG_BYTES && sent < text.len());
    let mut got = Vec::new();
    while got.len() < text.len() {
        assert_eq!(bench.read(LSR) & 0x03, 0x01);
        got.push(bench.read(DATA));
        sent += bench.receive(&text[sent..]);
    }
    assert_eq!(got, text);
}

#[test]
fn reading_an_empty_receiver_gives_zero_and_disturbs_nothing() {
    let mut bench = Bench::new().usual();
    assert_eq!(bench.read(DATA), 0);
    assert_eq!(bench.read(LSR), 0x60);
}
