//! [`Boot`]: a machine with Plinth and some guests on it, described with few words, and how it is switched on.
//!
//! What it says then is read by its [`Session`].

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bundle::{ApicVirtualization, CodePages, Compression, HypervisorOptions, LogLevel};
use xtask::bare;
use xtask::build::{Artifacts, ImageMaker, lock};
use xtask::emulator::monitor::Monitor;
use xtask::emulator::{
    CpuModel, Debugger, Disk, Engine, Firmware, Machine, Msrs, Pace, SerialPort,
};
use xtask::guests::{Guest, host_memory_mib, pack};
use xtask::paths::Paths;
use xtask::system::host::Virtualisation;
use xtask::toolchain::Toolchain;

use crate::phantom::Listed;
use crate::{Session, artifacts};

/// How long a test waits for the next thing that it expects. Bochs runs a hundred million instructions in a
/// second; two tests share the cores, and a busy machine may be many times slower.
const PATIENCE: Duration = Duration::from_secs(60);

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
        Session::listen(running, monitor, self.patience)
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
