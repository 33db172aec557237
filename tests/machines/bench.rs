//! What events inside a guest cost, against `tests/budgets.toml`. In Bochs an instruction is a tick, so nothing here
//! depends on how busy the machine is that runs the tests.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use plinth_tests::{Boot, artifacts};
use xtask::bench::budget::Budgets;
use xtask::bench::exits::{self, Host};
use xtask::emulator::{CpuModel, Engine};
use xtask::paths::Paths;

use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("exits_cost_no_more_than_their_budgets", budgets),
        trial("the_bench_guest_measures_the_bare_machine_too", bare),
    ]
}

fn budgets() -> Result<()> {
    let host = Host {
        engine: Engine::Bochs,
        cpu_model: CpuModel::default(),
    };
    let paths = Paths::of_checkout();
    let rows = exits::measure_plinth(&paths, artifacts()?, host)?;
    Budgets::read(&paths)?.check(&rows)
}

fn bare() -> Result<()> {
    let mut machine = Boot::tiny(&["bench"])?.bare().start()?;
    machine.expect("BENCH cpuid ")?;
    machine.expect("PASS everything-was-measured")?;
    let said_so = machine
        .heard()
        .iter()
        .any(|line| line.contains("BENCH vmcall"));
    ensure!(!said_so, "a bare machine has no VMCALL");
    machine.expect_power_off()
}
