//! Hostile guests beside a victim, which must see nothing of them and get its share of the time.
//!
//! Each test has several hostile guests on one machine. Where everything is emulated by one thread the runs are the
//! same each time, and so are the shares; the bounds leave room for other machines.

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use plinth_tests::{Boot, Session, artifacts};
use xtask::guests::Guest;

use crate::trial;

/// Several guests that are busy all the time get through their work as many times slower.
const PATIENCE: Duration = Duration::from_secs(300);

const HOSTILE_BYTES: u64 = 6 << 20;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("hostile_guests_meddle_with_nobody", sweeps),
        trial("guests_that_ruin_themselves_take_nobody_along", ruins),
        trial("storms_take_no_more_than_their_share", storms),
        trial("random_instructions_harm_nobody_on_two_cpus", fuzz),
        trial(
            "a_gate_of_a20_that_moves_for_a_hundred_vcpus_takes_no_memory",
            gate,
        ),
        trial("vcpus_that_fight_each_other_harm_nobody_else", siblings),
    ]
}

/// A hostile guest with this topic, named after it.
fn hostile(topic: &str, rest: &str) -> Result<Guest> {
    let mut guest = Guest::tiny(artifacts()?, "hostile")?;
    guest.config.name = topic.to_owned();
    guest.config.cmdline = format!("{topic} {rest}");
    guest.config.memory_bytes = HOSTILE_BYTES;
    Ok(guest)
}

/// The victim, for so many ticks of its TSC and with at least so many thousandths of a CPU.
fn victim(ticks: u64, share: u64) -> Result<Guest> {
    let mut guest = Guest::tiny(artifacts()?, "victim")?;
    guest.config.cmdline = format!("ticks={ticks} share={share}");
    Ok(guest)
}

/// Boots the victim among these topics.
fn among(topics: &[&str], victim: Guest, cpus: u32) -> Result<Session> {
    let mut guests = vec![victim];
    for topic in topics {
        guests.push(hostile(topic, "")?);
    }
    Boot::of(guests).cpus(cpus).patience(PATIENCE).start()
}

fn has_said(machine: &Session, text: &str) -> bool {
    machine.heard().iter().any(|line| line.contains(text))
}

/// Everything that a guest can write to, from end to end, while the victim looks on.
fn sweeps() -> Result<()> {
    let topics = ["ports", "memory", "apic", "msrs", "registers", "calls"];
    let mut machine = among(&topics, victim(400_000_000, 150)?, 1)?;
    machine.expect_all_passed("victim")?;
    for topic in topics {
        ensure!(
            has_said(&machine, &format!("hostile: {topic} done")),
            "the victim was through before `{topic}`"
        );
    }
    Ok(())
}

/// Each of these guests comes to an end that only it has to bear.
fn ruins() -> Result<()> {
    let topics = [
        "idt-in-device",
        "idt-in-nothing",
        "idt-of-garbage",
        "gdt-in-device",
        "tss-in-device",
        "stack-in-device",
        "code-in-device",
        "tables-in-device",
        "tables-in-nothing",
        "tables-of-garbage",
        "tables-of-themselves",
        "doors",
    ];
    // After INIT a machine without a BIOS runs into empty memory, and on in circles.
    let all = [&topics[..], &["init-to-itself"]].concat();
    let mut machine = among(&all, victim(100_000_000, 1)?, 1)?;
    machine.expect_all_passed("victim")?;
    for topic in topics {
        ensure!(
            has_said(&machine, &format!("plinth: end {topic} ")),
            "`{topic}` did not end before the victim"
        );
    }
    Ok(())
}

/// As many exits, interrupts and characters as a guest can make; all of them, and the victim, weigh the same,
/// so that the victim gets a tenth, less what changing between guests costs.
fn storms() -> Result<()> {
    let topics = [
        "exits",
        "interrupts-to-itself",
        "nmis-to-itself",
        "timer-of-one-tick",
        "line-never-acknowledged",
        "halts",
        "console",
        "page-faults",
        "device-strings",
    ];
    let mut machine = among(&topics, victim(30_000_000, 70)?, 1)?;
    machine.expect_all_passed("victim")
}

/// Instructions that nobody has thought of.
fn fuzz() -> Result<()> {
    let mut guests = vec![victim(30_000_000, 450)?];
    for seed in 1..=3 {
        let mut guest = hostile("fuzz", &format!("seed={seed}"))?;
        guest.config.name = format!("fuzz-{seed}");
        guests.push(guest);
    }
    let mut machine = Boot::of(guests).cpus(2).patience(PATIENCE).start()?;
    machine.expect_all_passed("victim")
}

/// Three vCPUs of one guest, of which one resets, starts and interrupts the others at random, one moves its local APIC
/// about, and one rewrites code that is being emulated; on two CPUs, so that the victim has half of the machine.
fn siblings() -> Result<()> {
    let mut fighters = hostile("siblings", "")?;
    fighters.config.cpus = 3;
    let guests = vec![victim(12_000_000, 600)?, fighters];
    let mut machine = Boot::of(guests).cpus(2).patience(PATIENCE).start()?;
    machine.expect("hostile: siblings")?;
    machine.expect_all_passed("victim")?;
    ensure!(
        !has_said(&machine, "plinth: end siblings "),
        "the fight was over before its time"
    );
    Ok(())
}

/// The views of memory that a closed gate of A20 takes: as many as there are vCPUs, on a machine that has no memory
/// left for one of them. The victim begins anew beside that.
fn gate() -> Result<()> {
    let mut toggler = hostile("a20", "")?;
    toggler.config.cpus = 100;
    toggler.config.memory_bytes = 204 << 20;
    let guests = vec![victim(20_000_000, 300)?, toggler];
    let boot = Boot::of(guests).memory_mib(256).patience(PATIENCE);
    let mut machine = boot.start()?;
    machine.expect("hostile: a20")?;
    machine.expect_all_passed("victim")?;
    for wrong in ["hostile: a20 is not", "no memory", "plinth: end a20 "] {
        ensure!(!has_said(&machine, wrong), "something says {wrong:?}");
    }
    Ok(())
}
