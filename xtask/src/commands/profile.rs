//! `cargo xtask profile`: runs a guest in Bochs, samples the hypervisor, and writes a flame graph.

use super::options::{GuestOptions, MachineOptions};
use crate::emulator::{Debugger, Engine};
use crate::paths::Paths;
use crate::profile::sample::Rate;
use crate::profile::stack::Unwinder;
use crate::profile::{Profile, take};
use crate::report::{Step, say};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::fs;
use std::path::PathBuf;

/// Functions that are listed.
const LISTED: usize = 25;

/// What `cargo xtask profile` is told.
#[derive(Args, Clone, Debug)]
pub struct ProfileOptions {
    #[command(flatten)]
    guest: GuestOptions,
    #[command(flatten)]
    machine: MachineOptions,
    /// Ticks between two samples; a prime number keeps step with no loop
    #[arg(help_heading = "Profile", long, value_name = "TICKS", default_value_t = 1999, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Ticks from the hypervisor's first instruction to the first sample
    #[arg(
        help_heading = "Profile",
        long,
        value_name = "TICKS",
        default_value_t = 0
    )]
    skip: u64,
    /// The most samples
    #[arg(
        help_heading = "Profile",
        long,
        value_name = "N",
        default_value_t = 20_000
    )]
    samples: u32,
    /// Where to put the flame graph [default: target/bench/profile-GUEST.svg]
    #[arg(help_heading = "Profile", long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Takes the profile, lists the functions that take most, and writes the flame graph.
pub fn profile(paths: &Paths, options: &ProfileOptions) -> Result<()> {
    let content = options.guest.content_on(paths, &options.machine)?;
    let names: Vec<_> = content
        .guests
        .iter()
        .map(|guest| guest.config.name.as_str())
        .collect();
    let names = names.join("-");
    let machine = options.machine.machine(paths, &content, Debugger::None)?;
    if machine.engine != Engine::Bochs {
        bail!("profiles are taken by Bochs's debugger: use --engine bochs");
    }
    if machine.cpus > 1 {
        bail!(
            "profiles are taken of a machine with one CPU: Bochs has no breakpoint in time with several"
        );
    }
    let rate = Rate {
        every_ticks: options.every,
        skip_ticks: options.skip,
        samples: options.samples,
    };
    let program = &content.artifacts.kernel_with_symbols;
    let unwinder = Unwinder::of(program)?;
    let samples = {
        let _step = Step::begin(format!("sampling {names} every {} ticks", options.every));
        take(paths, machine, rate, &unwinder)?
    };
    let profile = Profile::of(&samples, program)?;
    if profile.inside() == 0 {
        bail!(
            "none of {} samples was inside the hypervisor",
            profile.samples
        );
    }
    let out = options.out.clone().unwrap_or_else(|| {
        let name = format!("profile-{names}.svg");
        paths.target().join("bench").join(name)
    });
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder)?;
    }
    let title = format!("Plinth with {names}: its own ticks");
    fs::write(&out, profile.svg(&title)?)
        .with_context(|| format!("cannot write {}", out.display()))?;
    print!("{}", listing(&profile));
    say(format!("the flame graph is {}", out.display()));
    Ok(())
}

fn listing(profile: &Profile) -> String {
    let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole.max(1) as f64;
    let inside = profile.inside();
    let mut text = format!(
        "{} samples, {inside} ({:.1} %) of them inside the hypervisor, of which:\n",
        profile.samples,
        percent(inside, profile.samples)
    );
    for (name, count) in profile.by_function().into_iter().take(LISTED) {
        text.push_str(&format!("{:6.1} %  {name}\n", percent(count, inside)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listing_has_shares_of_the_hypervisors_own_ticks() {
        let profile = Profile {
            stacks: [("a;b".to_owned(), 3), ("a".to_owned(), 1)].into(),
            samples: 8,
        };
        assert_eq!(
            listing(&profile),
            "8 samples, 4 (50.0 %) of them inside the hypervisor, of which:\n  75.0 %  b\n  25.0 %  a\n"
        );
    }
}
