//! What the policy promises, over random workloads.

use alloc::sync::Arc;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::balance::CpuSet;
use super::simulator::{Behaviour, Simulator, fair_shares};
use super::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

fn share(weight: u32) -> Share {
    Share::new(Weight::new(weight), None)
}

fn capped(weight: u32, cap: &Arc<Cap>) -> Share {
    Share::new(Weight::new(weight), Some(Arc::clone(cap)))
}

/// The share of one CPU that each got in the second after the first.
fn shares_over_a_second(simulator: &mut Simulator) -> Vec<f64> {
    simulator.run(SECOND);
    let before = simulator.run_times();
    simulator.run(SECOND);
    let after = simulator.run_times();
    after
        .iter()
        .zip(before)
        .map(|(after, before)| (after - before) as f64 / 1e9)
        .collect()
}

fn light_sleeper() -> impl Strategy<Value = Behaviour> {
    (50_000u64..500_000, 20 * MS..100 * MS)
        .prop_map(|(run_ns, sleep_ns)| Behaviour::Interactive { run_ns, sleep_ns })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hogs_on_one_cpu_get_their_weights_within_two_percent(
        weights in prop::collection::vec(64u32..=1024, 2..24), seed: u64,
    ) {
        let mut simulator = Simulator::new(1, seed);
        for weight in &weights {
            simulator.add(Behaviour::Hog, share(*weight));
        }
        let shares = shares_over_a_second(&mut simulator);
        for (got, due) in shares.iter().zip(fair_shares(&weights, 1)) {
            prop_assert!((got - due).abs() <= 0.02 * due + 0.0005, "{got} for {due} of {weights:?}");
        }
    }

    #[test]
    fn hogs_on_several_cpus_get_their_weights_within_two_percent_of_a_cpu(
        cpus in 2usize..=4, weights in prop::collection::vec(64u32..=1024, 2..24), seed: u64,
    ) {
        let mut simulator = Simulator::new(cpus, seed);
        for weight in &weights {
            simulator.add(Behaviour::Hog, share(*weight));
        }
        let shares = shares_over_a_second(&mut simulator);
        for (got, due) in shares.iter().zip(fair_shares(&weights, cpus)) {
            prop_assert!((got - due).abs() <= 0.02, "{got} for {due} of {weights:?} on {cpus}");
        }
    }

    #[test]
    fn sleepers_take_nothing_from_the_balance_between_hogs(
        weights in prop::collection::vec(64u32..=1024, 2..8),
        sleepers in prop::collection::vec(light_sleeper(), 1..6), seed: u64,
    ) {
        let mut simulator = Simulator::new(1, seed);
        for weight in &weights {
            simulator.add(Behaviour::Hog, share(*weight));
        }
        for sleeper in &sleepers {
            simulator.add(*sleeper, share(256));
        }
        let shares = shares_over_a_second(&mut simulator);
        let hogs: f64 = shares.iter().take(weights.len()).sum();
        for (got, due) in shares.iter().zip(fair_shares(&weights, 1)) {
            prop_assert!((got / hogs - due).abs() <= 0.02, "{got} of {hogs} for {due} of {weights:?}");
        }
    }

    #[test]
    fn who_sleeps_and_wakes_all_the_time_gets_no_more_than_its_share(
        run_ns in 20_000u64..3 * MS, sleep_ns in 2_000u64..200_000, seed: u64,
    ) {
        let mut simulator = Simulator::new(1, seed);
        simulator.add(Behaviour::Interactive { run_ns, sleep_ns }, share(256));
        simulator.add(Behaviour::Hog, share(256));
        simulator.add(Behaviour::Hog, share(256));
        let shares = shares_over_a_second(&mut simulator);
        prop_assert!(shares[0] <= 1.0 / 3.0 + 0.02, "{shares:?}");
    }

    #[test]
    fn a_cap_is_never_exceeded(
        cpus in 1usize..=4, percent in 1u32..=350, vcpus in 1usize..6, others in 0usize..4,
        sleeper in light_sleeper(), seed: u64,
    ) {
        let mut simulator = Simulator::new(cpus, seed);
        let cap = Arc::new(Cap::percent(percent));
        for _ in 0..vcpus {
            simulator.add(Behaviour::Hog, capped(256, &cap));
        }
        let capped_vcpus = simulator.add(sleeper, capped(256, &cap)) + 1;
        for _ in 0..others {
            simulator.add(Behaviour::Hog, share(256));
        }
        let used = |simulator: &Simulator| -> u64 {
            simulator.run_times().iter().take(capped_vcpus).sum()
        };
        for window_ms in [100, 250, 1000] {
            let before = used(&simulator);
            simulator.run(window_ms * MS);
            // Windows and periods do not begin together: one period more may lie in it.
            let most = u64::from(percent) * (window_ms + 10) * MS / 100;
            prop_assert!(used(&simulator) - before <= most, "{window_ms} ms");
        }
    }

    #[test]
    fn a_capped_vm_gets_its_cap_where_nobody_else_wants_the_cpu(percent in 5u32..=95, seed: u64) {
        let mut simulator = Simulator::new(1, seed);
        simulator.add(Behaviour::Hog, capped(256, &Arc::new(Cap::percent(percent))));
        let shares = shares_over_a_second(&mut simulator);
        prop_assert!((shares[0] - f64::from(percent) / 100.0).abs() <= 0.01, "{shares:?}");
    }

    #[test]
    fn nobody_starves(
        cpus in 1usize..=3, weights in prop::collection::vec(16u32..=1024, 1..32),
        sleepers in prop::collection::vec(light_sleeper(), 0..16), seed: u64,
    ) {
        let mut simulator = Simulator::new(cpus, seed);
        for weight in &weights {
            simulator.add(Behaviour::Hog, share(*weight));
        }
        for sleeper in &sleepers {
            simulator.add(*sleeper, share(256));
        }
        simulator.run(SECOND);
        simulator.reset_figures();
        simulator.run(5 * SECOND);
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum::<u64>()
            + 256 * sleepers.len() as u64;
        for (vcpu, weight) in simulator.vcpus.iter().zip(&weights) {
            // A turn comes again when all others have had as much in proportion to their weights, and those
            // that borrow or catch up have done so. On several CPUs one may have had a CPU to itself before.
            let turn = if cpus == 1 { MIN_SLICE_NS } else { BALANCE_NS / cpus as u64 };
            let rounds = if cpus == 1 { BORROW_ROUNDS } else { AHEAD_ROUNDS + CATCH_UP_ROUNDS };
            let bound = rounds * ROUND_NS + 2 * turn * total / u64::from(*weight);
            prop_assert!(
                vcpu.longest_wait_ns <= bound,
                "weight {weight} waited {} of {bound} ns", vcpu.longest_wait_ns
            );
        }
    }

    #[test]
    fn who_wakes_up_runs_soon(
        cpus in 1usize..=3, hogs in 1usize..24, sleepers in prop::collection::vec(light_sleeper(), 1..6),
        seed: u64,
    ) {
        let mut simulator = Simulator::new(cpus, seed);
        for _ in 0..hogs {
            simulator.add(Behaviour::Hog, share(256));
        }
        for sleeper in &sleepers {
            simulator.add(*sleeper, share(256));
        }
        simulator.run(SECOND);
        simulator.reset_figures();
        simulator.run(2 * SECOND);
        // At worst all others have woken up at the same moment, and each runs for what it may borrow.
        let bound = sleepers.len() as u64 * BORROW_LIMIT_NS;
        for vcpu in simulator.vcpus.iter().skip(hogs) {
            let worst = vcpu.wake_latencies_ns.iter().max().copied().unwrap_or(0);
            prop_assert!(worst <= bound, "{worst} ns among {hogs} hogs on {cpus} CPUs");
        }
    }

    #[test]
    fn cpus_are_busy_where_there_is_enough_to_do(
        cpus in 2usize..=4, hogs in 0usize..8, sleepers in prop::collection::vec(light_sleeper(), 0..6),
        pinned in prop::collection::vec(0u16..4, 0..4), seed: u64,
    ) {
        let mut simulator = Simulator::new(cpus, seed);
        for sleeper in &sleepers {
            simulator.add(*sleeper, share(256));
        }
        for cpu in &pinned {
            let allowed = [cpu % cpus as u16].into_iter().collect();
            simulator.add_with_affinity(Behaviour::Hog, share(256), allowed);
        }
        for _ in 0..hogs {
            simulator.add(Behaviour::Hog, share(256));
        }
        let shares = shares_over_a_second(&mut simulator);
        let taken: CpuSet = pinned.iter().map(|cpu| cpu % cpus as u16).collect();
        let busy = (taken.len() + hogs).min(cpus);
        let used: f64 = shares.iter().sum();
        // While one that may move runs beside one that may not, an idle CPU has to wait for the end of a turn.
        prop_assert!(used >= busy as f64 * 0.9, "{used} of {busy} CPUs");
        prop_assert!(used <= cpus as f64 + 0.001, "{used} of {cpus} CPUs");
    }

    #[test]
    fn who_spins_and_yields_takes_nothing_from_others(
        cpus in 1usize..=2, hogs in 1usize..6, spinners in 1usize..4, run_ns in 1_000u64..50_000, seed: u64,
    ) {
        let mut simulator = Simulator::new(cpus, seed);
        for _ in 0..hogs {
            simulator.add(Behaviour::Hog, share(256));
        }
        for _ in 0..spinners {
            simulator.add(Behaviour::Spinner { run_ns }, share(256));
        }
        let shares = shares_over_a_second(&mut simulator);
        let due = (cpus as f64 / (hogs + spinners) as f64).min(1.0);
        for share in shares.iter().take(hogs) {
            prop_assert!(*share >= due - 0.02, "{shares:?} for at least {due}");
        }
    }

    #[test]
    fn affinity_is_kept(seed: u64, only in 0u16..3) {
        let mut simulator = Simulator::new(3, seed);
        let allowed: CpuSet = [only].into_iter().collect();
        for _ in 0..3 {
            simulator.add_with_affinity(Behaviour::Hog, share(256), allowed);
        }
        let shares = shares_over_a_second(&mut simulator);
        // One CPU between three, though two more are idle.
        prop_assert!(shares.iter().all(|share| (share - 1.0 / 3.0).abs() < 0.01), "{shares:?}");
    }
}

#[test]
fn a_lone_sleeper_beside_hogs_runs_at_once() {
    let mut simulator = Simulator::new(1, 7);
    for _ in 0..16 {
        simulator.add(Behaviour::Hog, share(256));
    }
    let sleeper = simulator.add(
        Behaviour::Interactive {
            run_ns: MS / 2,
            sleep_ns: 50 * MS,
        },
        share(256),
    );
    simulator.run(10 * SECOND);
    let latencies = &simulator.vcpus[sleeper].wake_latencies_ns;
    assert!(latencies.len() > 100 && latencies.iter().all(|latency| *latency == 0));
}

#[test]
fn moving_between_cpus_is_rare() {
    let mut simulator = Simulator::new(2, 3);
    for _ in 0..3 {
        simulator.add(Behaviour::Hog, share(256));
    }
    simulator.run(10 * SECOND);
    assert!(
        simulator.steals < 1500,
        "{} in ten seconds",
        simulator.steals
    );
    // Where the vCPUs spread evenly there is nothing to move.
    let mut simulator = Simulator::new(4, 3);
    for _ in 0..8 {
        simulator.add(Behaviour::Hog, share(256));
    }
    simulator.run(10 * SECOND);
    assert!(simulator.steals < 10, "{} in ten seconds", simulator.steals);
}

#[test]
fn who_spins_lets_the_one_go_first_that_it_waits_for() {
    let mut queue = RunQueue::new(Use::Shared);
    for number in 0..5 {
        let _ = queue.enqueue(number, share(256), Arrival::New, 0);
    }
    let turn = queue.choose(0).unwrap();
    assert_eq!(turn.vcpu, 0);
    let (spinner, mut its_share) = queue.end_turn(turn, 1000);
    let _ = queue.enqueue(spinner, its_share, Arrival::Yielded, 1000);
    // What it waits for gets what is left of the turn, and no more.
    let turn = queue
        .choose_one(|number| *number == 3, MS / 2, 1000)
        .unwrap();
    assert_eq!((turn.vcpu, turn.slice), (3, Slice::Ns(MS / 2)));
    let (other, other_share) = queue.end_turn(turn, MS);
    assert!(other_share.virtual_time() > VirtualTime(0));
    let _ = queue.enqueue(other, other_share, Arrival::Again, MS);
    assert!(queue.choose_one(|number| *number == 7, MS, MS).is_none());
    // The spinner is not chosen before one that waits has had its turn, and it is not charged for that.
    let turn = queue.choose(MS).unwrap();
    assert_eq!(turn.vcpu, 1);
    let _ = queue.end_turn(turn, MS);
    its_share = queue.remove(|number| *number == 0).remove(0).1;
    assert_eq!(
        its_share.virtual_time(),
        VirtualTime::of(1000, Weight::DEFAULT)
    );
}

#[test]
fn a_dedicated_cpu_has_turns_without_an_end() {
    let mut queue = RunQueue::new(Use::Dedicated);
    let _ = queue.enqueue(1, share(256), Arrival::New, 0);
    assert_eq!(queue.choose(0).unwrap().slice, Slice::Unlimited);
}

#[test]
fn who_is_alone_on_the_only_cpu_has_long_turns_and_makes_way_for_who_comes() {
    let mut queue = RunQueue::new(Use::Shared).of_only_cpu();
    let _ = queue.enqueue('a', share(256), Arrival::New, 0);
    let turn = queue.choose(0).unwrap();
    assert!(matches!(turn.slice, Slice::Ns(ns) if ns >= 100 * MS));
    assert_eq!(
        queue.enqueue('b', share(256), Arrival::New, 50 * MS),
        Preemption::Within { ns: 5 * MS }
    );
    let (a, its_share) = queue.end_turn(turn, 55 * MS);
    let _ = queue.enqueue(a, its_share, Arrival::Again, 55 * MS);
    let turn = queue.choose(55 * MS).unwrap();
    assert_eq!(turn.vcpu, 'b');
    assert!(matches!(turn.slice, Slice::Ns(ns) if ns <= 10 * MS));
}

#[test]
fn who_waits_for_its_cap_ends_long_turns_and_who_has_one_leaves_some_to_its_siblings() {
    let mut queue = RunQueue::new(Use::Shared).of_only_cpu();
    let cap = Arc::new(Cap::percent(100));
    let _ = queue.enqueue('a', capped(256, &cap), Arrival::New, 0);
    assert_eq!(queue.choose(0).unwrap().slice, Slice::Ns(5 * MS));
    let mut queue = RunQueue::new(Use::Shared).of_only_cpu();
    let cap = Arc::new(Cap::percent(10));
    cap.take(0, MS);
    let _ = queue.enqueue('a', capped(256, &cap), Arrival::New, 0);
    let _ = queue.enqueue('b', share(256), Arrival::New, 0);
    let turn = queue.choose(0).unwrap();
    assert_eq!((turn.vcpu, turn.slice), ('b', Slice::Ns(5 * MS)));
}

#[test]
fn a_stopped_vms_vcpus_leave_the_queue() {
    let mut queue = RunQueue::new(Use::Shared);
    let cap = Arc::new(Cap::percent(1));
    for number in 0..10 {
        let _ = queue.enqueue(number, share(256), Arrival::New, 0);
    }
    let _ = queue.enqueue(10, capped(256, &cap), Arrival::New, 0);
    cap.take(0, MS);
    let removed = queue.remove(|number| number % 2 == 0);
    let mut numbers: Vec<_> = removed.into_iter().map(|(number, _)| number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 2, 4, 6, 8, 10]);
    let mut left = Vec::new();
    while let Some(turn) = queue.choose(0) {
        left.push(turn.vcpu);
    }
    assert_eq!(left, [1, 3, 5, 7, 9]);
}

#[test]
fn who_has_no_budget_waits_for_the_next_period() {
    let mut queue = RunQueue::new(Use::Shared);
    let cap = Arc::new(Cap::percent(10));
    let _ = queue.enqueue('a', capped(256, &cap), Arrival::New, 0);
    let turn = queue.choose(0).unwrap();
    assert_eq!(turn.slice, Slice::Ns(MS));
    let (vcpu, share) = queue.end_turn(turn, MS);
    let _ = queue.enqueue(vcpu, share, Arrival::Again, MS);
    assert!(queue.choose(MS).is_none());
    assert_eq!(queue.next_event_ns(), Some(10 * MS));
    assert!(queue.choose(9 * MS).is_none());
    assert!(queue.choose(10 * MS).is_some());
}
