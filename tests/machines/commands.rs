//! `cargo xtask` as people and scripts use it: how each kind of end of `run` is told by the exit status, and the
//! other commands from the first word to the last.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use plinth_tests::Boot;
use xtask::emulator::Engine;
use xtask::paths::Paths;
use xtask::system::limited;
use xtask::system::packages::Need;

use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial(
            "run_ends_with_124_after_its_timeout_and_tells_what_its_guest_was_doing",
            timed_out,
        ),
        trial(
            "doctor_finds_that_this_machine_has_what_run_and_test_need",
            doctor,
        ),
        trial("an_image_boots_with_its_guest_and_nothing_else", image),
        trial(
            "an_image_too_large_for_the_bios_loader_is_refused_with_a_remedy",
            large_image,
        ),
        trial(
            "flash_refuses_what_is_no_disk_before_it_builds_anything",
            no_disk,
        ),
        trial(
            "gdb_stops_at_the_hypervisors_first_instruction_and_knows_its_symbols",
            debug,
        )
        .with_ignored_flag(Need::Gdb.find().is_none()),
    ];
    trials.extend(ends());
    trials
}

fn ends() -> Vec<Trial> {
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
            "[testboard] DONE 6 passed, 0 failed",
        ),
        (
            "a_configuration_gives_a_test_board_and_a_screen",
            &["--config", "guests/examples/test-board.toml"],
            43,
            "[testboard] DONE 6 passed, 0 failed",
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
            "plinth: end Cargo crash: the kernel's format is not known: it is no ELF file, Linux bzImage, Multiboot image or boot \
             sector; use another file, or say its format (--format, format = ...)",
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
    // A guest that hangs is to be told with what it was doing.
    let text = xtask(
        &[&["run"], arguments, &["--timeout", "300"]].concat(),
        status,
    )?;
    ensure!(text.contains(said), "it did not say `{said}`:\n{text}");
    Ok(())
}

/// How long a command may take: longer than any `--timeout` here, and than the building of a boot loader on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);

/// Runs a command to its end, which must have this status, and returns all that it said.
pub(crate) fn xtask(arguments: &[&str], status: i32) -> Result<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command
        .arg("xtask")
        .args(arguments)
        .current_dir(Paths::of_checkout().root());
    let ended = limited::run(&mut command, LIMIT)?;
    let text = ended.text;
    let Some(found) = ended.status else {
        bail!("it hung and was cut off after {LIMIT:?}:\n{text}");
    };
    ensure!(
        found.code() == Some(status),
        "it ended with {found} and not with {status}:\n{text}"
    );
    Ok(text)
}

/// What one is told of a guest that the time was up for: what Plinth knows of it, and where the machine was.
fn timed_out() -> Result<()> {
    let text = xtask(&["run", "spin", "--timeout", "20"], 124)?;
    for part in ["the time is up", "spin vCPU 0", "host timer", "rip "] {
        ensure!(text.contains(part), "no `{part}` in:\n{text}");
    }
    Ok(())
}

/// The tests run here, so nothing is missing.
fn doctor() -> Result<()> {
    let text = xtask(&["doctor"], 0)?;
    let needs = Need::ALL.map(Need::name);
    let others = [
        "Rust",
        "rust-src",
        "llvm-tools",
        "guest linux",
        "guest memtest86+",
        "guest ipxe",
        "guest grub",
        "KVM",
        "VT-x",
        "nested VT-x",
        "default engine",
    ];
    for what in needs.into_iter().chain(others) {
        let row = text.lines().find(|line| line.starts_with(what));
        let row = row.with_context(|| format!("there is no row for {what}:\n{text}"))?;
        ensure!(!row.contains("MISSING"), "it is missing: {row}");
    }
    Ok(())
}

/// The image as it comes, without an emulator that brings the guest: all is in the RAM disk, which is packed.
fn image() -> Result<()> {
    let file = Paths::of_checkout().artifacts().join("test-command.img");
    let place = file.to_str().context("the checkout's path is no text")?;
    let text = xtask(
        &["image", "hello", "--when-done", "power-off", "--out", place],
        0,
    )?;
    ensure!(text.contains("is ready"), "it does not say so:\n{text}");
    let mut machine = Boot::tiny(&[])?
        .engine(Engine::Bochs)
        .from_image(file)
        .start()?;
    machine.expect_all_passed("hello")?;
    ensure!(machine.expect_all_ended()? == 0, "the status was not 0");
    machine.expect_power_off()
}

/// 32 MiB that cannot be packed any smaller.
fn large_image() -> Result<()> {
    let file = Paths::of_checkout().artifacts().join("test-large");
    let mut state = 1_u64;
    let words = std::iter::repeat_with(|| {
        // Xorshift (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let bytes: Vec<u8> = words.take(4 << 20).flatten().collect();
    std::fs::write(&file, bytes)?;
    let place = file.to_str().context("the checkout's path is no text")?;
    let said = xtask(&["image", "hello", "--module", place], 125);
    std::fs::remove_file(&file)?;
    let said = said?;
    ensure!(
        said.contains("the BIOS boot loader can load 29 MiB: use smaller kernels"),
        "{said}"
    );
    Ok(())
}

fn no_disk() -> Result<()> {
    let text = xtask(&["flash", "/dev/nobody"], 125)?;
    ensure!(text.contains("there is no /dev/nobody. Disks: "), "{text}");
    ensure!(!text.contains("building"), "it has built first:\n{text}");
    let text = xtask(&["flash", "/dev/null", "--yes"], 125)?;
    ensure!(text.contains("/dev/null is no disk. Disks: "), "{text}");
    Ok(())
}

/// From the reset vector to the first instruction, and on to the hypervisor's own stack.
fn debug() -> Result<()> {
    let commands = [
        "printf \"at %#lx\\n\", $pc",
        "continue",
        "info symbol $pc",
        "thbreak own_ground",
        "continue",
        "info symbol $pc",
        "kill",
    ];
    let mut arguments = vec!["debug", "hello", "--engine", "bochs"];
    arguments.extend(commands.iter().flat_map(|command| ["--execute", command]));
    let text = xtask(&arguments, 0)?;
    let mut rest = text.as_str();
    for said in ["at 0xfff0", "_start in section .text", "own_ground + "] {
        let at = rest.find(said);
        let at = at.with_context(|| format!("`{said}` is not there in its place:\n{text}"))?;
        rest = &rest[at..];
    }
    Ok(())
}
