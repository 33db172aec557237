//! `share`: works for a while, and tells how much of a CPU it got.
//!
//! `from=N` and `to=N` on the command line are the ticks of its TSC between which it counts, `until=N` when it ends.
//! So several of them that begin and end at different times count while all are at work. `asleep=N` is the number of
//! other CPUs that sleep meanwhile. Each wakes up every two seconds: what that costs is its guest's.

#![no_std]
#![no_main]

use plinth_guests::apic::{self, register};
use plinth_guests::cpu::{cpuid, rdtsc};
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::share::Share;
use plinth_guests::{Report, StartInfo, guest, println, siblings, x86};

guest!(main);

/// Batches at a time.
const BATCHES: u64 = 10;

const VECTOR: u8 = 0x61;
const PERIODIC: u32 = 1 << 17;
/// Divide by 1.
const DIVIDE: u32 = 0b1011;
const ASLEEP_S: u32 = 2;

fn on_timer(_: &mut Frame) {
    apic::end_of_interrupt();
}

fn doze(_: u32) {
    apic::enable();
    apic::set(register::LVT_TIMER, PERIODIC | u32::from(VECTOR));
    apic::set(register::DIVIDE, DIVIDE);
    let bus_hz = cpuid(0x15, 0).ecx;
    apic::set(register::INITIAL_COUNT, bus_hz * ASLEEP_S);
    loop {
        x86!("sti", "hlt", "cli");
    }
}

fn main(report: &mut Report, start: StartInfo) {
    let asleep = start.number("asleep").unwrap_or(0) as u32;
    if asleep > 0 {
        apic::enable();
        set_handler(VECTOR, Some(on_timer));
        report.case("all-cpus-come-up", |case| {
            case.equal("other CPUs", siblings::start(asleep, doze), asleep);
        });
    }
    let ticks = |key, usual| start.number(key).unwrap_or(usual);
    let (from, to) = (ticks("from", 0), ticks("to", 10_000_000));
    let until = ticks("until", to);
    let mut share = Share::default();
    let mut before_or_after = Share::default();
    while rdtsc() < until {
        let now = rdtsc();
        if (from..to).contains(&now) {
            share.work(BATCHES);
        } else {
            before_or_after.work(BATCHES);
        }
    }
    println!("share: {share}, {} millionths", share.millionths());
}
