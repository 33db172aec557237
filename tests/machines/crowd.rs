//! Several machines of several kinds side by side, stock Linux with two to eight vCPUs among them.

use std::time::Duration;

use anyhow::Result;
use libtest_mimic::Trial;
use plinth_tests::{Boot, artifacts};
use xtask::guests::Guest;
use xtask::linux::{Linux, Task};
use xtask::paths::Paths;

use crate::trial;

/// An emulator does all that these CPUs do one after the other.
const PATIENCE: Duration = Duration::from_secs(600);

/// What leaves out the longest part of a boot: the kernel's tests of its own cryptography.
const BRIEF: &str = "quiet cryptomgr.notests";

pub(crate) fn trials() -> Vec<Trial> {
    [(1, 2), (2, 4), (4, 8)]
        .map(|(host_cpus, vcpus)| {
            let name = format!(
                "linux_with_{vcpus}_vcpus_and_with_one_and_two_tiny_guests_on_{host_cpus}_cpus"
            );
            trial(&name, move || crowd(host_cpus, vcpus))
        })
        .into()
}

/// A Linux machine that sees whether all its processors work.
fn linux(name: &str, vcpus: u32) -> Result<Guest> {
    let paths = Paths::of_checkout();
    let initrd = paths
        .artifacts()
        .join(format!("test-cpus-{name}{vcpus}.initrd"));
    let mut guest = Linux::provide(&paths)?.guest(Task::Script("cpus"), &initrd)?;
    guest.config.name = name.to_owned();
    guest.config.cpus = vcpus;
    guest.config.memory_bytes = 160 << 20;
    let cmdline = format!("{} {BRIEF} vcpus={vcpus}", guest.config.cmdline);
    guest.config.cmdline = cmdline;
    Ok(guest)
}

/// The four of the example: two Linux machines, one of which has more processors than there are; one guest that never
/// gives up its CPU, and one that comes and goes.
fn crowd(host_cpus: u32, vcpus: u32) -> Result<()> {
    let mut spin = Guest::tiny(artifacts()?, "spin")?;
    spin.config.cap_percent = Some(10);
    let hello = Guest::tiny(artifacts()?, "hello")?;
    let guests = vec![linux("red", vcpus)?, linux("blue", 1)?, spin, hello];
    let mut machine = Boot::of(guests)
        .cpus(host_cpus)
        .patience(PATIENCE)
        .start()?;
    for name in ["hello", "blue", "red"] {
        machine.expect_all_passed(name)?;
    }
    Ok(())
}
