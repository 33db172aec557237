//! The configuration that people write: TOML, in one file or a folder of them.
//!
//! ```toml
//! [hypervisor]
//! log = "info"
//!
//! [host]              # the machine that `cargo xtask run` emulates
//! cpus = 2
//!
//! [[vm]]
//! name = "web"
//! kernel = "linux"
//! memory = "512M"
//! ```
//!
//! [`Configuration::read`] checks all that can be known before a machine runs: [`section`] the kinds of the values,
//! [`vm`] and [`hypervisor`] what they mean, [`whole`] how they go together. Everything wrong is told at once, each
//! with its place ([`source`]). What passes becomes [`Guest`]s, which [`pack`](crate::guests::pack) brings into the
//! compact form that the hypervisor reads.

mod hypervisor;
mod section;
mod source;
#[cfg(test)]
mod tests;
mod vm;
mod whole;

use crate::build::Artifacts;
use crate::guests::Guest;
use crate::linux::{Linux, Task};
use crate::paths::Paths;
use anyhow::{Context, Result, bail};
use bundle::{HypervisorOptions, LogLevel, WhenDone};
use hypervisor::{Host, Hypervisor};

pub(crate) use hypervisor::LOG_LEVELS;
pub(crate) use vm::POLICIES;
pub(crate) use whole::USUAL_HOST_CPUS;

use section::{Found, Section};
use source::{Problems, Source};
use std::fs;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};
use vm::{Kernel, Vm};

/// What is known of the machine that the configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForMachine {
    /// An emulated one. The command line may have said how many CPUs it has.
    Emulated {
        /// What it said.
        cpus: Option<u32>,
    },
    /// Nothing: the configuration goes onto a stick.
    Unknown,
}

/// A configuration without a mistake.
#[derive(Debug)]
pub struct Configuration {
    hypervisor: Hypervisor,
    host: Host,
    vms: Vec<Vm>,
}

impl Configuration {
    /// Reads a file, or all `*.toml` of a folder.
    pub fn read(path: &Path, tiny_guests: &[String], machine: ForMachine) -> Result<Self> {
        let sources = files(path)?
            .into_iter()
            .map(|file| {
                let text = fs::read_to_string(&file)
                    .with_context(|| format!("cannot read {}", file.display()))?;
                Ok((file, text))
            })
            .collect::<Result<Vec<_>>>()?;
        Self::parse(&sources, tiny_guests, machine).map_err(anyhow::Error::msg)
    }

    /// Reads the contents of these files. The error is for people.
    fn parse(
        files: &[(PathBuf, String)],
        tiny_guests: &[String],
        machine: ForMachine,
    ) -> Result<Self, String> {
        let problems = Problems::default();
        let mut configuration = Self {
            hypervisor: Hypervisor::default(),
            host: Host::default(),
            vms: Vec::new(),
        };
        for (path, text) in files {
            let source = Source::new(path.display().to_string(), text.as_str());
            let (document, errors) = DeTable::parse_recoverable(&source.text);
            for error in &errors {
                let span = error.span().unwrap_or_default();
                let source = source.clone();
                problems.add(source::Place { source, span }, error.message());
            }
            // What was recovered from a broken file would only raise questions that the author did not ask.
            if errors.is_empty() {
                let folder = path.parent().unwrap_or(Path::new(""));
                let top = Section::new(
                    "a configuration",
                    &source,
                    document.get_ref(),
                    0..0,
                    &problems,
                );
                configuration.add(&top, folder, tiny_guests);
            }
        }
        whole::check(&configuration, machine, &problems);
        if let (Some((path, text)), true) = (files.first(), configuration.vms.is_empty())
            && problems.is_empty()
        {
            let source = Source::new(path.display().to_string(), text.as_str());
            let place = source::Place { source, span: 0..0 };
            problems.add(
                place,
                "nothing begins with [[vm]]: there is no virtual machine in it",
            );
        }
        match problems.report() {
            Some(report) => Err(report),
            None => Ok(configuration),
        }
    }

    /// Takes in one file.
    fn add(&mut self, top: &Section<'_>, folder: &Path, tiny_guests: &[String]) {
        if let Some(table) = only_table(top, hypervisor::HYPERVISOR, "hypervisor") {
            self.hypervisor.read(&table);
        }
        if let Some(table) = only_table(top, hypervisor::HOST, "host") {
            self.host.read(&table);
        }
        if let Some(value) = top.value("vm") {
            let tables = match value.get_ref() {
                DeValue::Array(array) => array
                    .iter()
                    .map(|element| top.inner(vm::TITLE, element))
                    .collect(),
                _ => None,
            };
            match tables {
                Some(tables) => self.vms.extend(
                    Vec::into_iter(tables)
                        .filter_map(|table| Vm::read(&table, folder, tiny_guests)),
                ),
                None => top.problem(
                    top.place_of(value),
                    "each virtual machine begins with [[vm]], in two pairs of brackets",
                ),
            }
        }
        top.finish(&[
            (vm::TITLE, vm::KEYS),
            (hypervisor::HYPERVISOR, hypervisor::HYPERVISOR_KEYS),
        ]);
    }

    /// CPUs of the machine to be emulated, if the configuration says so.
    #[must_use]
    pub fn host_cpus(&self) -> Option<u32> {
        self.host.cpus.as_ref().map(|cpus| cpus.value)
    }

    /// Memory of the machine to be emulated, if the configuration says so.
    #[must_use]
    pub fn host_memory_bytes(&self) -> Option<u64> {
        self.host.memory_bytes.as_ref().map(|bytes| bytes.value)
    }

    /// Options of the hypervisor: the command line's, else the configuration's, else the usual ones.
    #[must_use]
    pub fn hypervisor(
        &self,
        log_level: Option<LogLevel>,
        when_done: Option<WhenDone>,
        usual: HypervisorOptions,
    ) -> HypervisorOptions {
        let set = |found: &Option<Found<_>>| found.as_ref().map(|found| found.value);
        HypervisorOptions {
            apic: usual.apic,
            code_pages: usual.code_pages,
            log_level: log_level
                .or(set(&self.hypervisor.log_level))
                .unwrap_or(usual.log_level),
            when_done: when_done
                .or(self.hypervisor.when_done.as_ref().map(|found| found.value))
                .unwrap_or(usual.when_done),
        }
    }

    /// The guests, with what they need built or fetched.
    pub fn guests(&self, paths: &Paths, artifacts: &Artifacts) -> Result<Vec<Guest>> {
        self.vms
            .iter()
            .map(|vm| {
                let mut guest = match &vm.kernel {
                    Kernel::Linux => linux(paths)?,
                    Kernel::Tiny(name) => Guest::tiny(artifacts, name)?,
                    Kernel::File(path) => Guest::new("", path, Guest::USUAL_BYTES),
                };
                vm.apply(&mut guest);
                Ok(guest)
            })
            .collect()
    }
}

/// The stock Linux guest with a shell.
fn linux(paths: &Paths) -> Result<Guest> {
    Linux::provide(paths)?.guest(Task::Shell, &paths.artifacts().join("linux.initrd"))
}

/// A table that may be there once.
fn only_table<'a>(
    top: &Section<'a>,
    title: &'static str,
    key: &'static str,
) -> Option<Section<'a>> {
    let value = top.value(key)?;
    let table = top.inner(title, value);
    if table.is_none() {
        let message = format!("{title} is a table, and may be there once");
        top.problem(top.place_of(value), message);
    }
    table
}

/// The files that a configuration consists of.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files: Vec<_> = fs::read_dir(path)
        .with_context(|| format!("cannot read {}", path.display()))?
        .collect::<std::io::Result<Vec<_>>>()?
        .into_iter()
        .map(|entry| entry.path())
        .filter(|file| {
            file.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    if files.is_empty() {
        bail!("there is no *.toml in {}", path.display());
    }
    files.sort();
    Ok(files)
}
