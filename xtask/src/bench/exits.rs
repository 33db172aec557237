//! What single events cost: the guest `bench` on the bare machine and under Plinth.

use super::capture::{Captured, Figures, measurements, medians};
use super::{Row, baseline, capture};
use crate::bare;
use crate::build::Artifacts;
use crate::emulator::{
    CpuModel, Debugger, Disk, Engine, Firmware, Machine, Msrs, Pace, SerialPort,
};
use crate::guests::{Guest, host_memory_mib, pack};
use crate::paths::Paths;
use anyhow::{Result, bail};
use bundle::{ApicVirtualization, Compression, HypervisorOptions, LogLevel};

/// The name of the suite.
pub const SUITE: &str = "exits";

/// The guest.
pub const GUEST: &str = "bench";

/// Measured with two CPUs; all else with one, since with two Bochs's clock is five times as coarse.
const OF_TWO_CPUS: [&str; 2] = ["wake-other-cpu", "tlb-shootdown"];

/// Enough to touch another page of 2 MiB in each sample.
const MEMORY_BYTES: u64 = 128 << 20;

/// The machines that measurements run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// What executes them.
    pub engine: Engine,
    /// Their CPU, where the engine has a choice.
    pub cpu_model: CpuModel,
}

impl Host {
    /// A machine with this disk.
    #[must_use]
    pub fn machine(self, disk: Disk, cpus: u32, memory_mib: u32) -> Machine {
        Machine {
            engine: self.engine,
            firmware: Firmware::Bios,
            cpus,
            cpu_model: self.cpu_model,
            msrs: Msrs::default(),
            memory_mib,
            pace: Pace::Free,
            serial: SerialPort::Com1,
            debugger: Debugger::None,
            disk,
        }
    }

    /// Plinth with these guests; it logs what concerns programs, and little else.
    pub fn plinth(self, artifacts: &Artifacts, guests: &[Guest], cpus: u32) -> Result<Machine> {
        self.plinth_with(artifacts, guests, cpus, ApicVirtualization::default())
    }

    /// The same where the processor does this much of the guests' local APICs.
    pub fn plinth_with(
        self,
        artifacts: &Artifacts,
        guests: &[Guest],
        cpus: u32,
        apic: ApicVirtualization,
    ) -> Result<Machine> {
        let options = HypervisorOptions {
            log_level: LogLevel::Info,
            apic,
            ..self.engine.usual_options()
        };
        let bundle = pack(guests, options, Compression::Off)?;
        let memory_mib = host_memory_mib(guests, bundle.len() as u64);
        let image = artifacts.image.clone();
        Ok(self.machine(Disk::WithPointer { image, bundle }, cpus, memory_mib))
    }

    /// The bare machine with this guest.
    pub fn bare(self, artifacts: &Artifacts, guest: &Guest, cpus: u32) -> Result<Machine> {
        let (disk, memory_mib) = bare::disk(artifacts, guest)?;
        Ok(Machine {
            msrs: bare::msrs(guest),
            ..self.machine(disk, cpus, memory_mib)
        })
    }
}

/// Runs the suite: on the bare machine, and under Plinth.
pub fn measure(paths: &Paths, artifacts: &Artifacts, host: Host) -> Result<Vec<Row>> {
    on_all_cpus(|cpus| {
        let guest = guest(artifacts, cpus)?;
        let native = capture::run(paths, &host.bare(artifacts, &guest, cpus)?, |_| false)?;
        let native = complete(&native, None)?;
        let plinth = capture::run(paths, &host.plinth(artifacts, &[guest], cpus)?, |_| false)?;
        rows(&native, &complete(&plinth, Some(GUEST))?, host.engine)
    })
}

/// The half of it that budgets are for.
pub fn measure_plinth(paths: &Paths, artifacts: &Artifacts, host: Host) -> Result<Vec<Row>> {
    on_all_cpus(|cpus| {
        let machine = host.plinth(artifacts, &[guest(artifacts, cpus)?], cpus)?;
        let plinth = capture::run(paths, &machine, |_| false)?;
        rows(&[], &complete(&plinth, Some(GUEST))?, host.engine)
    })
}

fn on_all_cpus(measure: impl Fn(u32) -> Result<Vec<Row>>) -> Result<Vec<Row>> {
    let mut rows = measure(1)?;
    let of_two = measure(2)?.into_iter();
    rows.extend(of_two.filter(|row| OF_TWO_CPUS.contains(&row.name.as_str())));
    Ok(rows)
}

fn guest(artifacts: &Artifacts, cpus: u32) -> Result<Guest> {
    let mut guest = Guest::tiny(artifacts, GUEST)?;
    guest.config.cpus = cpus;
    guest.config.memory_bytes = MEMORY_BYTES;
    Ok(guest)
}

/// The measurements of a guest that has come to its end.
pub fn complete(captured: &Captured, guest: Option<&str>) -> Result<Vec<(String, Figures)>> {
    let is_whole = captured
        .lines
        .iter()
        .any(|line| line.ends_with("DONE 1 passed, 0 failed"));
    if !is_whole {
        bail!(
            "the guest has not come to its end:\n{}",
            captured.lines.join("\n")
        );
    }
    Ok(measurements(&captured.lines, guest))
}

fn rows(
    native: &[(String, Figures)],
    guest: &[(String, Figures)],
    engine: Engine,
) -> Result<Vec<Row>> {
    let native = medians(native);
    let mut rows = Vec::new();
    for (name, figures) in guest {
        let mut row = Row::ticks(SUITE, name, figures.median);
        row.native = native.get(name.as_str()).copied();
        row.minimum = Some(figures.minimum);
        baseline::set_beside(&mut row, engine);
        rows.push(row);
    }
    if rows.is_empty() {
        bail!("the guest has measured nothing");
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::super::Target;
    use super::*;

    fn figures(list: &[(&str, u64)]) -> Vec<(String, Figures)> {
        let both = |median| Figures {
            minimum: median - 1,
            median,
        };
        list.iter()
            .map(|(name, median)| ((*name).to_owned(), both(*median)))
            .collect()
    }

    #[test]
    fn a_row_has_the_native_ticks_and_those_of_kvm_beside_its_own() {
        let rows = rows(
            &figures(&[("cpuid", 5)]),
            &figures(&[("cpuid", 276), ("vmcall", 290)]),
            Engine::Bochs,
        );
        let rows = rows.unwrap();
        assert_eq!(
            (rows[0].native, rows[0].plinth, rows[0].kvm),
            (Some(5), 276, Some(983))
        );
        assert_eq!(rows[0].minimum, Some(275));
        assert_eq!(rows[0].target, Some(Target::TimesCheaperThanKvm(3.0)));
        assert_eq!((rows[1].native, rows[1].kvm), (None, None));
    }

    #[test]
    fn a_guest_that_measured_nothing_or_broke_off_is_an_error() {
        assert!(rows(&[], &[], Engine::Bochs).is_err());
        let captured = Captured {
            lines: vec!["[bench] BENCH cpuid 1 2".into()],
            ..Captured::default()
        };
        assert!(complete(&captured, Some(GUEST)).is_err());
    }
}
