//! [`converse`]: connects the terminal with a machine's serial port, until one of the two has enough.
//!
//! Each direction has its thread, and so has the window of the terminal; what they hear comes together here. What is
//! typed goes to the machine by a [`Typist`], past everything else.

use crate::emulator::console::{Announcement, Lines};
use crate::emulator::{Running, cleanup, hang};
use crate::guests::Guest;
use crate::report::say;
use crate::terminal::{Escapes, HELP, KEYS, Key, RawInput, Reports, is_interactive, size};
use anyhow::Result;
use bundle::Console;
use signal_hook::consts::SIGWINCH;
use signal_hook::iterator::Signals;
use std::io::{Read, Write, stdin, stdout};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The hypervisor said that all guests have ended, with this status.
    Ended(u8),
    /// The time was up.
    TimedOut,
    /// The machine ended without a word.
    MachineEnded,
    /// The user left, or switched the machine off.
    Left,
}

impl Outcome {
    /// The exit status that tells it.
    #[must_use]
    pub(super) fn exit_status(self) -> u8 {
        match self {
            Self::Ended(status) => status,
            Self::TimedOut => 124,
            Self::MachineEnded => 126,
            Self::Left => u8::try_from(cleanup::INTERRUPTED).unwrap_or(u8::MAX),
        }
    }
}

/// Whether the hypervisor's lines can be told from the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Each line of a guest has its name before it: what looks like the hypervisor's is the hypervisor's.
    Lines,
    /// The guest says what it likes: that all guests have ended is believed once the machine has ended, too.
    End,
    /// There is no hypervisor: the machine itself tells how it ended.
    Nobody,
}

impl Trust {
    pub(super) fn of(guests: &[Guest]) -> Self {
        let is_raw = |guest: &Guest| guest.config.console == Console::Terminal;
        if guests.iter().any(is_raw) {
            Self::End
        } else {
            Self::Lines
        }
    }
}

/// What the conversation hears of.
enum Event {
    /// The machine has said something.
    Serial(Vec<u8>),
    SerialClosed,
    /// The terminal's window has another size.
    Resized,
    Leave,
    Help,
}

/// What is typed, on its way to the machine. A thread of its own sends it: it is the only one that a machine holds up
/// which reads nothing.
#[derive(Clone, Debug)]
struct Typist {
    pieces: SyncSender<Vec<u8>>,
}

impl Typist {
    /// Pieces that may wait, besides what is in the connection's own buffers.
    const WAITING: usize = 64;

    fn start(mut serial: TcpStream) -> Result<Self> {
        let (pieces, waiting) = sync_channel::<Vec<u8>>(Self::WAITING);
        std::thread::Builder::new()
            .name("typist".into())
            .spawn(move || {
                for piece in waiting {
                    // A machine that has just ended is noticed by its closed port.
                    if serial.write_all(&piece).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { pieces })
    }

    /// Sends what somebody has typed. Where nobody reads for long it is lost, as on any serial line; whether it is not.
    fn offer(&self, piece: Vec<u8>) -> bool {
        self.pieces.try_send(piece).is_ok()
    }

    /// Sends what a file or another program has, and waits until there is room; whether it ever will be.
    fn send(&self, piece: Vec<u8>) -> bool {
        self.pieces.send(piece).is_ok()
    }
}

/// Connects the terminal with the machine until one of the two has enough. However it ends, the terminal has its
/// settings again and is sent `after`.
pub(super) fn converse(
    mut running: Running,
    timeout: Option<Duration>,
    trust: Trust,
    after: &'static str,
) -> Result<Outcome> {
    let (sender, events) = channel();
    let typist = Typist::start(running.serial()?)?;
    pump_serial(running.serial()?, sender.clone())?;
    let raw = if is_interactive() {
        say(KEYS);
        watch_window(sender.clone())?;
        Some(RawInput::begin(after)?)
    } else {
        None
    };
    pump_keys(typist.clone(), sender)?;

    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut lines = Lines::default();
    let mut reports = Reports::default();
    let mut ended = None;
    let mut is_switched_off = false;
    let outcome = loop {
        // Without a deadline an hour is as good as any other time to look again.
        let patience = deadline.map_or(Duration::from_secs(3600), |deadline| {
            deadline.saturating_duration_since(Instant::now())
        });
        match events.recv_timeout(patience) {
            Ok(Event::Serial(bytes)) => {
                let (shown, asked) = reports.push(&bytes);
                stdout().write_all(&shown)?;
                stdout().flush()?;
                if asked {
                    tell_size(&typist, &reports);
                }
                for line in lines.push(&shown) {
                    match Announcement::parse(&line) {
                        Some(Announcement::AllEnded { status }) => ended = Some(status),
                        Some(Announcement::SwitchedOff) => is_switched_off = true,
                        Some(Announcement::GuestEnded(_)) | None => {}
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
                let otherwise = if is_switched_off {
                    Outcome::Left
                } else {
                    Outcome::MachineEnded
                };
                break ended.map_or(otherwise, Outcome::Ended);
            }
            Ok(Event::Resized) => tell_size(&typist, &reports),
            Ok(Event::Leave) => break Outcome::Left,
            Ok(Event::Help) => HELP.iter().for_each(say),
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
                pass_on_answer(&typist, &events)?;
            }
            say("the time is up; this is where the machine was:");
            eprint!("{}", running.registers());
        }
        Outcome::MachineEnded => {
            running.finish(Duration::from_secs(2));
            say("the machine ended before its guests did. The emulator's last words:");
            eprint!("{}", running.last_words());
        }
        Outcome::Left if is_switched_off => say("you have switched the machine off"),
        Outcome::Left => {
            // Behind what the guest has said last, most likely a prompt.
            println!();
            say("you have left, and the machine is gone");
        }
    }
    Ok(outcome)
}

/// Asks Plinth about its guests, and shows what comes.
fn pass_on_answer(typist: &Typist, events: &Receiver<Event>) -> Result<()> {
    if !typist.offer(hang::TELL.to_vec()) {
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
            Ok(Event::Resized | Event::Leave | Event::Help) => {}
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

/// Tells the machine the size of the window, where it has asked for it.
fn tell_size(typist: &Typist, reports: &Reports) {
    if let Some(report) = reports.report(size()) {
        typist.offer(report);
    }
}

fn watch_window(events: Sender<Event>) -> Result<()> {
    let mut signals = Signals::new([SIGWINCH])?;
    std::thread::Builder::new()
        .name("window".into())
        .spawn(move || {
            for _ in &mut signals {
                if events.send(Event::Resized).is_err() {
                    return;
                }
            }
        })?;
    Ok(())
}

fn pump_keys(typist: Typist, events: Sender<Event>) -> Result<()> {
    let somebody_types = is_interactive();
    std::thread::Builder::new()
        .name("keys".into())
        .spawn(move || {
            let mut escapes = Escapes::default();
            let mut buffer = [0; 256];
            while let Ok(count @ 1..) = stdin().read(&mut buffer) {
                // What comes from a pipe is data: there is nobody to press Ctrl-A.
                if !somebody_types {
                    if !typist.send(buffer[..count].to_vec()) {
                        return;
                    }
                    continue;
                }
                let mut piece = Vec::with_capacity(count);
                for &byte in &buffer[..count] {
                    let event = match escapes.push(byte) {
                        Some(Key::Send(key)) => {
                            piece.push(key);
                            continue;
                        }
                        Some(Key::Leave) => Event::Leave,
                        Some(Key::Help) => Event::Help,
                        None => continue,
                    };
                    if events.send(event).is_err() {
                        return;
                    }
                }
                if !piece.is_empty() {
                    typist.offer(piece);
                }
            }
        })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::console::tests::connection;

    #[test]
    fn a_machine_that_read_nothing_kept_whoever_typed_from_leaving() {
        let (machine, serial) = connection();
        let typist = Typist::start(serial).unwrap();
        let piece = vec![b'k'; 64 << 10];
        // The connection's buffers take some megabytes; then keys are lost, and nobody waits.
        assert!((0..1000).any(|_| !typist.offer(piece.clone())));
        drop(machine);
    }

    #[test]
    fn what_is_typed_arrives_in_its_order() {
        let (mut machine, serial) = connection();
        let typist = Typist::start(serial).unwrap();
        assert!(typist.offer(b"one ".to_vec()) && typist.send(b"two".to_vec()));
        drop(typist);
        let mut arrived = String::new();
        machine.read_to_string(&mut arrived).unwrap();
        assert_eq!(arrived, "one two");
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
