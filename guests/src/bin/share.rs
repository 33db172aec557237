//! `share`: works for a while, and tells how much of a CPU it got.
//!
//! `from=N` and `to=N` on the command line are the ticks of its TSC between which it counts, `until=N` when it ends.
//! So several of them that begin and end at different times count while all are at work.

#![no_std]
#![no_main]

use plinth_guests::cpu::rdtsc;
use plinth_guests::share::Share;
use plinth_guests::{Report, StartInfo, guest, println};

guest!(main);

/// Batches at a time.
const BATCHES: u64 = 10;

fn main(_: &mut Report, start: StartInfo) {
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
