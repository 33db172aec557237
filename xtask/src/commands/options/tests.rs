//! Command lines, and what becomes of them.

use super::*;
use clap::Parser;

#[derive(Parser, Debug)]
struct Line {
    #[command(flatten)]
    guest: GuestOptions,
    #[command(flatten)]
    machine: MachineOptions,
}

fn parse(arguments: &[&str]) -> Result<Line, clap::Error> {
    Line::try_parse_from(std::iter::once(&"xtask").chain(arguments))
}

#[test]
fn the_options_of_a_guest_and_a_machine_are_read() {
    let Line { guest, machine } = parse(&[
        "linux",
        "--kernel",
        "/boot/vmlinuz",
        "--memory",
        "1G",
        "--cpus=4",
        "--engine",
        "qemu",
        "--firmware=uefi",
        "--log",
        "debug",
        "--apic",
        "software",
        "--code-pages",
        "small",
        "--cmdline",
        "-- a b",
    ])
    .unwrap();
    assert_eq!(guest.name.as_deref(), Some("linux"));
    assert_eq!(guest.kernel, Some("/boot/vmlinuz".into()));
    assert_eq!(guest.memory, Some(1 << 30));
    assert_eq!(guest.cpus, 4);
    assert_eq!(guest.log, Some(LogLevel::Debug));
    assert_eq!(guest.apic, Some(ApicVirtualization::Software));
    assert_eq!(guest.code_pages, Some(CodePages::Small));
    assert_eq!(guest.cmdline.as_deref(), Some("-- a b"));
    assert_eq!(machine.engine, Some(Engine::Qemu));
    assert_eq!(machine.firmware, Firmware::Uefi);
}

#[test]
fn a_reboot_of_somebodys_system_ended_the_machine() {
    let policies = |arguments: &[&str]| {
        let guest = parse(arguments).unwrap().guest;
        let config = guest
            .guest(&Paths::of_checkout(), &artifacts())
            .unwrap()
            .config;
        (config.on_reboot, config.on_crash)
    };
    let kernel = [
        "--kernel",
        "k.bin",
        "--on-crash=restart",
        "--on-reboot=stop",
    ];
    assert_eq!(
        policies(&kernel[..2]),
        (EndPolicy::Restart, EndPolicy::Stop)
    );
    assert_eq!(policies(&kernel), (EndPolicy::Stop, EndPolicy::Restart));
    // A test kernel's reset is its result.
    assert_eq!(
        policies(&["--kernel", "k.bin", "--test-devices"]).0,
        EndPolicy::Stop
    );
}

#[test]
fn modules_format_and_test_devices_reach_the_guest() {
    let line = parse(&[
        "--kernel",
        "k.bin",
        "--module",
        "/m/one:a b",
        "--module=two",
        "--format=flat@0x10000",
        "--test-devices",
        "--screen",
    ]);
    let paths = Paths::of_checkout();
    let guest = line.unwrap().guest.guest(&paths, &artifacts()).unwrap();
    let modules = [("/m/one", "one a b"), ("two", "two")];
    let modules = modules.map(|(file, cmdline)| (PathBuf::from(file), cmdline.to_owned()));
    assert_eq!(guest.modules, modules);
    let format = KernelFormat::Flat { address: 0x1_0000 };
    assert_eq!(guest.config.kernel_format, format);
    assert_eq!(guest.config.test_devices, TestDevices::Present);
    assert_eq!(guest.config.screen, Screen::Text);
}

#[test]
fn wrong_options_are_refused_with_the_choices() {
    for (arguments, expected) in [
        (&["--engine", "vbox"][..], "kvm, bochs, qemu"),
        (&["--firmware", "coreboot"], "bios, uefi"),
        (&["--cpus", "0"], "1.."),
        (&["--kernel-package", "busybox"], "linux-image-"),
        (
            &["--kernel", "k", "--kernel-package", "linux-image-amd64"],
            "cannot be used with",
        ),
        (&["--initrd", "x"], "--kernel"),
        (&["--memory", "lots"], "64M"),
        (&["a", "b"], "unexpected"),
        (&["--log", "loud"], "trace"),
        (&["--kernel", "k", "--format", "coff"], "multiboot2"),
        (&["--format", "flat"], "--kernel"),
        (&["--apic", "none"], "task-priority"),
        (&["--code-pages", "large"], "as-needed"),
        (&["--on-reboot", "halt"], "stop"),
        (&["--config", "x", "--on-crash", "stop"], "--config"),
        (&["--config", "x", "hello"], "--config"),
        (&["--config", "x", "--cpus", "2"], "--cpus"),
    ] {
        let error = parse(arguments).unwrap_err().to_string();
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

fn artifacts() -> Artifacts {
    Artifacts {
        guests: [("hello".to_owned(), PathBuf::from("/g/hello"))].into(),
        ..Artifacts::default()
    }
}

#[test]
fn a_kernel_of_ones_own_is_called_after_its_file() {
    let artifacts = artifacts();
    let paths = Paths::of_checkout();
    let guest = |arguments: &[&str]| parse(arguments).unwrap().guest.guest(&paths, &artifacts);
    assert_eq!(guest(&["--kernel", "/b/my.elf"]).unwrap().config.name, "my");
    assert_eq!(guest(&["hello"]).unwrap().kernel, PathBuf::from("/g/hello"));
    let error = guest(&["nobody"]).unwrap_err().to_string();
    assert!(
        error.contains(
            "There are: linux, memtest86+, memtest86+ia32, ipxe, grub, xen, gnumach, hello"
        ),
        "{error}"
    );
}
