//! What becomes of bugs of the hypervisor's own: each guard catches the one that it is there for, and tells it.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use plinth_tests::console::End;
use plinth_tests::{Boot, Session};
use xtask::emulator::Engine;

use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a_panic_has_an_epitaph_with_the_place_and_the_last_exits",
            || {
                crash(
                    "panic",
                    &[
                        "this is a bug in Plinth",
                        "the operator wanted to see a panic at kernel/src/crash.rs:",
                        "code addresses on the stack",
                        "last exits on this CPU:",
                    ],
                )
            },
        ),
        trial(
            "a_stack_that_overflows_ends_on_the_stack_of_double_faults",
            || {
                crash(
                    "stack",
                    &["exception #DF", "a stack of this CPU has overflowed"],
                )
            },
        ),
        trial("an_nmi_comes_and_goes_on_a_stack_of_its_own", || {
            crash(
                "nmi",
                &["an NMI has come and gone while there was no room on the stack at "],
            )
        }),
        trial("a_machine_check_is_told_on_a_stack_of_its_own", || {
            crash(
                "machine-check",
                &[
                    "the processor reports an error of the hardware",
                    "exception #MC at 0xffffffff8",
                    "IA32_MCG_STATUS 0x0",
                ],
            )
        }),
        // A write (bit 1) to a page that is there (bit 0).
        trial("the_hypervisors_text_cannot_be_written", || {
            crash("text", &["exception #PF, error code 0x3, at 0xffffffff8"])
        }),
        // A fetch (bit 4) from a page that is there.
        trial("the_hypervisors_data_cannot_be_executed", || {
            crash("data", &["exception #PF, error code 0x11, at 0xffffffff8"])
        }),
        trial(
            "an_entry_that_fails_ends_its_vm_alone_and_names_the_rule",
            entries,
        ),
    ]
}

fn monitor(machine: &mut Session, line: &str) -> Result<()> {
    machine.send(format!("\x1dm{line}\r").as_bytes())
}

fn crash(bug: &str, said: &[&str]) -> Result<()> {
    let mut machine = Boot::tiny(&["spin"])?.engine(Engine::Bochs).start()?;
    machine.expect("[spin]")?;
    monitor(&mut machine, &format!("crash {bug}"))?;
    let epitaph = machine.expect_epitaph()?;
    let text = epitaph.join("\n");
    for part in said {
        ensure!(text.contains(part), "no `{part}` in the epitaph:\n{text}");
    }
    machine.expect_power_off()
}

/// The hardware refuses the guest's state late and the controls at once; either is found again by the model of its
/// checks.
fn entries() -> Result<()> {
    let mut machine = Boot::tiny(&["spin", "spin", "spin"])?
        .engine(Engine::Bochs)
        .with_guests(|guests| {
            for (guest, name) in guests.iter_mut().zip(["state", "controls", "sound"]) {
                guest.config.name = name.to_owned();
            }
        })
        .start()?;
    for _ in 0..3 {
        machine.expect("entering a tight loop")?;
    }
    for (name, rule) in [("state", "RFLAGS"), ("controls", "CR3-target")] {
        monitor(&mut machine, &format!("spoil {name} {name}"))?;
        machine.expect("its next entry will fail")?;
        let broken = machine.expect("entry rule broken: ")?;
        ensure!(broken.contains(rule), "another rule is named: {broken}");
        machine.expect_end(name, End::Crash)?;
        // Closes it again.
        machine.send(b"\x1dm")?;
    }
    let broken = machine.heard().iter();
    let broken = broken.filter(|line| line.contains("entry rule broken"));
    ensure!(broken.count() == 2, "more is broken than was spoilt");
    monitor(&mut machine, "regs sound")?;
    machine.expect("sound vCPU 0")?;
    machine.expect("rip ")?;
    Ok(())
}
