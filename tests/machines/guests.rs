//! The tiny guests: each reports its own cases, and each must pass all of them.

use anyhow::{Result, ensure};
use bundle::{ApicVirtualization, CodePages, Console, KernelFormat, PanicPolicy, Screen};
use libtest_mimic::Trial;
use plinth_tests::Boot;
use plinth_tests::console::End;
use xtask::build::write_if_different;
use xtask::emulator::CpuModel;
use xtask::guests::tsc_hz;
use xtask::paths::Paths;

use crate::trial;

/// Guests that report cases and then switch themselves off. The conformance guests are compared with the bare machine
/// besides (`conformance.rs`).
const REPORTING: &[&str] = &[
    "hello",
    "hello64",
    "hypercall",
    "paravirt",
    "clocks",
    "vapic",
];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials: Vec<_> = REPORTING
        .iter()
        .map(|&name| {
            trial(&format!("guest_{name}_passes_all_its_cases"), move || {
                Boot::tiny(&[name])?.start()?.expect_all_passed(name)
            })
        })
        .collect();
    for (name, format) in [
        (
            "a_multiboot_kernel_finds_its_module",
            KernelFormat::Multiboot,
        ),
        (
            "a_multiboot2_kernel_finds_its_module",
            KernelFormat::Multiboot2,
        ),
    ] {
        trials.push(trial(name, move || multiboot(format)));
    }
    for (how, apic) in [
        ("with_all_the_help", ApicVirtualization::Hardware),
        ("without_the_help", ApicVirtualization::Software),
        ("with_the_least_help", ApicVirtualization::TaskPriority),
    ] {
        trials.push(trial(
            &format!("the_local_apic_works_as_well_{how}_of_the_processor"),
            move || local_apic(apic),
        ));
    }
    trials.push(trial(
        "nothing_that_a_guest_says_faster_than_the_wire_takes_it_is_lost",
        blurt,
    ));
    trials.push(trial(
        "an_instruction_that_cannot_be_emulated_is_logged_with_its_bytes",
        unknown_instruction,
    ));
    trials.push(trial("a_triple_fault_stops_its_vm_only", triple_fault));
    trials.push(trial(
        "a_machine_that_has_halted_for_ever_is_told_and_ended",
        halted_for_ever,
    ));
    trials.push(trial(
        "a_kernel_that_spins_behind_its_panic_has_crashed",
        panicked,
    ));
    trials.push(trial("a_shown_log_of_a_panic_is_no_panic", shown_panics));
    trials.push(trial("a_tight_loop_starves_nobody", tight_loop));
    trials.push(trial(
        "clocks_agree_across_the_turns_of_others_at_any_tsc_frequency",
        clocks,
    ));
    trials.push(trial(
        "a_tsc_frequency_that_the_processor_cannot_give_is_refused",
        no_scaling,
    ));
    trials.push(trial(
        "registers_of_guests_that_take_turns_stay_apart",
        || twins("fpu"),
    ));
    trials.push(trial(
        "memory_of_guests_that_take_turns_stays_apart",
        || twins("outside"),
    ));
    trials.push(trial("no_translation_outlives_its_shootdown", shootdown));
    trials.push(trial(
        "code_runs_as_before_where_it_may_lie_in_small_pages_only",
        small_code_pages,
    ));
    trials.push(trial(
        "time_taken_by_another_guest_is_told_as_stolen",
        stolen_time,
    ));
    trials.push(trial("debug_registers_of_guests_stay_apart", || {
        twins("debug")
    }));
    trials
}

fn multiboot(format: KernelFormat) -> Result<()> {
    let module = Paths::of_checkout().artifacts().join("module");
    write_if_different(&module, b"a boot module\n")?;
    let mut machine = Boot::tiny(&["multiboot"])?
        .with_guests(|guests| {
            for guest in guests {
                guest.config.kernel_format = format;
                guest.config.cmdline = "first second".to_owned();
                guest.config.screen = Screen::Text;
                guest.modules = vec![(module.clone(), "module words".to_owned())];
            }
        })
        .start()?;
    machine.expect_all_passed("multiboot")
}

/// Beside one that never lets an interrupt in, so that the serial port's may be held back.
fn blurt() -> Result<()> {
    let mut machine = Boot::tiny(&["spin", "blurt"])?.cpus(2).start()?;
    machine.expect_all_passed("blurt")?;
    let said = machine.heard().iter();
    let said: Vec<_> = said
        .filter_map(|line| line.strip_prefix("[blurt] line "))
        .collect();
    ensure!(said.len() == 180, "{} of 180 lines were heard", said.len());
    for (number, line) in said.into_iter().enumerate() {
        let alphabet = "abcdefghijklmnopqrstuvwxyz";
        ensure!(
            line.trim_end() == format!("{number:03} {alphabet}{alphabet}."),
            "line {number} is `{line}`"
        );
    }
    Ok(())
}

/// What the guests find with a processor that does more or less for their local APICs.
fn local_apic(apic: ApicVirtualization) -> Result<()> {
    for guests in [&["vapic", "paravirt", "exceptions"][..], &["timer"]] {
        let mut machine = Boot::tiny(guests)?.apic(apic).start()?;
        for guest in guests {
            machine.expect_all_passed(guest)?;
        }
    }
    Ok(())
}

/// The guest gets #UD, and goes on; the operator sees what it was.
fn unknown_instruction() -> Result<()> {
    let mut machine = Boot::tiny(&["outside"])?.start()?;
    let line = machine.expect("no emulation of the instruction at 0x")?;
    // FLD of a doubleword has the opcode 0xd9.
    anyhow::ensure!(
        line.contains("vm: outside: CPU 0: ")
            && line.contains("(64-bit mode): [d9, ")
            && line.ends_with("the guest gets #UD"),
        "it was told as `{line}`"
    );
    machine.expect_all_passed("outside")
}

fn triple_fault() -> Result<()> {
    let mut machine = Boot::tiny(&["triple", "hello"])?.start()?;
    machine.expect("triple: rip ")?;
    machine.expect("triple: +")?;
    let detail = machine.expect_end("triple", End::Crash)?;
    anyhow::ensure!(
        detail.contains("triple fault"),
        "the end was told as `{detail}`"
    );
    machine.expect_all_passed("hello")
}

/// Nobody waits for a guest that no interrupt can wake.
fn halted_for_ever() -> Result<()> {
    // Of one that nobody has listened to, the last lines are told as well.
    let mut machine = Boot::tiny(&["halted", "hello"])?
        .with_guests(|guests| guests[0].config.console = Console::None)
        .start()?;
    machine.expect("plinth: halted said: halted: nothing wakes this machine")?;
    let detail = machine.expect_end("halted", End::Crash)?;
    anyhow::ensure!(
        detail.contains("halted with interrupts off"),
        "the end was told as `{detail}`"
    );
    machine.expect_all_passed("hello")
}

/// Three on one CPU: one with the machine's TSC, one with a faster one, and one that takes all of its turns to the end.
fn clocks() -> Result<()> {
    let mut machine = Boot::tiny(&["clocks", "clocks", "spin"])?
        .with_guests(|guests| {
            guests[0].config.cmdline = "shared ms=2500".to_owned();
            guests[1].config.name = "scaled".to_owned();
            guests[1].config.cmdline = "shared ms=2500 tsc=2400".to_owned();
            guests[1].config.tsc_hz = Some(tsc_hz(2400));
        })
        .start()?;
    machine.expect_all_passed("clocks")?;
    machine.expect_all_passed("scaled")
}

/// A processor without TSC scaling: one line says what is wrong, and the other guest runs.
fn no_scaling() -> Result<()> {
    let mut machine = Boot::tiny(&["hello", "hello"])?
        .cpu_model(CpuModel::Haswell)
        .with_guests(|guests| {
            guests[0].config.name = "scaled".to_owned();
            guests[0].config.tsc_hz = Some(tsc_hz(2400));
        })
        .start()?;
    let detail = machine.expect_end("scaled", End::Crash)?;
    anyhow::ensure!(
        detail.contains("no TSC scaling; leave `tsc` out"),
        "it was refused with `{detail}`"
    );
    machine.expect_all_passed("hello")
}

/// What Linux does without a driver of pvpanic.
fn panicked() -> Result<()> {
    // Of one that nobody has listened to, the last lines are told as well.
    let mut machine = Boot::tiny(&["dying", "hello"])?
        .with_guests(|guests| guests[0].config.console = Console::None)
        .start()?;
    machine.expect_all_passed("hello")?;
    machine.expect("plinth: dying said: [    0.520000] ---[ end Kernel panic")?;
    let detail = machine.expect_end("dying", End::Crash)?;
    anyhow::ensure!(
        detail.contains("the guest's kernel has panicked"),
        "the end was told as `{detail}`"
    );
    Ok(())
}

/// Guests that show such a report and go on, in three ways, and one whose owner does not want to be disturbed.
fn shown_panics() -> Result<()> {
    let ways = ["but-halts", "but-talks", "but-runs"];
    let mut machine = Boot::tiny(&["dying"; 4])?
        .with_guests(|guests| {
            for (guest, way) in guests.iter_mut().zip(ways) {
                guest.config.name = way.to_owned();
                guest.config.cmdline = way.to_owned();
            }
            guests[3].config.on_panic = PanicPolicy::Ignore;
        })
        .start()?;
    for way in ways {
        machine.expect_end(way, End::PowerOff)?;
    }
    anyhow::ensure!(
        !machine
            .heard()
            .iter()
            .any(|line| line.contains("plinth: end dying")),
        "a panic that was to be ignored has ended its machine"
    );
    Ok(())
}

/// Four vCPUs, of which more wait than run, take pages from each other while a busy neighbour moves them about. Bochs
/// flushes the TLB at each exit and would forgive much; so the guest first shows on its bare machine, where there are
/// none, that it does what it says.
fn shootdown() -> Result<()> {
    let mut bare = Boot::tiny(&["shootdown"])?
        .cpus(2)
        .with_guests(|guests| guests[0].config.cpus = 2)
        .bare()
        .start()?;
    bare.expect("PASS no-translation-outlives-its-end")?;
    bare.expect("DONE 3 passed, 0 failed")?;
    let mut machine = Boot::tiny(&["shootdown", "spin"])?
        .cpus(2)
        .with_guests(|guests| {
            guests[0].config.cpus = 4;
            guests[0].config.cmdline = "cpus=4".to_owned();
        })
        .start()?;
    machine.expect_all_passed("shootdown")
}

/// A guest that runs code everywhere and changes the sizes of its pages meanwhile finds the same with both choices of the
/// second-level pages that code may lie in.
fn small_code_pages() -> Result<()> {
    for (pages, told) in [
        (CodePages::Any, "open, as asked for"),
        (CodePages::Small, "split into pages of 4 KiB"),
    ] {
        let mut machine = Boot::tiny(&["code"])?
            .cpus(2)
            .code_pages(pages)
            .with_guests(|guests| guests[0].config.cpus = 2)
            .start()?;
        machine.expect(&format!("code in large pages (iTLB multihit)  {told}"))?;
        machine.expect_all_passed("code")?;
    }
    Ok(())
}

/// `paravirt` and `spin` on one CPU: what the one loses to the other it reads as stolen time.
fn stolen_time() -> Result<()> {
    let mut machine = Boot::tiny(&["paravirt", "spin"])?
        .with_guests(|guests| guests[0].config.cmdline = "shared".to_owned())
        .start()?;
    // What is not offered is skipped: these are.
    machine.expect("[paravirt] PASS the-clock-agrees-with-the-hypervisor")?;
    machine.expect("[paravirt] PASS stolen-time-is-counted")?;
    machine.expect_all_passed("paravirt")
}

/// The same guest twice on one CPU, with a third one that takes all of its turns to the end: the two use the same
/// registers, the same guest-physical addresses and the same MSRs, and each must find its own.
pub(crate) fn twins(name: &str) -> Result<()> {
    let mut machine = Boot::tiny(&[name, name, "spin"])?
        .with_guests(|guests| {
            for (guest, twin) in guests.iter_mut().zip(["one", "other"]) {
                guest.config.name = twin.to_owned();
            }
        })
        .start()?;
    machine.expect_all_passed("one")?;
    machine.expect_all_passed("other")
}

/// `spin` never exits by itself and never ends: `hello` must run beside it.
fn tight_loop() -> Result<()> {
    let mut machine = Boot::tiny(&["spin", "hello"])?.start()?;
    machine.expect_all_passed("hello")
}
