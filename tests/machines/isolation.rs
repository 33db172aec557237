//! Hostile guests beside a victim, which must see nothing of them and get its share of the time.
//!
//! Each test has several hostile guests on one machine. Where everything is emulated by one thread the runs are the
//! same each time, and so are the shares; the bounds leave room for other machines.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use plinth_tests::{Boot, Session, artifacts};
use xtask::guests::Guest;

use crate::trial;

/// Several guests that are busy all the time get through their work as many times slower.
const PATIENCE: Duration = Duration::from_secs(300);

const HOSTILE_BYTES: u64 = 6 << 20;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("hostile_guests_meddle_with_nobody", || {
            sweeps(1, victim(400_000_000, 150)?)
        }),
        trial("hostile_guests_meddle_with_nobody_on_four_cpus", || {
            sweeps(4, victim(130_000_000, 480)?)
        }),
        trial("guests_that_ruin_themselves_take_nobody_along", || {
            ruins(1, victim(100_000_000, 450)?)
        }),
        trial(
            "guests_that_ruin_themselves_take_nobody_along_on_four_cpus",
            || ruins(4, worker(30_000_000, 800)?),
        ),
        trial("storms_take_no_more_than_their_share", || storms(1)),
        trial("storms_take_no_more_than_their_share_of_two_cpus", || {
            storms(2)
        }),
        trial("storms_take_no_more_than_their_share_of_four_cpus", || {
            storms(4)
        }),
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
    if topic == CALLS {
        guest.config.cpus = CALLERS;
    }
    Ok(guest)
}

/// The topic in which the CPUs of a machine call each other, and how many there are.
const CALLS: &str = "calls-among-siblings";
const CALLERS: u32 = 3;

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
fn sweeps(cpus: u32, victim: Guest) -> Result<()> {
    let topics = [
        "ports",
        "memory",
        "apic",
        "msrs",
        "registers",
        "calls",
        "segments",
    ];
    let mut machine = among(&topics, victim, cpus)?;
    machine.expect_all_passed("victim")?;
    for topic in topics {
        ensure!(
            has_said(&machine, &format!("hostile: {topic} done")),
            "the victim was through before `{topic}`"
        );
    }
    ensure!(
        !has_said(&machine, "has been changed"),
        "a hostile guest has lost what it had left in a register"
    );
    Ok(())
}

/// Each of these guests comes to an end that only it has to bear. After that the victim has to share with one only, which
/// goes on in circles: it gets at least half of a CPU, where there are more than one nearly all of one. On four CPUs that
/// is all but the first sixth of its time, in which it has a quarter of one.
fn ruins(cpus: u32, victim: Guest) -> Result<()> {
    let topics = [
        "idt-in-device",
        "idt-in-nothing",
        "idt-of-garbage",
        "gdt-in-device",
        "gdt-of-garbage",
        "ldt-in-device",
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
    let mut machine = among(&all, victim, cpus)?;
    machine.expect_all_passed("victim")?;
    for topic in topics {
        ensure!(
            has_said(&machine, &format!("plinth: end {topic} ")),
            "`{topic}` did not end before the victim"
        );
    }
    Ok(())
}

/// As many exits, interrupts and characters as a guest can make; all of them, and the victim, weigh the same. The victim
/// gets what it gets among as many guests that do nothing but loop. That is not quite its part of the CPUs: eleven have
/// turns of a millisecond and a half on one CPU, some 15,000 ticks where it has 10 MHz, and from one to the next it
/// takes 3,700. On several CPUs the queues are never quite alike: 94 of 100 were seen, and nine tenths it must be.
fn storms(cpus: u32) -> Result<()> {
    let topics = [
        "exits",
        "interrupts-to-itself",
        "nmis-to-itself",
        CALLS,
        "timer-of-one-tick",
        "line-never-acknowledged",
        "halts",
        "console",
        "page-faults",
        "device-strings",
    ];
    let due = {
        let mut guests = vec![worker(30_000_000, 1)?];
        for (number, topic) in topics.into_iter().enumerate() {
            let mut spin = Guest::tiny(artifacts()?, "spin")?;
            spin.config.name = format!("spin-{number}");
            spin.config.memory_bytes = HOSTILE_BYTES;
            if topic == CALLS {
                spin.config.cpus = CALLERS;
                spin.config.cmdline = format!("cpus={CALLERS}");
            }
            guests.push(spin);
        }
        let boot = Boot::of(guests).cpus(cpus).patience(PATIENCE);
        got(&mut boot.start()?)?
    };
    let mut machine = among(&topics, worker(30_000_000, 1)?, cpus)?;
    let got = got(&mut machine)?;
    let shown = machine.heard().iter().filter(|line| line.contains("a lie"));
    let shown: Vec<_> = shown.collect();
    ensure!(
        !shown.is_empty()
            && shown
                .iter()
                .all(|line| line.starts_with("[console] ") && !line.contains(['\r', '\x1b'])),
        "a guest speaks as somebody else: {shown:?}"
    );
    ensure!(
        got * 10 >= due * 9,
        "the victim got {got} thousandths, and {due} among guests that loop"
    );
    Ok(())
}

/// A victim that works nearly all of the time, and so sees nearly all that it does not get.
fn worker(ticks: u64, share: u64) -> Result<Guest> {
    let mut guest = victim(ticks, share)?;
    guest.config.cmdline += " work=200";
    Ok(guest)
}

/// The thousandths of a CPU that the victim says it got.
fn got(machine: &mut Session) -> Result<u64> {
    machine.expect_all_passed("victim")?;
    let mut lines = machine.heard().iter();
    let line = lines.find_map(|line| line.strip_prefix("[victim] victim: "));
    let words: Vec<_> = line.unwrap_or_default().split(' ').collect();
    let at = words.iter().position(|word| *word == "thousandths");
    let share = at.and_then(|at| words.get(at - 1)?.parse().ok());
    share.context("the victim has not told its share")
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
