//! `cargo xtask run` as people and scripts use it: how each kind of end is told by the exit status.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use xtask::paths::Paths;

use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    [
        (
            "run_ends_with_0_where_the_guest_switched_itself_off",
            &["hello"][..],
            0,
            "plinth: end hello poweroff",
        ),
        (
            "run_ends_with_the_status_that_a_guest_gives_its_test_board",
            &["testboard", "--test-devices", "--cmdline", "a board"],
            43,
            "[testboard] DONE 5 passed, 0 failed",
        ),
        (
            "run_ends_with_2_where_the_guest_crashed",
            &["triple"],
            2,
            "plinth: end triple crash: ",
        ),
        (
            "run_ends_with_3_where_the_kernel_is_of_no_known_format",
            &["--kernel", "Cargo.toml"],
            3,
            "format",
        ),
        (
            "run_ends_with_3_where_the_guest_wants_more_memory_than_there_is",
            &["hello", "--memory", "1G", "--host-memory", "256M"],
            3,
            "give it less",
        ),
        (
            "run_ends_with_3_where_vtx_is_missing",
            &["hello", "--engine", "qemu"],
            3,
            "VT-x is missing",
        ),
        (
            "run_ends_with_124_after_its_timeout",
            &["spin", "--timeout", "5"],
            124,
            "the time is up",
        ),
        (
            "run_ends_with_125_where_there_is_no_such_guest",
            &["nobody"],
            125,
            "there is no guest `nobody`",
        ),
        (
            "run_ends_with_125_where_the_configuration_has_a_mistake",
            &["--config", "Cargo.toml"],
            125,
            "Cargo.toml:1:2: a configuration has no key `workspace`",
        ),
        (
            "run_ends_with_125_where_the_emulator_has_not_so_much_memory",
            &["hello", "--engine", "bochs", "--memory", "64G"],
            125,
            "give the guests less",
        ),
        (
            "run_ends_with_125_where_the_files_do_not_fit_into_the_machine",
            &["hello", "--host-memory", "32M"],
            125,
            "use --host-memory with more",
        ),
    ]
    .into_iter()
    .map(|(name, arguments, status, said)| trial(name, move || run(arguments, status, said)))
    .collect()
}

/// Runs the command to its end, which must have this status and something like this among its last words.
fn run(arguments: &[&str], status: i32, said: &str) -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    // A guest that hangs is to fail one test and not to stop them all.
    let patience = match arguments.contains(&"--timeout") {
        true => &[][..],
        false => &["--timeout", "300"],
    };
    let output = Command::new(cargo)
        .args(["xtask", "run"])
        .args(arguments)
        .args(patience)
        .current_dir(Paths::of_checkout().root())
        .output()
        .context("cannot run cargo")?;
    let text = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    ensure!(
        output.status.code() == Some(status),
        "it ended with {} and not with {status}:\n{text}",
        output.status
    );
    ensure!(text.contains(said), "it did not say `{said}`:\n{text}");
    Ok(())
}
