//! `cargo xtask run`: boots Plinth with a guest and connects the terminal to the machine's serial port.

use crate::build::{Artifacts, ImageMaker};
use crate::emulator::console::{Announcement, Lines};
use crate::emulator::{
    CpuModel, Debugger, Disk, Engine, Firmware, Machine, Pace, Running, cleanup,
};
use crate::guests::{Guest, host_memory_mib, pack, parse_size};
use crate::paths::Paths;
use crate::report::say;
use crate::system::host::Virtualisation;
use crate::terminal::{Escapes, HELP, Key, RawInput, is_interactive};
use crate::toolchain::Toolchain;
use anyhow::{Context, Result, bail};
use bundle::{Compression, HypervisorOptions, LogLevel};
use lexopt::prelude::{Long, Short, Value, ValueExt};
use std::fs;
use std::io::{Read, Write, stdin, stdout};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// What `--help` says.
pub const HELP_TEXT: &str = "\
cargo xtask run [NAME] [options]: boot Plinth and run a guest

NAME is one of our own tiny guests (default: hello).
  --kernel FILE     run this kernel instead
  --initrd FILE     with this initial RAM disk
  --cmdline STR     with this command line
  --cpus N          virtual CPUs of the guest (1)
  --memory SIZE     memory of the guest: 64M, 1G ... (32M for ours, 512M for others)
  --engine NAME     kvm (QEMU with nested VT-x), bochs (VT-x in software), qemu (no VT-x)
  --firmware NAME   bios or uefi
  --host-cpus N     CPUs of the machine (1)
  --host-memory SIZE
  --cpu-model NAME  what Bochs emulates: haswell, skylake, tigerlake
  --log LEVEL       error, warn, info, debug, trace
  --timeout SECONDS give up after that long

Exit status: 0 where every guest switched itself off, 1 after a reset, 2 after a crash, 3 where one
could not start; 124 after the timeout, 125 where xtask could not start the machine, 126 where the
machine ended before its guests, 130 where you left.
";

/// What is to be run, and how.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) guest: Option<String>,
    pub(crate) kernel: Option<PathBuf>,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) cmdline: Option<String>,
    pub(crate) cpus: u32,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) engine: Option<Engine>,
    pub(crate) firmware: Firmware,
    pub(crate) host_cpus: u32,
    pub(crate) host_memory_bytes: Option<u64>,
    pub(crate) cpu_model: CpuModel,
    pub(crate) log_level: LogLevel,
    pub(crate) timeout: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            guest: None,
            kernel: None,
            initrd: None,
            cmdline: None,
            cpus: 1,
            memory_bytes: None,
            engine: None,
            firmware: Firmware::Bios,
            host_cpus: 1,
            host_memory_bytes: None,
            cpu_model: CpuModel::default(),
            log_level: LogLevel::default(),
            timeout: None,
        }
    }
}

impl Options {
    /// Reads the rest of the command line; none where help was asked for.
    pub fn parse(parser: &mut lexopt::Parser) -> Result<Option<Self>> {
        let mut options = Self::default();
        while let Some(argument) = parser.next()? {
            match argument {
                Short('h') | Long("help") => return Ok(None),
                Value(name) if options.guest.is_none() => options.guest = Some(name.string()?),
                Long("kernel") => options.kernel = Some(parser.value()?.into()),
                Long("initrd") => options.initrd = Some(parser.value()?.into()),
                Long("cmdline") => options.cmdline = Some(parser.value()?.string()?),
                Long("cpus") => options.cpus = at_least_one(parser, "--cpus")?,
                Long("memory") => {
                    options.memory_bytes = Some(parser.value()?.parse_with(parse_size)?)
                }
                Long("engine") => options.engine = Some(parser.value()?.parse()?),
                Long("firmware") => options.firmware = parser.value()?.parse()?,
                Long("host-cpus") => options.host_cpus = at_least_one(parser, "--host-cpus")?,
                Long("host-memory") => {
                    options.host_memory_bytes = Some(parser.value()?.parse_with(parse_size)?);
                }
                Long("cpu-model") => options.cpu_model = parser.value()?.parse()?,
                Long("log") => options.log_level = parser.value()?.parse_with(parse_level)?,
                Long("timeout") => {
                    let seconds: f64 = parser.value()?.parse()?;
                    options.timeout = Some(Duration::try_from_secs_f64(seconds)?);
                }
                other => return Err(other.unexpected().into()),
            }
        }
        if options.kernel.is_none() && options.initrd.is_some() {
            bail!("--initrd needs --kernel");
        }
        Ok(Some(options))
    }

    /// The guest that the options describe.
    pub(crate) fn guest(&self, artifacts: &Artifacts) -> Result<Guest> {
        let mut guest = match &self.kernel {
            Some(kernel) => {
                let stem = kernel
                    .file_stem()
                    .unwrap_or(kernel.as_os_str())
                    .to_string_lossy();
                let name = self.guest.clone().unwrap_or_else(|| stem.into_owned());
                Guest::new(name, kernel, Guest::USUAL_BYTES)
            }
            None => Guest::tiny(artifacts, self.guest.as_deref().unwrap_or("hello"))?,
        };
        guest.initrd.clone_from(&self.initrd);
        guest.config.cpus = self.cpus;
        if let Some(cmdline) = &self.cmdline {
            guest.config.cmdline.clone_from(cmdline);
        }
        if let Some(bytes) = self.memory_bytes {
            guest.config.memory_bytes = bytes;
        }
        Ok(guest)
    }

    /// The machine that runs `guests`.
    pub(crate) fn machine(
        &self,
        paths: &Paths,
        artifacts: &Artifacts,
        guests: &[Guest],
        debugger: Debugger,
    ) -> Result<Machine> {
        let hypervisor = HypervisorOptions {
            log_level: self.log_level,
            ..Default::default()
        };
        let bundle = pack(guests, hypervisor, Compression::Off)?;
        let memory_mib = match self.host_memory_bytes {
            Some(bytes) => {
                u32::try_from(bytes >> 20).context("--host-memory is more than any machine has")?
            }
            None => host_memory_mib(guests, bundle.len() as u64),
        };
        let disk = match self.firmware {
            Firmware::Bios => Disk::WithPointer {
                image: artifacts.image.clone(),
                bundle,
            },
            Firmware::Uefi => complete_image(paths, artifacts, &bundle)?,
        };
        let engine = self.engine.unwrap_or_else(|| match self.firmware {
            Firmware::Bios => Engine::choose(Virtualisation::of_this_machine()),
            // Bochs has no UEFI firmware.
            Firmware::Uefi if Virtualisation::of_this_machine().can_nest() => Engine::Kvm,
            Firmware::Uefi => Engine::Qemu,
        });
        Ok(Machine {
            engine,
            firmware: self.firmware,
            cpus: self.host_cpus,
            cpu_model: self.cpu_model,
            memory_mib,
            pace: if is_interactive() {
                Pace::RealTime
            } else {
                Pace::Free
            },
            debugger,
            disk,
        })
    }
}

/// An image with the bundle in it, for firmware that would overwrite one loaded by the emulator.
fn complete_image(paths: &Paths, artifacts: &Artifacts, bundle: &[u8]) -> Result<Disk> {
    let maker = ImageMaker::build(paths, &Toolchain::provide(paths)?)?;
    let file = paths
        .artifacts()
        .join(format!("bundle-{}", std::process::id()));
    let image = paths.artifacts().join("plinth-uefi-run.img");
    fs::write(&file, bundle)?;
    let made = maker.make(&artifacts.kernel, &file, &image);
    let _ = fs::remove_file(&file);
    made?;
    Ok(Disk::Complete { image })
}

fn at_least_one(parser: &mut lexopt::Parser, option: &str) -> Result<u32> {
    let number: u32 = parser.value()?.parse()?;
    if number == 0 {
        bail!("{option} must be at least 1");
    }
    Ok(number)
}

pub(crate) fn parse_level(text: &str) -> Result<LogLevel> {
    Ok(match text {
        "error" => LogLevel::Error,
        "warn" => LogLevel::Warn,
        "info" => LogLevel::Info,
        "debug" => LogLevel::Debug,
        "trace" => LogLevel::Trace,
        _ => bail!("there is no log level `{text}`: error, warn, info, debug or trace"),
    })
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
pub fn run(paths: &Paths, options: &Options) -> Result<ExitCode> {
    let artifacts = Artifacts::build(paths)?;
    let guests = [options.guest(&artifacts)?];
    let machine = options.machine(paths, &artifacts, &guests, Debugger::None)?;
    let running = machine.spawn(paths)?;
    let outcome = converse(running, options.timeout)?;
    Ok(ExitCode::from(outcome.exit_status()))
}

enum Event {
    Serial(Vec<u8>),
    SerialClosed,
    Key(Key),
}

/// Connects the terminal with the machine until one of the two has enough.
pub(crate) fn converse(mut running: Running, timeout: Option<Duration>) -> Result<Outcome> {
    let (sender, events) = channel();
    pump_serial(running.serial()?, sender.clone())?;
    pump_keys(sender)?;
    let raw = if is_interactive() {
        say(HELP);
        Some(RawInput::begin()?)
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
                if let Some(status) = ended {
                    break Outcome::Ended(status);
                }
            }
            Ok(Event::SerialClosed) | Err(RecvTimeoutError::Disconnected) => {
                break Outcome::MachineEnded;
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

    fn parse(arguments: &[&str]) -> Result<Option<Options>> {
        Options::parse(&mut lexopt::Parser::from_args(arguments))
    }

    #[test]
    fn the_options_of_a_run_are_read() {
        let options = parse(&[
            "linux",
            "--kernel",
            "/boot/vmlinuz",
            "--memory",
            "1G",
            "--cpus=4",
            "--engine",
            "qemu",
            "--firmware=uefi",
            "--timeout",
            "2.5",
            "--log",
            "debug",
            "--cmdline",
            "a b",
        ])
        .unwrap()
        .unwrap();
        assert_eq!(options.guest.as_deref(), Some("linux"));
        assert_eq!(options.kernel, Some("/boot/vmlinuz".into()));
        assert_eq!(options.memory_bytes, Some(1 << 30));
        assert_eq!(options.cpus, 4);
        assert_eq!(options.engine, Some(Engine::Qemu));
        assert_eq!(options.firmware, Firmware::Uefi);
        assert_eq!(options.timeout, Some(Duration::from_millis(2500)));
        assert_eq!(options.log_level, LogLevel::Debug);
        assert_eq!(options.cmdline.as_deref(), Some("a b"));
    }

    #[test]
    fn wrong_options_are_refused_with_the_choices() {
        for (arguments, expected) in [
            (&["--engine", "vbox"][..], "kvm, bochs or qemu"),
            (&["--firmware", "coreboot"], "bios or uefi"),
            (&["--cpus", "0"], "at least 1"),
            (&["--initrd", "x"], "--kernel"),
            (&["--memory", "lots"], "64M"),
            (&["a", "b"], "unexpected"),
            (&["--log", "loud"], "trace"),
        ] {
            let error = format!("{:#}", parse(arguments).unwrap_err());
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn help_is_not_an_error() {
        assert!(parse(&["--help"]).unwrap().is_none());
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
