//! `cargo xtask`: picks the command.

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use xtask::build::Artifacts;
use xtask::commands::{
    bench, bootlog, check, conformance, debug, doctor, flash, image, profile, run, test,
};
use xtask::paths::Paths;

/// Builds, runs, tests and installs Plinth
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot Plinth in an emulator and run a guest
    #[command(after_help = run::MORE_HELP)]
    Run(run::RunOptions),
    /// Build the hypervisor, the guests and the disk image
    Build,
    /// Make a disk image that BIOS and UEFI machines start from
    Image(image::ImageOptions),
    /// Write such an image to a USB stick
    Flash(flash::FlashOptions),
    /// Boot a machine that waits for gdb at its first instruction, and start gdb with symbols
    Debug(debug::DebugOptions),
    /// Run all tests, or those whose names contain FILTER
    Test(test::TestOptions),
    /// Measure, next to the bare machine and to KVM
    Bench(bench::BenchOptions),
    /// Run the conformance guests on the bare machine and under Plinth, and compare
    Conformance(conformance::ConformanceOptions),
    /// Boot Linux on the bare machine and under Plinth, and compare what it warns of
    Bootlog(bootlog::BootLogOptions),
    /// Show where the hypervisor's own ticks go, as a flame graph
    Profile(profile::ProfileOptions),
    /// Check formatting, lints and the rules of the house
    Check,
    /// Tell what this machine has and lacks, and what to do about it
    Doctor,
}

fn main() -> ExitCode {
    let line = match Line::try_parse() {
        Ok(line) => line,
        Err(error) => {
            let _ = error.print();
            // clap's own status for a wrong option is 2, which here tells that a guest has crashed.
            return if error.use_stderr() {
                ExitCode::from(run::CANNOT_RUN)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match execute(&line.command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(run::CANNOT_RUN)
        }
    }
}

fn execute(command: &Command) -> Result<ExitCode> {
    let paths = Paths::of_checkout();
    match command {
        Command::Run(options) => return run::run(&paths, options),
        Command::Build => {
            Artifacts::build(&paths)?;
        }
        Command::Image(options) => image::image(&paths, options)?,
        Command::Flash(options) => flash::flash(&paths, options)?,
        Command::Debug(options) => debug::debug(&paths, options)?,
        Command::Test(options) => return test::test(&paths, options),
        Command::Bench(options) => bench::bench(&paths, options)?,
        Command::Conformance(options) => return conformance::conformance(&paths, options),
        Command::Bootlog(options) => return bootlog::bootlog(&paths, options),
        Command::Profile(options) => profile::profile(&paths, options)?,
        Command::Check => check::check(&paths)?,
        Command::Doctor if !doctor::doctor(&paths) => return Ok(ExitCode::FAILURE),
        Command::Doctor => {}
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a line of a README: quotes hold some together, what is in brackets may be left out, and a remark
    /// may follow.
    fn words(line: &str) -> Vec<String> {
        let line = line.split(" # ").next().unwrap_or(line);
        let unquoted = line.split('"').step_by(2);
        let quoted = line.split('"').skip(1).step_by(2);
        let mut words = Vec::new();
        for (index, part) in unquoted.enumerate() {
            words.extend(part.split_whitespace().map(str::to_owned));
            words.extend(quoted.clone().nth(index).map(str::to_owned));
        }
        words.retain(|word| !word.starts_with('['));
        words
    }

    #[test]
    fn the_readmes_commands_are_those_that_there_are() {
        let readme = std::fs::read_to_string(Paths::of_checkout().root().join("README.md"));
        let mut count = 0;
        for line in readme.unwrap().lines() {
            let Some(command) = line.strip_prefix("    cargo xtask ") else {
                continue;
            };
            count += 1;
            let parsed =
                Line::try_parse_from(std::iter::once("xtask".to_owned()).chain(words(command)));
            if let Err(error) = parsed {
                assert!(!error.use_stderr(), "{line}\n{error}");
            }
        }
        assert!(count > 20, "only {count} commands were found");
    }
}
