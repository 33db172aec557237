//! `gang`: CPUs that wait for each other by spinning, as those of a kernel do for a lock, a barrier or an answer.
//!
//! `cpus=N` on the command line is how many there are. There may be fewer CPUs below: then all depends on which of them
//! run. `work=N` is the least share, in thousandths of a CPU, that one is to get while all others spin for its end.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};

use plinth_guests::cpu::rdtsc;
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::share::Share;
use plinth_guests::{Report, StartInfo, apic, guest, println, siblings, x86};

guest!(main);

const CALL_VECTOR: u8 = 0x70;
/// Rounds of work for each CPU in turn, and calls to all.
const ROUNDS: u32 = 3;
const CALLS: u32 = 20;
const WORK_TICKS: u64 = 3_000_000;

/// Whose turn it is to work, from 0 on; [`OVER`] in the end.
static TURN: AtomicU32 = AtomicU32::new(0);
const OVER: u32 = u32::MAX;
/// Who has come to the barrier, and who has answered a call.
static ARRIVED: AtomicU32 = AtomicU32::new(0);
static ANSWERS: AtomicU32 = AtomicU32::new(0);
/// The CPUs beside the first.
static OTHERS: AtomicU32 = AtomicU32::new(0);
/// The least share of a CPU that anybody got while it was his turn to work.
static LEAST: AtomicU32 = AtomicU32::new(1000);

fn answer(_: &mut Frame) {
    ANSWERS.fetch_add(1, Ordering::SeqCst);
    apic::end_of_interrupt();
}

fn spin_until(holds: impl Fn() -> bool) {
    while !holds() {
        core::hint::spin_loop();
    }
}

/// Works for a while if it is this one's turn, and spins while it is not.
fn take_turns(number: u32, cpus: u32) {
    for round in 0..ROUNDS {
        let mine = round * cpus + number;
        spin_until(|| TURN.load(Ordering::SeqCst) == mine);
        let mut share = Share::default();
        let until = rdtsc() + WORK_TICKS;
        while rdtsc() < until {
            share.work(10);
        }
        LEAST.fetch_min(share.thousandths() as u32, Ordering::SeqCst);
        TURN.store(mine + 1, Ordering::SeqCst);
    }
    // All of them, and none before the last.
    ARRIVED.fetch_add(1, Ordering::SeqCst);
    spin_until(|| ARRIVED.load(Ordering::SeqCst) == cpus);
}

fn other(number: u32) {
    apic::enable();
    x86!("sti");
    take_turns(number + 1, OTHERS.load(Ordering::SeqCst) + 1);
    spin_until(|| TURN.load(Ordering::SeqCst) == OVER);
}

fn main(report: &mut Report, start: StartInfo) {
    let cpus = start.number("cpus").unwrap_or(2) as u32;
    let least = start.number("work").unwrap_or(0) as u32;
    apic::enable();
    set_handler(CALL_VECTOR, Some(answer));
    OTHERS.store(cpus - 1, Ordering::SeqCst);
    report.case("all-cpus-come-up", |case| {
        case.equal("other CPUs", siblings::start(cpus - 1, other), cpus - 1);
    });
    report.case("one-works-while-all-others-wait-for-it", |case| {
        take_turns(0, cpus);
        let got = LEAST.load(Ordering::SeqCst);
        println!("gang: at least {got} thousandths of a CPU for the one that works");
        case.ensure(got >= least, "those that spin have taken too much");
    });
    report.case("a-call-to-all-is-answered-by-all", |case| {
        let begin = rdtsc();
        for call in 1..=CALLS {
            siblings::call(CALL_VECTOR);
            spin_until(|| ANSWERS.load(Ordering::SeqCst) >= call * (cpus - 1));
        }
        let ticks = (rdtsc() - begin) / u64::from(CALLS);
        println!("gang: {ticks} ticks for a call to {} others", cpus - 1);
        case.equal(
            "answers",
            ANSWERS.load(Ordering::SeqCst),
            CALLS * (cpus - 1),
        );
    });
    TURN.store(OVER, Ordering::SeqCst);
}
