//! What holds of any load.

use proptest::prelude::*;

use super::super::simulator::fair_shares_of_vms;
use super::*;

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
