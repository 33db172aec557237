//! Runs a machine to its end and keeps what it says.

use crate::emulator::Machine;
use crate::emulator::console::{Announcement, LineReader, Next};
use crate::paths::Paths;
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a machine may take to its next line.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a machine has said.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    /// Its serial port, line by line.
    pub lines: Vec<String>,
    /// Its debug port (0xE9).
    pub debug_port: String,
}

/// Runs a machine until it is off, all guests have ended, or `is_last` knows a line.
pub fn run(paths: &Paths, machine: &Machine, is_last: impl Fn(&str) -> bool) -> Result<Captured> {
    let mut running = machine.spawn(paths)?;
    let reader = LineReader::start(running.serial()?)?;
    let mut lines = Vec::new();
    loop {
        match reader.next(Instant::now() + PATIENCE) {
            Next::Line(line) => {
                let ends = is_last(&line)
                    || matches!(
                        Announcement::parse(&line),
                        Some(Announcement::AllEnded { .. })
                    );
                lines.push(line);
                if ends {
                    break;
                }
            }
            Next::Closed => break,
            Next::Timeout => {
                let said = lines.join("\n");
                bail!(
                    "the machine has gone silent:\n{said}\n{}",
                    running.registers()
                )
            }
        }
    }
    running.finish(Duration::from_secs(2));
    let debug_port = String::from_utf8_lossy(&running.debug_port()).into_owned();
    Ok(Captured { lines, debug_port })
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
