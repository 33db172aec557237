//! What one scheduling decision costs on this machine, from 2 to 256 vCPUs that are ready:
//! `cargo run --release -p plinth-vmm --example scheduler_cost`.

use std::hint::black_box;
use std::time::Instant;

use vmm::scheduler::{Arrival, RunQueue, Share, Use, Weight};

const DECISIONS: u32 = 1_000_000;

fn main() {
    println!("{:>6} {:>12}", "ready", "ns/decision");
    for ready in [2u32, 4, 8, 16, 32, 64, 128, 256] {
        let mut queue = RunQueue::new(Use::Shared);
        queue.reserve(ready as usize);
        for number in 0..ready {
            let share = Share::new(Weight::new(64 + number % 7 * 100), None);
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
        let ns = begin.elapsed().as_nanos() as f64 / f64::from(DECISIONS);
        println!("{ready:>6} {ns:>12.1}");
    }
}
