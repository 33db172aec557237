//! `tests/budgets.toml`: what each thing may cost at most in the emulator, where every instruction is one tick.
//!
//! Runs repeat exactly, so a budget is a ceiling a little above what was measured when it was written: whoever makes
//! a path longer sees the check fail, and either mends it or raises the budget with a reason.

use super::Row;
use crate::paths::Paths;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

/// What [`write`] leaves between a measurement and its budget: room for changes next door that move the compiler's
/// mind, and with it the moment at which a timer finds the hypervisor.
const ROOM_PERCENT: u64 = 10;
const ROOM_TICKS: u64 = 20;

const HEAD: &str = "\
# What each event may cost at most, in ticks, in Bochs on the default CPU model: `cargo xtask bench --check`.
# Written by `cargo xtask bench exits --write-budgets`; a path that has become longer needs a reason in the commit.
";

/// Ceilings by suite and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budgets(BTreeMap<String, BTreeMap<String, u64>>);

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
            for (name, ticks) in rows {
                let ticks = ticks
                    .as_integer()
                    .and_then(|ticks| u64::try_from(ticks).ok())
                    .with_context(|| format!("{suite}.{name} is no number of ticks"))?;
                let suite = budgets.0.entry(suite.clone()).or_default();
                suite.insert(name.clone(), ticks);
            }
        }
        Ok(budgets)
    }

    /// What is wrong with these rows; nothing if all is well. A budget for something that its suite no longer
    /// measures is wrong, too.
    #[must_use]
    pub fn violations(&self, rows: &[Row]) -> Vec<String> {
        let mut found = Vec::new();
        for (suite, budgets) in &self.0 {
            let measured: BTreeMap<_, _> = rows
                .iter()
                .filter(|row| row.suite == *suite)
                .map(|row| (row.name.as_str(), row.plinth))
                .collect();
            if measured.is_empty() {
                continue;
            }
            for (name, budget) in budgets {
                match measured.get(name.as_str()) {
                    Some(ticks) if ticks > budget => {
                        found.push(format!(
                            "{suite} {name}: {ticks} ticks, {budget} are allowed"
                        ));
                    }
                    Some(_) => {}
                    None => found.push(format!("{suite} {name}: has a budget, was not measured")),
                }
            }
        }
        found
    }

    /// Fails with all violations.
    pub fn check(&self, rows: &[Row]) -> Result<()> {
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
        suite.insert(row.name.clone(), with_room(row.plinth));
    }
    let file = file(paths);
    fs::write(&file, text(&budgets)).with_context(|| format!("cannot write {}", file.display()))
}

fn with_room(ticks: u64) -> u64 {
    ticks + (ticks * ROOM_PERCENT).div_ceil(100) + ROOM_TICKS
}

fn text(budgets: &Budgets) -> String {
    let mut out = HEAD.to_owned();
    for (suite, rows) in &budgets.0 {
        let _ = writeln!(out, "\n[{suite}]");
        for (name, ticks) in rows {
            let _ = writeln!(out, "{name} = {ticks}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;

    #[test]
    fn what_is_over_its_budget_or_no_longer_measured_is_found() {
        let budgets = Budgets::parse("[exits]\ncpuid = 300\nwbinvd = 10\n[linux]\nboot = 5\n");
        let budgets = budgets.unwrap();
        let rows = [row("cpuid", None, 301, None), row("new", None, 9, None)];
        assert_eq!(
            budgets.violations(&rows),
            [
                "exits cpuid: 301 ticks, 300 are allowed",
                "exits wbinvd: has a budget, was not measured"
            ]
        );
        let rows = [row("cpuid", None, 300, None), row("wbinvd", None, 1, None)];
        assert!(budgets.check(&rows).is_ok());
    }

    #[test]
    fn budgets_are_written_as_they_are_read() {
        let budgets = Budgets::parse("[exits]\na = 1\nb-c = 2\n").unwrap();
        assert_eq!(Budgets::parse(&text(&budgets)).unwrap(), budgets);
        assert_eq!([0, 1, 100, 276].map(with_room), [20, 22, 130, 324]);
    }

    #[test]
    fn a_budget_that_is_no_number_is_refused_by_name() {
        let error = Budgets::parse("[exits]\ncpuid = \"many\"\n").unwrap_err();
        assert!(error.to_string().contains("exits.cpuid"), "{error}");
    }
}
