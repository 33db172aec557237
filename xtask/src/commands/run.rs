//! `cargo xtask run`: boots Plinth with a guest and connects the terminal to the machine's serial port.

use super::options::{GuestOptions, MachineOptions};
use crate::emulator::console::{Announcement, Lines};
use crate::emulator::{Debugger, Running, cleanup, hang};
use crate::guests::Guest;
use crate::paths::Paths;
use crate::report::say;
use crate::terminal::{Escapes, HELP, Key, RawInput, is_interactive, size};
use anyhow::{Result, bail};
use bundle::{Console, Screen};
use clap::Args;
use std::io::{Read, Write, stdin, stdout};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// What the exit status tells.
pub const EXIT_STATUS: &str = "\
Exit status: 0 where every guest switched itself off, 1 after a reset that no restart followed (--on-reboot stop), 2 after a crash, 3 where one \
could not start; what a guest itself wrote to the exit port of --test-devices, twice that plus one; 124 after the timeout, 125 where xtask could not start the machine, 126 where the \
machine ended before its guests (with --bare: otherwise than by switching itself off), 130 where you left.";

/// What is to be run, and how.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    #[command(flatten)]
    guest: GuestOptions,
    #[command(flatten)]
    machine: MachineOptions,
    /// Without Plinth: the guest has the bare machine to itself
    #[arg(long, conflicts_with = "config")]
    bare: bool,
    /// Give up after that many seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
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

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The hypervisor said that all guests have ended, with this status.
    Ended(u8),
    /// The time was up.
    TimedOut,
    /// The machine ended without a word.
    MachineEnded,
    /// The user left.
    Left,
}

/// The exit status where xtask could not start the machine.
pub const CANNOT_RUN: u8 = 125;

impl Outcome {
    /// The exit status that tells it.
    #[must_use]
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Ended(status) => status,
            Self::TimedOut => 124,
            Self::MachineEnded => 126,
            Self::Left => u8::try_from(cleanup::INTERRUPTED).unwrap_or(u8::MAX),
        }
    }
}

/// Builds what is needed, boots it, and stays until the guests have ended.
pub fn run(paths: &Paths, options: &RunOptions) -> Result<ExitCode> {
    let mut content = options.guest.content(
        paths,
        options.machine.for_configuration(),
        None,
        options.machine.usual_options(),
    )?;
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
        let outcome = converse(machine.spawn(paths)?, options.timeout, Trust::Nobody, "")?;
        return Ok(ExitCode::from(outcome.exit_status()));
    }
    let trust = Trust::of(&content.guests);
    let machine = options.machine.machine(paths, &content, Debugger::None)?;
    if has_screen
        && let Some((rows, columns)) = size()
        && (rows < SCREEN_ROWS || columns < SCREEN_COLUMNS)
    {
        say(format!(
            "the guest's screen wants a terminal of {SCREEN_COLUMNS} by {SCREEN_ROWS}, and this one has {columns} by {rows}"
        ));
    }
    let after = if has_screen { RESTORE_SCREEN } else { "" };
    let outcome = converse(machine.spawn(paths)?, options.timeout, trust, after)?;
    Ok(ExitCode::from(outcome.exit_status()))
}

/// Whether the hypervisor's lines can be told from the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Each line of a guest has its name before it: what looks like the hypervisor's is the hypervisor's.
    Lines,
    /// The guest says what it likes: that all guests have ended is believed once the machine has ended, too.
    End,
    /// There is no hypervisor: the machine itself tells how it ended.
    Nobody,
}

impl Trust {
    fn of(guests: &[Guest]) -> Self {
        let is_raw = |guest: &Guest| guest.config.console == Console::Terminal;
        if guests.iter().any(is_raw) {
            Self::End
        } else {
            Self::Lines
        }
    }
}

enum Event {
    Serial(Vec<u8>),
    SerialClosed,
    Key(Key),
}

/// Connects the terminal with the machine until one of the two has enough. However it ends, the terminal has its
/// settings again and is sent `after`.
pub(crate) fn converse(
    mut running: Running,
    timeout: Option<Duration>,
    trust: Trust,
    after: &'static str,
) -> Result<Outcome> {
    let (sender, events) = channel();
    pump_serial(running.serial()?, sender.clone())?;
    pump_keys(sender)?;
    let raw = if is_interactive() {
        say(HELP);
        Some(RawInput::begin(after)?)
    } else {
        None
    };

    let mut serial = running.serial()?;
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut lines = Lines::default();
    let mut ended = None;
    let outcome = loop {
        // Without a deadline an hour is as good as any other time to look again.
        let patience = deadline.map_or(Duration::from_secs(3600), |deadline| {
            deadline.saturating_duration_since(Instant::now())
        });
        match events.recv_timeout(patience) {
            Ok(Event::Serial(bytes)) => {
                stdout().write_all(&bytes)?;
                stdout().flush()?;
                for line in lines.push(&bytes) {
                    if let Some(Announcement::AllEnded { status }) = Announcement::parse(&line) {
                        ended = Some(status);
                    }
                }
                if let (Some(status), Trust::Lines) = (ended, trust) {
                    break Outcome::Ended(status);
                }
            }
            Ok(Event::SerialClosed) | Err(RecvTimeoutError::Disconnected) => {
                if trust == Trust::Nobody {
                    running.finish(Duration::from_secs(2));
                    ended = running.is_off().then_some(0);
                }
                break ended.map_or(Outcome::MachineEnded, Outcome::Ended);
            }
            Ok(Event::Key(Key::Send(key))) => {
                // A machine that has just ended is noticed by its closed port.
                let _ = serial.write_all(&[key]);
            }
            Ok(Event::Key(Key::Leave)) => break Outcome::Left,
            Ok(Event::Key(Key::Help)) => say(HELP),
            Err(RecvTimeoutError::Timeout) if deadline.is_some() => break Outcome::TimedOut,
            Err(RecvTimeoutError::Timeout) => {}
        }
    };
    drop(raw);
    match outcome {
        Outcome::Ended(_) => running.finish(Duration::from_secs(5)),
        Outcome::TimedOut => {
            if trust != Trust::Nobody {
                say("the time is up; this is what Plinth tells about its guests:");
                pass_on_answer(&mut serial, &events)?;
            }
            say("the time is up; this is where the machine was:");
            eprint!("{}", running.registers());
        }
        Outcome::MachineEnded => {
            running.finish(Duration::from_secs(2));
            say("the machine ended before its guests did. The emulator's last words:");
            eprint!("{}", running.last_words());
        }
        Outcome::Left => {}
    }
    Ok(outcome)
}

/// Asks Plinth about its guests, and shows what comes.
fn pass_on_answer(serial: &mut TcpStream, events: &Receiver<Event>) -> Result<()> {
    if serial.write_all(hang::TELL).is_err() {
        return Ok(());
    }
    let (end, mut silent) = (
        Instant::now() + hang::ANSWER,
        Instant::now() + hang::SILENCE,
    );
    loop {
        let patience = end.min(silent).saturating_duration_since(Instant::now());
        match events.recv_timeout(patience) {
            Ok(Event::Serial(bytes)) => {
                stdout().write_all(&bytes)?;
                silent = Instant::now() + hang::SILENCE;
            }
            Ok(Event::Key(_)) => {}
            Ok(Event::SerialClosed) | Err(_) => break,
        }
        if patience.is_zero() {
            break;
        }
    }
    stdout().flush()?;
    Ok(())
}

fn pump_serial(mut serial: TcpStream, events: Sender<Event>) -> Result<()> {
    std::thread::Builder::new()
        .name("serial".into())
        .spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let event = match serial.read(&mut buffer) {
                    Ok(0) | Err(_) => Event::SerialClosed,
                    Ok(count) => Event::Serial(buffer[..count].to_vec()),
                };
                let is_last = matches!(event, Event::SerialClosed);
                if events.send(event).is_err() || is_last {
                    return;
                }
            }
        })?;
    Ok(())
}

fn pump_keys(events: Sender<Event>) -> Result<()> {
    let escapes_apply = is_interactive();
    std::thread::Builder::new()
        .name("keys".into())
        .spawn(move || {
            let mut escapes = Escapes::default();
            let mut buffer = [0; 256];
            while let Ok(count) = stdin().read(&mut buffer) {
                if count == 0 {
                    return;
                }
                for &byte in &buffer[..count] {
                    // What comes from a pipe is data: there is nobody to press Ctrl-A.
                    let key = if escapes_apply {
                        escapes.push(byte)
                    } else {
                        Some(Key::Send(byte))
                    };
                    if let Some(key) = key
                        && events.send(Event::Key(key)).is_err()
                    {
                        return;
                    }
                }
            }
        })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn every_kind_of_end_has_a_status_of_its_own() {
        let ends = [
            Outcome::Ended(0),
            Outcome::Ended(1),
            Outcome::TimedOut,
            Outcome::MachineEnded,
            Outcome::Left,
        ];
        let statuses: Vec<_> = ends.iter().map(|end| end.exit_status()).collect();
        assert_eq!(statuses, [0, 1, 124, 126, 130]);
    }
}
