//! Others' guests, as their Debian packages have them: a memory tester and two boot loaders draw on their screens, and
//! take keys. They are fetched like the Linux guest.

use anyhow::Result;
use libtest_mimic::Trial;
use plinth_tests::console::End;
use plinth_tests::{Boot, Session};
use xtask::packaged::Packaged;
use xtask::paths::Paths;

use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("memtest86_tests_memory_and_shows_it", memtest),
        trial("ipxe_shows_its_banner_and_takes_commands", ipxe),
        trial("grub_shows_its_prompt_and_takes_commands", grub),
    ]
}

fn boot(packaged: Packaged) -> Result<Session> {
    let guest = packaged.guest(&Paths::of_checkout())?;
    Boot::of(vec![guest])
        .with_guests(|guests| guests[0].config.memory_bytes = 16 << 20)
        .start()
}

fn memtest() -> Result<()> {
    let mut machine = boot(Packaged::Memtest)?;
    machine.expect_shown("Memtest86+")?;
    // The first tests are over soon.
    machine.expect_shown("[Moving inversions")?;
    machine.expect_shown("Errors: 0")?;
    // The Escape key leaves by a reset.
    machine.send(b"\x1b")?;
    machine.expect_end("memtest86+", End::Reset)?;
    Ok(())
}

fn ipxe() -> Result<()> {
    let mut machine = boot(Packaged::Ipxe)?;
    machine.expect_shown("Open Source Network Boot Firmware")?;
    machine.expect_shown("iPXE>")?;
    machine.send(b"echo ${hostname} is ${platform}\r")?;
    machine.expect_shown(" is pcbios")?;
    // The BIOS has nothing else to boot.
    machine.send(b"exit\r")?;
    machine.expect_end("ipxe", End::PowerOff)?;
    Ok(())
}

fn grub() -> Result<()> {
    let mut machine = boot(Packaged::Grub)?;
    machine.expect_shown("grub>")?;
    machine.send(b"lsmmap\r")?;
    machine.expect_shown("base_addr = 0x100000, length = 0xf00000, available RAM")?;
    machine.send(b"reboot\r")?;
    machine.expect_end("grub", End::Reset)?;
    Ok(())
}
