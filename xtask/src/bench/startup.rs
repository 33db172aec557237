//! The way from the hypervisor's first instruction to the first guest's, by phase; what zeroing memory costs, for a new
//! guest and for a restart; how soon a guest is seen by whoever types the command; and how large everything is.
//!
//! How soon is told in processor time, of `xtask` and the emulator together: alone on a machine one waits as long as
//! that, and what else a machine has to do does not lengthen it.

use super::exits::Host;
use super::{Row, Target, capture};
use crate::build::Artifacts;
use crate::guests::Guest;
use crate::paths::Paths;
use crate::toolchain::plain_cargo;
use anyhow::{Context, Result, ensure};
use bundle::EndPolicy;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;
use object::{Object, ObjectSection};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

/// The name of the suite.
pub const SUITE: &str = "startup";

/// The guest that is started.
const GUEST: &str = "hello";

/// The guest that starts again and again.
const RESTARTED: &str = "reboot";

/// Commands that show a guest, and how its first line begins or goes on.
const FIRST_LINES: [(&str, &[&str], &str); 2] = [
    (
        "CPU time of `xtask run` to Linux's first line",
        &["run"],
        "Linux version ",
    ),
    (
        "that of `xtask run hello` to its first",
        &["run", GUEST],
        "[hello] ",
    ),
];

/// Within this time a warm `cargo xtask run` is to show a guest's first line, in Bochs.
const FIRST_LINE_MS: u64 = 15_000;

/// The parts of the hypervisor's program.
const SECTIONS: [&str; 4] = [".text", ".rodata", ".data", ".bss"];

/// What the hypervisor tells about its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Ticks from the first instruction to the first entry of a guest.
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
    rows.extend(zeroing(paths, artifacts, host)?);
    for (name, arguments, line) in FIRST_LINES {
        rows.push(Row {
            unit: "ms".to_owned(),
            target: Some(Target::AtMost(FIRST_LINE_MS)),
            ..Row::ticks(SUITE, name, first_line_ms(paths, arguments, line)?)
        });
    }
    rows.push(kib("resident", told.own_kib));
    rows.push(kib("image", fs::metadata(&artifacts.image)?.len() >> 10));
    rows.push(kib("program", fs::metadata(&artifacts.kernel)?.len() >> 10));
    rows.extend(sections(&artifacts.kernel_with_symbols)?);
    Ok(rows)
}

/// What zeroing the memory of a guest costs that is new, and of one that starts again.
fn zeroing(paths: &Paths, artifacts: &Artifacts, host: Host) -> Result<Vec<Row>> {
    let mut guest = Guest::tiny(artifacts, RESTARTED)?;
    guest.config.on_reboot = EndPolicy::Restart;
    let lives = std::cell::Cell::new(0);
    let captured = capture::run(paths, &host.plinth(artifacts, &[guest], 1)?, |line| {
        lives.set(lives.get() + u32::from(zeroed_ticks(line).is_some()));
        lives.get() == 2
    })?;
    let ticks = captured.lines.iter().filter_map(|line| zeroed_ticks(line));
    let names = ["zeroing 32 MiB", "the same at a restart"];
    let rows: Vec<_> = names
        .into_iter()
        .zip(ticks)
        .map(|(name, ticks)| Row::ticks(SUITE, name, ticks))
        .collect();
    ensure!(rows.len() == names.len(), "the guest did not start again");
    Ok(rows)
}

/// `...: 16 of 32 MiB zeroed, 123 ticks`
fn zeroed_ticks(line: &str) -> Option<u64> {
    let (_, ticks) = line.split_once(" MiB zeroed, ")?;
    ticks.strip_suffix(" ticks")?.parse().ok()
}

/// The processor time that a command takes up to a line with this in it, with everything built.
fn first_line_ms(paths: &Paths, arguments: &[&str], text: &str) -> Result<u64> {
    let begin_ms = cpu_ms_of_children()?;
    let mut run = plain_cargo(paths)
        .arg("xtask")
        .args(arguments)
        .args(["--timeout", "300"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run cargo")?;
    let output = run.stdout.take().context("cargo says nothing")?;
    let mut lines = BufReader::new(output).split(b'\n').map_while(Result::ok);
    let found = lines.find(|line| String::from_utf8_lossy(line).contains(text));
    // It ends and waits for what it has started; cargo has made way for it.
    if let Ok(pid) = i32::try_from(run.id()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    run.wait()?;
    found.with_context(|| format!("no guest said `{text}`"))?;
    Ok(cpu_ms_of_children()?.saturating_sub(begin_ms))
}

/// The processor time of all programs that this one has started and that have ended, theirs included.
fn cpu_ms_of_children() -> Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let time = usage.user_time() + usage.system_time();
    Ok(u64::try_from(time.num_milliseconds())?)
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

    #[test]
    fn what_zeroing_costs_is_read() {
        let line = "[    0.827874] 0 INFO  vm: reboot: 16 of 32 MiB zeroed, 2109271 ticks";
        assert_eq!(zeroed_ticks(line), Some(2_109_271));
        assert_eq!(zeroed_ticks("[reboot] DONE 2 passed, 0 failed"), None);
    }
}
