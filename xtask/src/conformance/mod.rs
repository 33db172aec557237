//! The conformance guests on the bare machine and under Plinth, case by case.
//!
//! [`run`] boots a guest and collects its [`Cases`]; [`judge`] compares two runs of it. The bare machine is the judge, but
//! for the few cases where it is itself not what the manuals describe ([`exceptions`]).

pub mod exceptions;
mod verdict;

pub use verdict::{Score, Totals, judge};

use crate::bare;
use crate::build::Artifacts;
use crate::emulator::console::{Announcement, End, LineReader, Next};
use crate::emulator::hang;
use crate::emulator::{
    CpuModel, Debugger, Disk, Engine, Firmware, Machine, Msrs, Pace, SerialPort,
};
use crate::guests::{Guest, host_memory_mib, pack};
use crate::paths::Paths;
use crate::system::host::Virtualisation;
use anyhow::{Result, bail};
use bundle::{ApicVirtualization, Compression, HypervisorOptions, TestDevices};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a guest may take until its last line. Each takes about a second of an idle machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Which of the two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The bare machine.
    Bare,
    /// A virtual machine under Plinth.
    Guest,
}

/// How one case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All its checks held.
    Pass,
    /// One did not, and which.
    Fail(String),
    /// The machine lacks what it needs.
    Skip(String),
}

/// How the cases of a guest ended, by their names.
pub type Cases = BTreeMap<String, Outcome>;

/// What a guest's lines say about its cases; `None` if the last line, with the totals, is missing or wrong.
#[must_use]
pub fn cases<'a>(lines: impl IntoIterator<Item = &'a str>) -> Option<Cases> {
    let mut cases = Cases::new();
    let mut totals = None;
    for line in lines {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (name, why) = rest.split_once(": ").unwrap_or((rest, ""));
        let outcome = match word {
            "PASS" => Outcome::Pass,
            "FAIL" => Outcome::Fail(why.to_owned()),
            "SKIP" => Outcome::Skip(why.to_owned()),
            "DONE" => {
                totals = Some(rest.to_owned());
                continue;
            }
            _ => continue,
        };
        cases.insert(name.to_owned(), outcome);
    }
    let count = |wanted: fn(&Outcome) -> bool| cases.values().filter(|how| wanted(how)).count();
    let passed = count(|outcome| *outcome == Outcome::Pass);
    let failed = count(|outcome| matches!(outcome, Outcome::Fail(_)));
    (totals? == format!("{passed} passed, {failed} failed")).then_some(cases)
}

/// The guest of this name as the suite runs it.
fn guest(artifacts: &Artifacts, name: &str) -> Result<Guest> {
    let mut guest = Guest::tiny(artifacts, name)?;
    guest.config.test_devices = TestDevices::Present;
    if name == "cpus" {
        guest.config.cpus = 2;
    }
    Ok(guest)
}

/// How much of the local APIC the processor does for a guest. Bochs 2.7 delivers a virtual interrupt to the first
/// instruction of a handler whose gate has just cleared IF, which is what `events` is about, and to the vCPU that is entered
/// next on that CPU, whether its IF is set or not, which `cpus` finds now and then.
fn apic(name: &str) -> ApicVirtualization {
    match name {
        "events" => ApicVirtualization::Software,
        "cpus" => ApicVirtualization::TaskPriority,
        _ => ApicVirtualization::Hardware,
    }
}

/// The machine that a guest runs on.
fn machine(
    artifacts: &Artifacts,
    guest: &Guest,
    side: Side,
    engine: Engine,
    cpu_model: CpuModel,
) -> Result<Machine> {
    let (disk, memory_mib, msrs) = match side {
        Side::Bare => {
            let (disk, memory_mib) = bare::disk(artifacts, guest)?;
            (disk, memory_mib, bare::msrs(guest))
        }
        Side::Guest => {
            let guests = std::slice::from_ref(guest);
            let options = HypervisorOptions {
                apic: apic(&guest.config.name),
                ..engine.usual_options()
            };
            let bundle = pack(guests, options, Compression::Off)?;
            let memory_mib = host_memory_mib(guests, bundle.len() as u64);
            let disk = Disk::WithPointer {
                image: artifacts.image.clone(),
                bundle,
            };
            (disk, memory_mib, Msrs::default())
        }
    };
    Ok(Machine {
        engine,
        firmware: Firmware::Bios,
        cpus: guest.config.cpus,
        cpu_model,
        msrs,
        memory_mib,
        pace: Pace::Free,
        serial: SerialPort::Com1,
        debugger: Debugger::None,
        disk,
    })
}

/// The engine that the suite runs on.
#[must_use]
pub fn engine() -> Engine {
    Engine::choose(Virtualisation::of_this_machine())
}

/// Boots a guest, and collects its cases until the machine is off.
pub fn run(
    paths: &Paths,
    artifacts: &Artifacts,
    name: &str,
    side: Side,
    cpu_model: CpuModel,
) -> Result<Cases> {
    let guest = guest(artifacts, name)?;
    let mut running = machine(artifacts, &guest, side, engine(), cpu_model)?.spawn(paths)?;
    let lines = LineReader::start(running.serial()?)?;
    let deadline = Instant::now() + PATIENCE;
    let mut heard = Vec::new();
    loop {
        match lines.next(deadline) {
            Next::Line(line) => heard.push(line),
            Next::Closed => break,
            Next::Timeout => {
                let what = format!("{name} hangs ({side:?})");
                return Err(hang::report(&what, &mut running, &lines, &mut heard));
            }
        }
    }
    running.finish(Duration::from_secs(5));
    let (prefix, is_off) = match side {
        Side::Bare => (String::new(), running.is_off()),
        Side::Guest => (
            format!("[{name}] "),
            heard.iter().any(|line| says_power_off(name, line)),
        ),
    };
    let said = heard.iter().filter_map(|line| line.strip_prefix(&prefix));
    match cases(said) {
        Some(cases) if is_off && !cases.is_empty() => Ok(cases),
        _ => bail!(
            "{name} did not report all of its cases and switch itself off ({side:?}):\n{}\n{}",
            heard.join("\n"),
            running.last_words()
        ),
    }
}

/// Whether the hypervisor says that this guest has switched itself off.
fn says_power_off(name: &str, line: &str) -> bool {
    matches!(
        Announcement::parse(line),
        Some(Announcement::GuestEnded(end)) if end.name == name && end.how == End::PowerOff
    )
}

/// Runs a guest on both machines, with this processor where it is emulated, and compares.
pub fn compare(
    paths: &Paths,
    artifacts: &Artifacts,
    name: &str,
    cpu_model: CpuModel,
) -> Result<Score> {
    let bare = run(paths, artifacts, name, Side::Bare, cpu_model)?;
    let under_plinth = run(paths, artifacts, name, Side::Guest, cpu_model)?;
    let excused = match engine() {
        Engine::Bochs => exceptions::of(name),
        // The list is about the emulator.
        Engine::Kvm | Engine::Qemu => Vec::new(),
    };
    Ok(judge(&bare, &under_plinth, &excused))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_guest_become_cases() {
        let lines = [
            "Hello",
            "PASS one",
            "FAIL two: it is 0x1: not 0x2",
            "SKIP three: nothing there",
            "DONE 1 passed, 1 failed",
        ];
        let cases = cases(lines).unwrap();
        assert_eq!(cases["one"], Outcome::Pass);
        assert_eq!(cases["two"], Outcome::Fail("it is 0x1: not 0x2".into()));
        assert_eq!(cases["three"], Outcome::Skip("nothing there".into()));
    }

    #[test]
    fn a_guest_that_did_not_come_to_its_end_has_no_cases() {
        assert_eq!(cases(["PASS one"]), None);
        assert_eq!(cases(["PASS one", "DONE 2 passed, 0 failed"]), None);
    }
}
