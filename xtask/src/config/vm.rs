//! `[[vm]]`: one virtual machine.

use super::section::{Found, Section, did_you_mean};
use crate::guests::{Guest, TSC_MHZ, module_cmdline, parse_format, tsc_hz};
use crate::linux::NAME as LINUX;
use bundle::{
    Autostart, Console, EndPolicy, KernelFormat, PanicPolicy, Placement, Screen, TestDevices,
    VmConfig,
};
use std::path::{Path, PathBuf};
use toml::de::DeValue;

pub(super) const TITLE: &str = "[[vm]]";

/// All keys that a virtual machine may have.
pub(super) const KEYS: &[&str] = &[
    "name",
    "kernel",
    "format",
    "initrd",
    "modules",
    "cmdline",
    "memory",
    "cpus",
    "weight",
    "cap",
    "tsc",
    "affinity",
    "placement",
    "console",
    "screen",
    "test-devices",
    "autostart",
    "on-crash",
    "on-reboot",
    "on-panic",
];

/// Names are on the log, before each line of a console, and in announcements that programs read.
const MAX_NAME: usize = 32;

/// What the hypervisor can give one virtual machine.
const MAX_CPUS: u32 = 255;
const MAX_WEIGHT: u32 = 65535;
const MIN_MEMORY_BYTES: u64 = 1 << 20;
const MAX_MEMORY_BYTES: u64 = 32 << 40;
const PAGE_BYTES: u64 = 4096;

/// Host CPUs have numbers below that of any machine Plinth can use.
const MAX_HOST_CPU: u32 = 254;

const CONSOLES: [(&str, Console); 3] = [
    ("shared", Console::Shared),
    ("terminal", Console::Terminal),
    ("none", Console::None),
];

const SCREENS: [(&str, Screen); 2] = [("none", Screen::None), ("text", Screen::Text)];

const PLACEMENTS: [(&str, Placement); 2] = [
    ("shared", Placement::Shared),
    ("dedicated", Placement::Dedicated),
];

/// What may follow a machine's end, by its name.
pub(crate) const POLICIES: [(&str, EndPolicy); 2] =
    [("stop", EndPolicy::Stop), ("restart", EndPolicy::Restart)];

const PANIC_POLICIES: [(&str, PanicPolicy); 2] = [
    ("crash", PanicPolicy::Crash),
    ("ignore", PanicPolicy::Ignore),
];

/// Where a kernel comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// Debian's stock kernel.
    Linux,
    /// One of our own tiny guests.
    Tiny(String),
    /// A file.
    File(PathBuf),
}

/// One virtual machine, as far as it can be known without building or fetching anything.
#[derive(Debug)]
pub(super) struct Vm {
    pub(super) name: Found<String>,
    pub(super) kernel: Kernel,
    pub(super) memory_bytes: Option<u64>,
    pub(super) cpus: Found<u32>,
    pub(super) affinity: Vec<Found<u32>>,
    pub(super) placement: Placement,
    pub(super) console: Console,
    /// Where its console was said to be the terminal, if it was.
    pub(super) terminal: Option<Found<()>>,
    pub(super) autostart: Autostart,
    format: Option<KernelFormat>,
    screen: Screen,
    test_devices: TestDevices,
    initrd: Option<PathBuf>,
    modules: Vec<(PathBuf, String)>,
    cmdline: Option<String>,
    weight: u32,
    cap_percent: Option<u32>,
    tsc_hz: Option<u64>,
    on_crash: EndPolicy,
    on_reboot: EndPolicy,
    on_panic: PanicPolicy,
}

impl Vm {
    /// Reads one table; `None` where it cannot even be told what it is about.
    pub(super) fn read(table: &Section<'_>, folder: &Path, tiny_guests: &[String]) -> Option<Self> {
        let kernel = kernel(table, folder, tiny_guests);
        let name = name(table);
        let cpus = table.number("cpus", 1..=MAX_CPUS).unwrap_or(Found {
            value: 1,
            place: table.place.clone(),
        });
        let placement = table
            .choice("placement", &PLACEMENTS)
            .map_or_else(Placement::default, |found| found.value);
        let console = table.choice("console", &CONSOLES);
        let chosen =
            |found: Option<Found<EndPolicy>>| found.map_or_else(EndPolicy::default, |f| f.value);
        let vm = (|| {
            Some(Self {
                memory_bytes: memory(table),
                affinity: affinity(table),
                placement,
                console: console
                    .as_ref()
                    .map_or_else(Console::default, |found| found.value),
                terminal: console
                    .filter(|found| found.value == Console::Terminal)
                    .map(|found| found.map(|_| ())),
                autostart: match table.flag("autostart") {
                    Some(Found { value: false, .. }) => Autostart::No,
                    _ => Autostart::Yes,
                },
                format: format(table),
                screen: table
                    .choice("screen", &SCREENS)
                    .map_or_else(Screen::default, |found| found.value),
                test_devices: match table.flag("test-devices") {
                    Some(Found { value: true, .. }) => TestDevices::Present,
                    _ => TestDevices::Absent,
                },
                initrd: table
                    .text("initrd")
                    .and_then(|path| file(table, &path, folder, "initrd")),
                modules: modules(table, folder),
                cmdline: table.text("cmdline").map(|text| text.value.to_owned()),
                weight: table
                    .number("weight", 1..=MAX_WEIGHT)
                    .map_or(VmConfig::DEFAULT_WEIGHT, |found| found.value),
                cap_percent: cap(table, cpus.value, placement),
                tsc_hz: table
                    .number("tsc", TSC_MHZ)
                    .map(|found| tsc_hz(found.value)),
                on_crash: chosen(table.choice("on-crash", &POLICIES)),
                on_reboot: chosen(table.choice("on-reboot", &POLICIES)),
                on_panic: table
                    .choice("on-panic", &PANIC_POLICIES)
                    .map_or_else(PanicPolicy::default, |found| found.value),
                cpus,
                name: name?,
                kernel: kernel?,
            })
        })();
        table.finish(&[(
            super::hypervisor::HYPERVISOR,
            super::hypervisor::HYPERVISOR_KEYS,
        )]);
        vm
    }

    /// Memory that it will have.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes.unwrap_or(match self.kernel {
            Kernel::Linux => crate::linux::Linux::MEMORY_BYTES,
            Kernel::Tiny(_) => Guest::TINY_BYTES,
            Kernel::File(_) => Guest::USUAL_BYTES,
        })
    }

    /// Makes a guest with the right kernel what the configuration says.
    pub(super) fn apply(&self, guest: &mut Guest) {
        let config = &mut guest.config;
        config.name.clone_from(&self.name.value);
        config.memory_bytes = self.memory_bytes();
        config.cpus = self.cpus.value;
        config.weight = self.weight;
        config.cap_percent = self.cap_percent;
        config.tsc_hz = self.tsc_hz;
        config.affinity = self.affinity.iter().map(|cpu| cpu.value).collect();
        config.placement = self.placement;
        config.console = self.console;
        config.autostart = self.autostart;
        config.on_crash = self.on_crash;
        config.on_reboot = self.on_reboot;
        config.on_panic = self.on_panic;
        config.screen = self.screen;
        config.test_devices = self.test_devices;
        if let Some(format) = self.format {
            config.kernel_format = format;
        }
        if let Some(cmdline) = &self.cmdline {
            config.cmdline.clone_from(cmdline);
        }
        if self.initrd.is_some() {
            guest.initrd.clone_from(&self.initrd);
        }
        guest.modules.clone_from(&self.modules);
    }
}

fn name(table: &Section<'_>) -> Option<Found<String>> {
    if table.value("name").is_none() {
        table.problem(table.place.clone(), "this machine has no `name`");
        return None;
    }
    let name = table.text("name")?;
    let is_good = (1..=MAX_NAME).contains(&name.value.len())
        && name
            .value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if !is_good {
        let message = format!(
            "a name has 1 to {MAX_NAME} letters, digits, `-`, `_` or `.`, which \"{}\" has not",
            name.value
        );
        table.problem(name.place, message);
        return None;
    }
    Some(name.map(str::to_owned))
}

/// `linux`, the name of a tiny guest, or a file. What looks like a path is one.
fn kernel(table: &Section<'_>, folder: &Path, tiny_guests: &[String]) -> Option<Kernel> {
    if table.value("kernel").is_none() {
        table.problem(table.place.clone(), "this machine has no `kernel`");
        return None;
    }
    let kernel = table.text("kernel")?;
    let name = kernel.value;
    if name == LINUX {
        return Some(Kernel::Linux);
    }
    if tiny_guests.iter().any(|guest| guest == name) {
        return Some(Kernel::Tiny(name.to_owned()));
    }
    let looks_like_a_path = name.contains(['/', '.']);
    if looks_like_a_path || folder.join(name).exists() {
        return file(table, &kernel, folder, "kernel").map(Kernel::File);
    }
    let names = tiny_guests.iter().map(String::as_str).chain([LINUX]);
    let hint = did_you_mean(name, names);
    let message = format!("there is neither a guest nor a file `{name}`{hint}");
    table.problem(kernel.place, message);
    None
}

/// The kernel's format, in the words of `--format`.
fn format(table: &Section<'_>) -> Option<KernelFormat> {
    let text = table.text("format")?;
    match parse_format(text.value) {
        Ok(format) => Some(format),
        Err(error) => {
            table.problem(text.place, format!("`format`: {error}"));
            None
        }
    }
}

/// A file that must be there. Its path is taken from the folder of the configuration.
fn file(table: &Section<'_>, path: &Found<&str>, folder: &Path, what: &str) -> Option<PathBuf> {
    let full = folder.join(path.value);
    let problem = match std::fs::metadata(&full) {
        Ok(found) if found.is_dir() => "is a folder",
        Ok(found) if found.len() == 0 => "is empty",
        Ok(_) => return Some(full),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "does not exist",
        Err(_) => "cannot be read",
    };
    let message = format!("`{what}`: {} {problem}", full.display());
    table.problem(path.place.clone(), message);
    None
}

/// Each is a path, or a table with a path and a command line.
fn modules(table: &Section<'_>, folder: &Path) -> Vec<(PathBuf, String)> {
    let Some(elements) = table.elements("modules") else {
        return Vec::new();
    };
    let mut modules = Vec::new();
    for element in elements.value {
        match element.get_ref() {
            DeValue::String(path) => {
                let place = table.place_of(element);
                let path = Found {
                    value: &**path,
                    place,
                };
                let path = file(table, &path, folder, "modules");
                modules.extend(path.map(|path| {
                    let cmdline = module_cmdline(&path, "");
                    (path, cmdline)
                }));
            }
            DeValue::Table(_) => modules.extend(module(table, element, folder)),
            _ => table.problem(
                table.place_of(element),
                "a module is a file in quotes, or { file = \"...\", cmdline = \"...\" }",
            ),
        }
    }
    modules
}

fn module(
    table: &Section<'_>,
    element: &toml::Spanned<DeValue<'_>>,
    folder: &Path,
) -> Option<(PathBuf, String)> {
    let inner = table.inner("a module", element)?;
    let path = inner.text("file");
    if path.is_none() && inner.value("file").is_none() {
        inner.problem(inner.place.clone(), "this module has no `file`");
    }
    let cmdline = inner.text("cmdline");
    inner.finish(&[]);
    let path = file(&inner, &path?, folder, "modules")?;
    let cmdline = module_cmdline(&path, cmdline.map_or("", |text| text.value));
    Some((path, cmdline))
}

fn memory(table: &Section<'_>) -> Option<u64> {
    let memory = table.size("memory")?;
    let bytes = memory.value;
    let message = if bytes < MIN_MEMORY_BYTES {
        "a machine has 1M of memory at least"
    } else if bytes > MAX_MEMORY_BYTES {
        "a machine has 32T of memory at most"
    } else if !bytes.is_multiple_of(PAGE_BYTES) {
        "memory comes in pages of 4K"
    } else {
        return Some(bytes);
    };
    table.problem(memory.place, message);
    None
}

/// The percentage of one CPU.
fn cap(table: &Section<'_>, cpus: u32, placement: Placement) -> Option<u32> {
    let most = cpus.saturating_mul(100);
    let cap = table.number("cap", 1..=MAX_CPUS * 100)?;
    if placement == Placement::Dedicated {
        table.problem(
            cap.place,
            "nobody else gets what a machine leaves of CPUs of its own; leave out `cap`, or `placement`",
        );
        return None;
    }
    if cap.value > most {
        let message = format!(
            "with {cpus} CPU{} a machine cannot use more than {most} percent of one; leave `cap` out for no limit",
            if cpus == 1 { "" } else { "s" }
        );
        table.problem(cap.place, message);
        return None;
    }
    Some(cap.value)
}

fn affinity(table: &Section<'_>) -> Vec<Found<u32>> {
    let Some(elements) = table.elements("affinity") else {
        return Vec::new();
    };
    if elements.value.is_empty() {
        table.problem(
            elements.place,
            "`affinity` allows no CPU at all; leave it out to allow all",
        );
    }
    let mut cpus: Vec<Found<u32>> = Vec::new();
    for element in elements.value {
        let Some(cpu) = table.as_number("affinity", element, 0..=MAX_HOST_CPU) else {
            continue;
        };
        if cpus.iter().any(|other| other.value == cpu.value) {
            let message = format!("CPU {} is named twice", cpu.value);
            table.problem(cpu.place, message);
        } else {
            cpus.push(cpu);
        }
    }
    cpus
}
