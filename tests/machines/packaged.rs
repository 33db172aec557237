//! Others' guests, as their Debian packages have them: a memory tester and two boot loaders draw on their screens, and
//! take keys; a hypervisor and a microkernel bring up a whole machine. They are fetched like the Linux guest.

use anyhow::Result;
use libtest_mimic::Trial;
use plinth_tests::console::End;
use plinth_tests::{Boot, Session, artifacts};
use xtask::guests::Guest;
use xtask::packaged::Packaged;
use xtask::paths::Paths;

use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("memtest86_tests_memory_and_shows_it", || {
            memtest(Packaged::Memtest)
        }),
        trial("memtest86_for_32_bits_does_the_same", || {
            memtest(Packaged::Memtest32)
        }),
        trial("ipxe_shows_its_banner_and_takes_commands", ipxe),
        trial("grub_shows_its_prompt_and_takes_commands", grub),
        trial("xen_brings_up_all_of_its_machine", xen),
        trial("gnu_mach_comes_up_and_misses_its_servers", gnumach),
    ]
}

fn boot(packaged: Packaged) -> Result<Session> {
    let guest = packaged.guest(&Paths::of_checkout())?;
    Boot::of(vec![guest])
        .with_guests(|guests| guests[0].config.memory_bytes = 16 << 20)
        .start()
}

fn memtest(packaged: Packaged) -> Result<()> {
    let mut machine = boot(packaged)?;
    machine.expect_shown("Memtest86+")?;
    // The first tests are over soon.
    machine.expect_shown("[Moving inversions")?;
    machine.expect_shown("Errors: 0")?;
    // The Escape key leaves by a reset.
    machine.send(b"\x1b")?;
    machine.expect_end(packaged.name(), End::Reset)?;
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

/// A second processor, the APICs and all timers; only then Xen sees that what it was given as a kernel is none.
fn xen() -> Result<()> {
    let mut guest = Packaged::Xen.guest(&Paths::of_checkout())?;
    let hello = Guest::tiny(artifacts()?, "hello")?;
    guest.modules.push((hello.kernel, "hello".to_owned()));
    guest.config.memory_bytes = 128 << 20;
    guest.config.cpus = 2;
    let mut machine = Boot::of(vec![guest]).start()?;
    machine.expect("(XEN) Bootloader: Plinth")?;
    machine.expect("(XEN) Platform timer is 3.580MHz ACPI PM Timer")?;
    machine.expect("(XEN) Brought up 2 CPUs")?;
    machine.expect("(XEN) Could not construct domain 0")?;
    machine.expect_end("xen", End::Reset)?;
    Ok(())
}

/// It finds its memory, its console and the date, and then has nothing to start.
fn gnumach() -> Result<()> {
    let mut guest = Packaged::Gnumach.guest(&Paths::of_checkout())?;
    guest.config.memory_bytes = 64 << 20;
    let mut machine = Boot::of(vec![guest]).start()?;
    machine.expect("GNU Mach")?;
    machine.expect("biosmem: 000000000000100000:000000000004000000, available")?;
    machine.expect("RTC time is 2000-01-01 00:00:")?;
    machine.expect("No bootstrap code loaded with the kernel!")?;
    Ok(())
}
