//! The tests that boot machines. Each is one machine from power-on to power-off; they run side by side.

mod bad_input;
mod bench;
mod boot;
mod bugs;
mod commands;
mod conformance;
mod crowd;
mod guests;
mod isolation;
mod lifecycle;
mod linux;
mod packaged;
mod scheduling;
mod screen;
mod session;

use anyhow::Result;
use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let groups = [
        bench::trials(),
        boot::trials(),
        bugs::trials(),
        guests::trials(),
        bad_input::trials(),
        commands::trials(),
        crowd::trials(),
        lifecycle::trials(),
        conformance::trials(),
        linux::trials(),
        isolation::trials(),
        scheduling::trials(),
        packaged::trials(),
        screen::trials(),
        session::trials(),
    ];
    let trials = groups.into_iter().flatten().collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// A test of this name.
fn trial(name: &str, body: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || {
        body().map_err(|error| format!("{error:#}").into())
    })
}
