//! `cargo xtask test`: every test there is, and one line at the end that counts them.

use crate::build::{Artifacts, CONFORMANCE, GUESTS, KERNEL};
use crate::emulator::Engine;
use crate::paths::Paths;
use crate::report::say;
use crate::system::host::Virtualisation;
use crate::system::packages::{Need, ensure};
use crate::toolchain::plain_cargo;
use anyhow::{Context, Result, bail};
use clap::Args;
use std::io::{BufRead, BufReader, Write, stdout};
use std::process::{Command, ExitCode, Stdio};

/// The package of the tests that boot machines.
const MACHINE_TESTS: &str = "plinth-tests";

/// The variable from which `proptest` takes the seed of the random cases; `.cargo/config.toml` has a fixed one.
const RANDOM_SEED: &str = "PROPTEST_RNG_SEED";

/// What `cargo xtask test` is told.
#[derive(Args, Clone, Debug)]
pub struct TestOptions {
    /// Only tests whose names contain this
    filter: Option<String>,
    /// Only the tests that need no emulator
    #[arg(long, conflicts_with = "machines")]
    host: bool,
    /// Only the tests that boot machines
    #[arg(long)]
    machines: bool,
    /// Draw the random cases from this number (as it stands, every run draws the same ones)
    #[arg(long, value_name = "N", conflicts_with = "machines")]
    seed: Option<u64>,
}

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// The line by which a test program sums up, as in `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    fn parse(line: &str) -> Option<Self> {
        let (_, numbers) = line
            .trim()
            .strip_prefix("test result: ")?
            .split_once(". ")?;
        let mut count = Self::default();
        for part in numbers.split("; ") {
            let (number, what) = part.split_once(' ')?;
            match what {
                "passed" => count.passed = number.parse().ok()?,
                "failed" => count.failed = number.parse().ok()?,
                "ignored" => count.skipped = number.parse().ok()?,
                _ => {}
            }
        }
        Some(count)
    }

    /// The last line of all.
    fn closing_line(self) -> String {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        if skipped == 0 {
            format!("{passed} passed, {failed} failed")
        } else {
            format!("{passed} passed, {failed} failed, {skipped} skipped")
        }
    }
}

/// Runs the tests.
pub fn test(paths: &Paths, options: &TestOptions) -> Result<ExitCode> {
    let mut total = Count::default();
    if !options.machines {
        say("tests that need no machine");
        let mut cargo = plain_cargo(paths);
        cargo.args(["test", "--quiet", "--workspace", "--no-fail-fast"]);
        if let Some(seed) = options.seed {
            cargo.env(RANDOM_SEED, seed.to_string());
        }
        for package in [KERNEL, GUESTS, CONFORMANCE, "plinth-boot", MACHINE_TESTS] {
            cargo.args(["--exclude", package]);
        }
        total.add(count(&mut cargo, options.filter.as_deref(), &mut stdout())?);
    }
    if !options.host {
        let mut needs = Need::FOR_BOCHS.to_vec();
        needs.extend([Need::Qemu, Need::Ovmf]);
        ensure(paths, &needs)?;
        // Only one test is about it, which is skipped without.
        if let Err(error) = ensure(paths, &[Need::Gdb]) {
            say(format!("{error:#}"));
        }
        Artifacts::build(paths)?;
        let engine = Engine::choose(Virtualisation::of_this_machine());
        say(format!(
            "tests that boot machines (default engine: {engine:?})"
        ));
        let mut cargo = plain_cargo(paths);
        cargo.args(["test", "--package", MACHINE_TESTS, "--no-fail-fast"]);
        total.add(count(&mut cargo, options.filter.as_deref(), &mut stdout())?);
    }
    sum_up(total, options.filter.as_deref())
}

/// The last line, and the status. A filter that no test's name contains is a mistake, and nothing has been tested.
fn sum_up(total: Count, filter: Option<&str>) -> Result<ExitCode> {
    if let (Some(filter), true) = (filter, total == Count::default()) {
        bail!("no test has `{filter}` in its name: nothing was tested");
    }
    println!("\n{}", total.closing_line());
    Ok(if total.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs `cargo test`, passes on what it prints, and counts. A run that fails without a failed test (it did not
/// compile, it crashed) counts as one.
fn count(cargo: &mut Command, filter: Option<&str>, sink: &mut impl Write) -> Result<Count> {
    if let Some(filter) = filter {
        cargo.args(["--", filter]);
    }
    let mut child = cargo
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo test")?;
    let mut total = Count::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            let text = String::from_utf8_lossy(&line);
            if let Some(count) = Count::parse(&text) {
                total.add(count);
            }
            writeln!(sink, "{text}")?;
        }
    }
    if !child.wait()?.success() && total.failed == 0 {
        total.failed = 1;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_a_test_program_is_read() {
        let line = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s";
        assert_eq!(
            Count::parse(line),
            Some(Count {
                passed: 3,
                failed: 2,
                skipped: 1
            })
        );
        assert_eq!(Count::parse("test result of something else"), None);
        assert_eq!(Count::parse("test boot ... ok"), None);
    }

    #[test]
    fn a_filter_that_no_test_has_in_its_name_fails() {
        let error = sum_up(Count::default(), Some("no_such_name")).unwrap_err();
        assert!(error.to_string().contains("`no_such_name`"), "{error}");
        let skipped = Count {
            skipped: 1,
            ..Count::default()
        };
        assert_eq!(sum_up(skipped, Some("gdb")).unwrap(), ExitCode::SUCCESS);
    }

    #[test]
    fn the_closing_line_is_plain() {
        let count = Count {
            passed: 12,
            failed: 0,
            skipped: 0,
        };
        assert_eq!(count.closing_line(), "12 passed, 0 failed");
        assert_eq!(
            Count {
                skipped: 3,
                ..count
            }
            .closing_line(),
            "12 passed, 0 failed, 3 skipped"
        );
    }

    #[test]
    fn a_run_that_does_not_even_start_its_tests_counts_as_failed() {
        let count = count(
            Command::new("sh").args(["-c", "exit 101", "sh"]),
            None,
            &mut Vec::new(),
        )
        .unwrap();
        assert_eq!(
            count,
            Count {
                passed: 0,
                failed: 1,
                skipped: 0
            }
        );
    }

    #[test]
    fn several_programs_are_added_up() {
        let script = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'; echo x; \
                      echo 'test result: ok. 5 passed; 0 failed; 1 ignored'";
        let mut shown = Vec::new();
        let count = count(
            Command::new("sh").args(["-c", script, "sh"]),
            None,
            &mut shown,
        )
        .unwrap();
        assert_eq!(shown.iter().filter(|byte| **byte == b'\n').count(), 3);
        assert_eq!(
            count,
            Count {
                passed: 7,
                failed: 0,
                skipped: 1
            }
        );
    }
}
