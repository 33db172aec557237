//! What the policy promises: here in single cases, in `properties` over random loads.

mod apart;
mod properties;
mod spinning;

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::simulator::{Behaviour, Simulator, fair_shares};
use super::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

fn share(weight: u32) -> Share {
    Share::new(Weight::new(weight), None)
}

/// One of the vCPUs of a VM.
fn sibling(vm: &Arc<Account>) -> Share {
    Share::of_several(vm, None)
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
fn the_vcpus_of_a_vm_have_its_weight_together_however_many_they_are() {
    for weight in [1, 2, 15, 256, 1023, 0xffff] {
        for vcpus in 1..=255 {
            let whole = f64::from(Weight::new(weight).parts());
            let together = f64::from(Weight::new(weight).divided(vcpus).parts() * vcpus);
            // The least weight that there is, among more vCPUs than that has halves of parts, is a third off.
            let off = (together / whole - 1.0).abs();
            let most = if weight == 1 { 0.34 } else { 0.2 };
            assert!(off <= most, "{weight} among {vcpus}: {off}");
            if weight >= 256 {
                assert!(off <= 0.002, "{weight} among {vcpus}: {off}");
            }
        }
    }
}

#[test]
fn virtual_time_does_not_end_within_years_of_work_at_the_least_weight() {
    let years_ns = 2 * 365 * 24 * 3600 * SECOND;
    let least = Weight::new(1);
    let end = VirtualTime::of(years_ns, least);
    assert!(end.saturating_add(VirtualTime::of(SECOND, least)) > end);
    // And the shortest turn at the greatest weight is not for nothing.
    assert!(VirtualTime::of(200, Weight::new(0xffff)) > VirtualTime(0));
}

#[test]
fn one_of_nine_hogs_on_three_cpus_is_not_a_round_ahead_because_its_queue_is_light() {
    let weights = [811, 70, 287, 248, 507, 841, 610, 108, 498];
    let mut simulator = Simulator::new(3, 0);
    for weight in weights {
        simulator.add(Behaviour::Hog, share(weight));
    }
    let shares = shares_over_a_second(&mut simulator);
    for (got, due) in shares.iter().zip(fair_shares(&weights, 3)) {
        assert!((got - due).abs() <= 0.02 * due, "{got} for {due}");
    }
}

#[test]
fn a_switch_that_the_scheduler_wanted_is_charged_to_nobody() {
    let mut queue = RunQueue::new(Use::Shared);
    for number in 1..=2 {
        let _ = queue.enqueue(number, share(256), Arrival::New, 0);
    }
    let mut turn = queue.choose(1000).unwrap();
    turn.forgive_switch(5000);
    let (_, its_share) = queue.end_turn(turn, 8000);
    assert_eq!(
        its_share.virtual_time(),
        VirtualTime::of(3000, Weight::DEFAULT)
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
    // It has run alone for long, but nobody waited for it.
    assert_eq!(
        queue.enqueue('b', share(256), Arrival::New, 50 * MS),
        Preemption::Now
    );
    let (a, its_share) = queue.end_turn(turn, 50 * MS);
    assert_eq!(its_share.virtual_time(), VirtualTime(0));
    let _ = queue.enqueue(a, its_share, Arrival::Again, 50 * MS);
    let turn = queue.choose(50 * MS).unwrap();
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
    assert_eq!((turn.vcpu, turn.slice), ('b', Slice::Ns(10 * MS)));
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
