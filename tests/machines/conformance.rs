//! The conformance guests: each runs on the bare machine and under Plinth, and case by case the two must agree. What the
//! emulated machine itself gets wrong is listed in `xtask::conformance::exceptions`.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use plinth_tests::artifacts;
use xtask::build::conformance_guests;
use xtask::conformance;
use xtask::emulator::CpuModel;
use xtask::paths::Paths;

use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    // Without a suite there is nothing that could fail: one test says so.
    let guests = conformance_guests(&Paths::of_checkout()).unwrap_or_default();
    let mut trials: Vec<_> = guests
        .iter()
        .map(|name| {
            let name = name.clone();
            trial(
                &format!("guest_{name}_behaves_as_on_the_bare_machine"),
                move || compare(&name, CpuModel::default()),
            )
        })
        .collect();
    // What other processors have more of, or less: UMIP and protection keys; neither these nor AVX-512 and XSAVES.
    for (model, word, names) in [
        (
            CpuModel::Tigerlake,
            "tigerlake",
            &["cpuid", "misc", "paging"][..],
        ),
        (CpuModel::Haswell, "haswell", &["cpuid"]),
    ] {
        for name in names {
            trials.push(trial(
                &format!("guest_{name}_behaves_on_{word}_as_on_the_bare_machine"),
                move || compare(name, model),
            ));
        }
    }
    trials.push(trial("there_is_a_conformance_suite", move || {
        ensure!(!guests.is_empty(), "the package has no guests");
        Ok(())
    }));
    trials
}

fn compare(name: &str, model: CpuModel) -> Result<()> {
    let score = conformance::compare(&Paths::of_checkout(), artifacts()?, name, model)?;
    ensure!(
        score.wrong.is_empty(),
        "not as on the bare machine:\n  {}",
        score.wrong.join("\n  ")
    );
    ensure!(score.passed() > 0, "no case passed");
    Ok(())
}
