//! [`Running`]: an emulator at work.

use super::{Engine, bochs, cleanup, files};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long an emulator may take to connect its serial port.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// Waits until the emulator has connected its serial port.
fn accept(listener: &TcpListener, process: &mut Process, folder: &Path) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(status) = process.0.try_wait()? {
            bail!(
                "the emulator did not start ({status}):\n{}",
                last_words(folder)
            );
        }
        if Instant::now() > deadline {
            bail!(
                "the emulator did not connect its serial port:\n{}",
                last_words(folder)
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A child process that does not outlive its owner.
#[derive(Debug)]
struct Process(Child);

impl Process {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The end of what the emulator itself had to say.
fn last_words(folder: &Path) -> String {
    let mut text = String::new();
    for name in [files::OUTPUT, files::LOG] {
        let bytes = fs::read(folder.join(name)).unwrap_or_default();
        let all = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = all.lines().filter(|line| !line.trim().is_empty()).collect();
        for line in &lines[lines.len().saturating_sub(12)..] {
            text.push_str("  ");
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    text
}

/// An emulator at work. Dropped, it is killed and its folder removed.
#[derive(Debug)]
pub struct Running {
    engine: Engine,
    process: Process,
    serial: TcpStream,
    folder: TempDir,
    _registration: cleanup::Registration,
}

impl Running {
    /// Starts the emulator in its folder, and returns once it has connected the machine's serial port to `listener`.
    pub(super) fn start(
        engine: Engine,
        mut command: Command,
        folder: TempDir,
        listener: &TcpListener,
    ) -> Result<Self> {
        let program = command.get_program().display().to_string();
        let child = command
            .current_dir(folder.path())
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        let registration = cleanup::register(child.id(), folder.path());
        let mut process = Process(child);
        let serial = accept(listener, &mut process, folder.path())?;
        serial.set_nodelay(true)?;
        Ok(Self {
            engine,
            process,
            serial,
            folder,
            _registration: registration,
        })
    }

    /// The machine's first serial port, to be read from and written to.
    pub fn serial(&self) -> Result<TcpStream> {
        Ok(self.serial.try_clone()?)
    }

    /// What has been written to port 0xE9 so far. In Bochs the emulator's own output is mixed with it.
    #[must_use]
    pub fn debug_port(&self) -> Vec<u8> {
        let own = fs::read(self.folder.path().join(files::DEBUG_PORT));
        own.or_else(|_| fs::read(self.folder.path().join(files::OUTPUT)))
            .unwrap_or_default()
    }

    /// The emulator's own log, whole.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(self.folder.path().join(files::LOG)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of what the emulator itself had to say.
    #[must_use]
    pub fn last_words(&self) -> String {
        last_words(self.folder.path())
    }

    /// The processor's registers, where the emulator can tell: Bochs stops at an interrupt signal, and its debugger
    /// goes on with its script, which prints them. The machine is at its end after that.
    pub fn registers(&mut self) -> String {
        if self.engine != Engine::Bochs {
            return String::from("  (only Bochs tells the registers of a machine that hangs)\n");
        }
        let before = fs::read(self.folder.path().join(files::OUTPUT)).map_or(0, |text| text.len());
        if let Ok(pid) = i32::try_from(self.process.0.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
        self.finish(Duration::from_secs(3));
        let output = fs::read(self.folder.path().join(files::OUTPUT)).unwrap_or_default();
        bochs::register_dump(&String::from_utf8_lossy(
            output.get(before..).unwrap_or_default(),
        ))
    }

    /// Bochs's own debugger: what it is told, and what it says. There once, and only in a machine that waits for gdb.
    pub fn take_debugger(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        self.process
            .0
            .stdin
            .take()
            .zip(self.process.0.stdout.take())
    }

    /// The emulator's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// The run's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How the emulator ended, once it has.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.0.try_wait()?)
    }

    /// Whether the machine has switched itself off; it may have ended in other ways, or not at all.
    pub fn is_off(&mut self) -> bool {
        match self.process.0.try_wait() {
            Ok(Some(_)) if self.engine == Engine::Bochs => bochs::is_off(&self.log()),
            Ok(Some(status)) => status.success(),
            _ => false,
        }
    }

    /// Gives the emulator this long to end by itself, and kills it then.
    pub fn finish(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if !matches!(self.process.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
    }

    /// Ends the emulator.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
