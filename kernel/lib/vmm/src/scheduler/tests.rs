//! What the policy promises, over random workloads.

use alloc::sync::Arc;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::balance::CpuSet;
use super::simulator::{Behaviour, Simulator, fair_shares, fair_shares_of_vms};
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

fn any_sleeper() -> impl Strategy<Value = Behaviour> {
    (20_000u64..20 * MS, 10_000u64..20 * MS)
        .prop_map(|(run_ns, sleep_ns)| Behaviour::Interactive { run_ns, sleep_ns })
}

fn any_sleeper_or_relay() -> impl Strategy<Value = Behaviour> {
    let relay = (20_000u64..20 * MS).prop_map(|run_ns| Behaviour::Relay { run_ns });
    prop_oneof![any_sleeper(), relay]
}

/// As many small ones as great ones.
fn any_weight() -> impl Strategy<Value = u32> {
    (0u32..16).prop_flat_map(|bits| 1u32 << bits..=(2 << bits) - 1)
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
    fn hogs_on_several_cpus_get_their_weights_within_two_percent(
        cpus in 2usize..=4, weights in prop::collection::vec(64u32..=1024, 2..24), seed: u64,
    ) {
        let mut simulator = Simulator::new(cpus, seed);
        for weight in &weights {
            simulator.add(Behaviour::Hog, share(*weight));
        }
        let shares = shares_over_a_second(&mut simulator);
        for (got, due) in shares.iter().zip(fair_shares(&weights, cpus)) {
            // Two vCPUs that wait are at most two rounds apart, by which one of them gains in a second and the other loses:
            // the horizon is a round and a half ahead of who waits elsewhere, and half a round is tolerated. A round is a
            // hundredth of a second, of which each has its share. The shortest turns are the rest.
            prop_assert!(
                (got - due).abs() <= 0.02 * due + 0.001,
                "{got} for {due} of {weights:?} on {cpus}"
            );
        }
    }

    #[test]
    fn weights_hold_however_far_they_are_apart(
        cpus in 2usize..=8, weights in prop::collection::vec(any_weight(), 2..40), seed: u64,
    ) {
        let mut simulator = Simulator::new(cpus, seed);
        for weight in &weights {
            simulator.add(Behaviour::Hog, share(*weight));
        }
        let shares = shares_over_a_second(&mut simulator);
        for (got, due) in shares.iter().zip(fair_shares(&weights, cpus)) {
            // One of a small weight gets a second's share at once, and one such turn may have begun on an idle CPU.
            prop_assert!(
                (got - due).abs() <= 0.02 * due + BALANCE_NS as f64 / 1e9,
                "{got} for {due} of {weights:?} on {cpus}"
            );
        }
    }

    #[test]
    fn what_vcpus_ran_while_nobody_waited_does_not_count_later(
        cpus in 1usize..=4, alone_s in 1u64..20, weights in prop::collection::vec(any_weight(), 1..12), seed: u64,
    ) {
        let mut simulator = Simulator::new(cpus, seed);
        // At first there is a CPU for each; then the others come.
        let (first, others) = weights.split_at(weights.len().min(cpus));
        for weight in first {
            simulator.add(Behaviour::Hog, share(*weight));
        }
        simulator.run(alone_s * SECOND);
        for weight in others {
            simulator.add(Behaviour::Hog, share(*weight));
        }
        simulator.run(SECOND / 10);
        let before = simulator.run_times();
        simulator.run(SECOND);
        let after = simulator.run_times();
        let got = after.iter().zip(before).map(|(after, before)| (after - before) as f64 / 1e9);
        for (got, due) in got.zip(fair_shares(&weights, cpus)) {
            // The turns that had begun before anybody came were not charged, and the next ones not by all that is known
            // later.
            prop_assert!(
                (got - due).abs() <= 0.02 * due + 2.0 * BALANCE_NS as f64 / 1e9,
                "{got} for {due} of {weights:?} on {cpus}"
            );
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
            prop_assert!(
                (got / hogs - due).abs() <= 0.02 * due + 0.0005,
                "{got} of {hogs} for {due} of {weights:?}"
            );
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
        let mut capped = alloc::vec![Behaviour::Hog; vcpus];
        capped.push(sleeper);
        simulator.add_vm(Weight::DEFAULT, Some(&cap), &capped);
        for _ in 0..others {
            simulator.add(Behaviour::Hog, share(256));
        }
        let used = |simulator: &Simulator| -> u64 {
            simulator.run_times().iter().take(capped.len()).sum()
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
    fn a_vm_whose_vcpus_wait_for_each_other_gets_its_share_and_works_in_most_of_it(
        cpus in 1usize..=2, hogs in 0usize..5, vcpus in 2usize..=8, work_ns in 2 * MS..20 * MS, seed: u64,
    ) {
        let mut simulator = Simulator::new(cpus, seed);
        simulator.add_gang(Weight::DEFAULT, vcpus, Behaviour::Gang { work_ns, window_ns: 50_000 });
        for _ in 0..hogs {
            simulator.add(Behaviour::Hog, share(256));
        }
        simulator.run(SECOND);
        let (before, worked) = (simulator.run_times(), simulator.gangs[0].worked_ns);
        simulator.run(2 * SECOND);
        let after = simulator.run_times();
        let ran: Vec<f64> = after.iter().zip(before).map(|(a, b)| (a - b) as f64 / 2e9).collect();
        let vm: f64 = ran.iter().take(vcpus).sum();
        let worked = (simulator.gangs[0].worked_ns - worked) as f64 / 2e9;
        // Where there are CPUs enough, those that wait may as well spin.
        if hogs >= cpus {
            let due = cpus as f64 / (hogs + 1) as f64;
            prop_assert!(vm <= due + 0.02, "{vm} of {due}: {ran:?}");
            // Who gives way loses a little by it, and gains nothing: of 20,000 random cases on two CPUs the worst lost 14.4 %.
            let least = if cpus == 1 { 0.93 } else { 0.84 };
            prop_assert!(vm >= least * due, "{vm} of {due}: {ran:?}");
            // On several CPUs a VM that gives way moves about, which stealing evens out with a delay.
            let lost = if cpus == 1 { 0.02 } else { 0.04 };
            for hog in ran.iter().skip(vcpus) {
                prop_assert!(*hog >= due - lost, "a neighbour got {hog} of {due}: {ran:?}");
            }
        }
        if cpus == 1 {
            prop_assert!(worked >= 0.8 * vm, "it worked for {worked} of {vm}");
        }
        prop_assert!(simulator.gangs[0].meetings > 5, "they met {} times", simulator.gangs[0].meetings);
    }

    #[test]
    fn a_vm_has_its_weight_however_many_of_its_vcpus_are_awake(
        cpus in 1usize..=8,
        vms in prop::collection::vec(
            (64u32..=1024, 1usize..=3, prop::collection::vec(any_sleeper(), 0..4)), 2..8,
        ),
        seed: u64,
    ) {
        let mut simulator = Simulator::new(cpus, seed);
        let places: Vec<_> = vms
            .iter()
            .map(|(weight, hogs, sleepers)| {
                let mut vcpus = alloc::vec![Behaviour::Hog; *hogs];
                vcpus.extend(sleepers);
                simulator.add_vm(Weight::new(*weight), None, &vcpus)
            })
            .collect();
        let shares = shares_over_a_second(&mut simulator);
        // What is due to one of them if so many vCPUs of it, and of all others, are always awake.
        let due = |one: usize, of_it: fn(usize, usize) -> usize, of_others: fn(usize, usize) -> usize| {
            let demands = vms.iter().enumerate().map(|(vm, (weight, hogs, sleepers))| {
                let awake = if vm == one { of_it } else { of_others };
                (*weight, awake(*hogs, sleepers.len()))
            });
            fair_shares_of_vms(&demands.collect::<Vec<_>>(), cpus)[one]
        };
        let (hogs_alone, all) = (|hogs, _| hogs, |hogs, sleepers| hogs + sleepers);
        for (vm, (place, (_, hogs, _))) in places.into_iter().zip(&vms).enumerate() {
            let (least, most) = (due(vm, hogs_alone, all), due(vm, all, hogs_alone));
            let got: f64 = shares[place].iter().sum();
            // One that could use no more loses for good what others borrow when they wake up. Of 20,000 random machines the
            // worst lost 7.1 %.
            let is_full = least >= 0.95 * *hogs as f64;
            let lost = if is_full { 0.1 * least } else { 0.02 * least + 0.001 };
            prop_assert!(
                got >= least - lost && got <= 1.02 * most + 0.001,
                "VM {vm} got {got} of {least} to {most}: {vms:?} on {cpus}"
            );
        }
    }

    #[test]
    fn siblings_that_are_always_awake_share_what_their_vm_gets(
        cpus in 1usize..=4, vms in prop::collection::vec((64u32..=1024, 1usize..=6), 2..6), seed: u64,
    ) {
        let mut simulator = Simulator::new(cpus, seed);
        for (weight, vcpus) in &vms {
            simulator.add_vm(Weight::new(*weight), None, &alloc::vec![Behaviour::Hog; *vcpus]);
        }
        let shares = shares_over_a_second(&mut simulator);
        let due = fair_shares_of_vms(&vms, cpus);
        let each = due.iter().zip(&vms).flat_map(|(due, (_, vcpus))| {
            core::iter::repeat_n(due / *vcpus as f64, *vcpus)
        });
        for (got, due) in shares.iter().zip(each) {
            prop_assert!((got - due).abs() <= 0.02 * due + 0.001, "{got} for {due} of {vms:?} on {cpus}");
        }
    }

    #[test]
    fn what_a_cap_withholds_goes_to_the_others_and_is_not_made_up_for(
        percent in 5u32..=95, vcpus in 1usize..=4, others in prop::collection::vec(64u32..=1024, 1..6), seed: u64,
    ) {
        let mut simulator = Simulator::new(1, seed);
        let cap = Arc::new(Cap::percent(percent));
        // Its weight is worth more than its cap.
        let weight = Weight::new(0xffff);
        let place = simulator.add_vm(weight, Some(&cap), &alloc::vec![Behaviour::Hog; vcpus]);
        for weight in &others {
            simulator.add(Behaviour::Hog, share(*weight));
        }
        let shares = shares_over_a_second(&mut simulator);
        let (got, due) = (shares[place].iter().sum::<f64>(), f64::from(percent) / 100.0);
        prop_assert!((got - due).abs() <= 0.02 * due + 0.001, "{got} of {due}");
        for (got, due) in shares[vcpus..].iter().zip(fair_shares(&others, 1)) {
            let due = due * (1.0 - f64::from(percent) / 100.0);
            // Half a round more or less, which the end of a period cuts.
            prop_assert!((got - due).abs() <= 0.02 * due + 0.005, "{got} of {due}: {others:?} beside {percent} %");
        }
    }

    #[test]
    fn a_vm_whose_vcpus_take_turns_at_sleeping_gets_no_more_than_its_part(
        cpus in 1usize..=4, hogs in 0usize..2, sleepers in prop::collection::vec(any_sleeper_or_relay(), 1..8),
        others in 1usize..6, weight in 64u32..=1024, seed: u64,
    ) {
        let mut simulator = Simulator::new(cpus, seed);
        let mut vcpus = sleepers.clone();
        vcpus.extend((0..hogs).map(|_| Behaviour::Hog));
        let place = simulator.add_vm(Weight::new(weight), None, &vcpus);
        for _ in 0..others {
            simulator.add(Behaviour::Hog, share(256));
        }
        let mut demands = alloc::vec![(256, 1); others];
        demands.push((weight, vcpus.len()));
        let due = fair_shares_of_vms(&demands, cpus)[others];
        let shares = shares_over_a_second(&mut simulator);
        let got: f64 = shares[place].iter().sum();
        prop_assert!(got <= 1.02 * due + 0.001, "{got} of {due}: {vcpus:?} with {weight} beside {others} on {cpus}");
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

/// One of the vCPUs of a VM.
fn sibling(vm: &Arc<Account>) -> Share {
    Share::of_several(vm, None)
}

fn vm() -> Arc<Account> {
    Arc::new(Account::new(Weight::DEFAULT))
}

#[test]
fn who_spins_lets_the_one_go_first_that_works() {
    let vm = vm();
    let mut queue = RunQueue::new(Use::Shared);
    let nobody = |_: &i32| false;
    for number in 0..5 {
        let its_share = if number % 3 == 0 {
            sibling(&vm)
        } else {
            share(256)
        };
        let _ = queue.enqueue(number, its_share, Arrival::New, 0);
    }
    let turn = queue.choose(0).unwrap();
    assert_eq!(turn.vcpu, 0);
    let (spinner, its_share) = queue.end_turn(turn, 1000);
    // Its sibling gets what is left of the turn, and no more.
    queue.give_way(spinner, its_share, MS / 2, nobody);
    let turn = queue.choose(1000).unwrap();
    assert_eq!((turn.vcpu, turn.slice), (3, Slice::Ns(MS / 2)));
    let (other, other_share) = queue.end_turn(turn, MS);
    let _ = queue.enqueue(other, other_share, Arrival::Again, MS);
    // Nobody else is passed over, and the spinner comes last.
    let mut order = Vec::new();
    while let Some(turn) = queue.choose(MS) {
        order.push(turn.vcpu);
    }
    assert_eq!(order, [1, 2, 4, 3, 0]);
}

#[test]
fn who_has_been_sent_something_goes_before_one_that_only_works() {
    let vm = vm();
    let mut queue = RunQueue::new(Use::Shared);
    for number in 0..4 {
        let _ = queue.enqueue(number, sibling(&vm), Arrival::New, 0);
    }
    let turn = queue.choose(0).unwrap();
    let (spinner, its_share) = queue.end_turn(turn, 1000);
    queue.give_way(spinner, its_share, MS, |number| *number == 3);
    let turn = queue.choose(1000).unwrap();
    assert_eq!(turn.vcpu, 3);
    // It spins, too, and is called once more.
    let (other, other_share) = queue.end_turn(turn, 2000);
    queue.give_way(other, other_share, MS, |_| false);
    let turn = queue.choose(2000).unwrap();
    assert_eq!(turn.vcpu, 1, "neither of those that spin");
    let (third, third_share) = queue.end_turn(turn, 3000);
    queue.give_way(third, third_share, MS, |number| *number == 3);
    assert_eq!(queue.choose(3000).unwrap().vcpu, 3);
}

#[test]
fn a_sibling_on_another_cpu_is_taken_from_there_unless_it_spins() {
    let vm = vm();
    let mut there = RunQueue::new(Use::Shared);
    let nobody = |_: &i32| false;
    for (number, its_share) in [(1, share(256)), (2, sibling(&vm)), (3, sibling(&vm))] {
        let _ = there.enqueue(number, its_share, Arrival::New, 0);
    }
    // The first sibling there spins, and gives way to the other.
    let turn = there.choose(0).unwrap();
    let _ = there.end_turn(turn, 0);
    let turn = there.choose(0).unwrap();
    let (spinner, its_share) = there.end_turn(turn, 1000);
    there.give_way(spinner, its_share, MS, nobody);
    let mut elsewhere = RunQueue::new(Use::Shared);
    let _ = elsewhere.enqueue(4, sibling(&vm), Arrival::New, 0);
    let _ = elsewhere.enqueue(5, share(256), Arrival::New, 0);
    let turn = elsewhere.choose(0).unwrap();
    let (other, other_share) = elsewhere.end_turn(turn, MS);
    let _ = elsewhere.enqueue(other, other_share, Arrival::Again, MS);
    let turn = elsewhere.choose(MS).unwrap();
    assert_eq!(turn.vcpu, 4);
    let (_, mut here) = elsewhere.end_turn(turn, 2 * MS);
    assert!(there.steal_helper(&here, nobody, |_| false).is_none());
    let (taken, _) = there.steal_helper(&here, nobody, |_| true).unwrap();
    assert_eq!(taken, 3);
    assert!(there.steal_helper(&here, nobody, |_| true).is_none());
    assert!(!there.has_helper(&here, nobody) && there.has_helper(&here, |_| true));
    // One that is called and cannot leave gets the time of the one that waits for it.
    let time = here.virtual_time();
    there.lend_to_one(&mut here, |_| true);
    assert_eq!(here.virtual_time(), time, "that was later than its own");
}

#[test]
fn who_spins_is_tried_again_though_its_sibling_always_works() {
    for others in 0..3 {
        let vm = vm();
        let mut queue = RunQueue::new(Use::Shared);
        let _ = queue.enqueue('s', sibling(&vm), Arrival::New, 0);
        let _ = queue.enqueue('w', sibling(&vm), Arrival::New, 0);
        for _ in 0..others {
            let _ = queue.enqueue('h', share(256), Arrival::New, 0);
        }
        let (mut now_ns, mut tried_ns) = (0, 0);
        while now_ns < 5 * SECOND {
            let turn = queue.choose(now_ns).unwrap();
            let Slice::Ns(slice_ns) = turn.slice else {
                panic!("nobody owns the CPU")
            };
            if turn.vcpu == 's' {
                assert!(now_ns - tried_ns < 60 * MS, "{} ns", now_ns - tried_ns);
                tried_ns = now_ns;
                now_ns += 20_000;
                let (vcpu, its_share) = queue.end_turn(turn, now_ns);
                queue.give_way(vcpu, its_share, slice_ns, |_| false);
            } else {
                now_ns += slice_ns;
                let (vcpu, its_share) = queue.end_turn(turn, now_ns);
                let _ = queue.enqueue(vcpu, its_share, Arrival::Again, now_ns);
            }
        }
        assert!(now_ns - tried_ns < 60 * MS, "{} ns", now_ns - tried_ns);
    }
}

#[test]
fn who_gives_way_all_the_time_saves_nothing_up() {
    let mut queue = RunQueue::new(Use::Shared);
    let _ = queue.enqueue('s', share(256), Arrival::New, 0);
    let _ = queue.enqueue('h', share(256), Arrival::New, 0);
    let mut now_ns = 0;
    // For ten seconds one of them does nothing but spin.
    while now_ns < 10 * SECOND {
        let turn = queue.choose(now_ns).unwrap();
        let Slice::Ns(slice_ns) = turn.slice else {
            panic!("nobody owns the CPU")
        };
        if turn.vcpu == 's' {
            now_ns += 10_000;
            let (vcpu, its_share) = queue.end_turn(turn, now_ns);
            queue.give_way(vcpu, its_share, slice_ns, |_| false);
        } else {
            now_ns += slice_ns;
            let (vcpu, its_share) = queue.end_turn(turn, now_ns);
            let _ = queue.enqueue(vcpu, its_share, Arrival::Again, now_ns);
        }
    }
    let (began_ns, mut hog_ns) = (now_ns, 0);
    while now_ns < began_ns + SECOND {
        let turn = queue.choose(now_ns).unwrap();
        let Slice::Ns(slice_ns) = turn.slice else {
            panic!("nobody owns the CPU")
        };
        now_ns += slice_ns;
        if turn.vcpu == 'h' {
            hog_ns += slice_ns;
        }
        let (vcpu, its_share) = queue.end_turn(turn, now_ns);
        let _ = queue.enqueue(vcpu, its_share, Arrival::Again, now_ns);
    }
    assert!(hog_ns > 450 * MS, "the other got {hog_ns} ns of a second");
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
