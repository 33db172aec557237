//! From power-on to a guest, on every engine and firmware, and what a machine without VT-x says.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bundle::{LogLevel, Placement};
use libtest_mimic::Trial;
use plinth_tests::Boot;
use plinth_tests::console::End;
use xtask::emulator::{CpuModel, Engine, Firmware};

use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "the_machine_switches_itself_off_when_all_guests_have_ended",
            power_off,
        ),
        trial("bochs_boots_the_image_that_a_stick_gets", || {
            ram_disk(Engine::Bochs)
        }),
        trial("a_guest_passes_its_cases_on_the_bare_machine_too", || {
            bare("hello64")
        }),
        trial(
            "vtx_is_switched_on_where_the_firmware_left_it_open",
            seabios,
        ),
        trial("guests_run_side_by_side_on_two_cpus", two_cpus),
        trial(
            "a_cpu_that_does_not_come_up_is_reported_and_left_out",
            missing_cpu,
        ),
        trial("the_operator_can_ask_what_a_guest_is_doing", operator),
        trial(
            "what_two_cpus_tell_of_their_guests_is_not_mixed",
            two_tellers,
        ),
        trial("a_test_that_hangs_tells_what_its_guest_was_doing", hang),
        trial("what_vtx_offers_is_shown_at_boot", feature_table),
        trial("a_log_level_shows_its_lines_and_no_lower_ones", log_levels),
        trial("a_guest_runs_on_haswell", || on_model(CpuModel::Haswell)),
        trial("a_guest_runs_on_tigerlake", || {
            on_model(CpuModel::Tigerlake)
        }),
        trial(
            "qemu_with_seabios_says_that_vtx_is_missing_and_shows_it",
            || without_vtx(Firmware::Bios),
        ),
        trial(
            "qemu_with_ovmf_says_that_vtx_is_missing_and_shows_it",
            || without_vtx(Firmware::Uefi),
        ),
        trial(
            "without_a_serial_port_everything_is_on_the_screen",
            without_serial_port,
        ),
    ]
}

fn power_off() -> Result<()> {
    let mut machine = Boot::tiny(&["hello"])?.start()?;
    machine.expect_end("hello", End::PowerOff)?;
    ensure!(machine.expect_all_ended()? == 0, "the status was not 0");
    machine.expect_power_off()
}

fn ram_disk(engine: Engine) -> Result<()> {
    let mut machine = Boot::tiny(&["hello"])?
        .engine(engine)
        .as_ram_disk()
        .start()?;
    machine.expect_all_passed("hello")
}

/// Without Plinth, and the same cases pass: neither is the judge fooled nor the guest.
fn bare(name: &str) -> Result<()> {
    let mut machine = Boot::tiny(&[name])?.bare().start()?;
    machine.expect("DONE ")?;
    machine.expect_power_off()?;
    let cases = machine.cases(None);
    ensure!(!cases.is_empty(), "no case was told");
    let failed: Vec<_> = cases.iter().filter(|(_, how)| **how == "FAIL").collect();
    ensure!(failed.is_empty(), "on the bare machine: {failed:?}");
    Ok(())
}

fn on_model(model: CpuModel) -> Result<()> {
    Boot::tiny(&["hello"])?
        .cpu_model(model)
        .start()?
        .expect_all_passed("hello")
}

fn without_vtx(firmware: Firmware) -> Result<()> {
    let mut machine = Boot::tiny(&["hello"])?
        .engine(Engine::Qemu)
        .firmware(firmware)
        .as_ram_disk()
        .watched()
        .start()?;
    let said = machine.expect("VT-x is missing")?;
    let (_, said) = said
        .split_once("supervisor: ")
        .context("somebody else says so")?;
    let screen = machine.screen_when_off()?;
    // Lines that are too long go on in the next row.
    let shown = screen.concat();
    for text in ["plinth: Plinth 0.1.0", said] {
        ensure!(
            shown.contains(text),
            "`{text}` is not on the screen:\n{}",
            screen.join("\n").trim_end()
        );
    }
    machine.expect_power_off()
}

fn without_serial_port() -> Result<()> {
    let mut machine = Boot::tiny(&["hello"])?
        .engine(Engine::Qemu)
        .as_ram_disk()
        .watched()
        .without_serial_port()
        .start()?;
    let screen = machine.screen_when_off()?;
    let shown = screen.concat();
    // From the first line to the last.
    for text in ["plinth: Plinth 0.1.0", "VT-x is missing", "status 3"] {
        ensure!(
            shown.contains(text),
            "`{text}` is not on the screen:\n{}",
            screen.join("\n").trim_end()
        );
    }
    ensure!(
        machine.heard().is_empty(),
        "there is a serial port: {:?}",
        machine.heard()
    );
    machine.expect_power_off()
}

/// Four guests on two CPUs, one of which never gives its CPU up.
fn two_cpus() -> Result<()> {
    let mut machine = Boot::tiny(&["spin", "portio", "fpu", "hello"])?
        .cpus(2)
        .start()?;
    for name in ["hello", "portio", "fpu"] {
        machine.expect_all_passed(name)?;
    }
    Ok(())
}

/// The third of three CPUs is listed by an APIC ID that nobody has. Guests get the two others: one of them never gives
/// its CPU up, and has it for itself.
fn missing_cpu() -> Result<()> {
    let mut machine = Boot::tiny(&["spin", "hello"])?
        .cpus(3)
        .last_cpu_missing()
        .with_guests(|guests| {
            guests[0].config.placement = Placement::Dedicated;
            guests[1].config.affinity = vec![0];
        })
        .start()?;
    let line = machine.expect("does not come up and is left out")?;
    ensure!(
        line.contains("the CPU with APIC ID 66 "),
        "another one is missing: {line}"
    );
    machine.expect("2 of 3 CPUs are up")?;
    machine.expect("spin: CPU 1 is vCPU 0's own")?;
    machine.expect_all_passed("hello")
}

/// Bochs's own BIOS locks VT-x on, SeaBIOS leaves it open on every CPU. It also has the second CPU spin while it starts
/// the first, and so takes the longer on a busy machine.
fn seabios() -> Result<()> {
    let mut machine = Boot::tiny(&["spin", "hello"])?
        .engine(Engine::Bochs)
        .firmware(Firmware::Seabios)
        .cpus(2)
        .patience(Duration::from_secs(240))
        .start()?;
    machine.expect_all_passed("hello")
}

fn feature_table() -> Result<()> {
    let mut machine = Boot::tiny(&["hello"])?.engine(Engine::Bochs).start()?;
    machine.expect_end("hello", End::PowerOff)?;
    for feature in ["EPT", "unrestricted guest", "VPID", "preemption timer"] {
        let is_shown = machine.heard().iter().any(|line| line.contains(feature));
        ensure!(is_shown, "nothing was said about {feature}");
    }
    Ok(())
}

fn log_levels() -> Result<()> {
    let lines_at = |level| -> Result<Vec<String>> {
        let mut machine = Boot::tiny(&["hello"])?.log_level(level).start()?;
        machine.expect_all_passed("hello")?;
        Ok(machine.heard().to_vec())
    };
    // A line of the log is `[time] CPU LEVEL place: words`.
    let has = |lines: &[String], level: &str| {
        let of_log = lines.iter().filter(|line| line.starts_with("[ "));
        of_log
            .filter_map(|line| line.split_whitespace().nth(3))
            .any(|word| word == level)
    };
    let chatty = lines_at(LogLevel::Debug)?;
    ensure!(
        has(&chatty, "DEBUG") && has(&chatty, "INFO") && !has(&chatty, "TRACE"),
        "with `debug`:\n{}",
        chatty.join("\n")
    );
    let mut terse = lines_at(LogLevel::Error)?;
    // Who is there is said before anybody can have told how much to say.
    terse.retain(|line| !line.contains("INFO  plinth: Plinth "));
    let others = ["WARN", "INFO", "DEBUG", "TRACE"];
    ensure!(
        !others.iter().any(|level| has(&terse, level)),
        "with `error`:\n{}",
        terse.join("\n")
    );
    Ok(())
}

/// The report of a test whose machine goes on for ever without saying what is expected.
fn hang() -> Result<()> {
    let mut machine = Boot::tiny(&["spin"])?
        .patience(Duration::from_secs(20))
        .start()?;
    machine.expect("[spin]")?;
    let Err(error) = machine.expect("what no guest says") else {
        bail!("what no guest says was heard");
    };
    let report = format!("{error:#}");
    for part in [
        "`what no guest says` did not come",
        "[spin]",
        "spin vCPU 0",
        "rip ",
        "host timer",
    ] {
        ensure!(report.contains(part), "no `{part}` in:\n{report}");
    }
    Ok(())
}

fn operator() -> Result<()> {
    let mut machine = Boot::tiny(&["spin"])?.start()?;
    machine.expect("[spin]")?;
    machine.send(b"\x1dd")?;
    machine.expect("spin vCPU 0")?;
    machine.expect("rip ")?;
    machine.expect("host timer")?;
    Ok(())
}

/// Two CPUs, each with a guest, are asked at once: the registers of each stand right below its name.
fn two_tellers() -> Result<()> {
    let mut machine = Boot::tiny(&["spin", "spin"])?
        .cpus(2)
        .with_guests(|guests| guests[1].config.name = "other".to_owned())
        .start()?;
    machine.expect("entering a tight loop")?;
    machine.expect("entering a tight loop")?;
    machine.send(b"\x1dd")?;
    // The heads of the last table of each, below its registers and last exits.
    machine.expect("99 %<")?;
    machine.expect("99 %<")?;
    let lines = machine.heard();
    for name in ["spin", "other"] {
        let title = format!("{name} vCPU 0");
        let at = lines.iter().position(|line| line.contains(&title));
        let below = at.and_then(|at| lines.get(at + 1..at + 5));
        let below = below.with_context(|| format!("{title} has no registers: {lines:#?}"))?;
        for (line, register) in below.iter().zip(["rip ", "rax ", "rsp ", "r8 "]) {
            ensure!(
                line.contains(register),
                "no `{register}` where it belongs:\n{below:?}"
            );
        }
    }
    Ok(())
}
