//! [`Session`]: a machine at work, what it says and shows, and what is expected of it.
//!
//! Every wait has a deadline. Who misses one prints all that is known about the machine
//! ([`hang::report`](xtask::emulator::hang::report)).

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use xtask::emulator::Running;
use xtask::emulator::console::{Announcement, End, GuestEnd, LineReader, Next};
use xtask::emulator::hang;
use xtask::emulator::monitor::Monitor;
use xtask::terminal::{Reports, Size};

use crate::picture;

/// The terminal at the serial port: room for a guest's screen and some lines below it.
const TERMINAL_ROWS: u16 = 40;
const TERMINAL_COLUMNS: u16 = 120;

/// A machine at work.
pub struct Session {
    running: Running,
    serial: TcpStream,
    lines: LineReader,
    /// A terminal at the serial port.
    screen: Arc<Mutex<vt100::Parser>>,
    /// Whether it was asked to report its size.
    reports: Arc<Mutex<Reports>>,
    /// Everything that the serial port has said, for the report of a failure.
    heard: Vec<String>,
    /// QEMU's monitor, of a machine that is watched.
    monitor: Option<Monitor>,
    /// How long it waits for the next thing that is expected.
    patience: Duration,
}

impl Session {
    /// A session with a machine that has just been switched on.
    pub(crate) fn listen(
        running: Running,
        monitor: Option<Monitor>,
        patience: Duration,
    ) -> Result<Self> {
        let serial = running.serial()?;
        let screen = Arc::new(Mutex::new(vt100::Parser::new(
            TERMINAL_ROWS,
            TERMINAL_COLUMNS,
            0,
        )));
        let reports = Arc::new(Mutex::new(Reports::default()));
        let terminal = (Arc::clone(&screen), Arc::clone(&reports));
        let lines = LineReader::start_with_tap(serial.try_clone()?, move |bytes| {
            if let (Ok(mut screen), Ok(mut reports)) = (terminal.0.lock(), terminal.1.lock()) {
                screen.process(bytes);
                reports.push(bytes);
            }
        })?;
        Ok(Self {
            running,
            serial,
            lines,
            screen,
            reports,
            heard: Vec::new(),
            monitor,
            patience,
        })
    }

    /// Waits for a line that contains `text`, and returns it. Lines before it are passed over.
    pub fn expect(&mut self, text: &str) -> Result<String> {
        let deadline = Instant::now() + self.patience;
        loop {
            match self.next_line(deadline)? {
                Some(line) if line.contains(text) => return Ok(line),
                Some(_) => {}
                None => return Err(self.failure(&format!("`{text}` did not come"))),
            }
        }
    }

    /// Waits until the guest of this name has ended, in this way, and returns the detail. It may have ended
    /// before.
    pub fn expect_end(&mut self, name: &str, how: End) -> Result<String> {
        let deadline = Instant::now() + self.patience;
        let mut end = self.heard.iter().find_map(|line| end_of(name, line));
        while end.is_none() {
            let Some(line) = self.next_line(deadline)? else {
                return Err(self.failure(&format!("guest `{name}` did not end")));
            };
            end = end_of(name, &line);
        }
        match end {
            Some(end) if end.how == how => Ok(end.detail),
            end => Err(self.failure(&format!("guest `{name}` ended otherwise: {end:?}"))),
        }
    }

    /// Waits until all guests have ended, and returns the hypervisor's status.
    pub fn expect_all_ended(&mut self) -> Result<u8> {
        let deadline = Instant::now() + self.patience;
        loop {
            let Some(line) = self.next_line(deadline)? else {
                return Err(self.failure("not all guests have ended"));
            };
            if let Some(Announcement::AllEnded { status }) = Announcement::parse(&line) {
                return Ok(status);
            }
        }
    }

    /// Waits for the end of a guest that reports cases: it must switch itself off, have passed some and failed none.
    pub fn expect_all_passed(&mut self, name: &str) -> Result<()> {
        self.expect_end(name, End::PowerOff)?;
        let prefix = format!("[{name}] ");
        let said: Vec<_> = self
            .heard
            .iter()
            .filter_map(|line| line.strip_prefix(prefix.as_str()))
            .collect();
        let failed: Vec<_> = said
            .iter()
            .filter(|line| line.starts_with("FAIL "))
            .collect();
        if !failed.is_empty() {
            let failed: Vec<_> = failed.into_iter().map(ToString::to_string).collect();
            return Err(self.failure(&format!("cases failed:\n  {}", failed.join("\n  "))));
        }
        let passed = said.iter().filter(|line| line.starts_with("PASS ")).count();
        let summed_up = said
            .iter()
            .any(|line| **line == format!("DONE {passed} passed, 0 failed"));
        if passed == 0 || !summed_up {
            return Err(self.failure("the guest has not reported all of its cases"));
        }
        Ok(())
    }

    /// What a terminal at the serial port shows: for guests with a screen.
    pub fn screen(&self) -> Result<vt100::Screen> {
        let terminal = self.screen.lock();
        let terminal = terminal.map_err(|_| anyhow!("the terminal is broken"))?;
        Ok(terminal.screen().clone())
    }

    /// Whether a terminal at the serial port is to report its size now.
    pub fn wants_size_reports(&self) -> Result<bool> {
        let reports = self.reports.lock();
        let reports = reports.map_err(|_| anyhow!("the terminal is broken"))?;
        let size = Size {
            rows: TERMINAL_ROWS,
            columns: TERMINAL_COLUMNS,
        };
        Ok(reports.report(Some(size)).is_some())
    }

    /// Waits until the terminal shows `text` in one of its rows.
    pub fn expect_shown(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + self.patience;
        loop {
            let shown = self.screen()?.contents();
            if shown.contains(text) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.failure(&format!("`{text}` was not shown; this was:\n{shown}\n")));
            }
            // Lines that come meanwhile are heard, and show it sooner where the machine ends.
            self.next_line(Instant::now() + Duration::from_millis(100))?;
        }
    }

    /// Waits for the epitaph of the hypervisor, which has been asked to crash, and returns its lines.
    pub fn expect_epitaph(&mut self) -> Result<Vec<String>> {
        let deadline = Instant::now() + self.patience;
        let mut epitaph = Vec::new();
        loop {
            let Next::Line(line) = self.lines.next(deadline) else {
                return Err(self.failure("the epitaph is not complete"));
            };
            self.heard.push(line.clone());
            if line.starts_with("plinth: panic ends") {
                return Ok(epitaph);
            }
            if !epitaph.is_empty() || line.starts_with("plinth: panic on CPU") {
                epitaph.push(line);
            }
        }
    }

    /// Waits until a machine that is watched has switched itself off, and returns the lines on its screen.
    pub fn screen_when_off(&mut self) -> Result<Vec<String>> {
        let monitor = self
            .monitor
            .as_mut()
            .context("the machine is not watched")?;
        monitor.wait_for_power_off(self.patience)?;
        let picture = monitor.picture(&self.running)?;
        picture::text(&picture)
    }

    /// Types at the serial port.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.serial
            .write_all(bytes)
            .context("the serial port is closed")
    }

    /// How the cases of a guest have ended so far, by their names: `PASS`, `FAIL` or `SKIP`. On the bare machine
    /// `guest` is `None`: nobody puts a name before its lines.
    pub fn cases(&self, guest: Option<&str>) -> BTreeMap<String, String> {
        let prefix = guest.map_or_else(String::new, |name| format!("[{name}] "));
        let said = self
            .heard
            .iter()
            .filter_map(|line| line.strip_prefix(&prefix));
        said.filter_map(|line| {
            let (verdict, rest) = line.split_once(' ')?;
            let name = rest.split_once(':').map_or(rest, |(name, _)| name);
            ["PASS", "FAIL", "SKIP"]
                .contains(&verdict)
                .then(|| (name.to_owned(), verdict.to_owned()))
        })
        .collect()
    }

    /// All lines so far.
    pub fn heard(&self) -> &[String] {
        &self.heard
    }

    /// Waits for the emulator itself to end.
    pub fn expect_power_off(&mut self) -> Result<()> {
        let deadline = Instant::now() + self.patience;
        if let Some(mut monitor) = self.monitor.take() {
            monitor.wait_for_power_off(self.patience)?;
            monitor.quit()?;
        }
        while self.next_line(deadline)?.is_some() {}
        self.running.finish(Duration::from_secs(5));
        match self.running.try_wait()? {
            Some(_) => Ok(()),
            None => bail!("the machine did not switch itself off"),
        }
    }

    /// The next line; `None` at the deadline or when the machine is off.
    fn next_line(&mut self, deadline: Instant) -> Result<Option<String>> {
        match self.lines.next(deadline) {
            Next::Line(line) => {
                self.heard.push(line.clone());
                if line.contains("this is a bug in Plinth") {
                    return Err(self.failure("the hypervisor has found a bug of its own"));
                }
                Ok(Some(line))
            }
            Next::Timeout | Next::Closed => Ok(None),
        }
    }

    /// Everything that helps to understand what went wrong.
    fn failure(&mut self, what: &str) -> anyhow::Error {
        hang::report(what, &mut self.running, &self.lines, &mut self.heard)
    }
}

/// What a line says about the end of the guest of this name.
fn end_of(name: &str, line: &str) -> Option<GuestEnd> {
    match Announcement::parse(line) {
        Some(Announcement::GuestEnded(end)) if end.name == name => Some(end),
        _ => None,
    }
}
