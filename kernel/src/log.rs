//! The `log` crate's back end: one line for each message, with time, CPU, level and area.
//!
//! ```text
//! [    0.123456] 0 INFO  acpi: 4 CPUs, 1 I/O APIC
//! ```

use ::log::{Level, LevelFilter, Log, Metadata, Record};

use crate::cpu;
use crate::hw::clock;
use crate::hw::console;
use crate::hw::screen::Colour;

struct Logger;

static LOGGER: Logger = Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= ::log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let colour = match record.level() {
            Level::Error => Colour::Error,
            Level::Warn => Colour::Warning,
            Level::Info => Colour::Text,
            Level::Debug | Level::Trace => Colour::Dim,
        };
        let now_us = clock::now_ns() / 1000;
        console::line(
            colour,
            format_args!(
                "[{:5}.{:06}] {} {:5} {}: {}",
                now_us / 1_000_000,
                now_us % 1_000_000,
                cpu::this().id(),
                record.level(),
                area(record.target()),
                record.args(),
            ),
        );
    }

    fn flush(&self) {
        console::refresh(console::Refresh::Now);
    }
}

/// The last part of a module's path, which is the name of a file.
fn area(target: &str) -> &str {
    match target.rsplit("::").next() {
        None | Some("plinth_kernel") => "plinth",
        Some(area) => area,
    }
}

/// Takes over the `log` crate's macros.
pub(crate) fn init() {
    // It fails only where a logger is set already; then that one is ours.
    let _ = ::log::set_logger(&LOGGER);
    set_level(LevelFilter::Info);
}

/// Messages below this level are not logged from now on.
pub(crate) fn set_level(level: LevelFilter) {
    ::log::set_max_level(level);
}
