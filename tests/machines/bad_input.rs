//! What cannot run is refused with one clear line, and everything else runs.

use anyhow::{Result, bail, ensure};
use bundle::EndPolicy;
use libtest_mimic::Trial;
use plinth_tests::console::End;
use plinth_tests::{Boot, Session};
use xtask::guests::Guest;

use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_damaged_bundle_is_refused_with_a_reason", damaged_bundle),
        trial(
            "a_bundle_that_is_cut_short_is_refused_with_a_reason",
            cut_bundle,
        ),
        trial("a_damaged_kernel_stops_its_vm_only", damaged_kernel),
        trial(
            "a_kernel_of_unknown_format_stops_its_vm_only",
            unknown_format,
        ),
        trial(
            "a_guest_that_wants_too_much_memory_stops_alone",
            too_much_memory,
        ),
        trial(
            "cpus_that_there_is_no_memory_for_are_refused_and_other_machines_run",
            cpus_that_do_not_fit,
        ),
    ]
}

fn damaged_bundle() -> Result<()> {
    let boot = Boot::tiny(&["hello"])?;
    let mut bytes = boot.pack()?;
    // In the configuration, right behind the header.
    let byte = bytes.get_mut(64).expect("a bundle is longer than that");
    *byte ^= 0x40;
    let mut machine = boot.bundle(bytes).start()?;
    machine.expect(
        "the guest bundle's directory is damaged (wrong checksum): make and write the image again",
    )?;
    ensure!(
        machine.expect_all_ended()? != 0,
        "a damaged bundle ended with status 0"
    );
    machine.expect_power_off()
}

fn cut_bundle() -> Result<()> {
    let boot = Boot::tiny(&["hello"])?;
    let mut bytes = boot.pack()?;
    bytes.truncate(bytes.len() / 2);
    let mut machine = boot.bundle(bytes).start()?;
    let said = machine.expect("the guest bundle is cut short (")?;
    ensure!(
        said.ends_with(" bytes): make and write the image again"),
        "no remedy: {said}"
    );
    ensure!(
        machine.expect_all_ended()? != 0,
        "half a bundle ended with status 0"
    );
    machine.expect_power_off()
}

fn damaged_kernel() -> Result<()> {
    let boot = Boot::tiny(&["hello", "outside"])?;
    let mut bytes = boot.pack()?;
    // The last byte belongs to the last file.
    let byte = bytes.last_mut().expect("a bundle is not empty");
    *byte ^= 1;
    let mut machine = boot.bundle(bytes).start()?;
    let detail = machine.expect_end("outside", End::Crash)?;
    let wanted = "in the guest bundle is damaged (wrong checksum): make and write the image again";
    ensure!(detail.contains(wanted), "it was refused with `{detail}`");
    machine.expect_all_passed("hello")
}

fn unknown_format() -> Result<()> {
    let boot = Boot::tiny(&["hello"])?.with_guests(|guests| {
        let text = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        guests.insert(0, Guest::new("text", text, 16 << 20));
    });
    let mut machine = boot.start()?;
    let detail = machine.expect_end("text", End::Crash)?;
    let wanted = "the kernel's format is not known: it is no ELF file, Linux bzImage, Multiboot image or boot sector; \
                  use another file, or say its format (--format, format = ...)";
    ensure!(detail == wanted, "it was refused with `{detail}`");
    machine.expect_all_passed("hello")
}

/// Its RAM fits, and nothing beside it; two more machines are there, one of which begins anew all the time.
fn cpus_that_do_not_fit() -> Result<()> {
    let boot = |mib: u64, cpus: u32| -> Result<Session> {
        Boot::tiny(&["hello", "triple", "outside"])?
            .memory_mib(256)
            .with_guests(|guests| {
                guests[1].config.on_crash = EndPolicy::Restart;
                guests[2].config.memory_bytes = mib << 20;
                guests[2].config.cpus = cpus;
            })
            .start()
    };
    let mut machine = boot(64 << 10, 1)?;
    let detail = machine.expect_end("outside", End::Crash)?;
    let free_mib = detail
        .split_once(" MiB are free")
        .and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok());
    let Some(free_mib) = free_mib else {
        bail!("it does not say what is free: {detail}");
    };
    drop(machine);
    let mut machine = boot(free_mib, 255)?;
    let detail = machine.expect_end("outside", End::Crash)?;
    ensure!(
        detail.contains("KiB for its CPUs"),
        "it was refused with `{detail}`"
    );
    machine.expect_all_passed("hello")?;
    machine.expect("plinth: restart triple crash")?;
    ensure!(
        !machine
            .heard()
            .iter()
            .any(|line| line.contains("bug in Plinth")),
        "a machine took more than was counted"
    );
    Ok(())
}

fn too_much_memory() -> Result<()> {
    let boot = Boot::tiny(&["outside", "hello"])?
        .memory_mib(256)
        .with_guests(|guests| {
            guests[0].config.memory_bytes = 64 << 30;
        });
    let mut machine = boot.start()?;
    let detail = machine.expect_end("outside", End::Crash)?;
    ensure!(
        detail.starts_with("it wants 65536 MiB of memory, ")
            && detail.ends_with(
                " MiB are free: give it less (memory = ..., cpus = ...), or the machine more"
            ),
        "it was refused with `{detail}`"
    );
    machine.expect_all_passed("hello")
}
