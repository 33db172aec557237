//! Many guests on few CPUs, with what each of them gets measured by itself.
//!
//! Nothing here depends on how fast the machine is: guests tell which part of the time was theirs, and an emulated
//! machine tells the same each time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use plinth_tests::console::End;
use plinth_tests::{Boot, Session, artifacts};
use xtask::guests::Guest;

use crate::trial;

/// Many guests take many times longer than one.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("shares_of_the_cpu_are_as_the_weights", weights),
        trial("a_capped_guest_stays_at_its_cap", cap),
        trial("64_guests_run_side_by_side_on_two_cpus", scale),
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
    machine.expect_end(name, End::PowerOff)?;
    let prefix = format!("[{name}] share: ");
    let said = machine
        .heard()
        .iter()
        .find_map(|line| line.strip_prefix(&prefix));
    let number = said.and_then(|line| line.split(' ').next());
    number
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("{name} has not told its share"))
}

/// Weights 1, 2 and 4: shares of one, two and four sevenths, within five percent of each.
fn weights() -> Result<()> {
    let guests = [("one", 1), ("two", 2), ("four", 4)];
    let machine = guests.map(|(name, weight)| {
        let mut guest = share(name, 6 << 20, [10_000_000, 40_000_000, 50_000_000])?;
        guest.config.weight = 256 * weight;
        Ok(guest)
    });
    let machine = machine.into_iter().collect::<Result<_>>()?;
    let mut machine = Boot::of(machine).patience(PATIENCE).start()?;
    let shares = guests
        .map(|(name, _)| thousandths(&mut machine, name))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let all: u64 = shares.iter().sum();
    ensure!(
        all > 800,
        "the guests together got {all} thousandths: {shares:?}"
    );
    for ((name, weight), share) in guests.into_iter().zip(&shares) {
        let due = all * u64::from(weight) / 7;
        ensure!(
            share.abs_diff(due) * 100 <= due * 5,
            "`{name}` got {share} thousandths and not {due}: {shares:?}"
        );
    }
    Ok(())
}

/// A fifth of a CPU and no more, beside a guest that takes the rest, and where nobody else wants it. What changing
/// between guests costs is charged to them: at the 10 MHz of an emulated CPU more than a tenth of a short turn.
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
            (160..=202).contains(&share),
            "`{name}` got {share} thousandths"
        );
    }
    let share = thousandths(&mut both, "other")?;
    ensure!(share >= 700, "the other guest got {share} thousandths");
    Ok(())
}

/// All are at work at the same time, and none gets much less than another.
fn scale() -> Result<()> {
    let names: Vec<_> = (1..=64).map(|number| format!("vm-{number}")).collect();
    let guests = names
        .iter()
        .map(|name| share(name, 3 << 20, [80_000_000, 110_000_000, 200_000_000]))
        .collect::<Result<_>>()?;
    let mut machine = Boot::of(guests).cpus(2).patience(PATIENCE).start()?;
    let shares = names
        .iter()
        .map(|name| thousandths(&mut machine, name))
        .collect::<Result<Vec<_>>>()?;
    let least = shares.iter().min().context("no guest")?;
    let most = shares.iter().max().context("no guest")?;
    ensure!(
        least * 10 >= most * 8,
        "some got {least} thousandths and others {most}: {shares:?}"
    );
    Ok(())
}
