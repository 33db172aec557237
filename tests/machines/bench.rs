//! What events inside a guest cost, against `tests/budgets.toml`. In Bochs an instruction is a tick, so nothing here
//! depends on how busy the machine is that runs the tests.

use std::fs;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use plinth_tests::{Boot, artifacts};
use xtask::bench::budget::Budgets;
use xtask::bench::exits::{self, Host};
use xtask::bench::scale;
use xtask::bench::{Results, Row};
use xtask::emulator::{CpuModel, Engine};
use xtask::paths::Paths;

use crate::commands::xtask;
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("exits_cost_no_more_than_their_budgets", budgets),
        trial("the_bench_guest_measures_the_bare_machine_too", bare),
        trial("a_second_vm_is_measured_with_its_switches", second_vm),
        trial(
            "a_profile_is_a_flame_graph_with_the_handlers_of_exits",
            profile,
        ),
    ]
}

const HOST: Host = Host {
    engine: Engine::Bochs,
    cpu_model: CpuModel::Skylake,
};

fn budgets() -> Result<()> {
    let paths = Paths::of_checkout();
    let rows = exits::measure_plinth(&paths, artifacts()?, HOST)?;
    Budgets::read(&paths)?.check(&rows)?;
    check_tells_by_its_status(&paths, rows)
}

/// `bench --check` with these rows, which are within their budgets, and with worse ones.
fn check_tells_by_its_status(paths: &Paths, rows: Vec<Row>) -> Result<()> {
    let folder = paths.target().join("tmp");
    fs::create_dir_all(&folder)?;
    let file = folder.join("test-bench.json");
    let mut results = Results {
        commit: "test".to_owned(),
        engine: "bochs".to_owned(),
        cpu_model: "skylake".to_owned(),
        rows,
    };
    let mut check = |change: &dyn Fn(&mut Row), status, said: &str| -> Result<()> {
        let row = results.rows.iter_mut().find(|row| row.name == "cpuid");
        change(row.context("CPUID is not measured")?);
        fs::write(&file, serde_json::to_string(&results)?)?;
        let from = file.display().to_string();
        let text = xtask(&["bench", "--check", "--json", "--from", &from], status)?;
        ensure!(text.contains(said), "it did not say `{said}`:\n{text}");
        Ok(())
    };
    check(&|_| {}, 0, "are within their budgets and targets")?;
    check(&|row| row.plinth += 300, 125, "and it misses its target")?;
    check(
        &|row| row.name += "-of-another",
        125,
        "cpuid-of-another: has no budget",
    )?;
    fs::remove_file(&file)?;
    Ok(())
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

/// The suite `scale`, as far as it is cheap.
fn second_vm() -> Result<()> {
    let paths = Paths::of_checkout();
    let alone = scale::with(&paths, artifacts()?, HOST, 1)?;
    let both = scale::with(&paths, artifacts()?, HOST, 2)?;
    ensure!(alone.len() == 2, "{alone:?}");
    ensure!(
        both.iter().any(|row| row.name == "switch, 2 VMs"),
        "{both:?}"
    );
    for row in alone.iter().chain(&both) {
        ensure!(row.plinth > 0, "it costs nothing: {row:?}");
        ensure!(row.is_reached() != Some(false), "{row:?}");
    }
    Ok(())
}

/// The guest is `bench`, which does little but exit, around its start.
fn profile() -> Result<()> {
    let file = Paths::of_checkout().target().join("tmp/test-profile.svg");
    let out = file.display().to_string();
    let rate = ["--every", "997", "--skip", "7500000", "--samples", "1500"];
    let words = ["profile", "bench", "--engine", "bochs", "--out", &out];
    let text = xtask(&[&words[..], &rate].concat(), 0)?;
    ensure!(text.contains("of them inside the hypervisor"), "{text}");
    let svg = fs::read_to_string(&file)?;
    fs::remove_file(&file)?;
    ensure!(svg.contains("<svg"), "this is no picture:\n{svg}");
    ensure!(
        svg.contains("vmm::handle::"),
        "no handler was seen:\n{text}"
    );
    Ok(())
}
