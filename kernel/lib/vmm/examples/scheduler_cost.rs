//! What one scheduling decision costs on this machine, from 2 to 256 vCPUs that are ready, each of a VM of its own or two of
//! each VM:
//! `cargo run --release -p plinth-vmm --example scheduler_cost`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use vmm::scheduler::{Account, Arrival, RunQueue, Share, Use, Weight};

const DECISIONS: u32 = 1_000_000;

fn main() {
    println!("{:>6} {:>12} {:>12}", "ready", "ns/decision", "pairs");
    for ready in [2u32, 4, 8, 16, 32, 64, 128, 256] {
        let weight = |vm: u32| Weight::new(64 + vm % 7 * 100);
        let singles = (0..ready).map(|vm| Share::new(weight(vm), None));
        let pairs = (0..ready / 2).flat_map(|vm| {
            let account = Arc::new(Account::new(weight(vm)));
            [0, 1].map(|_| Share::of_several(&account, None))
        });
        let (alone, in_pairs) = (ns_per_decision(singles), ns_per_decision(pairs));
        println!("{ready:>6} {alone:>12.1} {in_pairs:>12.1}");
    }
}

fn ns_per_decision(shares: impl Iterator<Item = Share>) -> f64 {
    let mut queue = RunQueue::new(Use::Shared);
    queue.reserve(256);
    for (number, share) in shares.enumerate() {
        let _ = queue.enqueue(number, share, Arrival::New, 0);
    }
    let mut now_ns = 0;
    let begin = Instant::now();
    for _ in 0..DECISIONS {
        let Some(turn) = queue.choose(now_ns) else {
            break;
        };
        now_ns += 250_000;
        let (number, share) = queue.end_turn(turn, now_ns);
        let _ = queue.enqueue(black_box(number), share, Arrival::Again, now_ns);
    }
    begin.elapsed().as_nanos() as f64 / f64::from(DECISIONS)
}
