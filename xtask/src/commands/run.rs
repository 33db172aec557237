//! `cargo xtask run`: boots Plinth with a guest and connects the terminal to the machine's serial port.

use super::conversation::{Trust, converse};
use super::options::{GuestOptions, MachineOptions};
use crate::emulator::{Debugger, Engine};
use crate::guests::Guest;
use crate::linux;
use crate::paths::Paths;
use crate::report::say;
use crate::terminal::size;
use anyhow::{Result, bail};
use bundle::{Console, Screen};
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;

/// What stands below the options.
pub const MORE_HELP: &str = "\
Keys in a terminal: every key goes to the guest, Ctrl-C too. Ctrl-A x leaves, Ctrl-A h shows the other keys.

Exit status, of several guests that of the worst end:
  0    every guest switched itself off
  1    it asked for a reset, and no restart followed (--on-reboot stop)
  2    it crashed
  3    it could not start
  N    what it wrote to the exit port of --test-devices, twice that plus one
  124  the timeout was over
  125  xtask could not start the machine
  126  the machine ended before its guests (with --bare: otherwise than by switching itself off)
  130  you left, or switched the machine off";

/// What is to be run, and how.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    #[command(flatten)]
    guest: GuestOptions,
    #[command(flatten)]
    machine: MachineOptions,
    /// Without Plinth: the guest has the bare machine to itself
    #[arg(long, conflicts_with = "config", help_heading = "Run")]
    bare: bool,
    /// Give up after that many seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, help_heading = "Run")]
    timeout: Option<Duration>,
}

/// A guest's screen, and two lines below it.
const SCREEN_ROWS: u16 = 27;
const SCREEN_COLUMNS: u16 = 80;

/// What the hypervisor sends after a guest's screen, for a machine that could not: usual colours, the whole terminal
/// scrolls, the cursor is shown and at its end.
const RESTORE_SCREEN: &str = "\x1b[0m\x1b[r\x1b[999;1H\x1b[?25h\n";

/// The longest timeout, some thirty years: no clock ends before that.
const LONGEST_SECONDS: f64 = 1e9;

fn parse_seconds(text: &str) -> Result<Duration> {
    let seconds: f64 = text.parse()?;
    if seconds > LONGEST_SECONDS {
        bail!("that is for ever: at most {LONGEST_SECONDS} seconds, or no timeout at all");
    }
    Ok(Duration::try_from_secs_f64(seconds)?)
}

/// The exit status where xtask could not start the machine.
pub const CANNOT_RUN: u8 = 125;

/// Builds what is needed, boots it, and stays until the guests have ended.
pub fn run(paths: &Paths, options: &RunOptions) -> Result<ExitCode> {
    let mut content = options.guest.content_on(paths, &options.machine)?;
    let has_screen = content
        .guests
        .iter()
        .any(|guest| guest.config.screen == Screen::Text);
    // A tiny guest only reports; anything else is a system to work with, at its serial port or its screen. A
    // configuration says it itself.
    if let ([guest], false) = (&mut content.guests[..], options.guest.is_configured())
        && guest.config.screen == Screen::None
        && !content.artifacts.guests.contains_key(&guest.config.name)
    {
        guest.config.console = Console::Terminal;
    }
    if options.bare {
        let [guest] = &content.guests[..] else {
            bail!("--bare is for one guest: there is nobody to share the machine out");
        };
        let machine = options.machine.bare_machine(&content.artifacts, guest)?;
        say(format!(
            "booting {} on the bare machine, {}",
            guest.config.name,
            where_it_runs(machine.engine)
        ));
        let outcome = converse(machine.spawn(paths)?, options.timeout, Trust::Nobody, "")?;
        return Ok(ExitCode::from(outcome.exit_status()));
    }
    let trust = Trust::of(&content.guests);
    let machine = options.machine.machine(paths, &content, Debugger::None)?;
    introduce(machine.engine, &content.guests);
    if has_screen
        && let Some(size) = size()
        && (size.rows < SCREEN_ROWS || size.columns < SCREEN_COLUMNS)
    {
        say(format!(
            "the guest's screen wants a terminal of {SCREEN_COLUMNS} by {SCREEN_ROWS}, and this one has {} by {}",
            size.columns, size.rows
        ));
    }
    let after = if has_screen { RESTORE_SCREEN } else { "" };
    let outcome = converse(machine.spawn(paths)?, options.timeout, trust, after)?;
    Ok(ExitCode::from(outcome.exit_status()))
}

/// What is booted, and what somebody who waits has to know.
fn introduce(engine: Engine, guests: &[Guest]) {
    /// More are only counted.
    const NAMED: usize = 4;
    let names: Vec<_> = guests
        .iter()
        .map(|guest| {
            let config = &guest.config;
            format!("{} ({} MiB)", config.name, config.memory_bytes >> 20)
        })
        .collect();
    let names = match names.len() {
        1..=NAMED => names.join(", "),
        count => format!("{count} guests"),
    };
    say(format!(
        "booting Plinth {}, and on it {names}",
        where_it_runs(engine)
    ));
    let is_linux = |guest: &Guest| guest.config.name == linux::NAME;
    if engine == Engine::Bochs && guests.iter().any(is_linux) {
        say("an emulated processor is slow: Linux takes the better part of a minute to its shell");
    }
}

fn where_it_runs(engine: Engine) -> &'static str {
    match engine {
        Engine::Kvm => "in QEMU, with this processor's VT-x",
        Engine::Bochs => "in Bochs, which has VT-x in software",
        Engine::Qemu => "in QEMU's own emulation, which has no VT-x",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_timeout_that_no_clock_can_reach_is_refused_and_does_not_panic() {
        for text in ["1e19", "1e300", "inf", "1e9.5", "-1", "NaN", "soon"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
        assert!(
            parse_seconds("1e19")
                .unwrap_err()
                .to_string()
                .contains("at most")
        );
        let longest = parse_seconds("1e9").unwrap();
        assert!(Instant::now().checked_add(longest).is_some());
        assert_eq!(parse_seconds("0.5").unwrap(), Duration::from_millis(500));
    }
}
