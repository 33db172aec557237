//! The tiny guests: each reports its own cases, and each must pass all of them.

use anyhow::Result;
use libtest_mimic::Trial;
use plinth_tests::Boot;
use plinth_tests::console::End;

use crate::trial;

/// Guests that report cases and then switch themselves off.
const REPORTING: &[&str] = &[
    "hello",
    "hello64",
    "realmode",
    "cpuid",
    "msrs",
    "modes",
    "portio",
    "fpu",
    "timer",
    "paging",
    "hypercall",
    "outside",
    "exceptions",
    "debug",
    "misc",
    "tasks32",
];

pub fn trials() -> Vec<Trial> {
    let mut trials: Vec<_> = REPORTING
        .iter()
        .map(|&name| {
            trial(&format!("guest_{name}_passes_all_its_cases"), move || {
                Boot::tiny(&[name])?.start()?.expect_all_passed(name)
            })
        })
        .collect();
    trials.push(trial("a_triple_fault_stops_its_vm_only", triple_fault));
    trials.push(trial("a_tight_loop_starves_nobody", tight_loop));
    trials
}

fn triple_fault() -> Result<()> {
    let mut machine = Boot::tiny(&["triple", "hello"])?.start()?;
    let detail = machine.expect_end("triple", End::Crash)?;
    anyhow::ensure!(
        detail.contains("triple fault"),
        "the end was told as `{detail}`"
    );
    machine.expect_all_passed("hello")
}

/// `spin` never exits by itself and never ends: `hello` must run beside it.
fn tight_loop() -> Result<()> {
    let mut machine = Boot::tiny(&["spin", "hello"])?.start()?;
    machine.expect_all_passed("hello")
}
