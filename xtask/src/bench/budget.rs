//! `tests/budgets.toml`: what each thing may cost at most in the emulator, where every instruction is one tick.
//!
//! Runs repeat exactly, so a budget is a ceiling a little above what was measured when it was written: whoever makes
//! a path longer sees the check fail, and either mends it or raises the budget with a reason.

use super::{Row, Target, linux, scale};
use crate::paths::Paths;
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

/// What [`write`] leaves between a measurement and its budget: room for changes next door that move the compiler's
/// mind, and with it the moment at which a timer finds the hypervisor.
const ROOM_PERCENT: u64 = 10;
const ROOM_TICKS: u64 = 20;
/// For the switch between VMs, a small difference of large figures: it depends on what the turns meet.
const ROOM_OF_SWITCH_PERCENT: u64 = 25;

/// The same for what is held against native, in points of percent: an interrupt more or less.
const ROOM_OVER_NATIVE: f64 = 0.5;

const HEAD: &str = "\
# What each thing may cost at most in Bochs on the default CPU model, in ticks or KiB, and with a point in percent over
# native: `cargo xtask bench --check`. Written by `cargo xtask bench SUITE --write-budgets`, which leaves some room but never
# more than the target allows; a path that has become longer needs a reason in the commit.
";

/// What something may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// So much, in the row's unit. A whole number in the file.
    AtMost(u64),
    /// So much more than native, in percent: for a Linux, whose kernel is not ours and grows with its packages. A
    /// number with a point in the file.
    PercentOverNative(f64),
}

impl Budget {
    fn parse(value: &toml::Value) -> Option<Self> {
        match value {
            toml::Value::Integer(most) => Some(Self::AtMost(u64::try_from(*most).ok()?)),
            toml::Value::Float(percent) => Some(Self::PercentOverNative(*percent)),
            _ => None,
        }
    }

    /// What a row gets: its figure with some room, but no more than its target allows.
    fn of(row: &Row) -> Self {
        match row.percent_over_native() {
            Some(percent) if row.suite == linux::SUITE => {
                let most = match row.target {
                    Some(Target::PercentOverNative(most)) => most,
                    _ => f64::INFINITY,
                };
                let with_room = (percent.max(0.0) + ROOM_OVER_NATIVE) * 10.0;
                Self::PercentOverNative((with_room.ceil() / 10.0).min(most))
            }
            _ => {
                let most = row.target.and_then(|target| target.most(row));
                Self::AtMost(with_room(row).min(most.unwrap_or(u64::MAX)))
            }
        }
    }

    /// What is wrong with a row, in words.
    fn violation(self, row: &Row) -> Option<String> {
        let Row { plinth, unit, .. } = row;
        match self {
            Self::AtMost(most) if *plinth > most => {
                Some(format!("{plinth} {unit}, {most} are allowed"))
            }
            Self::AtMost(_) => None,
            Self::PercentOverNative(most) => match row.percent_over_native() {
                Some(percent) if percent > most => {
                    Some(format!("{percent:.2} % over native, {most} % are allowed"))
                }
                Some(_) => None,
                None => Some("nothing native to hold against its budget".to_owned()),
            },
        }
    }
}

/// Budgets by suite and name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Budgets(BTreeMap<String, BTreeMap<String, Budget>>);

impl Budgets {
    /// Reads the file.
    pub fn read(paths: &Paths) -> Result<Self> {
        let file = file(paths);
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Self::parse(&text).with_context(|| file.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut budgets = Self::default();
        for (suite, rows) in text.parse::<toml::Table>()? {
            let rows = rows.as_table().context("a suite is a table")?;
            for (name, value) in rows {
                let budget = Budget::parse(value)
                    .with_context(|| format!("{suite}.{name} is no number of ticks or percent"))?;
                let suite = budgets.0.entry(suite.clone()).or_default();
                suite.insert(name.clone(), budget);
            }
        }
        Ok(budgets)
    }

    /// What is wrong with these rows; nothing if all is well: what is over its budget or misses its target, has no
    /// budget, or has one and is no longer measured although its suite is.
    #[must_use]
    pub fn violations(&self, rows: &[Row]) -> Vec<String> {
        let mut found = Vec::new();
        for row in rows {
            let budget = self.0.get(&row.suite).and_then(|rows| rows.get(&row.name));
            let mut wrong = match budget {
                Some(budget) => budget.violation(row),
                None if is_clocked(row) => None,
                None => Some("has no budget".to_owned()),
            };
            if row.is_reached() == Some(false) {
                wrong = Some(match wrong {
                    Some(wrong) => format!("{wrong}; and it misses its target"),
                    None => format!("{} {} miss the target", row.plinth, row.unit),
                });
            }
            found.extend(wrong.map(|wrong| format!("{} {}: {wrong}", row.suite, row.name)));
        }
        for (suite, budgets) in &self.0 {
            let mut measured = rows.iter().filter(|row| row.suite == *suite).peekable();
            if measured.peek().is_none() {
                continue;
            }
            let measured: BTreeSet<_> = measured.map(|row| row.name.as_str()).collect();
            let gone = budgets
                .keys()
                .filter(|name| !measured.contains(name.as_str()));
            found
                .extend(gone.map(|name| format!("{suite} {name}: has a budget, was not measured")));
        }
        found
    }

    /// Fails with all violations, and where there is nothing to check.
    pub fn check(&self, rows: &[Row]) -> Result<()> {
        ensure!(!rows.is_empty(), "nothing was measured");
        let found = self.violations(rows);
        if found.is_empty() {
            return Ok(());
        }
        bail!(
            "over budget (tests/budgets.toml):\n  {}",
            found.join("\n  ")
        )
    }
}

/// Whether it was timed by a clock, which only its target can be held against.
fn is_clocked(row: &Row) -> bool {
    row.unit == "ms"
}

fn file(paths: &Paths) -> PathBuf {
    paths.root().join("tests/budgets.toml")
}

/// Writes budgets for these rows; those of suites that were not measured stay.
pub fn write(paths: &Paths, rows: &[Row]) -> Result<()> {
    let mut budgets = Budgets::read(paths).unwrap_or_default();
    for row in rows {
        budgets.0.remove(&row.suite);
    }
    for row in rows {
        let suite = budgets.0.entry(row.suite.clone()).or_default();
        if !is_clocked(row) {
            suite.insert(row.name.clone(), Budget::of(row));
        }
    }
    let file = file(paths);
    fs::write(&file, text(&budgets)).with_context(|| format!("cannot write {}", file.display()))
}

fn with_room(row: &Row) -> u64 {
    let is_switch = row.suite == scale::SUITE && row.name.starts_with(scale::SWITCH);
    let percent = match is_switch {
        true => ROOM_OF_SWITCH_PERCENT,
        false => ROOM_PERCENT,
    };
    row.plinth + (row.plinth * percent).div_ceil(100) + ROOM_TICKS
}

fn text(budgets: &Budgets) -> String {
    let mut out = HEAD.to_owned();
    for (suite, rows) in &budgets.0 {
        let _ = writeln!(out, "\n[{suite}]");
        for (name, budget) in rows {
            let _ = match budget {
                Budget::AtMost(most) => writeln!(out, "{} = {most}", key(name)),
                Budget::PercentOverNative(percent) => writeln!(out, "{} = {percent:.1}", key(name)),
            };
        }
    }
    out
}

/// A name as TOML has keys: bare where it may be.
fn key(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match name.chars().all(is_bare) {
        true => name.to_owned(),
        false => format!("'{name}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::baseline;
    use super::super::tests::row;
    use super::*;
    use crate::emulator::Engine;

    fn with_target(target: Target, row: Row) -> Row {
        let target = Some(target);
        Row { target, ..row }
    }

    fn of_linux(name: &str, native: u64, plinth: u64) -> Row {
        Row {
            suite: linux::SUITE.to_owned(),
            ..row(name, Some(native), plinth, None)
        }
    }

    #[test]
    fn what_is_over_its_budget_or_has_none_or_is_no_longer_measured_is_found() {
        let budgets = Budgets::parse("[exits]\ncpuid = 300\nwbinvd = 10\n[scale]\nswitch = 5\n");
        let budgets = budgets.unwrap();
        let rows = [row("cpuid", None, 301, None), row("new", None, 9, None)];
        assert_eq!(
            budgets.violations(&rows),
            [
                "exits cpuid: 301 ticks, 300 are allowed",
                "exits new: has no budget",
                "exits wbinvd: has a budget, was not measured"
            ]
        );
        assert!(budgets.check(&rows).is_err());
        let rows = [row("cpuid", None, 300, None), row("wbinvd", None, 1, None)];
        assert!(budgets.check(&rows).is_ok());
    }

    #[test]
    fn a_suite_without_any_budget_and_a_run_without_any_figure_fail() {
        let budgets = Budgets::parse("[exits]\ncpuid = 300\n").unwrap();
        let rows = [of_linux("boot", 1000, 1000)];
        assert_eq!(budgets.violations(&rows), ["linux boot: has no budget"]);
        assert!(budgets.check(&[]).is_err());
    }

    #[test]
    fn a_missed_target_fails_whatever_the_budget_is() {
        let budgets = Budgets::parse("[exits]\ncpuid = 400\n").unwrap();
        let target = Target::TimesCheaperThanKvm(3.0);
        let row = |plinth| with_target(target, row("cpuid", None, plinth, Some(983)));
        assert!(budgets.check(&[row(327)]).is_ok());
        let missed = "exits cpuid: 328 ticks miss the target";
        assert_eq!(budgets.violations(&[row(328)]), [missed]);
    }

    #[test]
    fn what_is_held_against_native_may_take_longer_where_native_does() {
        let budgets = Budgets::parse("[linux]\nboot = 1.5\n").unwrap();
        assert!(budgets.check(&[of_linux("boot", 10_000, 10_150)]).is_ok());
        assert_eq!(
            budgets.violations(&[of_linux("boot", 10_000, 10_160)]),
            ["linux boot: 1.60 % over native, 1.5 % are allowed"]
        );
        let mut alone = of_linux("boot", 1, 1);
        alone.native = None;
        assert_eq!(budgets.violations(&[alone]).len(), 1);
    }

    #[test]
    fn the_clock_on_the_wall_is_held_against_the_target_alone() {
        let budgets = Budgets::default();
        let row = |ms| Row {
            unit: "ms".to_owned(),
            ..with_target(Target::AtMost(15_000), row("first line", None, ms, None))
        };
        assert!(budgets.check(&[row(15_000)]).is_ok());
        assert!(budgets.check(&[row(15_001)]).is_err());
    }

    #[test]
    fn a_budget_that_is_written_leaves_some_room_but_no_more_than_the_target() {
        let room = |ticks| with_room(&row("a", None, ticks, None));
        assert_eq!([0, 1, 100, 276].map(room), [20, 22, 130, 324]);
        let three = Target::TimesCheaperThanKvm(3.0);
        let one = Target::PercentOverNative(1.0);
        let cases = [
            (row("a", None, 276, None), Budget::AtMost(324)),
            (
                with_target(three, row("xsetbv", None, 310, Some(978))),
                Budget::AtMost(326),
            ),
            (
                with_target(three, row("missed", None, 500, Some(978))),
                Budget::AtMost(326),
            ),
            (
                with_target(Target::NoExit, row("cr3", Some(4), 4, None)),
                Budget::AtMost(16),
            ),
            (of_linux("pipe", 1000, 1011), Budget::PercentOverNative(1.6)),
            (
                with_target(one, of_linux("fork", 1000, 1006)),
                Budget::PercentOverNative(1.0),
            ),
            (
                of_linux("faster", 1000, 900),
                Budget::PercentOverNative(0.5),
            ),
        ];
        for (row, budget) in cases {
            assert_eq!(Budget::of(&row), budget, "{}", row.name);
        }
    }

    #[test]
    fn no_budget_in_the_file_allows_what_a_target_forbids() {
        let budgets = Budgets::read(&Paths::of_checkout()).unwrap();
        let mut held = 0;
        for (name, budget) in &budgets.0["exits"] {
            // Four ticks is what nothing at all takes.
            let mut row = row(name, Some(4), 0, None);
            baseline::set_beside(&mut row, Engine::Bochs);
            let most = row.target.and_then(|target| target.most(&row));
            if let (Budget::AtMost(budget), Some(most)) = (budget, most) {
                assert!(*budget <= most, "{name}: {budget}, the target is {most}");
                held += 1;
            }
        }
        assert!(held > 20, "{held}");
    }

    #[test]
    fn budgets_are_written_as_they_are_read() {
        let line = "[exits]\na = 1\nb-c = 2\n[linux]\n'of each, 1 VM' = 1.0\n'`x` to it' = 0.5\n";
        let budgets = Budgets::parse(line).unwrap();
        assert_eq!(Budgets::parse(&text(&budgets)).unwrap(), budgets);
    }

    #[test]
    fn a_budget_that_is_no_number_is_refused_by_name() {
        let error = Budgets::parse("[exits]\ncpuid = \"many\"\n").unwrap_err();
        assert!(error.to_string().contains("exits.cpuid"), "{error}");
    }
}
