//! [`Terminal`]: a command in a terminal of its own, as somebody sits before it.
//!
//! The terminal is a pseudo-terminal. What the command shows there is kept, keys are typed at it, and its window can be
//! made larger, of which the kernel tells the command as it would in a real one (SIGWINCH).

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use rustix::termios::{Winsize, tcsetwinsize};

/// How often it is looked whether something has come.
const LOOK: Duration = Duration::from_millis(20);

/// A terminal with a command at work in it. Dropped, the command hears that its terminal is gone, and is ended.
pub struct Terminal {
    master: File,
    /// The command's side, kept so that its settings can be looked at also when the command has ended.
    slave: File,
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    /// How much of that was passed over by what was expected so far.
    seen: usize,
    patience: Duration,
}

impl Terminal {
    /// Runs a command in a window of this size, as the only thing in its terminal.
    pub fn run(command: &[&str], rows: u16, columns: u16, patience: Duration) -> Result<Self> {
        let OpenptyResult { master, slave } = openpty(Some(&size(rows, columns)), None)?;
        let (master, slave) = (File::from(master), File::from(slave));
        // It makes a session with this terminal, and waits: the status is the command's.
        let child = Command::new("setsid")
            .args(["--ctty", "--fork", "--wait"])
            .args(command)
            .stdin(slave.try_clone()?)
            .stdout(slave.try_clone()?)
            .stderr(slave.try_clone()?)
            .spawn()
            .context("cannot run setsid")?;
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, screen) = (master.try_clone()?, Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                let mut screen = screen.lock().unwrap_or_else(PoisonError::into_inner);
                screen.extend_from_slice(&buffer[..count]);
            }
        });
        Ok(Self {
            master,
            slave,
            child,
            shown,
            seen: 0,
            patience,
        })
    }

    /// Waits until this is shown, behind what was expected before.
    pub fn expect(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + self.patience;
        loop {
            let ended = self.child.try_wait()?;
            let all = self.shown();
            let rest = all.get(self.seen..).unwrap_or_default();
            if let Some(at) = rest.find(text) {
                self.seen += at + text.len();
                return Ok(());
            }
            if let Some(status) = ended {
                bail!("it ended with {status} and has not shown `{text}`:\n{all}");
            }
            if Instant::now() > deadline {
                bail!("`{text}` was not shown:\n{all}");
            }
            std::thread::sleep(LOOK);
        }
    }

    /// All that was shown so far; what is no ASCII is a question mark.
    #[must_use]
    pub fn shown(&self) -> String {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let ascii = |byte: &u8| if byte.is_ascii() { *byte as char } else { '?' };
        shown.iter().map(ascii).collect()
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        Ok(self.master.write_all(keys.as_bytes())?)
    }

    /// Gives the window another size.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(tcsetwinsize(&self.master, size)?)
    }

    /// How the terminal is set.
    pub fn settings(&self) -> Result<Termios> {
        Ok(tcgetattr(&self.slave)?)
    }

    /// Whether keys reach the command as they are pressed, Ctrl-C too.
    pub fn is_raw(&self) -> Result<bool> {
        let cooked = LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG;
        Ok(!self.settings()?.local_flags.intersects(cooked))
    }

    /// Waits until the command has ended.
    pub fn expect_end(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + self.patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("it did not end:\n{}", self.shown());
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Ctrl-A x, in case that it is `cargo xtask run` and still at work: it ends its emulator.
        let _ = self.master.write_all(b"\x01x");
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(rows: u16, columns: u16) -> nix::pty::Winsize {
    nix::pty::Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
