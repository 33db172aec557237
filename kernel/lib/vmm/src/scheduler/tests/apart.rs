//! CPUs that are at times of their own, since most of their vCPUs may not move from one to the other.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::super::balance::Theft;
use super::super::simulator::{Behaviour, Simulator};
use super::super::*;
use super::{MS, SECOND, sibling};

fn only(cpu: u16) -> CpuSet {
    [cpu].into_iter().collect()
}

/// A vCPU on each of two CPUs, among so many others that may not leave theirs, and the second of the two only after a minute.
/// Returns what all of them, the two first, ran in the second after that.
fn after_a_minute_among(others: [usize; 2]) -> [Vec<u64>; 2] {
    let mut simulator = Simulator::new(2, 1);
    let vm = Arc::new(Account::new(Weight::DEFAULT));
    let mut on: [Vec<usize>; 2] = [Vec::new(), Vec::new()];
    on[0].push(simulator.add_with_affinity(Behaviour::Hog, sibling(&vm), only(0)));
    for (cpu, others) in (0..).zip(others) {
        for _ in 0..others {
            let share = Share::new(Weight::DEFAULT, None);
            let other = simulator.add_with_affinity(Behaviour::Hog, share, only(cpu));
            on[usize::from(cpu)].push(other);
        }
    }
    simulator.run(60 * SECOND);
    let late = simulator.add_with_affinity(Behaviour::Hog, sibling(&vm), only(1));
    on[1].insert(0, late);
    let before = simulator.run_times();
    simulator.run(SECOND);
    let after = simulator.run_times();
    on.map(|vcpus| {
        let ran = |vcpu: &usize| after[*vcpu] - before[*vcpu];
        vcpus.iter().map(ran).collect()
    })
}

#[test]
fn a_vm_does_not_starve_because_its_next_vcpu_wakes_where_less_time_has_passed() {
    let [first, second] = after_a_minute_among([1, 4]);
    assert!(
        first[0] >= SECOND / 4 && second[0] >= SECOND / 20,
        "{first:?}, {second:?}"
    );
}

#[test]
fn others_do_not_starve_because_the_next_vcpu_of_a_vm_wakes_where_more_time_has_passed() {
    let [first, second] = after_a_minute_among([4, 2]);
    let others = first.iter().chain(&second);
    assert!(
        others.min() >= Some(&(SECOND / 20)),
        "{first:?}, {second:?}"
    );
}

#[test]
fn who_wakes_up_where_less_time_has_passed_than_where_its_sibling_runs_does_not_wait_for_that() {
    let mut simulator = Simulator::new(2, 1);
    let vm = Arc::new(Account::new(Weight::DEFAULT));
    simulator.add_with_affinity(Behaviour::Hog, sibling(&vm), only(0));
    let light = Behaviour::Interactive {
        run_ns: MS / 4,
        sleep_ns: 20 * MS,
    };
    let sleeper = simulator.add_with_affinity(light, sibling(&vm), only(1));
    for cpu in [0, 1, 1, 1, 1] {
        let share = Share::new(Weight::DEFAULT, None);
        simulator.add_with_affinity(Behaviour::Hog, share, only(cpu));
    }
    simulator.run(60 * SECOND);
    simulator.reset_figures();
    simulator.run(SECOND);
    let latest = simulator.vcpus[sleeper].wake_latencies_ns.iter().max();
    assert!(latest.is_some_and(|latest| *latest < MS), "{latest:?}");
}

#[test]
fn who_was_taken_by_another_cpu_is_not_forgiven_for_what_nobody_wanted_there_before() {
    let cap = Arc::new(Cap::percent(10));
    let share = |cap| Share::new(Weight::DEFAULT, cap);
    // On one CPU nobody has waited for a while.
    let mut quiet = RunQueue::new(Use::Shared);
    let _ = quiet.enqueue('a', share(None), Arrival::New, 0);
    let turn = quiet.choose(0).unwrap();
    let _ = quiet.end_turn(turn, SECOND);
    // On the other two share it, of which one uses up its cap, and is taken.
    let mut busy = RunQueue::new(Use::Shared);
    let _ = busy.enqueue('b', share(Some(cap)), Arrival::New, SECOND);
    let _ = busy.enqueue('c', share(None), Arrival::New, SECOND);
    let turn = busy.choose(SECOND).unwrap();
    let (capped, its) = busy.end_turn(turn, SECOND + MS);
    let had = its.virtual_time();
    let _ = busy.enqueue(capped, its, Arrival::Again, SECOND + MS);
    let theft = busy.steal_for(&Summary::default(), |vcpu| *vcpu == 'b', SECOND + MS);
    let Theft::Done((capped, its)) = theft else {
        panic!("it was there to be taken")
    };
    let _ = quiet.enqueue(capped, its, Arrival::Moved, SECOND + MS);
    assert!(quiet.choose(SECOND + MS).is_none(), "its cap is used up");
    let turn = quiet.choose(SECOND + 10 * MS).unwrap();
    assert_eq!(turn.share.virtual_time(), had);
}
