//! The way from the hypervisor's first instruction to the first guest's, by phase, and how large everything is.

use super::exits::Host;
use super::{Row, capture};
use crate::build::Artifacts;
use crate::guests::Guest;
use crate::paths::Paths;
use anyhow::{Context, Result};
use object::{Object, ObjectSection};
use std::fs;
use std::path::Path;

/// The name of the suite.
pub const SUITE: &str = "startup";

/// The guest that is started.
const GUEST: &str = "hello";

/// The parts of the hypervisor's program.
const SECTIONS: [&str; 4] = [".text", ".rodata", ".data", ".bss"];

/// What the hypervisor tells about its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Ticks from the first instruction until the guests can run.
    pub ticks: u64,
    /// The same by phase.
    pub phases: Vec<(String, u64)>,
    /// KiB of memory in use before there were guests.
    pub own_kib: u64,
    /// For each VM, KiB beside its RAM.
    pub vm_kib: Vec<u64>,
}

impl Told {
    /// Finds it in the log.
    pub fn find(lines: &[String]) -> Result<Self> {
        let message = |line: &String, area: &str| {
            let (_, message) = line.split_once(&format!(" INFO  {area}: "))?;
            Some(message.to_owned())
        };
        let startup = lines.iter().find_map(|line| message(line, "startup"));
        let startup = startup.context("the hypervisor has not told how it started")?;
        let mut told = parse(&startup).context("it is not told as it should be")?;
        told.vm_kib = lines
            .iter()
            .filter_map(|line| message(line, "vm"))
            .filter_map(|text| {
                let (rest, _) = text.split_once(" KiB of ours")?;
                rest.rsplit(' ').next()?.parse().ok()
            })
            .collect();
        Ok(told)
    }

    /// The ticks of a phase.
    #[must_use]
    pub fn phase(&self, name: &str) -> Option<u64> {
        let mut phases = self.phases.iter();
        phases
            .find(|(phase, _)| phase == name)
            .map(|(_, ticks)| *ticks)
    }
}

/// `123 ticks: console 1, memory 2; 1304 KiB in use before the guests`
fn parse(message: &str) -> Option<Told> {
    let (ticks, rest) = message.split_once(" ticks: ")?;
    let (phases, rest) = rest.split_once("; ")?;
    let phases = phases.split(", ").map(|phase| {
        let (name, ticks) = phase.rsplit_once(' ')?;
        Some((name.to_owned(), ticks.parse().ok()?))
    });
    Some(Told {
        ticks: ticks.parse().ok()?,
        phases: phases.collect::<Option<_>>()?,
        own_kib: rest.split(' ').next()?.parse().ok()?,
        vm_kib: Vec::new(),
    })
}

/// Runs the suite.
pub fn measure(paths: &Paths, artifacts: &Artifacts, host: Host) -> Result<Vec<Row>> {
    let guest = Guest::tiny(artifacts, GUEST)?;
    let captured = capture::run(paths, &host.plinth(artifacts, &[guest], 1)?, |_| false)?;
    let told = Told::find(&captured.lines)?;
    let mut rows = vec![Row::ticks(SUITE, "to the first guest", told.ticks)];
    for (phase, ticks) in &told.phases {
        rows.push(Row::ticks(SUITE, phase.as_str(), *ticks));
    }
    rows.push(kib("resident", told.own_kib));
    rows.push(kib("image", fs::metadata(&artifacts.image)?.len() >> 10));
    rows.push(kib("program", fs::metadata(&artifacts.kernel)?.len() >> 10));
    rows.extend(sections(&artifacts.kernel_with_symbols)?);
    Ok(rows)
}

pub(super) fn kib(name: &str, kib: u64) -> Row {
    Row {
        unit: "KiB".to_owned(),
        ..Row::ticks(SUITE, name, kib)
    }
}

fn sections(program: &Path) -> Result<Vec<Row>> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let file = object::File::parse(&*bytes)?;
    let size = |name: &str| {
        let section = file.section_by_name(name);
        section.map_or(0, |section| section.size().div_ceil(1024))
    };
    Ok(SECTIONS.iter().map(|name| kib(name, size(name))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_hypervisor_tells_is_read_by_phase() {
        let lines = [
            "[    0.827874] 0 INFO  vm: hello: 32 MiB, Pvh kernel of 37 KiB, 33 KiB of ours",
            "[    0.829058] 0 INFO  startup: 8290 ticks: console 323, vt-x 1983; 1304 KiB in use before the guests",
        ]
        .map(str::to_owned);
        let told = Told::find(&lines).unwrap();
        assert_eq!((told.ticks, told.own_kib), (8290, 1304));
        assert_eq!(
            (told.phase("console"), told.phase("vt-x")),
            (Some(323), Some(1983))
        );
        assert_eq!(told.vm_kib, [33]);
        assert!(Told::find(&lines[..1]).is_err());
    }
}
