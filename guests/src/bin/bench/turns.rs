//! What other VMs on the same CPU take: gaps in a loop that only looks at the clock.

use crate::measure::report;
use plinth_guests::cpu::rdtsc;
use plinth_guests::println;

/// A gap longer than this is somebody else's turn; exits for the host alone are shorter.
const GAP_TICKS: u64 = 8_000;
/// How many turns are looked at.
const TURNS: usize = 24;

pub(crate) fn measure() {
    let (mut gaps, mut runs) = ([0; TURNS], [0; TURNS]);
    let mut began = next_gap().1;
    for (gap, run) in gaps.iter_mut().zip(&mut runs) {
        let (from, to) = next_gap();
        *gap = to - from;
        *run = from - began;
        began = to;
    }
    let total: u64 = gaps.iter().chain(&runs).sum();
    println!("BENCH turn-total {total} {TURNS}");
    report("turn-gap", &mut gaps);
    report("turn-run", &mut runs);
}

/// The clock before and after the next gap.
fn next_gap() -> (u64, u64) {
    let mut last = rdtsc();
    loop {
        let now = rdtsc();
        if now - last > GAP_TICKS {
            return (last, now);
        }
        last = now;
    }
}
