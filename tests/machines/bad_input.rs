//! What cannot run is refused with one clear line, and everything else runs.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use plinth_tests::Boot;
use plinth_tests::console::End;
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

fn too_much_memory() -> Result<()> {
    let boot = Boot::tiny(&["outside", "hello"])?
        .memory_mib(256)
        .with_guests(|guests| {
            guests[0].config.memory_bytes = 64 << 30;
        });
    let mut machine = boot.start()?;
    let detail = machine.expect_end("outside", End::Crash)?;
    ensure!(
        detail.starts_with("it wants 65536 MiB of memory and ")
            && detail.ends_with(" MiB are free: give it less (memory = ...), or the machine more"),
        "it was refused with `{detail}`"
    );
    machine.expect_all_passed("hello")
}
