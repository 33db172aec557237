//! The configuration that travels in the bundle: options of the hypervisor and one [`VmConfig`] for each machine.
//!
//! People write TOML; `cargo xtask` checks it and turns it into these types. The hypervisor only ever sees this
//! compact form. A new field is a new [`VERSION`](crate::VERSION): both sides are built from one tree, so there
//! is nothing to stay compatible with.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Everything the hypervisor is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Options that concern no single machine.
    pub hypervisor: HypervisorOptions,
    /// The machines, in the order in which they are to be started.
    pub vms: Vec<VmConfig>,
}

/// Options of the hypervisor itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HypervisorOptions {
    /// Messages below this level are not logged.
    pub log_level: LogLevel,
    /// What happens once every machine has ended.
    pub when_done: WhenDone,
    /// How much of the guests' local APICs the processor may do.
    pub apic: ApicVirtualization,
    /// The pages that code of guests may lie in.
    pub code_pages: CodePages,
}

/// How much of the guests' local APICs the processor does, where it can. Less than all is for tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApicVirtualization {
    /// As much as it can.
    #[default]
    Hardware,
    /// The task priority only, as older processors do.
    TaskPriority,
    /// Nothing.
    Software,
}

/// The second-level pages that guests' code may lie in. Processors with the erratum "iTLB multihit" stop if code lies in
/// large ones and its guest changes the size of its own pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CodePages {
    /// Small ones where the processor has that erratum, else any.
    #[default]
    AsNeeded,
    /// Small ones. For tests.
    Small,
    /// Any, whatever the processor: for guests that are trusted, and for emulators.
    Any,
}

/// How much the hypervisor logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogLevel {
    /// Only what went wrong.
    Error,
    /// And what looks wrong.
    Warn,
    /// And what happens at large.
    #[default]
    Info,
    /// And what happens in detail.
    Debug,
    /// And every exit.
    Trace,
}

/// What the hypervisor does once every machine has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenDone {
    /// Switch the machine off: what an emulator run wants.
    #[default]
    PowerOff,
    /// Stay, with the log on the screen: what somebody before a box without a serial port wants.
    Halt,
}

/// One of the bundle's files, by its place in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileIndex(pub u32);

/// One virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmConfig {
    /// Its name, unique in the bundle: on the log, before each line of its console, in the monitor.
    pub name: String,
    /// The kernel it starts.
    pub kernel: FileIndex,
    /// The kernel's format, where it should not be found out from the file.
    pub kernel_format: KernelFormat,
    /// The initial RAM disk, for formats that have one.
    pub initrd: Option<FileIndex>,
    /// Boot modules, for formats that have them.
    pub modules: Vec<Module>,
    /// The kernel's command line.
    pub cmdline: String,
    /// Size of its memory.
    pub memory_bytes: u64,
    /// Number of its virtual CPUs.
    pub cpus: u32,
    /// Its share of the CPUs against that of the others; 256 is usual.
    pub weight: u32,
    /// The most it may use of one CPU, in percent (200 is two CPUs), even where nobody else wants them.
    pub cap_percent: Option<u32>,
    /// What its time-stamp counter counts in a second, where that is not to be what the machine's counts.
    pub tsc_hz: Option<u64>,
    /// The host CPUs it may run on; empty for all.
    pub affinity: Vec<u32>,
    /// Whether its virtual CPUs share host CPUs or own them.
    pub placement: Placement,
    /// Where its serial port leads.
    pub console: Console,
    /// Whether it has a display and a keyboard.
    pub screen: Screen,
    /// Whether it has the devices that test kernels expect.
    pub test_devices: TestDevices,
    /// Whether it starts with the hypervisor.
    pub autostart: Autostart,
    /// What happens when it crashes (a triple fault, an error that it cannot go on from).
    pub on_crash: EndPolicy,
    /// What happens when it asks for a reset.
    pub on_reboot: EndPolicy,
    /// Whether a kernel that says on its console that it has panicked, and then does nothing else, has crashed.
    pub on_panic: PanicPolicy,
}

impl VmConfig {
    /// The weight of a machine for which nobody asked for more or less.
    pub const DEFAULT_WEIGHT: u32 = 256;

    /// A machine with one CPU and the usual answer to everything else.
    #[must_use]
    pub fn new(name: impl Into<String>, kernel: FileIndex, memory_bytes: u64) -> Self {
        Self {
            name: name.into(),
            kernel,
            kernel_format: KernelFormat::default(),
            initrd: None,
            modules: Vec::new(),
            cmdline: String::new(),
            memory_bytes,
            cpus: 1,
            weight: Self::DEFAULT_WEIGHT,
            cap_percent: None,
            tsc_hz: None,
            affinity: Vec::new(),
            placement: Placement::default(),
            console: Console::default(),
            screen: Screen::default(),
            test_devices: TestDevices::default(),
            autostart: Autostart::default(),
            on_crash: EndPolicy::default(),
            on_reboot: EndPolicy::default(),
            on_panic: PanicPolicy::default(),
        }
    }

    /// Every file that this machine needs: where one of them is damaged, the machine cannot start.
    pub fn files(&self) -> impl Iterator<Item = FileIndex> + '_ {
        core::iter::once(self.kernel)
            .chain(self.initrd)
            .chain(self.modules.iter().map(|module| module.file))
    }
}

/// A boot module (multiboot and its kin).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Its contents.
    pub file: FileIndex,
    /// Its command line.
    pub cmdline: String,
}

/// How a kernel file is to be understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum KernelFormat {
    /// By its magic numbers.
    #[default]
    Auto,
    /// A Linux kernel image (bzImage).
    Linux,
    /// An ELF file, started in the mode of its class.
    Elf,
    /// An image with a Multiboot header.
    Multiboot,
    /// An image with a Multiboot2 header.
    Multiboot2,
    /// An ELF file with the PVH entry note.
    Pvh,
    /// A flat binary, started in real mode.
    Flat {
        /// Where it is put: 0x7c00, as a boot sector is, or a multiple of 16 below 1 MiB.
        address: u32,
    },
}

impl KernelFormat {
    /// A flat binary where a BIOS puts a boot sector.
    pub const BOOT_SECTOR: Self = Self::Flat { address: 0x7c00 };
}

/// Whether virtual CPUs share host CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placement {
    /// They take turns with those of other machines.
    #[default]
    Shared,
    /// Each has a host CPU of its own.
    Dedicated,
}

/// Where a machine's serial port leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Console {
    /// To the hypervisor's console, each line with the machine's name before it.
    #[default]
    Shared,
    /// To the hypervisor's console, byte for byte: for the one machine that somebody works with.
    Terminal,
    /// Nowhere; the machine sees a serial port at which nobody listens.
    None,
}

/// Whether a machine has a display and a keyboard. It has a serial port in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Screen {
    /// It has neither.
    #[default]
    None,
    /// It has a VGA in text mode, which the hypervisor shows on its console, and a keyboard, which takes what is
    /// typed there.
    Text,
}

/// Whether a machine has the devices that test kernels expect of an emulator's board.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TestDevices {
    /// Their ports belong to nobody.
    #[default]
    Absent,
    /// It has them.
    Present,
}

/// Whether a machine starts with the hypervisor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Autostart {
    /// It does.
    #[default]
    Yes,
    /// It waits for the operator.
    No,
}

/// What follows where a kernel says on its console that it has panicked, and then turns in a circle for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PanicPolicy {
    /// The machine has crashed.
    #[default]
    Crash,
    /// The operator is told, and the machine goes on: for those who want to look at it.
    Ignore,
}

/// What follows a machine's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndPolicy {
    /// It stays ended.
    #[default]
    Stop,
    /// It starts again from its kernel file.
    Restart,
}
