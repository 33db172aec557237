//! Many VMs on one CPU: what starting each takes, what each needs beside its RAM, what a switch between them costs.

use super::capture::measurements;
use super::exits::{GUEST, Host};
use super::startup::{Told, kib};
use super::{Row, Target, capture};
use crate::build::Artifacts;
use crate::guests::Guest;
use crate::paths::Paths;
use anyhow::{Context, Result, bail};

/// The name of the suite.
pub const SUITE: &str = "scale";

/// What the rows begin with that tell the cost of a switch.
pub(super) const SWITCH: &str = "switch";

/// How many VMs.
const COUNTS: [usize; 6] = [1, 2, 4, 8, 16, 64];

/// Little, so that many fit into an emulated machine, and zeroing it is not all there is to see.
const MEMORY_BYTES: u64 = 8 << 20;

/// The phase in which guests are made.
const PHASE: &str = "guests";

/// The most that a VM may need beside its RAM: 2 MiB.
const MOST_KIB: u64 = 2048;

/// Runs the suite.
pub fn measure(paths: &Paths, artifacts: &Artifacts, host: Host) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for count in COUNTS {
        rows.extend(with(paths, artifacts, host, count)?);
    }
    Ok(rows)
}

/// Measures with this many VMs.
pub fn with(paths: &Paths, artifacts: &Artifacts, host: Host, count: usize) -> Result<Vec<Row>> {
    let mut guests = Vec::new();
    for number in 0..count {
        let mut guest = Guest::tiny(artifacts, GUEST)?;
        guest.config.name = name(number);
        guest.config.memory_bytes = MEMORY_BYTES;
        // Alone there are no turns to measure.
        guest.config.cmdline = if count > 1 { "turns" } else { "alone" }.to_owned();
        guests.push(guest);
    }
    let captured = capture::run(paths, &host.plinth(artifacts, &guests, 1)?, |_| false)?;
    rows(count, &captured.lines)
}

fn name(number: usize) -> String {
    format!("{GUEST}{number}")
}

fn rows(count: usize, lines: &[String]) -> Result<Vec<Row>> {
    let told = Told::find(lines)?;
    if told.vm_kib.len() != count {
        bail!(
            "{count} VMs were to start, {} did:\n{}",
            told.vm_kib.len(),
            lines.join("\n")
        );
    }
    let start = told
        .phase(PHASE)
        .context("the phase of the guests is not told")?;
    let vms = count as u64;
    let label = |what: &str| format!("{what}, {count} VM{}", if count == 1 { "" } else { "s" });
    let memory = told.vm_kib.iter().sum::<u64>() / vms;
    let mut rows = vec![
        Row::ticks(SUITE, label("start of each"), start / vms),
        beside_ram(SUITE, &label("memory beside RAM"), memory),
    ];
    if count > 1 {
        let turns = (0..count)
            .map(|number| Turns::find(lines, &name(number)))
            .collect::<Result<Vec<_>>>()?;
        rows.push(Row::ticks(SUITE, label(SWITCH), switch_ticks(&turns)?));
    }
    Ok(rows)
}

/// What a guest has seen of some turns, one behind the other.
#[derive(Clone, Copy, Debug)]
struct Turns {
    /// How many.
    count: f64,
    /// Ticks in which the guest ran.
    run: f64,
    /// Those from the first turn's beginning to the last one's end, and the wait behind it.
    total: f64,
}

impl Turns {
    fn find(lines: &[String], guest: &str) -> Result<Self> {
        let figures = measurements(lines, Some(guest));
        let figure = |wanted: &str| {
            let found = figures.iter().find(|(name, _)| name == wanted);
            let (_, figures) = found.with_context(|| format!("{guest} told no {wanted}"))?;
            anyhow::Ok(*figures)
        };
        let (run, total) = (figure("turns-run")?, figure("turns-total")?);
        Ok(Self {
            count: run.median as f64,
            run: run.minimum as f64,
            total: total.minimum as f64,
        })
    }
}

/// The ticks in which none of the guests ran, for each of their turns. All have looked at about the same time.
fn switch_ticks(guests: &[Turns]) -> Result<u64> {
    let sum = |of: fn(&Turns) -> f64| guests.iter().map(of).sum::<f64>();
    let share = sum(|turns| turns.run / turns.total);
    let turns_per_tick = sum(|turns| turns.count / turns.total);
    if share >= 1.0 {
        bail!("the guests have run for {share} of one CPU's time");
    }
    Ok(((1.0 - share) / turns_per_tick) as u64)
}

/// A row for the memory that a VM needs beside its RAM.
pub(super) fn beside_ram(suite: &str, name: &str, memory_kib: u64) -> Row {
    Row {
        suite: suite.to_owned(),
        target: Some(Target::AtMost(MOST_KIB)),
        ..kib(name, memory_kib)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_what_the_turns_of_the_others_do_not_explain() {
        let mut lines = vec![
            "[ 0.8] 0 INFO  startup: 9 ticks: vt-x 1, guests 600; 1 KiB in use before the guests"
                .to_owned(),
        ];
        assert!(rows(3, &lines).is_err(), "no VM was told");
        for number in 0..3 {
            lines.push(
                "[ 0.8] 0 INFO  vm: bench0: 8 MiB, Pvh kernel of 37 KiB, 30 KiB of ours".into(),
            );
            lines.push(format!("[bench{number}] BENCH turns-run 24000 24"));
            lines.push(format!("[bench{number}] BENCH turns-total 80000 24"));
        }
        let rows = rows(3, &lines).unwrap();
        let figures: Vec<_> = rows
            .iter()
            .map(|row| (row.name.as_str(), row.plinth))
            .collect();
        assert_eq!(
            figures,
            [
                ("start of each, 3 VMs", 200),
                ("memory beside RAM, 3 VMs", 30),
                ("switch, 3 VMs", 111)
            ]
        );
        assert!(rows.iter().all(|row| row.suite == SUITE));
    }

    #[test]
    fn guests_that_ran_for_more_than_there_is_are_an_error() {
        let turns = Turns {
            count: 24.0,
            run: 24_000.0,
            total: 47_000.0,
        };
        assert!(switch_ticks(&[turns; 3]).is_err());
        assert_eq!(switch_ticks(&[turns; 1]).unwrap(), 958);
    }
}
