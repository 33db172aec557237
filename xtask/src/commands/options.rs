//! Options that several commands share: which guest, and which machine.

use crate::bare;
use crate::build::{Artifacts, ImageMaker, lock, tiny_guests};
use crate::config::{Configuration, ForMachine, LOG_LEVELS, POLICIES, USUAL_HOST_CPUS};
use crate::emulator::{
    CpuModel, Debugger, Disk, Engine, Firmware, Machine, Msrs, Pace, SerialPort,
};
use crate::guests::{
    Guest, TSC_MHZ, host_memory_mib, pack, parse_format, parse_module, parse_size, tsc_hz,
};
use crate::linux::{self, KernelPackage, Linux, Task};
use crate::packaged::Packaged;
use crate::paths::Paths;
use crate::system::host::Virtualisation;
use crate::terminal::is_interactive;
use crate::toolchain::Toolchain;
use anyhow::{Context, Result, bail};
use bundle::{
    ApicVirtualization, CodePages, Compression, EndPolicy, HypervisorOptions, KernelFormat,
    LogLevel, Screen, TestDevices, WhenDone,
};
use clap::Args;
use std::fs;
use std::path::PathBuf;

/// Which guest.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Guest")]
pub struct GuestOptions {
    /// linux, memtest86+, memtest86+ia32, ipxe, grub, xen, gnumach, or one of our own tiny guests (hello, timer ...)
    /// [default: linux]; with --kernel, what to call yours
    #[arg(help_heading = None)]
    name: Option<String>,
    /// Run the virtual machines that this TOML file, or folder of them, describes
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "kernel", "format", "initrd", "modules", "cmdline", "cpus", "memory", "tsc", "screen", "test_devices", "on_reboot", "on_crash"])]
    config: Option<PathBuf>,
    /// Run this kernel instead
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Run Linux with the kernel of this Debian package: NAME or SUITE/NAME, such as sid/linux-image-amd64
    #[arg(long, value_name = "PACKAGE", conflicts_with = "kernel")]
    kernel_package: Option<KernelPackage>,
    /// Give it this initial RAM disk
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Give it this boot module, with ARGS behind the file's name on the module's command line; may be repeated
    #[arg(long = "module", value_name = "FILE[:ARGS]", value_parser = parse_module)]
    modules: Vec<(PathBuf, String)>,
    /// Take the kernel for this format rather than look: linux, elf, multiboot, multiboot2, pvh, or flat[@ADDRESS],
    /// a binary that starts in real mode, at 0x7c00 or where you say
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = parse_format, requires = "kernel")]
    format: KernelFormat,
    /// Give it this command line
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// Give it this many virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    cpus: u32,
    /// Give it this much memory: 64M, 1G ... [default: 32M for the tiny ones, 256M for linux, 512M for yours]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Have its time-stamp counter run at this many MHz, whatever the machine's runs at, where the processor can do that
    #[arg(long, value_name = "MHZ", value_parser = clap::value_parser!(u32).range(i64::from(*TSC_MHZ.start())..=i64::from(*TSC_MHZ.end())))]
    tsc: Option<u32>,
    /// Give it the devices that test kernels expect: exit port, debug console, interrupt lines, fw_cfg
    #[arg(long)]
    test_devices: bool,
    /// Give it a text display and a keyboard, and show that display in the terminal; its serial port's lines then go on
    /// below. Linux has its shell there
    #[arg(long)]
    screen: bool,
    /// What follows when it asks for a reset: restart or stop [default: restart; for a tiny guest, stop]
    #[arg(long, value_name = "WHAT", value_parser = |text: &str| one_of(text, &POLICIES))]
    on_reboot: Option<EndPolicy>,
    /// What follows when it crashes: restart or stop [default: stop]
    #[arg(long, value_name = "WHAT", value_parser = |text: &str| one_of(text, &POLICIES))]
    on_crash: Option<EndPolicy>,
    /// How much the hypervisor logs: error, warn, info, debug, trace [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = |text: &str| one_of(text, &LOG_LEVELS), help_heading = "Hypervisor")]
    log: Option<LogLevel>,
    /// How much of the guests' local APICs the processor may do, where it can: hardware, task-priority, software
    /// [default: hardware; in Bochs task-priority, for its hardware delivers interrupts that are switched off]
    #[arg(long, value_name = "HOW", value_parser = |text: &str| one_of(text, &APIC_HELP), help_heading = "Hypervisor")]
    apic: Option<ApicVirtualization>,
    /// The pages that code of guests may lie in: small ones, so that no guest can stop a processor with the erratum "iTLB
    /// multihit"; any; or as-needed, which looks at the processor [default: as-needed; in Bochs any, as it lacks the erratum]
    #[arg(long, value_name = "SIZE", value_parser = |text: &str| one_of(text, &CODE_PAGES), help_heading = "Hypervisor")]
    code_pages: Option<CodePages>,
}

const CODE_PAGES: [(&str, CodePages); 3] = [
    ("as-needed", CodePages::AsNeeded),
    ("small", CodePages::Small),
    ("any", CodePages::Any),
];

const APIC_HELP: [(&str, ApicVirtualization); 3] = [
    ("hardware", ApicVirtualization::Hardware),
    ("task-priority", ApicVirtualization::TaskPriority),
    ("software", ApicVirtualization::Software),
];

/// What a word stands for among these.
fn one_of<T: Copy, const COUNT: usize>(text: &str, choices: &[(&str, T); COUNT]) -> Result<T> {
    match choices.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(*value),
        None => {
            let names = choices.each_ref().map(|(name, _)| *name);
            bail!("possible values: {}", names.join(", "))
        }
    }
}

/// What a machine is to run, with everything built that it needs.
pub(super) struct Content {
    pub(super) artifacts: Artifacts,
    pub(super) guests: Vec<Guest>,
    pub(super) hypervisor: HypervisorOptions,
    /// What the configuration says about the machine to be emulated.
    host_cpus: Option<u32>,
    host_memory_bytes: Option<u64>,
}

impl GuestOptions {
    /// The guest that the options describe.
    fn guest(&self, paths: &Paths, artifacts: &Artifacts) -> Result<Guest> {
        let mut guest = match (&self.kernel, self.name.as_deref()) {
            (Some(kernel), name) => {
                let stem = kernel
                    .file_stem()
                    .unwrap_or(kernel.as_os_str())
                    .to_string_lossy();
                let name = name.map_or_else(|| stem.into_owned(), str::to_owned);
                Guest::new(name, kernel, Guest::USUAL_BYTES)
            }
            (None, None | Some(linux::NAME)) => {
                let initrd = paths.artifacts().join("linux.initrd");
                let package = self.kernel_package.clone().unwrap_or_default();
                let linux = Linux::provide_kernel(paths, &package)?;
                let mut guest = linux.guest(Task::Shell, &initrd)?;
                if self.screen {
                    guest.config.cmdline = linux::COMMAND_LINE_WITH_SCREEN.to_owned();
                }
                guest
            }
            (None, Some(name)) if self.kernel_package.is_some() => {
                bail!("--kernel-package is for the guest `linux`, not for `{name}`")
            }
            (None, Some(name)) => match Packaged::named(name) {
                Some(packaged) => packaged.guest(paths)?,
                None => Guest::tiny(artifacts, name)?,
            },
        };
        if self.initrd.is_some() {
            guest.initrd.clone_from(&self.initrd);
        }
        guest.modules.extend_from_slice(&self.modules);
        if self.kernel.is_some() {
            guest.config.kernel_format = self.format;
        }
        if self.test_devices {
            guest.config.test_devices = TestDevices::Present;
        }
        if self.screen {
            guest.config.screen = Screen::Text;
        }
        // A tiny guest has something to report; anything else is a system, which comes up again.
        let is_tiny = artifacts.guests.contains_key(&guest.config.name);
        let usual = if is_tiny || self.test_devices {
            EndPolicy::Stop
        } else {
            EndPolicy::Restart
        };
        guest.config.on_reboot = self.on_reboot.unwrap_or(usual);
        guest.config.on_crash = self.on_crash.unwrap_or_default();
        guest.config.cpus = self.cpus;
        guest.config.tsc_hz = self.tsc.map(tsc_hz);
        if let Some(cmdline) = &self.cmdline {
            guest.config.cmdline.clone_from(cmdline);
        }
        if let Some(bytes) = self.memory {
            guest.config.memory_bytes = bytes;
        }
        Ok(guest)
    }

    /// Whether a configuration says what is to run.
    pub(super) fn is_configured(&self) -> bool {
        self.config.is_some()
    }

    /// Everything that the options describe, for this machine.
    pub(super) fn content_on(&self, paths: &Paths, machine: &MachineOptions) -> Result<Content> {
        self.content(
            paths,
            machine.for_configuration(),
            None,
            machine.usual_options(),
        )
    }

    /// Everything that the options describe. A configuration is checked before anything is built.
    pub(super) fn content(
        &self,
        paths: &Paths,
        machine: ForMachine,
        when_done: Option<WhenDone>,
        usual: HypervisorOptions,
    ) -> Result<Content> {
        let Some(path) = &self.config else {
            let artifacts = Artifacts::build(paths)?;
            return Ok(Content {
                guests: vec![self.guest(paths, &artifacts)?],
                hypervisor: HypervisorOptions {
                    log_level: self.log.unwrap_or(usual.log_level),
                    when_done: when_done.unwrap_or(usual.when_done),
                    apic: self.apic.unwrap_or(usual.apic),
                    code_pages: self.code_pages.unwrap_or(usual.code_pages),
                },
                host_cpus: None,
                host_memory_bytes: None,
                artifacts,
            });
        };
        let configuration = Configuration::read(path, &tiny_guests(paths)?, machine)?;
        let artifacts = Artifacts::build(paths)?;
        Ok(Content {
            guests: configuration.guests(paths, &artifacts)?,
            hypervisor: HypervisorOptions {
                apic: self.apic.unwrap_or(usual.apic),
                code_pages: self.code_pages.unwrap_or(usual.code_pages),
                ..configuration.hypervisor(self.log, when_done, usual)
            },
            host_cpus: configuration.host_cpus(),
            host_memory_bytes: configuration.host_memory_bytes(),
            artifacts,
        })
    }
}

/// Which machine.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Machine that Plinth runs on")]
pub struct MachineOptions {
    /// What executes it [default: kvm where it works, else bochs]
    #[arg(long, value_enum, value_name = "NAME")]
    pub(super) engine: Option<Engine>,
    /// What starts it
    #[arg(long, value_enum, value_name = "NAME", default_value = "bios")]
    firmware: Firmware,
    /// Its CPUs [default: 1, or what the configuration says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=255))]
    host_cpus: Option<u32>,
    /// Its memory [default: what the guests need and a little more]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    host_memory: Option<u64>,
    /// The processor that Bochs emulates
    #[arg(long, value_enum, value_name = "NAME", default_value = "skylake")]
    cpu_model: CpuModel,
}

impl MachineOptions {
    /// What a configuration has to know about it.
    pub(super) fn for_configuration(&self) -> ForMachine {
        ForMachine::Emulated {
            cpus: self.host_cpus,
        }
    }

    /// The machine that runs this.
    pub(super) fn machine(
        &self,
        paths: &Paths,
        content: &Content,
        debugger: Debugger,
    ) -> Result<Machine> {
        let Content {
            artifacts, guests, ..
        } = content;
        let bundle = pack(guests, content.hypervisor.clone(), Compression::Off)?;
        let memory_mib = match self.host_memory.or(content.host_memory_bytes) {
            Some(bytes) => {
                u32::try_from(bytes >> 20).context("--host-memory is more than any machine has")?
            }
            None => host_memory_mib(guests, bundle.len() as u64),
        };
        let disk = match self.firmware {
            Firmware::Bios | Firmware::Seabios => Disk::WithPointer {
                image: artifacts.image.clone(),
                bundle,
            },
            Firmware::Uefi => complete_image(paths, artifacts, &bundle)?,
        };
        let cpus = self.host_cpus.or(content.host_cpus);
        Ok(self.with_disk(disk, memory_mib, cpus, debugger))
    }

    /// The machine that `guest` has to itself, without the hypervisor.
    pub(super) fn bare_machine(&self, artifacts: &Artifacts, guest: &Guest) -> Result<Machine> {
        let (disk, memory_mib) = bare::disk(artifacts, guest)?;
        let cpus = guest
            .config
            .cpus
            .max(self.host_cpus.unwrap_or(USUAL_HOST_CPUS));
        let machine = self.with_disk(disk, memory_mib, Some(cpus), Debugger::None);
        Ok(Machine {
            msrs: bare::msrs(guest),
            ..machine
        })
    }

    fn with_disk(
        &self,
        disk: Disk,
        memory_mib: u32,
        cpus: Option<u32>,
        debugger: Debugger,
    ) -> Machine {
        Machine {
            engine: self.engine(),
            firmware: self.firmware,
            cpus: cpus.unwrap_or(USUAL_HOST_CPUS),
            cpu_model: self.cpu_model,
            msrs: Msrs::default(),
            memory_mib,
            pace: if is_interactive() {
                Pace::RealTime
            } else {
                Pace::Free
            },
            serial: SerialPort::Com1,
            debugger,
            disk,
        }
    }

    /// What the hypervisor is told on this machine, where nobody asks for something else.
    pub(super) fn usual_options(&self) -> HypervisorOptions {
        self.engine().usual_options()
    }

    fn engine(&self) -> Engine {
        self.engine.unwrap_or_else(|| match self.firmware {
            Firmware::Bios | Firmware::Seabios => engine_for_bios(),
            // Bochs has no UEFI firmware.
            Firmware::Uefi if Virtualisation::of_this_machine().can_nest() => Engine::Kvm,
            Firmware::Uefi => Engine::Qemu,
        })
    }
}

/// The engine for machines with a BIOS, where nobody asked for another.
pub(super) fn engine_for_bios() -> Engine {
    Engine::choose(Virtualisation::of_this_machine())
}

/// An image with the bundle in it, for firmware that would overwrite one loaded by the emulator.
fn complete_image(paths: &Paths, artifacts: &Artifacts, bundle: &[u8]) -> Result<Disk> {
    let _lock = lock(paths)?;
    let maker = ImageMaker::build(paths, &Toolchain::provide(paths)?)?;
    let file = paths.artifacts().join("bundle");
    let image = paths.artifacts().join("plinth-uefi-run.img");
    fs::write(&file, bundle)?;
    maker.make(&artifacts.kernel, &file, &image)?;
    Ok(Disk::Complete { image })
}

#[cfg(test)]
mod tests;
