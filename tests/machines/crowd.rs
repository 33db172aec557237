//! Several machines of several kinds side by side, stock Linux with two to eight vCPUs among them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use plinth_tests::console::End;
use plinth_tests::{Boot, Session, artifacts};
use xtask::config::{Configuration, ForMachine};
use xtask::emulator::Pace;
use xtask::guests::Guest;
use xtask::linux::{Linux, Task};
use xtask::paths::Paths;

use crate::trial;

/// An emulator does all that these CPUs do one after the other.
const PATIENCE: Duration = Duration::from_secs(600);

/// What leaves out the longest part of a boot: the kernel's tests of its own cryptography.
const BRIEF: &str = "quiet cryptomgr.notests";

pub(crate) fn trials() -> Vec<Trial> {
    let crowds = [(1, 2), (2, 4), (4, 4)].map(|(host_cpus, vcpus)| {
        let name = format!(
            "linux_with_{vcpus}_vcpus_and_with_one_and_two_tiny_guests_on_{host_cpus}_cpus"
        );
        trial(&name, move || crowd(host_cpus, vcpus))
    });
    let others = [
        trial("linux_with_eight_vcpus_works_on_two_cpus", alone),
        trial(
            "the_example_with_two_linux_machines_runs_as_it_stands",
            example,
        ),
    ];
    crowds.into_iter().chain(others).collect()
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
        .pace(Pace::Measured)
        .patience(PATIENCE)
        .start()?;
    for name in ["hello", "blue", "red"] {
        machine.expect_all_passed(name)?;
    }
    expect_spinning(&machine, "spin")
}

/// A guest that never ends has come to where it goes on for ever.
fn expect_spinning(machine: &Session, name: &str) -> Result<()> {
    let marker = format!("[{name}] spin: entering a tight loop");
    ensure!(
        machine.heard().contains(&marker),
        "`{name}` has not come to its loop"
    );
    Ok(())
}

/// Eight processors that take turns on two, and each of them works. Each has 250 ticks of its timer in a second: where a
/// CPU has 10 million instructions in that, they are all that four of them do on it.
fn alone() -> Result<()> {
    let mut machine = Boot::of(vec![linux("red", 8)?])
        .cpus(2)
        .pace(Pace::Measured)
        .patience(PATIENCE)
        .start()?;
    machine.expect_all_passed("red")
}

/// What README shows, from the file: two shells that are typed into, one guest that never ends, one that does.
fn example() -> Result<()> {
    let paths = Paths::of_checkout();
    let artifacts = artifacts()?;
    let tiny: Vec<_> = artifacts.guests.keys().cloned().collect();
    let file = paths.root().join("guests/examples/two-linux.toml");
    let configuration = Configuration::read(&file, &tiny, ForMachine::Emulated { cpus: None })?;
    let guests = configuration.guests(&paths, artifacts)?;
    let cpus = configuration.host_cpus().context("it names no CPUs")?;
    let mut machine = Boot::of(guests).cpus(cpus).patience(PATIENCE).start()?;
    // The two may come up in any order; what was heard is passed over.
    for _ in 0..2 {
        machine.expect("This is Linux on Plinth")?;
    }
    machine.expect_all_passed("hello")?;
    expect_spinning(&machine, "busy")?;
    // The first machine has the keys first. What is typed is echoed, and is not what is answered.
    let question = b"echo cpus=$(grep -c ^processor /proc/cpuinfo)\r";
    machine.send(question)?;
    machine.expect("[red] cpus=2")?;
    // Both of them take the ticks of their timers.
    machine.send(b"awk '/LOC/ { print \"ticking=\" ($2 > 4) + ($3 > 4) }' /proc/interrupts\r")?;
    machine.expect("[red] ticking=2")?;
    machine.send(b"\x1dn")?;
    machine.send(question)?;
    machine.expect("[blue] cpus=1")?;
    machine.send(b"poweroff\r")?;
    machine.expect_end("blue", End::PowerOff)?;
    // The keys are the one's now that never listens, and then the first one's again.
    machine.send(b"\x1dn")?;
    machine.send(b"poweroff\r")?;
    machine.expect_end("red", End::PowerOff)?;
    machine.send(b"\x1dm")?;
    machine.send(b"destroy busy\r")?;
    machine.expect_end("busy", End::Killed)?;
    ensure!(machine.expect_all_ended()? == 0, "the status was not 0");
    machine.expect_power_off()
}
