//! `cargo xtask conformance`: the conformance guests on the bare machine and under Plinth, and the score.

use crate::build::{Artifacts, conformance_guests};
use crate::conformance::{Score, Totals, compare, exceptions};
use crate::emulator::CpuModel;
use crate::paths::Paths;
use crate::report::say;
use crate::system::packages::{Need, ensure};
use anyhow::{Result, bail};
use clap::Args;
use std::process::ExitCode;

/// Which guests.
#[derive(Args, Clone, Debug)]
pub struct ConformanceOptions {
    /// Only these guests [default: all of guests/conformance]
    guests: Vec<String>,
    /// List the cases from which the emulator is excused, and why
    #[arg(long)]
    exceptions: bool,
    /// The processor that Bochs emulates
    #[arg(long, value_enum, default_value_t)]
    cpu_model: CpuModel,
}

/// Runs them, and prints the score of each.
pub fn conformance(paths: &Paths, options: &ConformanceOptions) -> Result<ExitCode> {
    if options.exceptions {
        list_exceptions();
        return Ok(ExitCode::SUCCESS);
    }
    let all = conformance_guests(paths)?;
    for guest in &options.guests {
        if !all.contains(guest) {
            bail!(
                "there is no conformance guest `{guest}`. There are: {}",
                all.join(", ")
            );
        }
    }
    let wanted = if options.guests.is_empty() {
        &all
    } else {
        &options.guests
    };
    ensure(paths, &Need::FOR_BOCHS)?;
    let artifacts = Artifacts::build(paths)?;
    let mut totals = Totals::default();
    println!("{}", heading());
    for guest in wanted {
        match compare(paths, &artifacts, guest, options.cpu_model) {
            Ok(score) => {
                totals.add(&score);
                println!("{}", row(guest, &score));
                for wrong in &score.wrong {
                    println!("    {wrong}");
                }
            }
            Err(error) => {
                totals.wrong += 1;
                say(format!("{error:#}"));
            }
        }
    }
    println!("{}", closing_line(totals));
    Ok(if totals.wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn heading() -> String {
    format!(
        "{:<12}{:>8}{:>14}{:>12}{:>10}{:>10}{:>8}",
        "guest", "passed", "as on bare", "guest only", "excused", "skipped", "wrong"
    )
}

fn row(guest: &str, score: &Score) -> String {
    format!(
        "{guest:<12}{:>8}{:>14}{:>12}{:>10}{:>10}{:>8}",
        score.passed(),
        score.agreed,
        score.guest_only,
        score.excused,
        score.skipped,
        score.wrong.len()
    )
}

fn closing_line(totals: Totals) -> String {
    let Totals {
        passed,
        agreed,
        excused,
        skipped,
        wrong,
    } = totals;
    format!(
        "{passed} cases pass under Plinth, {agreed} of them on the bare machine too; {excused} excused, {skipped} skipped, {wrong} wrong"
    )
}

fn list_exceptions() {
    for exception in exceptions::ALL {
        println!(
            "{} {} ({:?})\n    Bochs 2.7: {}\n    {}",
            exception.guest, exception.case, exception.side, exception.bochs, exception.manual
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_below_their_headings() {
        let score = Score {
            agreed: 120,
            guest_only: 3,
            excused: 1,
            skipped: 2,
            wrong: vec!["x".into()],
        };
        let row = row("exceptions", &score);
        assert_eq!(row.len(), heading().len());
        assert!(row.ends_with(" 1"));
        assert!(row.contains(" 123 "));
    }
}
