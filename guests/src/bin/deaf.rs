//! `deaf`: another CPU spins with interrupts off, and is reached all the same: by NMIs, and by INIT and a start-up IPI.
//!
//! NMIs come to it at every moment of an exit that it has just before it does nothing more but look at its memory: if
//! what has come meanwhile were forgotten, it would never be heard of again.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};

use plinth_guests::apic::{self, ASSERT, DELIVER_NMI};
use plinth_guests::cpu::{cpuid, rdtsc};
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::siblings::{self, Waits, pass};
use plinth_guests::{Report, StartInfo, Vector, descriptors, guest, x86};

guest!(main);

/// The ID of the other CPU's local APIC.
const OTHER: u32 = 1;
/// How long it waits before its exit: longer than an NMI is on its way. By how much later that is sent each time, and at
/// most.
const LEAD_TICKS: u64 = 4000;
const STEP_TICKS: usize = 2;
const SPAN_TICKS: u64 = 2400;
/// For how long an NMI is waited for.
const PATIENCE_TICKS: u64 = 1_000_000;

/// How often the other CPU has begun, what it is to do, and the NMIs that it has taken.
static BEGUN: AtomicU32 = AtomicU32::new(0);
static ROUND: AtomicU32 = AtomicU32::new(0);
static NMIS: AtomicU32 = AtomicU32::new(0);

fn on_nmi(_: &mut Frame) {
    NMIS.fetch_add(1, Ordering::SeqCst);
}

/// What the other CPU does: in each round an exit, and then nothing.
fn spin(_: u32) {
    x86!("cli");
    BEGUN.fetch_add(1, Ordering::SeqCst);
    let mut last = ROUND.load(Ordering::SeqCst);
    loop {
        let round = ROUND.load(Ordering::SeqCst);
        if round != last {
            last = round;
            let until = rdtsc() + LEAD_TICKS;
            while rdtsc() < until {}
            let _ = cpuid(0, 0);
        }
    }
}

fn comes(holds: impl Fn() -> bool) -> bool {
    let until = rdtsc() + PATIENCE_TICKS;
    while !holds() {
        if rdtsc() >= until {
            return false;
        }
    }
    true
}

fn send_nmi() -> bool {
    let before = NMIS.load(Ordering::SeqCst);
    apic::send(DELIVER_NMI | ASSERT, OTHER);
    comes(|| NMIS.load(Ordering::SeqCst) != before)
}

fn main(report: &mut Report, _: StartInfo) {
    apic::enable();
    set_handler(Vector::Nmi as u8, Some(on_nmi));
    descriptors::stay_on_stack(Vector::Nmi as u8);
    report.case("the-other-cpu-comes-up", |case| {
        case.equal("other CPUs", siblings::start(1, spin), 1);
    });
    report.case("an-nmi-reaches-a-cpu-that-spins", |case| {
        for _ in 0..10 {
            case.ensure(send_nmi(), "it did not come");
        }
    });
    report.case("an-nmi-that-meets-an-exit-is-not-lost", |case| {
        let mut lost = 0;
        for delay in (0..SPAN_TICKS).step_by(STEP_TICKS) {
            ROUND.fetch_add(1, Ordering::SeqCst);
            pass(delay);
            lost += u32::from(!send_nmi());
        }
        case.equal("NMIs that did not come", lost, 0);
    });
    report.case("init-and-start-up-begin-a-spinning-cpu-anew", |case| {
        for _ in 0..10 {
            let before = BEGUN.load(Ordering::SeqCst);
            case.equal("other CPUs", siblings::start_with(Waits::NONE, 1, spin), 1);
            let begun = comes(|| BEGUN.load(Ordering::SeqCst) == before + 1);
            case.ensure(begun, "it has not begun anew");
        }
    });
}
