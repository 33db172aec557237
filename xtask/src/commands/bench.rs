//! `cargo xtask bench`: measures, and shows the figures next to the bare machine's, KVM's and an older run's.

use super::options::engine_for_bios;
use crate::bench::exits::{self, Host};
use crate::bench::{Results, Row, budget, compare, linux, scale, startup, table};
use crate::build::Artifacts;
use crate::emulator::{CpuModel, Engine};
use crate::paths::Paths;
use crate::report::say;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Single events inside a guest: exits, interrupts, timers
    Exits,
    /// The same Linux on the bare machine and as a guest
    Linux,
    /// Up to 64 VMs on one CPU: start, memory, switches
    Scale,
    /// From the hypervisor's first instruction to the first guest, and sizes
    Startup,
}

impl Suite {
    const ALL: [Self; 4] = [Self::Exits, Self::Linux, Self::Scale, Self::Startup];
}

/// What `cargo xtask bench` is told.
#[derive(Args, Clone, Debug)]
pub struct BenchOptions {
    /// Only these [default: all]
    #[arg(value_enum, value_name = "SUITE")]
    suites: Vec<Suite>,
    /// Print the results as JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Show what has changed since this earlier run (a file of target/bench); with --json on the standard error
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Take the results of this earlier run instead of measuring
    #[arg(long, value_name = "FILE", conflicts_with_all = ["suites", "engine", "cpu_model"])]
    from: Option<PathBuf>,
    /// Fail if something costs more than tests/budgets.toml allows, or misses its target
    #[arg(long)]
    check: bool,
    /// Make the present figures, and a little more, the budgets
    #[arg(long, conflicts_with = "check")]
    write_budgets: bool,
    /// What executes the machines [default: kvm where it works, else bochs]
    #[arg(long, value_enum, value_name = "NAME")]
    engine: Option<Engine>,
    /// The processor that Bochs emulates
    #[arg(long, value_enum, value_name = "NAME", default_value = "skylake")]
    cpu_model: CpuModel,
}

impl BenchOptions {
    /// The suites, each once and in their order.
    fn chosen(&self) -> Vec<Suite> {
        let mut chosen = Suite::ALL.to_vec();
        chosen.retain(|suite| self.suites.is_empty() || self.suites.contains(suite));
        chosen
    }

    /// Budgets are written from, and held against, what repeats.
    fn need_repeatable(&self, results: &Results) -> Result<()> {
        let repeats = results.engine == name_of(Engine::Bochs)
            && results.cpu_model == name_of(CpuModel::default());
        if (self.check || self.write_budgets) && !repeats {
            bail!("budgets are for Bochs and its default CPU model: elsewhere ticks do not repeat");
        }
        Ok(())
    }
}

/// Measures, shows, and keeps the results.
pub fn bench(paths: &Paths, options: &BenchOptions) -> Result<()> {
    let old = options.compare.as_deref().map(read).transpose()?;
    let results = match &options.from {
        Some(file) => {
            let results = read(file)?;
            options.need_repeatable(&results)?;
            results
        }
        None => measure_all(paths, options)?,
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&results)?);
    } else {
        print!("{}", table::text(&results));
    }
    if let Some(old) = old {
        let changes = compare::text(&old, &results);
        if options.json {
            eprint!("{changes}");
        } else {
            print!("{changes}");
        }
    }
    if options.write_budgets {
        budget::write(paths, &results.rows)?;
    }
    if options.check {
        budget::Budgets::read(paths)?.check(&results.rows)?;
        say(format!(
            "{} figures are within their budgets and targets",
            results.rows.len()
        ));
    }
    Ok(())
}

/// The results of a run that was kept.
fn read(file: &Path) -> Result<Results> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no result", file.display()))
}

/// Runs the suites and keeps what they give.
fn measure_all(paths: &Paths, options: &BenchOptions) -> Result<Results> {
    let host = Host {
        engine: options.engine.unwrap_or_else(engine_for_bios),
        cpu_model: options.cpu_model,
    };
    let mut results = Results {
        commit: commit(paths),
        engine: name_of(host.engine),
        cpu_model: match host.engine {
            Engine::Bochs => name_of(host.cpu_model),
            Engine::Kvm | Engine::Qemu => "host".to_owned(),
        },
        rows: Vec::new(),
    };
    options.need_repeatable(&results)?;
    let artifacts = Artifacts::build(paths)?;
    for suite in options.chosen() {
        say(format!("measuring: {}", name_of(suite)));
        results
            .rows
            .extend(measure(suite, paths, &artifacts, host)?);
    }
    let file = keep(paths, &results, &options.chosen())?;
    say(format!("kept as {}", file.display()));
    Ok(results)
}

fn measure(suite: Suite, paths: &Paths, artifacts: &Artifacts, host: Host) -> Result<Vec<Row>> {
    match suite {
        Suite::Exits => exits::measure(paths, artifacts, host),
        Suite::Linux => linux::measure(paths, artifacts, host),
        Suite::Scale => scale::measure(paths, artifacts, host),
        Suite::Startup => startup::measure(paths, artifacts, host),
    }
}

fn name_of(value: impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

/// The results go to a file of their own, which only the same suites of the same commit and machine replace.
fn keep(paths: &Paths, results: &Results, suites: &[Suite]) -> Result<PathBuf> {
    let folder = paths.target().join("bench");
    fs::create_dir_all(&folder)?;
    let file = folder.join(file_name(results, suites));
    fs::write(&file, serde_json::to_string_pretty(results)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// `COMMIT-ENGINE-MODEL-SUITES.json`; `all` for all suites.
fn file_name(results: &Results, suites: &[Suite]) -> String {
    let suites = if suites == Suite::ALL {
        "all".to_owned()
    } else {
        let names: Vec<_> = suites.iter().copied().map(name_of).collect();
        names.join("-")
    };
    let Results {
        commit,
        engine,
        cpu_model,
        ..
    } = results;
    format!("{commit}-{engine}-{cpu_model}-{suites}.json")
}

/// The commit of the checkout, with `+` if something has changed since.
fn commit(paths: &Paths) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .current_dir(paths.root())
            .args(arguments)
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let is_changed = git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty());
    if is_changed { commit + "+" } else { commit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: BenchOptions,
    }

    #[test]
    fn suites_are_chosen_by_name() {
        let options = |words: &[&str]| {
            Line::try_parse_from([&["x"], words].concat()).map(|line| line.options)
        };
        assert_eq!(options(&["exits"]).unwrap().suites, [Suite::Exits]);
        assert!(options(&[]).unwrap().suites.is_empty());
        assert!(options(&["weather"]).is_err());
        assert!(options(&["--check", "--write-budgets"]).is_err());
        assert!(options(&["--from", "a.json", "--check"]).is_ok());
        assert!(options(&["exits", "--from", "a.json"]).is_err());
    }

    #[test]
    fn a_file_of_results_is_named_after_its_suites_so_that_no_other_replaces_it() {
        let results = Results {
            commit: "abc+".into(),
            engine: "bochs".into(),
            cpu_model: "skylake".into(),
            rows: Vec::new(),
        };
        let name = |words: &[&str]| {
            let line = Line::try_parse_from([&["x"], words].concat()).unwrap();
            file_name(&results, &line.options.chosen())
        };
        assert_eq!(name(&["exits"]), "abc+-bochs-skylake-exits.json");
        let both = "abc+-bochs-skylake-linux-startup.json";
        assert_eq!(name(&["startup", "linux", "startup"]), both);
        assert_eq!(name(&[]), "abc+-bochs-skylake-all.json");
    }

    #[test]
    fn budgets_are_refused_where_ticks_do_not_repeat() {
        let line = Line::try_parse_from(["x", "--check", "--cpu-model", "haswell"]).unwrap();
        let error = bench(&Paths::of_checkout(), &line.options).unwrap_err();
        assert!(error.to_string().contains("do not repeat"), "{error}");
    }
}
