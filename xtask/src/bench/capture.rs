//! Runs a machine to its end and keeps what it says.

use crate::emulator::Machine;
use crate::emulator::console::{Announcement, LineReader, Next};
use crate::emulator::hang;
use crate::paths::Paths;
use anyhow::Result;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a machine may take to its next line: some measure for half a minute of processor time before they print
/// anything, and may have to share the processor.
const PATIENCE: Duration = Duration::from_secs(900);

/// What a machine has said.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    /// Its serial port, line by line.
    pub lines: Vec<String>,
    /// Its debug port (0xE9).
    pub debug_port: String,
}

/// How long it may take in all: one that prints for ever is to be cut off, too. The longest captures boot Linux, in
/// minutes.
const LIMIT: Duration = Duration::from_secs(1800);

/// Runs a machine until it is off, all guests have ended, or `is_last` knows a line.
pub fn run(paths: &Paths, machine: &Machine, is_last: impl Fn(&str) -> bool) -> Result<Captured> {
    let mut running = machine.spawn(paths)?;
    let reader = LineReader::start(running.serial()?)?;
    let mut lines = Vec::new();
    if let Err(what) = collect(&reader, &mut lines, Instant::now() + LIMIT, is_last) {
        return Err(hang::report(what, &mut running, &reader, &mut lines));
    }
    running.finish(Duration::from_secs(2));
    let debug_port = String::from_utf8_lossy(&running.debug_port()).into_owned();
    Ok(Captured { lines, debug_port })
}

/// Collects lines up to the last; an error says in which way there is none.
fn collect(
    reader: &LineReader,
    lines: &mut Vec<String>,
    limit: Instant,
    is_last: impl Fn(&str) -> bool,
) -> Result<(), &'static str> {
    loop {
        match reader.next(limit.min(Instant::now() + PATIENCE)) {
            Next::Line(line) => {
                let ends = is_last(&line)
                    || matches!(
                        Announcement::parse(&line),
                        Some(Announcement::AllEnded { .. })
                    );
                lines.push(line);
                if ends {
                    return Ok(());
                }
            }
            Next::Closed => return Ok(()),
            Next::Timeout if Instant::now() >= limit => {
                return Err("the machine goes on and on");
            }
            Next::Timeout => return Err("the machine has gone silent"),
        }
    }
}

/// The minimum and the median of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// The least.
    pub minimum: u64,
    /// The median.
    pub median: u64,
}

/// The lines `BENCH name minimum median` of one guest (`None`: of whoever has the bare machine, or a raw console), in
/// their order.
#[must_use]
pub fn measurements(lines: &[String], guest: Option<&str>) -> Vec<(String, Figures)> {
    let prefix = guest.map_or_else(String::new, |name| format!("[{name}] "));
    let figures = |line: &String| {
        let mut words = line
            .strip_prefix(&prefix)?
            .strip_prefix("BENCH ")?
            .split_whitespace();
        let name = words.next()?.to_owned();
        let minimum = words.next()?.parse().ok()?;
        let median = words.next()?.parse().ok()?;
        Some((name, Figures { minimum, median }))
    };
    lines.iter().filter_map(figures).collect()
}

/// The medians by name.
#[must_use]
pub fn medians(measurements: &[(String, Figures)]) -> BTreeMap<&str, u64> {
    measurements
        .iter()
        .map(|(name, figures)| (name.as_str(), figures.median))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::console::tests::connection;
    use std::io::Write;

    #[test]
    fn a_machine_that_prints_for_ever_is_cut_off() {
        let (mut machine, serial) = connection();
        std::thread::spawn(move || while machine.write_all(b"again\n").is_ok() {});
        let reader = LineReader::start(serial).unwrap();
        let mut lines = Vec::new();
        let limit = Instant::now() + Duration::from_millis(50);
        let ended = collect(&reader, &mut lines, limit, |line| line == "last");
        assert_eq!(ended, Err("the machine goes on and on"));
        assert!(lines.iter().all(|line| line == "again") && !lines.is_empty());
    }

    #[test]
    fn lines_are_collected_up_to_the_last() {
        let (mut machine, serial) = connection();
        machine.write_all(b"one\nlast\nbehind\n").unwrap();
        let reader = LineReader::start(serial).unwrap();
        let mut lines = Vec::new();
        let limit = Instant::now() + Duration::from_secs(60);
        collect(&reader, &mut lines, limit, |line| line == "last").unwrap();
        assert_eq!(lines, ["one", "last"]);
    }

    #[test]
    fn measurements_are_read_from_the_lines_of_their_guest() {
        let lines = [
            "[bench] BENCH cpuid 270 276",
            "BENCH cpuid 5 6",
            "[other] BENCH cpuid 1 1",
            "[bench] BENCH broken 1",
            "[bench] PASS cpuid 1 2",
        ]
        .map(str::to_owned);
        let figures = |minimum, median| Figures { minimum, median };
        assert_eq!(
            measurements(&lines, Some("bench")),
            [("cpuid".to_owned(), figures(270, 276))]
        );
        let native = measurements(&lines, None);
        assert_eq!(native, [("cpuid".to_owned(), figures(5, 6))]);
        assert_eq!(medians(&native)["cpuid"], 6);
    }
}
