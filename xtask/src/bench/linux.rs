//! The same Linux on the bare machine and under Plinth: kernel, initial file system, command line and CPU model are
//! one and the same, and the program `linuxbench` is all of user space.
//!
//! What would make two native runs differ is switched off for both: address randomisation, RDRAND, and the kernel's
//! self-tests of its cryptography, which would only dilute the rest. XSAVEC is broken in Bochs 2.7 and hidden by
//! Plinth, so the native kernel must not use it either; nor APERF and MPERF, which Bochs shows and does not have: they
//! would cost it a #GP in each timer tick, and so flatter us. Bochs's CPUID tells a TSC frequency that has nothing to do
//! with its clock; `tsc_early_khz` puts that right.
//!
//! An interrupt of Linux's timer is 4 % of its period natively. What takes longer than the period is told by the mean of
//! samples that begin at all its phases, on both sides: the median would tell who met one interrupt more.

use super::capture::{Captured, Figures, medians};
use super::exits::{Host, complete};
use super::scale::beside_ram;
use super::startup::Told;
use super::{Row, Target, baseline, capture};
use crate::build::Artifacts;
use crate::emulator::{Engine, Machine, Pace};
use crate::linux::{Linux, NAME, Task};
use crate::paths::Paths;
use anyhow::{Context, Result};
use bundle::Console;

/// The name of the suite.
pub const SUITE: &str = "linux";

const COMMAND_LINE: &str = "console=ttyS0 quiet nokaslr norandmaps cryptomgr.notests \
    clearcpuid=xsavec,xsaves,rdrand,rdseed,aperfmperf tsc_early_khz=20000";

/// Of `guests/programs`.
const PROGRAM: &str = "linuxbench";

/// As much as KVM's figures were measured with.
const MEMORY_BYTES: u64 = 1 << 30;

/// From the kernel's entry to the first instruction of user space.
const BOOT: &str = "boot";

/// What is mostly the CPU's work: at most one percent may be lost. The others wait for timers or each other.
const CPU_BOUND: [&str; 10] = [
    "compute",
    "sha256-1mib",
    "getpid",
    "clock-gettime",
    "fork-exit-wait",
    "fork-exec-wait",
    "page-fault",
    "munmap-page",
    "memcpy-16mib",
    "read-zero-1mib",
];

/// Runs the suite.
pub fn measure(paths: &Paths, artifacts: &Artifacts, host: Host) -> Result<Vec<Row>> {
    let initrd = paths.artifacts().join("bench-linux.initrd");
    let linux = Linux::provide(paths)?;
    let program = paths.programs().join(PROGRAM);
    let mut guest = linux.guest(Task::Program(&program), &initrd)?;
    guest.config.cmdline = COMMAND_LINE.to_owned();
    guest.config.memory_bytes = MEMORY_BYTES;
    guest.config.console = Console::Terminal;
    let measured = |machine| Machine {
        pace: Pace::Measured,
        ..machine
    };
    let bare = measured(host.bare(artifacts, &guest, 1)?);
    let plinth = measured(host.plinth(artifacts, &[guest], 1)?);
    let is_last = |line: &str| line.ends_with("DONE 1 passed, 0 failed");
    // The two do not disturb each other: their ticks are counted, not timed.
    let (native, guest) = std::thread::scope(|scope| {
        let native = scope.spawn(|| capture::run(paths, &bare, is_last));
        let guest = capture::run(paths, &plinth, is_last);
        (native.join(), guest)
    });
    let native = native.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    rows(&native, &guest?, host.engine)
}

fn rows(native: &Captured, guest: &Captured, engine: Engine) -> Result<Vec<Row>> {
    let start = start_tick(&native.debug_port).context("the starter has not told the time")?;
    let native = complete(native, None)?;
    let native = medians(&native);
    let measured = complete(guest, None)?;
    let vm_kib = Told::find(&guest.lines)?.vm_kib;
    let mut rows = Vec::new();
    for (name, Figures { minimum, median }) in measured {
        let mut row = Row::ticks(SUITE, &name, median);
        row.native = native.get(name.as_str()).copied();
        row.minimum = Some(minimum);
        row.kvm_percent = baseline::linux_percent(&name, engine);
        if name == BOOT {
            // The VM's own TSC starts with it.
            row.native = row.native.and_then(|tick| tick.checked_sub(start));
            row.target = Some(Target::PercentOverNative(3.0));
        } else if CPU_BOUND.contains(&name.as_str()) {
            row.target = Some(Target::PercentOverNative(1.0));
        }
        rows.push(row);
    }
    rows.first()
        .with_context(|| format!("{NAME} has measured nothing"))?;
    rows.extend(
        vm_kib
            .first()
            .map(|kib| beside_ram(SUITE, "memory beside RAM", *kib)),
    );
    Ok(rows)
}

/// The TSC when the starter entered the kernel, which it tells on the debug port as `@` and 16 digits.
fn start_tick(debug_port: &str) -> Option<u64> {
    debug_port.lines().find_map(|line| {
        let (_, digits) = line.rsplit_once('@')?;
        (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(lines: &[&str], debug_port: &str) -> Captured {
        Captured {
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
            debug_port: debug_port.to_owned(),
        }
    }

    #[test]
    fn the_native_boot_is_counted_from_the_kernels_entry() {
        let done = "DONE 1 passed, 0 failed";
        let native = captured(
            &["BENCH boot 5000 5000", "BENCH getpid 300 360", done],
            "Bochs@home\n<0> @00000000000003E8\nbye",
        );
        let guest = captured(
            &[
                "[ 0.8] 0 INFO  vm: linux: 1024 MiB, Linux kernel of 7000 KiB, 41 KiB of ours",
                "[ 0.8] 0 INFO  startup: 9 ticks: guests 9; 1 KiB in use before the guests",
                "BENCH boot 4100 4100",
                "BENCH getpid 300 362",
                done,
            ],
            "",
        );
        let rows = rows(&native, &guest, Engine::Bochs).unwrap();
        assert_eq!((rows[0].native, rows[0].plinth), (Some(4000), 4100));
        assert_eq!(rows[0].is_reached(), Some(true));
        assert_eq!((rows[1].native, rows[1].plinth), (Some(360), 362));
        assert_eq!(rows[1].target, Some(Target::PercentOverNative(1.0)));
        assert_eq!((rows[2].plinth, rows[2].unit.as_str()), (41, "KiB"));
    }

    #[test]
    fn a_native_run_without_its_start_is_an_error() {
        let lines = captured(&["BENCH boot 1 1", "DONE 1 passed, 0 failed"], "@xyz");
        assert!(rows(&lines, &lines, Engine::Bochs).is_err());
    }
}
