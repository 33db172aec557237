//! What the tests say: boot these guests on that machine, expect this line, see how it ends.
//!
//! A [`Boot`] is a machine with Plinth and some guests on it, described with few words; [`Session`] is the same at
//! work. Every wait has a deadline. A test that misses one prints what the serial port has said, what the
//! hypervisor tells about its guests when asked (their registers and last exits), and the registers of the
//! machine itself.

#![forbid(unsafe_code)]

mod phantom;
mod picture;
pub mod terminal;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bundle::{ApicVirtualization, CodePages, Compression, HypervisorOptions, LogLevel};
use xtask::bare;
use xtask::build::{Artifacts, ImageMaker, lock};
use xtask::emulator::console::{Announcement, End, GuestEnd, LineReader, Next};
use xtask::emulator::hang;
use xtask::emulator::monitor::Monitor;
use xtask::emulator::{
    CpuModel, Debugger, Disk, Engine, Firmware, Machine, Msrs, Pace, Running, SerialPort,
};
use xtask::guests::{Guest, host_memory_mib, pack};
use xtask::paths::Paths;
use xtask::system::host::Virtualisation;
use xtask::toolchain::Toolchain;

pub use xtask::emulator::console;

use phantom::Listed;

/// How long a test waits for the next thing that it expects. Bochs runs a hundred million instructions in a
/// second; two tests share the cores, and a busy machine may be many times slower.
const PATIENCE: Duration = Duration::from_secs(60);

/// The terminal at the serial port: room for a guest's screen and some lines below it.
const TERMINAL_ROWS: u16 = 40;
const TERMINAL_COLUMNS: u16 = 120;

/// The checkout's artifacts, which `cargo xtask test` has built.
pub fn artifacts() -> Result<&'static Artifacts> {
    static ARTIFACTS: OnceLock<Result<Artifacts, String>> = OnceLock::new();
    ARTIFACTS
        .get_or_init(|| {
            Artifacts::built(&Paths::of_checkout()).map_err(|error| format!("{error:#}"))
        })
        .as_ref()
        .map_err(|error| anyhow!("{error}"))
}

/// A machine to be booted.
#[derive(Clone, Debug)]
pub struct Boot {
    guests: Vec<Guest>,
    engine: Engine,
    firmware: Firmware,
    cpu_model: CpuModel,
    cpus: u32,
    memory_mib: Option<u32>,
    options: HypervisorOptions,
    bundle: BundleSource,
    delivery: Delivery,
    listed: Listed,
    hypervisor: Hypervisor,
    serial: SerialPort,
    watch: Watch,
    patience: Duration,
    pace: Pace,
}

/// Whether its screen is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    /// It may be, also when the machine is off.
    Screen,
    /// It is not.
    Nothing,
}

/// What runs between the machine and its guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hypervisor {
    /// Plinth.
    Plinth,
    /// Nothing: the one guest has the bare machine to itself.
    None,
}

/// Where the bundle's bytes come from.
#[derive(Clone, Debug)]
enum BundleSource {
    Guests,
    Bytes(Vec<u8>),
    /// A disk image that somebody else has made, with everything in it.
    Image(PathBuf),
}

/// How the bundle gets into the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    /// The emulator loads it where it can, else as a boot loader's RAM disk.
    Quickest,
    /// As the boot loader's RAM disk.
    RamDisk,
}

impl Boot {
    /// A machine for the tests' usual engine with these tiny guests on it.
    pub fn tiny(names: &[&str]) -> Result<Self> {
        let guests = names
            .iter()
            .map(|name| Guest::tiny(artifacts()?, name))
            .collect::<Result<_>>()?;
        Ok(Self::of(guests))
    }

    /// A machine with these guests on it.
    pub fn of(guests: Vec<Guest>) -> Self {
        let engine = Engine::choose(Virtualisation::of_this_machine());
        Self {
            guests,
            engine,
            firmware: Firmware::Bios,
            cpu_model: CpuModel::Skylake,
            cpus: 1,
            memory_mib: None,
            options: engine.usual_options(),
            bundle: BundleSource::Guests,
            delivery: Delivery::Quickest,
            listed: Listed::AllThere,
            hypervisor: Hypervisor::Plinth,
            serial: SerialPort::Com1,
            watch: Watch::Nothing,
            patience: PATIENCE,
            pace: Pace::Free,
        }
    }

    /// On another engine.
    #[must_use]
    pub fn engine(mut self, engine: Engine) -> Self {
        self.engine = engine;
        self
    }

    /// With other firmware.
    #[must_use]
    pub fn firmware(mut self, firmware: Firmware) -> Self {
        self.firmware = firmware;
        self
    }

    /// With another kind of CPU.
    #[must_use]
    pub fn cpu_model(mut self, model: CpuModel) -> Self {
        self.cpu_model = model;
        self
    }

    /// With a processor that may do no more than this of the guests' local APICs.
    #[must_use]
    pub fn apic(mut self, apic: ApicVirtualization) -> Self {
        self.options.apic = apic;
        self
    }

    /// With code of guests in such pages.
    #[must_use]
    pub fn code_pages(mut self, pages: CodePages) -> Self {
        self.options.code_pages = pages;
        self
    }

    /// With a hypervisor that logs this much.
    #[must_use]
    pub fn log_level(mut self, level: LogLevel) -> Self {
        self.options.log_level = level;
        self
    }

    /// With this many CPUs.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// With firmware that lists, in place of the last CPU, one that never answers.
    #[must_use]
    pub fn last_cpu_missing(mut self) -> Self {
        self.listed = Listed::LastMissing;
        self
    }

    /// With this much memory, whatever the guests want.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = Some(mib);
        self
    }

    /// Changes the guests.
    #[must_use]
    pub fn with_guests(mut self, change: impl FnOnce(&mut Vec<Guest>)) -> Self {
        change(&mut self.guests);
        self
    }

    /// With these bytes instead of a good bundle.
    #[must_use]
    pub fn bundle(mut self, bytes: Vec<u8>) -> Self {
        self.bundle = BundleSource::Bytes(bytes);
        self
    }

    /// With the bundle as the boot loader's RAM disk, as on a USB stick.
    #[must_use]
    pub fn as_ram_disk(mut self) -> Self {
        self.delivery = Delivery::RamDisk;
        self
    }

    /// From this image, as a machine from a stick; what was said about guests does not count.
    #[must_use]
    pub fn from_image(mut self, image: PathBuf) -> Self {
        self.bundle = BundleSource::Image(image);
        self
    }

    /// With a screen that can be looked at ([`Session::screen_when_off`]), which only QEMU has.
    #[must_use]
    pub fn watched(mut self) -> Self {
        self.watch = Watch::Screen;
        self
    }

    /// Without a serial port that Plinth finds, which only QEMU's machines can be.
    #[must_use]
    pub fn without_serial_port(mut self) -> Self {
        self.serial = SerialPort::None;
        self
    }

    /// Without Plinth: the one guest has the bare machine to itself. Its lines come without its name, and it ends
    /// with the machine ([`Session::expect_power_off`]).
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.hypervisor = Hypervisor::None;
        self
    }

    /// With guests that may take this long to the next thing that is expected of them.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// With another number of instructions in a second: guests whose timer ticks all the time do more between two ticks.
    #[must_use]
    pub fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// The bundle of the guests, for tests that damage it.
    pub fn pack(&self) -> Result<Vec<u8>> {
        // What a stick carries is compressed.
        let compression = match self.delivery {
            Delivery::Quickest => Compression::Off,
            Delivery::RamDisk => Compression::WhereItPays,
        };
        pack(&self.guests, self.options.clone(), compression)
    }

    /// Switches the machine on.
    pub fn start(self) -> Result<Session> {
        let paths = Paths::of_checkout();
        let artifacts = artifacts()?;
        if self.hypervisor == Hypervisor::None {
            return self.start_bare(&paths, artifacts);
        }
        let bundle = match &self.bundle {
            BundleSource::Guests => self.pack()?,
            BundleSource::Bytes(bytes) => bytes.clone(),
            BundleSource::Image(image) => {
                let disk = Disk::Complete {
                    image: image.clone(),
                };
                let memory_mib = self.memory_mib.unwrap_or(256);
                return self.switch_on(&paths, disk, memory_mib, Msrs::default());
            }
        };
        let memory_mib = self
            .memory_mib
            .unwrap_or_else(|| host_memory_mib(&self.guests, bundle.len() as u64).max(256));
        let disk = if self.delivery == Delivery::RamDisk || self.firmware == Firmware::Uefi {
            complete_image(&paths, artifacts, &bundle)?
        } else {
            let image = self.listed.image(&paths, artifacts)?;
            Disk::WithPointer { image, bundle }
        };
        self.switch_on(&paths, disk, memory_mib, Msrs::default())
    }

    fn start_bare(self, paths: &Paths, artifacts: &Artifacts) -> Result<Session> {
        let [guest] = self.guests.as_slice() else {
            bail!("a bare machine has one guest");
        };
        let (disk, memory_mib) = bare::disk(artifacts, guest)?;
        let msrs = bare::msrs(guest);
        self.switch_on(paths, disk, memory_mib, msrs)
    }

    fn switch_on(self, paths: &Paths, disk: Disk, memory_mib: u32, msrs: Msrs) -> Result<Session> {
        let listener = match self.watch {
            Watch::Screen => Some(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?),
            Watch::Nothing => None,
        };
        let debugger = match &listener {
            Some(listener) => Debugger::Monitor {
                port: listener.local_addr()?.port(),
            },
            None => Debugger::None,
        };
        let machine = Machine {
            engine: self.engine,
            firmware: self.firmware,
            cpus: self.cpus,
            cpu_model: self.cpu_model,
            msrs,
            memory_mib,
            pace: self.pace,
            serial: self.serial,
            debugger,
            disk,
        };
        let running = machine.spawn(paths)?;
        let monitor = listener.as_ref().map(Monitor::accept).transpose()?;
        let serial = running.serial()?;
        let screen = Arc::new(Mutex::new(vt100::Parser::new(
            TERMINAL_ROWS,
            TERMINAL_COLUMNS,
            0,
        )));
        let terminal = Arc::clone(&screen);
        let lines = LineReader::start_with_tap(serial.try_clone()?, move |bytes| {
            if let Ok(mut terminal) = terminal.lock() {
                terminal.process(bytes);
            }
        })?;
        Ok(Session {
            running,
            serial,
            lines,
            screen,
            heard: Vec::new(),
            monitor,
            patience: self.patience,
        })
    }
}

/// An image with the bundle in it, made anew for each session that wants one.
fn complete_image(paths: &Paths, artifacts: &Artifacts, bundle: &[u8]) -> Result<Disk> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let at = |what: &str| paths.artifacts().join(format!("test-{number}.{what}"));
    let (file, image) = (at("bundle"), at("img"));
    let _lock = lock(paths)?;
    std::fs::write(&file, bundle).context("cannot write the bundle")?;
    ImageMaker::build(paths, &Toolchain::provide(paths)?)?.make(
        &artifacts.kernel,
        &file,
        &image,
    )?;
    Ok(Disk::Complete { image })
}

/// A machine at work.
pub struct Session {
    running: Running,
    serial: TcpStream,
    lines: LineReader,
    /// A terminal at the serial port.
    screen: Arc<Mutex<vt100::Parser>>,
    /// Everything that the serial port has said, for the report of a failure.
    heard: Vec<String>,
    /// QEMU's monitor, of a machine that is watched.
    monitor: Option<Monitor>,
    /// How long it waits for the next thing that is expected.
    patience: Duration,
}

impl Session {
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
