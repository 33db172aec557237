//! The life of a VM in the operator's hands, and what follows when it ends by itself.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bundle::{ApicVirtualization, Autostart, CodePages, Console, EndPolicy, Placement};
use libtest_mimic::Trial;
use plinth_tests::console::End;
use plinth_tests::{Boot, Session};
use xtask::emulator::{CpuModel, Engine};

use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a_thousand_lives_with_three_vcpus_on_two_cpus_leave_nothing_behind",
            || lives(1000, 3, 2, |boot| boot),
        ),
        trial(
            "lives_on_one_cpu_leave_no_frame_and_no_byte_of_heap_behind",
            || lives(100, 1, 1, |boot| boot),
        ),
        trial(
            "lives_that_split_pages_and_share_tables_leave_nothing_behind",
            || lives(40, 1, 1, with_split_pages),
        ),
        trial("a_reset_starts_a_guest_anew_with_empty_memory", || {
            reboot(CpuModel::Skylake, "the processor logs the first write")
        }),
        trial(
            "a_guest_starts_anew_with_empty_memory_where_there_is_no_log_of_writes",
            || reboot(CpuModel::Haswell, "by the dirty flags of the EPT"),
        ),
        trial("the_live_view_shows_what_guests_are_doing", live_view),
        trial(
            "a_guest_that_nobody_listens_to_is_heard_when_it_crashes",
            last_words,
        ),
        trial("ticks_of_a_guest_beside_another_are_not_lost", || {
            crate::guests::twins("timer")
        }),
        trial("a_vcpu_with_a_cpu_of_its_own_is_left_alone_there", own_cpu),
        trial(
            "displaced_vcpus_come_back_when_their_cpu_is_given_back",
            changing_hands,
        ),
        trial(
            "nothing_that_a_vcpu_is_sent_is_lost_where_no_timer_ends_its_turn",
            deaf,
        ),
        trial(
            "a_guest_that_writes_more_than_a_log_holds_loses_none_of_it",
            full_log,
        ),
        trial(
            "loops_of_crashes_and_of_resets_are_slowed_down_and_starve_nobody",
            crash_loop,
        ),
        trial("the_operator_starts_pauses_resets_and_stops_vms", by_hand),
    ]
}

/// Types a command at the monitor, which is open.
fn command(machine: &mut Session, line: &str) -> Result<()> {
    machine.send(format!("{line}\r").as_bytes())
}

/// Opens the monitor.
fn open(machine: &mut Session) -> Result<()> {
    machine.send(b"\x1dm")
}

/// Memory in large pages, of which those with code become small ones, and two sets of second-level tables, which have all
/// but one page in common.
fn with_split_pages(boot: Boot) -> Boot {
    boot.code_pages(CodePages::Small)
        .apic(ApicVirtualization::Hardware)
        .with_guests(|guests| guests[0].config.memory_bytes = 6 << 20)
}

/// Each round starts a VM, pauses it, lets it go on, resets it, stops it and destroys it. Some lives are over before its
/// other vCPUs have been started, some while they are, and in some all spin.
fn lives(rounds: u64, vcpus: u32, cpus: u32, change: fn(Boot) -> Boot) -> Result<()> {
    let machine = Boot::tiny(&["spin"])?
        .cpus(cpus)
        .with_guests(|guests| {
            let config = &mut guests[0].config;
            config.cpus = vcpus;
            config.memory_bytes = 1536 << 10;
            config.autostart = Autostart::No;
            config.cmdline = format!("cpus={vcpus}");
            config.console = match vcpus {
                1 => Console::None,
                _ => Console::Shared,
            };
        })
        .patience(std::time::Duration::from_secs(400));
    let mut machine = change(machine).start()?;
    machine.expect("no VM runs")?;
    open(&mut machine)?;
    command(&mut machine, "log warn")?;
    command(&mut machine, &format!("cycle spin {rounds}"))?;
    let line = machine.expect("cycle of spin, ")?;
    let figures: Vec<u64> = line
        .split([' ', ',', ';'])
        .filter_map(|word| word.parse().ok())
        .collect();
    let [done, frames_before, frames_after, heap_before, heap_after] = figures[..] else {
        anyhow::bail!("these are not the figures: {line}");
    };
    ensure!(
        done == rounds
            && frames_before == frames_after
            && heap_before == heap_after
            && frames_before > 0,
        "memory was lost: {line}"
    );
    // It says so when all vCPUs are up, and has hardly time to say more.
    let complete = machine.heard().iter();
    let complete = complete.filter(|line| line.starts_with("[spin] s")).count() as u64;
    ensure!(
        vcpus == 1 || complete >= rounds / 10,
        "only {complete} lives came to where all vCPUs work"
    );
    Ok(())
}

/// A restart zeroes only what the life before has written, by its own hand or the hypervisor's, and misses nothing of
/// it: the guest looks at every word.
fn reboot(model: CpuModel, tracking: &str) -> Result<()> {
    let mut machine = Boot::tiny(&["reboot"])?
        .engine(Engine::Bochs)
        .cpu_model(model)
        .with_guests(|guests| {
            guests[0].config.on_reboot = EndPolicy::Restart;
            // With more vCPUs than CPUs it has KVM's clock, which the hypervisor writes.
            guests[0].config.cpus = 2;
        })
        .start()?;
    machine.expect(tracking)?;
    ensure!(
        zeroed_mib(&mut machine)? == 32,
        "nobody knows what is in memory that was never used"
    );
    for _ in 0..3 {
        machine.expect("[reboot] PASS memory-is-as-at-power-on")?;
        machine.expect("[reboot] PASS both-hands-leave-traces")?;
        machine.expect("plinth: restart reboot reset")?;
        let zeroed = zeroed_mib(&mut machine)?;
        ensure!(
            (16..=24).contains(&zeroed),
            "{zeroed} MiB were zeroed: the guest writes to about 18"
        );
    }
    open(&mut machine)?;
    command(&mut machine, "stop reboot")?;
    machine.expect_end("reboot", End::Killed)?;
    ensure!(
        !machine.heard().iter().any(|line| line.contains("FAIL")),
        "a life has seen the one before it"
    );
    // Nothing runs, but the operator may want it again.
    command(&mut machine, "start reboot")?;
    machine.expect("[reboot] PASS memory-is-as-at-power-on")?;
    Ok(())
}

/// A log of written pages has 512 entries. The last pieces of this guest's memory are so small that 4 KiB pages map
/// them, 511 in all, and with the large pages before them it writes to more than that in one turn.
fn full_log() -> Result<()> {
    let mut machine = Boot::tiny(&["reboot"])?
        .engine(Engine::Bochs)
        .with_guests(|guests| {
            guests[0].config.memory_bytes = (10 << 20) - 4096;
            guests[0].config.cmdline = "everywhere".to_owned();
        })
        .start()?;
    machine.expect("a trace is in every page")?;
    open(&mut machine)?;
    command(&mut machine, "memory")?;
    let line = machine.expect("reboot ")?;
    ensure!(
        line.contains("pages: 0 of 1 GiB, 4 of 2 MiB, 511 of 4 KiB"),
        "it has other pages: {line}"
    );
    command(&mut machine, "exits reboot")?;
    machine.expect("dirty log")?;
    command(&mut machine, "reset reboot")?;
    machine.expect(" MiB zeroed, ")?;
    machine.expect("[reboot] PASS memory-is-as-at-power-on")?;
    Ok(())
}

/// How much memory is zeroed for the next life.
fn zeroed_mib(machine: &mut Session) -> Result<u64> {
    let line = machine.expect(" MiB zeroed, ")?;
    let words: Vec<_> = line.split(' ').collect();
    let at = words.iter().position(|word| *word == "of");
    let mib = at.and_then(|at| words[at - 1].parse().ok());
    mib.with_context(|| format!("no figure in: {line}"))
}

/// One that crashes at once, again and again, and one that resets itself, beside one that works.
fn crash_loop() -> Result<()> {
    let mut machine = Boot::tiny(&["triple", "hostile", "share"])?
        .with_guests(|guests| {
            guests[0].config.on_crash = EndPolicy::Restart;
            guests[1].config.cmdline = "resets".to_owned();
            guests[1].config.on_reboot = EndPolicy::Restart;
            guests[2].config.cmdline = "from=10000000 to=60000000".to_owned();
        })
        .start()?;
    let said = machine.expect("[share] share: ")?;
    let share = said
        .split(' ')
        .nth(2)
        .and_then(|share| share.parse::<u64>().ok())
        .with_context(|| format!("no share in: {said}"))?;
    ensure!(share >= 750, "the other guest got {share} thousandths");
    for restart in [
        "plinth: restart triple crash",
        "plinth: restart hostile reset",
    ] {
        let heard = machine.heard().iter();
        let lines: Vec<_> = heard.filter(|line| line.contains(restart)).collect();
        ensure!(
            (4..=8).contains(&lines.len()) && !lines[0].contains(" ms"),
            "it is not slowed down from the second restart on: {lines:?}"
        );
        for line in &lines[1..] {
            let words: Vec<_> = line.split(' ').collect();
            let at = words.iter().position(|word| *word == "ms,");
            let delay_ms = at.and_then(|at| words[at - 1].parse::<u64>().ok());
            let delay_ms = delay_ms.with_context(|| format!("no delay in: {line}"))?;
            ensure!(delay_ms >= 100, "it waits for {delay_ms} ms only");
        }
    }
    Ok(())
}

fn by_hand() -> Result<()> {
    let mut machine = Boot::tiny(&["spin", "hello"])?
        .with_guests(|guests| guests[1].config.autostart = Autostart::No)
        .start()?;
    machine.expect("[spin]")?;
    open(&mut machine)?;
    command(&mut machine, "start hello")?;
    machine.expect_all_passed("hello")?;
    command(&mut machine, "pause spin")?;
    command(&mut machine, "pause spin")?;
    machine.expect("spin cannot be paused: it is paused")?;
    command(&mut machine, "resume spin")?;
    command(&mut machine, "reset spin")?;
    machine.expect("plinth: restart spin reset: the operator")?;
    machine.expect("[spin]")?;
    command(&mut machine, "memory")?;
    let line = machine.expect("spin ")?;
    ensure!(
        line.contains(
            "32 MiB of its own (2 MiB written; pages: 0 of 1 GiB, 16 of 2 MiB, 0 of 4 KiB)"
        ),
        "its memory is told wrongly: {line}"
    );
    command(&mut machine, "vms")?;
    let row = machine.expect("spin ")?;
    let columns: Vec<_> = row.split_whitespace().collect();
    ensure!(
        columns.get(3..5) == Some(&["32", "2"]),
        "its memory is told wrongly: {row}"
    );
    command(&mut machine, "tail spin")?;
    machine.expect("spin: entering a tight loop")?;
    command(&mut machine, "stop nobody")?;
    machine.expect("there is no VM `nobody`")?;
    command(&mut machine, "destroy spin")?;
    machine.expect_end("spin", End::Killed)?;
    ensure!(machine.expect_all_ended()? == 0, "the status was not 0");
    machine.expect_power_off()
}

/// `timer` halts and is woken all the time, beside `spin` that only exits when its turn is over.
fn live_view() -> Result<()> {
    let mut machine = Boot::tiny(&["spin", "timer"])?.cpus(2).start()?;
    machine.expect("[spin]")?;
    machine.send(b"\x1dt")?;
    // The first page is about all of the time so far, the second about what happened since.
    machine.expect("Plinth, up")?;
    machine.expect("Plinth, up")?;
    let row = machine.expect("spin ")?;
    ensure!(
        row.contains("host timer"),
        "its turns do not show in its row: {row}"
    );
    // Any key ends the view, but what a terminal tells of its window is none.
    machine.send(b"\x1b[48;50;132;0;0t")?;
    machine.expect("Plinth, up")?;
    machine.expect("Plinth, up")?;
    machine.send(b"x")?;
    // What the guests said meanwhile comes now, to the last word.
    machine.expect_all_passed("timer")?;
    open(&mut machine)?;
    command(&mut machine, "cpus")?;
    machine.expect("shared")?;
    command(&mut machine, "exits spin")?;
    machine.expect("host timer")?;
    Ok(())
}

fn last_words() -> Result<()> {
    let mut machine = Boot::tiny(&["triple"])?
        .with_guests(|guests| guests[0].config.console = Console::None)
        .start()?;
    machine.expect("plinth: triple said: ")?;
    machine.expect_end("triple", End::Crash)?;
    ensure!(
        !machine.heard().iter().any(|line| line.contains("[triple]")),
        "its console was to be silent"
    );
    Ok(())
}

/// A vCPU that owns its CPU and spins with interrupts off does not exit: not by a timer, nor for what happens elsewhere.
/// Another one has ticks of its own, and those come. Each question of the monitor's is an exit, by a kick that no guest
/// can hold back, and so is what the operator wants of it.
fn own_cpu() -> Result<()> {
    let mut machine = Boot::tiny(&["share", "timer", "spin"])?
        .cpus(3)
        .with_guests(|guests| {
            guests[0].config.cmdline = "to=100000000".to_owned();
            guests[1].config.placement = Placement::Dedicated;
            guests[2].config.placement = Placement::Dedicated;
        })
        .start()?;
    machine.expect("timer: CPU 2 is vCPU 0's own")?;
    machine.expect("spin: CPU 1 is vCPU 0's own")?;
    machine.expect("entering a tight loop")?;
    open(&mut machine)?;
    let before = exits(&mut machine, "spin")?;
    machine.expect_all_passed("timer")?;
    machine.expect("[share] share: ")?;
    let mut after = exits(&mut machine, "spin")?;
    ensure!(
        !after.contains_key("host timer"),
        "a timer has ended its turn: {after:?}"
    );
    if let Some(kicks) = after.get_mut("host interrupt") {
        *kicks -= 2;
    }
    ensure!(
        after == before && !after.is_empty(),
        "it had these exits at first, and then these (but for two questions): {before:?}, {after:?}"
    );
    command(&mut machine, "cpus")?;
    let owned = machine.expect("1    dedicated")?;
    let words: Vec<_> = owned.split_whitespace().collect();
    ensure!(words[2] == "1", "it shares its CPU: {owned}");
    // What was its own is everybody's again.
    command(&mut machine, "stop spin")?;
    machine.expect_end("spin", End::Killed)?;
    command(&mut machine, "cpus")?;
    machine.expect("1    shared")?;
    // Each round waits until it stands still, and goes on, and has left.
    command(&mut machine, "cycle spin 20")?;
    machine.expect("cycle of spin, 20 rounds")?;
    Ok(())
}

/// How often the one vCPU of a guest has exited, by reason. It is asked two questions for that.
fn exits(machine: &mut Session, guest: &str) -> Result<BTreeMap<String, u64>> {
    let name = format!("{guest} vCPU 0");
    command(machine, &format!("exits {guest}"))?;
    machine.expect(&name)?;
    // The CPU answers one question after the other.
    command(machine, &format!("trace {guest}"))?;
    machine.expect(&name)?;
    let lines = machine.heard();
    let heading = lines.iter().rposition(|line| line.contains("99 %<"));
    let rows = lines.iter().skip(heading.map_or(lines.len(), |at| at + 1));
    // What is typed is shown between them, and behind them come the lines of the trace.
    let rows = rows.filter_map(|line| line.strip_prefix("plinth: "));
    let rows = rows.take_while(|row| !row.starts_with(&name));
    Ok(rows
        .filter_map(|row| {
            let (kind, figures) = row.split_at_checked(18)?;
            let count = figures.split_whitespace().next()?.parse().ok()?;
            Some((kind.trim_end().to_owned(), count))
        })
        .collect())
}

/// Two vCPUs that ask for CPU 1 leave it when it becomes a third one's own, and come back when that has ended: one that never
/// waits where it is, so that nobody would take it from there, and one that sleeps and is not woken.
fn changing_hands() -> Result<()> {
    let mut machine = Boot::tiny(&["spin", "spin", "spin"])?
        .cpus(2)
        .with_guests(|guests| {
            for (guest, name) in guests.iter_mut().zip(["active", "resting", "owner"]) {
                guest.config.name = name.to_owned();
                guest.config.affinity = vec![1];
            }
            guests[2].config.placement = Placement::Dedicated;
            guests[2].config.autostart = Autostart::No;
        })
        .start()?;
    for _ in 0..2 {
        machine.expect("entering a tight loop")?;
    }
    open(&mut machine)?;
    command(&mut machine, "pause resting")?;
    ensure!(
        inhabitants(&mut machine)? == [0, 2],
        "they are not where they ask to be"
    );
    for _ in 0..2 {
        command(&mut machine, "start owner")?;
        machine.expect("entering a tight loop")?;
        ensure!(
            inhabitants(&mut machine)? == [2, 1],
            "who owns a CPU is not alone there"
        );
        command(&mut machine, "stop owner")?;
        machine.expect("plinth: end owner")?;
        ensure!(
            inhabitants(&mut machine)? == [0, 2],
            "those that were displaced have not come back"
        );
    }
    Ok(())
}

/// How many vCPUs live on each of two CPUs.
fn inhabitants(machine: &mut Session) -> Result<[u64; 2]> {
    command(machine, "cpus")?;
    machine.expect("gave way")?;
    let mut vcpus = [0; 2];
    for (cpu, vcpus) in vcpus.iter_mut().enumerate() {
        let row = machine.expect(&format!("{cpu}    "))?;
        let column = row.split_whitespace().nth(2);
        *vcpus = column
            .and_then(|column| column.parse().ok())
            .with_context(|| format!("no figure in: {row}"))?;
    }
    Ok(vcpus)
}

/// A CPU that spins with interrupts off, and does so on a CPU of its own, where no timer ends its turn.
fn deaf() -> Result<()> {
    let mut machine = Boot::tiny(&["deaf"])?
        .cpus(3)
        .with_guests(|guests| {
            guests[0].config.cpus = 2;
            guests[0].config.placement = Placement::Dedicated;
        })
        .start()?;
    machine.expect("deaf: CPU 1 is vCPU 1's own")?;
    machine.expect_all_passed("deaf")
}
