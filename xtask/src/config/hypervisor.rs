//! `[hypervisor]` and `[host]`: what concerns no single virtual machine.

use super::section::{Found, Section};
use bundle::{LogLevel, WhenDone};

pub(super) const HYPERVISOR: &str = "[hypervisor]";
pub(super) const HOST: &str = "[host]";

/// The keys of `[hypervisor]`.
pub(super) const HYPERVISOR_KEYS: &[&str] = &["log", "when-done"];

/// The words for how much is logged.
pub(crate) const LOG_LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

const WHEN_DONE: [(&str, WhenDone); 2] =
    [("power-off", WhenDone::PowerOff), ("halt", WhenDone::Halt)];

/// More CPUs than any machine has that Plinth can use.
const MAX_HOST_CPUS: u32 = 255;

/// Options of the hypervisor.
#[derive(Debug, Default)]
pub(super) struct Hypervisor {
    pub(super) log_level: Option<Found<LogLevel>>,
    pub(super) when_done: Option<Found<WhenDone>>,
}

impl Hypervisor {
    pub(super) fn read(&mut self, table: &Section<'_>) {
        set(
            &mut self.log_level,
            table,
            "log",
            table.choice("log", &LOG_LEVELS),
        );
        let when_done = table.choice("when-done", &WHEN_DONE);
        set(&mut self.when_done, table, "when-done", when_done);
        table.finish(&[]);
    }
}

/// The machine that `cargo xtask run` emulates.
#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) cpus: Option<Found<u32>>,
    pub(super) memory_bytes: Option<Found<u64>>,
}

impl Host {
    pub(super) fn read(&mut self, table: &Section<'_>) {
        let cpus = table.number("cpus", 1..=MAX_HOST_CPUS);
        set(&mut self.cpus, table, "cpus", cpus);
        set(
            &mut self.memory_bytes,
            table,
            "memory",
            table.size("memory"),
        );
        table.finish(&[]);
    }
}

/// Sets what may be set once, whichever of the files does it.
fn set<T>(slot: &mut Option<Found<T>>, table: &Section<'_>, key: &str, found: Option<Found<T>>) {
    match (&*slot, found) {
        (Some(first), Some(second)) => {
            let message = format!(
                "`{key}` of {} is set already, at {}",
                table.title, first.place
            );
            table.problem(second.place, message);
        }
        (None, Some(found)) => *slot = Some(found),
        (_, None) => {}
    }
}
