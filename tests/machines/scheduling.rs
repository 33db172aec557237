//! Many guests on few CPUs, with what each of them gets measured by itself.
//!
//! Nothing here depends on how fast the machine is: guests tell which part of the time was theirs, and an emulated
//! machine tells the same each time.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bundle::Autostart;
use libtest_mimic::Trial;
use plinth_tests::console::End;
use plinth_tests::{Boot, Session, artifacts};
use xtask::guests::Guest;

use crate::trial;

/// Many guests take many times longer than one.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("shares_of_the_cpu_are_as_the_weights", || {
            weights(1, &[1, 2, 4])
        }),
        trial("shares_of_two_cpus_are_as_unequal_weights", || {
            weights(2, &[2, 3, 3])
        }),
        trial("shares_of_four_cpus_are_as_unequal_weights", || {
            weights(4, &[2, 3, 3, 2, 3, 3])
        }),
        trial("a_vm_has_its_weight_though_most_of_its_cpus_sleep", || {
            weights_of(1, &[(1, 4), (3, 2), (2, 1)])
        }),
        trial(
            "a_vm_has_its_weight_on_two_cpus_though_most_of_its_cpus_sleep",
            || weights_of(2, &[(2, 4), (3, 2), (3, 1)]),
        ),
        trial(
            "who_weighs_more_than_a_cpu_gets_one_and_the_others_the_rest",
            heavy,
        ),
        trial(
            "who_weighs_as_much_as_a_cpu_gets_one_and_the_others_half_of_one_each",
            edge,
        ),
        trial("a_pinned_vcpu_runs_on_its_cpus_only", pinned),
        trial("a_capped_guest_stays_at_its_cap", cap),
        trial("64_guests_run_side_by_side_on_two_cpus", scale),
        trial("a_busy_cpus_vcpus_are_taken_by_another", stealing),
        trial("who_wakes_up_beside_busy_guests_runs_soon", wake),
        trial("vcpus_that_spin_let_the_one_work_that_they_wait_for", gang),
    ]
}

/// A guest that tells what it got of a CPU between two times of its own, and goes on until a third.
fn share(name: &str, memory_bytes: u64, [from, to, until]: [u64; 3]) -> Result<Guest> {
    let mut guest = Guest::tiny(artifacts()?, "share")?;
    guest.config.name = name.to_owned();
    guest.config.memory_bytes = memory_bytes;
    guest.config.cmdline = format!("from={from} to={to} until={until}");
    Ok(guest)
}

/// The thousandths of a CPU that a guest says it got.
fn thousandths(machine: &mut Session, name: &str) -> Result<u64> {
    told_share(machine, name, 0)
}

/// The same in millionths.
fn millionths(machine: &mut Session, name: &str) -> Result<u64> {
    told_share(machine, name, 5)
}

/// A word of the line in which a guest tells its share.
fn told_share(machine: &mut Session, name: &str, word: usize) -> Result<u64> {
    machine.expect_end(name, End::PowerOff)?;
    let prefix = format!("[{name}] share: ");
    let said = machine
        .heard()
        .iter()
        .find_map(|line| line.strip_prefix(&prefix));
    let number = said.and_then(|line| line.split(' ').nth(word));
    number
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("{name} has not told its share"))
}

/// From, to and until when weights are measured, in ticks: for 10 s, of which the least share of all, a seventh of one CPU,
/// is 140 turns. One turn more or less is well within the two percent.
const MEASURED: [u64; 3] = [10_000_000, 110_000_000, 120_000_000];

/// What machines of these weights and numbers of vCPUs get of so many CPUs, in thousandths of one, while the first vCPU
/// of each is always busy and the others sleep.
fn shares(cpus: u32, machines: &[(u32, u32)]) -> Result<Vec<u64>> {
    let names: Vec<_> = (0..machines.len())
        .map(|place| format!("vm-{place}"))
        .collect();
    let guests = names.iter().zip(machines).map(|(name, (weight, vcpus))| {
        let mut guest = share(name, 6 << 20, MEASURED)?;
        guest.config.weight = 256 * weight;
        guest.config.cpus = *vcpus;
        let asleep = vcpus - 1;
        guest.config.cmdline += &format!(" asleep={asleep}");
        Ok(guest)
    });
    let guests = guests.collect::<Result<_>>()?;
    let mut machine = Boot::of(guests).cpus(cpus).patience(PATIENCE).start()?;
    let shares: Vec<_> = names
        .iter()
        .map(|name| thousandths(&mut machine, name))
        .collect::<Result<_>>()?;
    let all: u64 = shares.iter().sum();
    ensure!(
        all > 850 * u64::from(cpus),
        "the guests together got {all} thousandths: {shares:?}"
    );
    Ok(shares)
}

/// Within two percent of what is due, which is never more than a CPU here.
fn weights(cpus: u32, weights: &[u32]) -> Result<()> {
    let machines: Vec<_> = weights.iter().map(|weight| (*weight, 1)).collect();
    weights_of(cpus, &machines)
}

fn weights_of(cpus: u32, machines: &[(u32, u32)]) -> Result<()> {
    let shares = shares(cpus, machines)?;
    let all: u64 = shares.iter().sum();
    let sum: u32 = machines.iter().map(|(weight, _)| weight).sum();
    for (share, (weight, _)) in shares.iter().zip(machines) {
        let due = all as f64 * f64::from(*weight) / f64::from(sum);
        // A guest tells whole thousandths, rounded down.
        let got = *share as f64 + 0.5;
        ensure!(
            (got - due).abs() <= due * 0.02,
            "one got {share} thousandths and not {due:.0}: {shares:?}"
        );
    }
    Ok(())
}

/// Two thirds of two CPUs are due to the first one, and it can use one. What it leaves is shared by the others. (A CPU has
/// less than a thousand thousandths: what ends a turn and begins the next is part of it, on the boot CPU a tenth.)
fn heavy() -> Result<()> {
    let shares = shares(2, &[(6, 1), (1, 1), (1, 1), (1, 1)])?;
    let others = &shares[1..];
    let mean = others.iter().sum::<u64>() / 3;
    ensure!(
        shares[0] >= 880
            && mean >= 280
            && others.iter().all(|share| share.abs_diff(mean) * 50 <= mean),
        "they got {shares:?} thousandths"
    );
    Ok(())
}

/// One CPU of four is due to either of the last two, and half of one to each of the others: two of these must share a CPU all
/// the time, and nobody may disturb the two for longer than it takes to see it. What is due to one with the boot CPU is
/// what that gives out.
fn edge() -> Result<()> {
    let shares = shares(4, &[(1, 1), (1, 1), (1, 1), (1, 1), (2, 1), (2, 1)])?;
    let (light, heavy) = shares.split_at(4);
    let mean = light.iter().sum::<u64>() / 4;
    ensure!(
        light.iter().all(|share| share.abs_diff(mean) * 50 <= mean)
            && heavy
                .iter()
                .all(|share| share.abs_diff(2 * mean) * 20 <= 2 * mean),
        "they got {shares:?} thousandths"
    );
    Ok(())
}

/// All of these may use CPU 1 only: who is always busy, who comes and goes, and one with two vCPUs that call each
/// other. CPU 0 has nothing to do, and yet not a single turn is given there.
fn pinned() -> Result<()> {
    let mut guests = vec![bystander()?];
    for name in ["one", "two"] {
        guests.push(share(name, 6 << 20, [10_000_000, 40_000_000, 50_000_000])?);
    }
    let mut sleeper = Guest::tiny(artifacts()?, "sleeper")?;
    sleeper.config.cmdline = "wakes=60".to_owned();
    let mut gang = Guest::tiny(artifacts()?, "gang")?;
    gang.config.cpus = 2;
    guests.extend([sleeper, gang]);
    for guest in &mut guests {
        guest.config.affinity = vec![1];
    }
    let mut machine = Boot::of(guests).cpus(2).patience(PATIENCE).start()?;
    for name in ["sleeper", "gang"] {
        machine.expect_all_passed(name)?;
    }
    for name in ["one", "two"] {
        machine.expect_end(name, End::PowerOff)?;
    }
    let turns = column(&mut machine, 2, TURNS)?;
    ensure!(
        turns[0] == 0 && turns[1] > 100,
        "turns on the two CPUs: {turns:?}"
    );
    // One has a CPU for itself, and the two others must share theirs.
    let places = [("alone", 0), ("one", 1), ("two", 1)];
    let mut guests = Vec::new();
    for (name, cpu) in places {
        let mut guest = share(name, 6 << 20, [10_000_000, 40_000_000, 50_000_000])?;
        guest.config.affinity = vec![cpu];
        guests.push(guest);
    }
    let mut machine = Boot::of(guests).cpus(2).patience(PATIENCE).start()?;
    let shares = places
        .map(|(name, _)| thousandths(&mut machine, name))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    // The boot CPU looks after the machines, too.
    let [alone, one, two] = shares[..] else {
        bail!("three were asked");
    };
    ensure!(
        alone >= 850 && one.max(two) <= 500 && one.abs_diff(two) <= 10 && one >= 470,
        "they got {shares:?} thousandths"
    );
    Ok(())
}

/// A fifth of a CPU and no more, beside a guest that takes the rest, and where nobody else wants it. At the 10 MHz of an
/// emulated CPU every exit is a part of its turn. The other guest gets what the capped one leaves, but for two switches in
/// each period, and for what either was at when its turn ended, which it does not count.
fn cap() -> Result<()> {
    let capped = |name| {
        let mut guest = share(name, 6 << 20, [10_000_000, 40_000_000, 50_000_000])?;
        guest.config.cap_percent = Some(20);
        anyhow::Ok(guest)
    };
    let mut alone = Boot::of(vec![capped("alone")?])
        .patience(PATIENCE)
        .start()?;
    let other = share("other", 6 << 20, [10_000_000, 40_000_000, 50_000_000])?;
    let mut both = Boot::of(vec![capped("capped")?, other])
        .patience(PATIENCE)
        .start()?;
    for (machine, name) in [(&mut alone, "alone"), (&mut both, "capped")] {
        let share = thousandths(machine, name)?;
        ensure!(
            (190..=202).contains(&share),
            "`{name}` got {share} thousandths"
        );
    }
    let share = thousandths(&mut both, "other")?;
    ensure!(share >= 670, "the other guest got {share} thousandths");
    Ok(())
}

/// All are at work at the same time, and none gets much less than another: it is within 5 percent. (What they get is half of
/// what is there: turns of 200 µs are 2,000 ticks at 10 MHz, and from one to the next it takes about as many.)
fn scale() -> Result<()> {
    let names: Vec<_> = (1..=64).map(|number| format!("vm-{number}")).collect();
    let guests = names
        .iter()
        .map(|name| share(name, 3 << 20, [80_000_000, 110_000_000, 200_000_000]))
        .collect::<Result<_>>()?;
    let mut machine = Boot::of(guests).cpus(2).patience(PATIENCE).start()?;
    let shares = names
        .iter()
        .map(|name| millionths(&mut machine, name))
        .collect::<Result<Vec<_>>>()?;
    let least = shares.iter().min().context("no guest")?;
    let most = shares.iter().max().context("no guest")?;
    ensure!(
        least * 100 >= most * 95,
        "some got {least} millionths and others {most}: {shares:?}"
    );
    Ok(())
}

/// One that is never started, so that the machine stays on and answers questions when the others have ended.
fn bystander() -> Result<Guest> {
    let mut guest = Guest::tiny(artifacts()?, "hello")?;
    guest.config.autostart = Autostart::No;
    Ok(guest)
}

/// What the monitor's `cpus` shows in a column, for each CPU of the machine.
fn column(machine: &mut Session, cpus: u32, index: usize) -> Result<Vec<u64>> {
    machine.send(b"\x1dm")?;
    machine.send(b"cpus\r")?;
    (0..cpus)
        .map(|cpu| {
            let row = machine.expect(&format!("{cpu}    shared"))?;
            let figure = row.split_whitespace().nth(index);
            let figure = figure.and_then(|figure| figure.parse().ok());
            figure.with_context(|| format!("no figure in: {row}"))
        })
        .collect()
}

const TURNS: usize = 3;
const STOLEN: usize = 5;
const GAVE_WAY: usize = 6;

/// Three that are always busy, on two CPUs: two thirds of a CPU for each, which takes that one of them moves all the
/// time.
fn stealing() -> Result<()> {
    let names = ["one", "two", "three"];
    let mut guests = vec![bystander()?];
    for name in names {
        guests.push(share(name, 6 << 20, [10_000_000, 40_000_000, 50_000_000])?);
    }
    let mut machine = Boot::of(guests).cpus(2).patience(PATIENCE).start()?;
    let shares = names
        .map(|name| thousandths(&mut machine, name))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let all: u64 = shares.iter().sum();
    ensure!(
        all > 1800
            && shares
                .iter()
                .all(|share| (3 * share).abs_diff(all) * 50 <= all),
        "they got {shares:?} thousandths"
    );
    let stolen = column(&mut machine, 2, STOLEN)?;
    ensure!(
        stolen.iter().sum::<u64>() >= 10,
        "vCPUs were taken {stolen:?} times"
    );
    Ok(())
}

/// Several that spin for each other, beside one that is always busy. The one that works gets what is due to its VM:
/// without help it would work in its own turns only, an eighth or a sixteenth of a CPU.
fn gang() -> Result<()> {
    for (host_cpus, vcpus, work) in [(1, 4, 300), (2, 8, 550)] {
        let mut gang = Guest::tiny(artifacts()?, "gang")?;
        gang.config.cpus = vcpus;
        gang.config.cmdline = format!("cpus={vcpus} work={work}");
        let spin = Guest::tiny(artifacts()?, "spin")?;
        let mut machine = Boot::of(vec![gang, spin])
            .cpus(host_cpus)
            .patience(PATIENCE)
            .start()?;
        machine.expect_all_passed("gang")?;
        let yields = column(&mut machine, host_cpus, GAVE_WAY)?;
        ensure!(
            yields.iter().all(|count| *count > 0),
            "turns ended by spinning: {yields:?}"
        );
    }
    Ok(())
}

/// One that sleeps for some milliseconds at a time, beside three that are always busy: it does not wait for their turns,
/// of which each is several milliseconds, or some ten thousand ticks.
fn wake() -> Result<()> {
    let mut guests = vec![Guest::tiny(artifacts()?, "sleeper")?];
    guests[0].config.cmdline = "from=20000000 wakes=60 late=25000".to_owned();
    for number in 1..=3 {
        let mut spin = Guest::tiny(artifacts()?, "spin")?;
        spin.config.name = format!("spin-{number}");
        guests.push(spin);
    }
    let mut machine = Boot::of(guests).patience(PATIENCE).start()?;
    machine.expect_all_passed("sleeper")
}
