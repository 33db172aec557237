//! What other VMs on the same CPU take: gaps in a loop that only looks at the clock.

use core::hint::spin_loop;

use crate::measure::report;
use plinth_guests::cpu::rdtsc;
use plinth_guests::println;

/// A gap longer than this is somebody else's turn; exits for the host alone are shorter.
const GAP_TICKS: u64 = 8_000;
/// How many turns are looked at.
const TURNS: usize = 24;

/// So many ticks pass first: until the hypervisor has sent and drawn what was said at the start, which it does between turns.
const SETTLING_TICKS: u64 = 50_000_000;

pub(crate) fn measure() {
    settle(SETTLING_TICKS);
    let (mut gaps, mut runs) = ([0; TURNS], [0; TURNS]);
    let mut began = next_gap().1;
    for (gap, run) in gaps.iter_mut().zip(&mut runs) {
        let (from, to) = next_gap();
        *gap = to - from;
        *run = from - began;
        began = to;
    }
    let run: u64 = runs.iter().sum();
    let total = run + gaps.iter().sum::<u64>();
    println!("BENCH turns-run {run} {TURNS}");
    println!("BENCH turns-total {total} {TURNS}");
    report("turn-gap", &mut gaps);
    report("turn-run", &mut runs);
    // The others began a little later, and are to see as many VMs as this one did until they are done.
    settle(total / 6);
}

fn settle(ticks: u64) {
    let start = rdtsc();
    while rdtsc() - start < ticks {
        spin_loop();
    }
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
