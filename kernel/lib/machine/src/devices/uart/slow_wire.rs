//! Guests' drivers at their serial ports, all behind one slow wire: the model of what the hypervisor does with that.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use host::on_its_way::{Congestion, OnItsWay, Queue};

use super::fifo::FIFO_BYTES;
use super::{InterruptEnable, LineStatus, Uart, WireHold};
use crate::{Effects, Gsi};

const DATA: u16 = 0;
const IER: u16 = 1;
const IIR: u16 = 2;
const FCR: u16 = 2;
const MCR: u16 = 4;

/// The hypervisor's queue in front of the wire.
const QUEUE_BYTES: usize = 1 << 14;
/// What one access takes a guest, where nothing else is said.
const ACCESS_NS: u64 = 5_000;

/// How a driver sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Style {
    /// As Linux's console: each character when the transmitter is empty, or has not become so in 10 ms; and as many at a
    /// time.
    Patient { at_once: usize },
    /// The same with no patience worth speaking of.
    Impatient,
    /// Without a look.
    Blind,
    /// As Linux's terminal: a FIFO's worth for each interrupt.
    ByInterrupts,
}

impl Style {
    const fn patience_ns(self) -> u64 {
        match self {
            Self::Patient { .. } => 10_000_000,
            Self::Impatient => 100_000,
            Self::Blind | Self::ByInterrupts => 0,
        }
    }

    const fn at_once(self) -> usize {
        match self {
            Self::Patient { at_once } => at_once,
            Self::Impatient | Self::Blind => 1,
            Self::ByInterrupts => FIFO_BYTES,
        }
    }
}

struct Guest {
    number: u8,
    style: Style,
    uart: Uart,
    fx: Effects,
    interrupt: bool,
    now_ns: u64,
    access_ns: u64,
    own: OnItsWay,
    /// What it has to say, and how much of that it has said.
    text: Vec<u8>,
    said: usize,
    /// What it may send before it looks again.
    credit: usize,
    waits_since_ns: Option<u64>,
    longest_wait_ns: u64,
    gave_up: u64,
}

/// The wire and the queue in front of it, whose bytes are marked with the guest's number.
struct Wire {
    byte_ns: u64,
    queue: VecDeque<(u8, u8)>,
    queued: u64,
    arrived: Vec<(u8, u8)>,
    free_at_ns: u64,
    fullest: usize,
}

impl Wire {
    fn run_to(&mut self, now_ns: u64) {
        while self.free_at_ns <= now_ns
            && let Some(byte) = self.queue.pop_front()
        {
            self.arrived.push(byte);
            self.free_at_ns += self.byte_ns;
        }
        if self.queue.is_empty() {
            self.free_at_ns = self.free_at_ns.max(now_ns);
        }
    }

    fn state(&self) -> Queue {
        Queue {
            sent: self.queued - self.queue.len() as u64,
            waiting: self.queue.len(),
            size: QUEUE_BYTES,
        }
    }
}

impl Guest {
    fn new(number: u8, style: Style, length: usize) -> Self {
        let mut guest = Self {
            number,
            style,
            uart: Uart::new(Gsi(4)),
            fx: Effects::new(),
            interrupt: false,
            now_ns: u64::from(number) * 777,
            access_ns: ACCESS_NS,
            own: OnItsWay::new(),
            text: (0..length).map(|at| (at % 251) as u8).collect(),
            said: 0,
            credit: 0,
            waits_since_ns: None,
            longest_wait_ns: 0,
            gave_up: 0,
        };
        guest.uart.write(FCR, 1, 0, &mut guest.fx);
        guest.uart.write(MCR, 0x0b, 0, &mut guest.fx);
        if style == Style::ByInterrupts {
            let enable = InterruptEnable::TRANSMITTER_EMPTY.bits();
            guest.uart.write(IER, enable, 0, &mut guest.fx);
        }
        guest.note_line();
        guest
    }

    fn note_line(&mut self) {
        let lines = self.fx.take_lines();
        if lines.lowered & 0x10 != 0 {
            self.interrupt = false;
        }
        if lines.raised & 0x10 != 0 {
            self.interrupt = lines.lowered_after & 0x10 == 0;
        }
    }

    /// What the hypervisor does around each call of a device.
    fn call<R>(
        &mut self,
        wire: &mut Wire,
        call: impl FnOnce(&mut Uart, u64, &mut Effects) -> R,
    ) -> R {
        wire.run_to(self.now_ns);
        if self.uart.wire_is_due(self.now_ns) {
            self.tend(wire);
        }
        let result = call(&mut self.uart, self.now_ns, &mut self.fx);
        for byte in self.fx.output.drain(..) {
            wire.queue.push_back((self.number, byte));
            wire.queued += 1;
            self.own.push(wire.queued - 1..wire.queued);
        }
        wire.fullest = wire.fullest.max(wire.queue.len());
        if !self.uart.wire_is_busy(self.now_ns)
            && self.own.may_be_too_much(wire.state().is_crowded())
        {
            self.tend(wire);
        }
        self.note_line();
        self.now_ns += self.access_ns;
        result
    }

    fn tend(&mut self, wire: &Wire) {
        let hold = match self.own.look(&wire.state()) {
            Congestion::None => WireHold::Not,
            Congestion::OwnShare => WireHold::WhileDriversWait,
            Congestion::NoRoom => WireHold::UntilFree,
        };
        self.uart.tend_wire(hold, self.now_ns, &mut self.fx);
        self.note_line();
    }

    /// One access of the driver, or a little time.
    fn step(&mut self, wire: &mut Wire) {
        if self.credit != 0 {
            return self.say(wire);
        }
        let is_empty = match self.style {
            Style::Blind => true,
            Style::ByInterrupts => {
                self.call(wire, |uart, now_ns, fx| uart.expire(now_ns, fx));
                self.interrupt
                    && self.call(wire, |uart, now_ns, fx| uart.read(IIR, now_ns, fx)) & 0xf == 2
            }
            Style::Patient { .. } | Style::Impatient => {
                let status = self.call(wire, |uart, now_ns, fx| {
                    uart.read(Uart::LINE_STATUS, now_ns, fx)
                });
                LineStatus::from_bits_retain(status).contains(LineStatus::HOLDING_EMPTY)
            }
        };
        let waited_ns = self.now_ns - *self.waits_since_ns.get_or_insert(self.now_ns);
        let gives_up = self.style != Style::ByInterrupts && waited_ns >= self.style.patience_ns();
        if is_empty || gives_up {
            self.gave_up += u64::from(!is_empty);
            self.longest_wait_ns = self.longest_wait_ns.max(waited_ns);
            self.waits_since_ns = None;
            self.credit = self.style.at_once();
        }
    }

    fn say(&mut self, wire: &mut Wire) {
        let Some(&byte) = self.text.get(self.said) else {
            self.credit = 0;
            return;
        };
        // The instruction is repeated until the device takes it.
        let is_taken = self.call(wire, |uart, now_ns, fx| {
            let takes = uart.takes_character();
            if takes {
                uart.write(DATA, byte, now_ns, fx);
            }
            takes
        });
        if is_taken {
            self.said += 1;
            self.credit -= 1;
        }
    }

    fn is_done(&self) -> bool {
        self.said == self.text.len()
    }
}

/// Lets them all speak, each on a CPU of its own, and sees to it that each byte arrives, once and in order.
fn speak(styles: &[Style], bytes_per_s: u64, length: usize) -> (Wire, Vec<Guest>) {
    speak_slowly(styles, bytes_per_s, length, ACCESS_NS)
}

fn speak_slowly(
    styles: &[Style],
    bytes_per_s: u64,
    length: usize,
    access_ns: u64,
) -> (Wire, Vec<Guest>) {
    let mut wire = Wire {
        byte_ns: 1_000_000_000 / bytes_per_s,
        queue: VecDeque::new(),
        queued: 0,
        arrived: Vec::new(),
        free_at_ns: 0,
        fullest: 0,
    };
    let mut guests: Vec<_> = (0..)
        .zip(styles)
        .map(|(number, style)| Guest {
            access_ns,
            ..Guest::new(number, *style, length)
        })
        .collect();
    while let Some(guest) = guests
        .iter_mut()
        .filter(|guest| !guest.is_done())
        .min_by_key(|guest| guest.now_ns)
    {
        guest.step(&mut wire);
    }
    wire.run_to(u64::MAX);
    for guest in &guests {
        let arrived = wire.arrived.iter().filter(|byte| byte.0 == guest.number);
        let arrived: Vec<u8> = arrived.map(|byte| byte.1).collect();
        assert!(
            arrived == guest.text,
            "{:?}: {} of {} bytes, or in another order",
            guest.style,
            arrived.len(),
            guest.text.len()
        );
    }
    (wire, guests)
}

const PATIENT: Style = Style::Patient { at_once: 1 };
const EVERY: [Style; 5] = [
    PATIENT,
    Style::Patient {
        at_once: FIFO_BYTES,
    },
    Style::Impatient,
    Style::Blind,
    Style::ByInterrupts,
];
/// 1200 baud to three times the usual rate.
const RATES: [u64; 5] = [120, 960, 5_000, 11_520, 34_560];

#[test]
fn text_above_16_bytes_was_lost_on_a_real_serial_port() {
    for rate in RATES {
        for style in EVERY {
            // At the slowest rate this is ten seconds' worth.
            speak(&[style], rate, 1_200);
        }
    }
}

#[test]
fn a_driver_that_polls_for_10_ms_gave_up_before_the_transmitter_was_empty() {
    for rate in [5_000, 11_520, 34_560] {
        for at_once in [1, FIFO_BYTES] {
            let (_, guests) = speak(&[Style::Patient { at_once }; 2], rate, 4_000);
            for guest in guests {
                assert_eq!(guest.gave_up, 0);
                assert!(guest.longest_wait_ns <= 5_100_000);
            }
        }
    }
}

#[test]
fn the_queue_has_room_whatever_guests_say_and_nothing_is_lost() {
    let mut styles = vec![Style::Blind; 6];
    for style in EVERY {
        styles.extend([style; 8]);
    }
    let (wire, _) = speak_slowly(&styles, 11_520, 700, 100_000);
    // Beyond three quarters come FIFOs, and what is below the small share of each.
    assert!(wire.fullest <= QUEUE_BYTES, "{} bytes", wire.fullest);
    assert!(wire.fullest > QUEUE_BYTES / 2, "it was never crowded");
}

#[test]
fn one_that_floods_the_wire_does_not_keep_others_from_it() {
    let (wire, _) = speak(&[Style::Blind, Style::ByInterrupts, PATIENT], 11_520, 6_000);
    // Of what arrives first, each has a part worth speaking of.
    let first = wire.arrived.iter().take(9_000);
    let mut parts = [0; 3];
    for (number, _) in first {
        parts[usize::from(*number)] += 1;
    }
    assert!(parts.iter().all(|part| *part >= 2_000), "{parts:?}");
}
