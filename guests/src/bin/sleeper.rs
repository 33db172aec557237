//! `sleeper`: halts until its timer wakes it up, over and over, and tells how late that was.
//!
//! `wakes=N` on the command line is how often, `late=N` the most ticks of its TSC that a wake-up may be late, and
//! `from=N` when it begins to count: by then all of its neighbours are at work.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use plinth_guests::apic::{self, register};
use plinth_guests::cpu::{cpuid, rdtsc};
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::{Report, StartInfo, guest, println, x86};

guest!(main);

const VECTOR: u8 = 0x61;
/// How long it sleeps, in thousandths of a second; and what it does in between, in ticks.
const SLEEP_MS: u64 = 7;
const WORK_TICKS: u64 = 1000;
/// Divide by 1.
const DIVIDE: u32 = 0b1011;

static WOKE_AT: AtomicU64 = AtomicU64::new(0);

fn on_timer(_: &mut Frame) {
    WOKE_AT.store(rdtsc(), Ordering::Relaxed);
    apic::end_of_interrupt();
}

fn main(report: &mut Report, start: StartInfo) {
    let wakes = start.number("wakes").unwrap_or(20);
    let from = start.number("from").unwrap_or(0);
    let most = start.number("late").unwrap_or(u64::MAX);
    let leaf = cpuid(0x15, 0);
    let bus_hz = u64::from(leaf.ecx);
    let tsc_hz = bus_hz * u64::from(leaf.ebx) / u64::from(leaf.eax);
    apic::enable();
    set_handler(VECTOR, Some(on_timer));
    apic::set(register::LVT_TIMER, u32::from(VECTOR));
    apic::set(register::DIVIDE, DIVIDE);
    let (mut worst, mut total, mut counted) = (0, 0, 0);
    report.case("wake-ups-are-prompt", |case| {
        while counted < wakes {
            let due = rdtsc() + SLEEP_MS * tsc_hz / 1000;
            apic::set(register::INITIAL_COUNT, (SLEEP_MS * bus_hz / 1000) as u32);
            x86!("sti", "hlt", "cli");
            let late = WOKE_AT.load(Ordering::Relaxed).saturating_sub(due);
            if due >= from {
                worst = late.max(worst);
                total += late;
                counted += 1;
            }
            let until = rdtsc() + WORK_TICKS;
            while rdtsc() < until {}
        }
        println!(
            "sleeper: {} ticks late in the mean of {wakes} times, {worst} at most",
            total / wakes.max(1)
        );
        case.ensure(worst <= most, "others were let go on for too long");
    });
}
