//! Good configurations and what becomes of them; bad ones and what is said about them.

use super::*;
use bundle::{
    Autostart, Console, EndPolicy, KernelFormat, PanicPolicy, Placement, Screen, TestDevices,
};
use std::collections::BTreeMap;

const EMULATED: ForMachine = ForMachine::Emulated { cpus: None };

fn tiny() -> Vec<String> {
    ["hello", "spin", "timer"].map(str::to_owned).into()
}

/// Reads one file called `vms.toml`, which lies in the folder of this crate.
fn read(text: &str, machine: ForMachine) -> Result<Configuration, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vms.toml");
    Configuration::parse(&[(path, text.to_owned())], &tiny(), machine)
}

/// The messages without the lines that show where; each with its place in the file.
fn complaints(text: &str) -> Vec<String> {
    let report = read(text, EMULATED).expect_err(text);
    let report = report.replace(concat!(env!("CARGO_MANIFEST_DIR"), "/"), "");
    report
        .lines()
        .filter_map(|line| line.strip_prefix("vms.toml:"))
        .map(str::to_owned)
        .collect()
}

fn guests(configuration: &Configuration) -> Vec<Guest> {
    let artifacts = Artifacts {
        guests: tiny()
            .into_iter()
            .map(|name| (name.clone(), Path::new("/g").join(name)))
            .collect::<BTreeMap<_, _>>(),
        ..Artifacts::default()
    };
    configuration
        .guests(&Paths::of_checkout(), &artifacts)
        .unwrap()
}

#[test]
fn every_key_of_a_machine_reaches_its_guest() {
    let text = r#"
        [hypervisor]
        log = "debug"
        when-done = "halt"
        [host]
        cpus = 4
        memory = "1G"
        [[vm]]
        name = "all-of.it_1"
        kernel = "Cargo.toml"
        format = "multiboot"
        initrd = "src/lib.rs"
        modules = ["src/main.rs", { file = "src/cpio.rs", cmdline = "a b" }]
        cmdline = "console=ttyS0 quiet"
        memory = "96M"
        cpus = 3
        weight = 512
        cap = 250
        tsc = 2400
        affinity = [3, 0, 1]
        placement = "shared"
        console = "terminal"
        screen = "text"
        test-devices = true
        autostart = false
        on-crash = "restart"
        on-reboot = "restart"
        on-panic = "ignore"
    "#;
    let configuration = read(text, EMULATED).unwrap();
    assert_eq!(configuration.host_cpus(), Some(4));
    assert_eq!(configuration.host_memory_bytes(), Some(1 << 30));
    let guests = guests(&configuration);
    let [guest] = &guests[..] else {
        panic!("{guests:?}")
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_eq!(guest.kernel, folder.join("Cargo.toml"));
    assert_eq!(guest.initrd, Some(folder.join("src/lib.rs")));
    assert_eq!(
        guest.modules,
        [
            (folder.join("src/main.rs"), "main.rs".to_owned()),
            (folder.join("src/cpio.rs"), "cpio.rs a b".to_owned())
        ]
    );
    let config = &guest.config;
    assert_eq!(config.name, "all-of.it_1");
    assert_eq!(config.kernel_format, KernelFormat::Multiboot);
    assert_eq!(config.cmdline, "console=ttyS0 quiet");
    assert_eq!(config.memory_bytes, 96 << 20);
    assert_eq!((config.cpus, config.weight), (3, 512));
    assert_eq!(config.cap_percent, Some(250));
    assert_eq!(config.tsc_hz, Some(2_400_000_000));
    assert_eq!(config.affinity, [3, 0, 1]);
    assert_eq!(config.placement, Placement::Shared);
    assert_eq!(config.console, Console::Terminal);
    assert_eq!(config.screen, Screen::Text);
    assert_eq!(config.test_devices, TestDevices::Present);
    assert_eq!(config.autostart, Autostart::No);
    assert_eq!(config.on_crash, EndPolicy::Restart);
    assert_eq!(config.on_reboot, EndPolicy::Restart);
    assert_eq!(config.on_panic, PanicPolicy::Ignore);
}

#[test]
fn a_machine_of_few_words_gets_the_usual_of_everything() {
    let configuration = read("[[vm]]\nname = 'a'\nkernel = 'spin'\n", EMULATED).unwrap();
    let guests = guests(&configuration);
    let mut expected = Guest::new("a", "/g/spin", Guest::TINY_BYTES);
    expected.config.name = "a".to_owned();
    assert_eq!(guests, [expected]);
    assert_eq!(configuration.host_cpus(), None);
    assert_eq!(configuration.host_memory_bytes(), None);
}

#[test]
fn the_command_line_outdoes_the_configuration() {
    let text = "hypervisor = { log = 'debug', when-done = 'halt' }\n\
                vm = [{ name = 'a', kernel = 'spin' }]";
    let configuration = read(text, EMULATED).unwrap();
    let usual = HypervisorOptions::default;
    let from_file = configuration.hypervisor(None, None, usual());
    assert_eq!(from_file.log_level, LogLevel::Debug);
    assert_eq!(from_file.when_done, WhenDone::Halt);
    let from_line =
        configuration.hypervisor(Some(LogLevel::Error), Some(WhenDone::PowerOff), usual());
    assert_eq!(from_line.log_level, LogLevel::Error);
    assert_eq!(from_line.when_done, WhenDone::PowerOff);
}

/// What is wrong, in a file with one machine `a`, and what is said about it.
#[test]
fn each_mistake_in_a_machine_is_told_with_its_place_and_a_way_out() {
    // Each line stands third, behind the name and the kernel.
    for (line, expected) in [
        (
            "memroy = '1G'",
            "4:1: [[vm]] has no key `memroy`; did you mean `memory`?",
        ),
        (
            "on_crash = 'stop'",
            "4:1: [[vm]] has no key `on_crash`; did you mean `on-crash`?",
        ),
        ("colour = 'red'", "4:1: [[vm]] has no key `colour`"),
        (
            "log = 'info'",
            "4:1: [[vm]] has no key `log`; it belongs into [hypervisor]",
        ),
        (
            "memory = 512",
            "4:10: `memory` is a text in quotes, and not a number",
        ),
        (
            "memory = 'much'",
            "4:10: `memory`: `much` is no size: write 64M, 1G or 4096K",
        ),
        (
            "memory = '512K'",
            "4:10: a machine has 1M of memory at least",
        ),
        (
            "memory = '40000G'",
            "4:10: a machine has 32T of memory at most",
        ),
        (
            "memory = '99999999999999999G'",
            "4:10: `memory`: `99999999999999999G` is no possible size",
        ),
        ("memory = '1025K'", "4:10: memory comes in pages of 4K"),
        (
            "cpus = 0",
            "4:8: `cpus` is a number from 1 to 255, and not 0",
        ),
        (
            "cpus = 256",
            "4:8: `cpus` is a number from 1 to 255, and not 256",
        ),
        (
            "cpus = -1",
            "4:8: `cpus` is a number from 1 to 255, and not -1",
        ),
        (
            "cpus = 0x100",
            "4:8: `cpus` is a number from 1 to 255, and not 0x100",
        ),
        (
            "cpus = 99999999999999999999",
            "4:8: `cpus` is a number from 1 to 255, and not 99999999999999999999",
        ),
        (
            "cpus = 1.5",
            "4:8: `cpus` is a whole number, and not a fraction",
        ),
        (
            "cpus = '2'",
            "4:8: `cpus` is a whole number, and not a text",
        ),
        (
            "weight = 0",
            "4:10: `weight` is a number from 1 to 65535, and not 0",
        ),
        (
            "weight = 65536",
            "4:10: `weight` is a number from 1 to 65535, and not 65536",
        ),
        (
            "cap = 0",
            "4:7: `cap` is a number from 1 to 25500, and not 0",
        ),
        (
            "cap = 101",
            "4:7: with 1 CPU a machine cannot use more than 100 percent of one; leave `cap` out for no limit",
        ),
        (
            "tsc = 65536",
            "4:7: `tsc` is a number from 1 to 65535, and not 65536",
        ),
        (
            "affinity = 0",
            "4:12: `affinity` is an array in brackets, and not a number",
        ),
        (
            "affinity = []",
            "4:12: `affinity` allows no CPU at all; leave it out to allow all",
        ),
        ("affinity = [0, 0]", "4:16: CPU 0 is named twice"),
        (
            "affinity = [0, 'b']",
            "4:16: `affinity` is a whole number, and not a text",
        ),
        (
            "affinity = [255]",
            "4:13: `affinity` is a number from 0 to 254, and not 255",
        ),
        (
            "affinity = [0, 1]",
            "4:16: the machine has no CPU 1: it has CPU 0 only. Give it more by `cpus` in [host], or by --host-cpus",
        ),
        (
            "placement = 'dedicated'\n[host]\ncpus = 1\n[[vm]]\nname = 'b'\nkernel = 'spin'",
            "1:1: 1 of 1 virtual CPUs would find no CPU to own: the machine has 1, 1 of them not owned yet, and CPU 0 stays for the others. Give it more by `cpus` in [host]",
        ),
        (
            "cap = 50\nplacement = 'dedicated'\n[host]\ncpus = 2",
            "4:7: nobody else gets what a machine leaves of CPUs of its own; leave out `cap`, or `placement`",
        ),
        (
            "placement = 'own'",
            "4:13: `placement` is \"shared\" or \"dedicated\", and not \"own\"",
        ),
        (
            "console = 'terminul'",
            "4:11: `console` is \"shared\" or \"terminal\" or \"none\", and not \"terminul\"; did you mean `terminal`?",
        ),
        (
            "autostart = 'no'",
            "4:13: `autostart` is true or false, and not a text",
        ),
        (
            "on-crash = 'reboot'",
            "4:12: `on-crash` is \"stop\" or \"restart\", and not \"reboot\"",
        ),
        (
            "on-reboot = true",
            "4:13: `on-reboot` is a text in quotes, and not true or false",
        ),
        (
            "format = 'bzimage'",
            "4:10: `format`: possible values: auto, linux, elf, multiboot, multiboot2, pvh, flat, flat@ADDRESS",
        ),
        (
            "format = 'flat@7'",
            "4:10: `format`: `7` is no hexadecimal multiple of 16 below 0x100000",
        ),
        (
            "screen = 'graphics'",
            "4:10: `screen` is \"none\" or \"text\", and not \"graphics\"",
        ),
        (
            "test-devices = 'yes'",
            "4:16: `test-devices` is true or false, and not a text",
        ),
        (
            "initrd = '/nowhere/initrd'",
            "4:10: `initrd`: /nowhere/initrd does not exist",
        ),
        ("initrd = '/'", "4:10: `initrd`: / is a folder"),
        ("initrd = '/dev/null'", "4:10: `initrd`: /dev/null is empty"),
        (
            "modules = 'Cargo.toml'",
            "4:11: `modules` is an array in brackets, and not a text",
        ),
        (
            "modules = [1]",
            "4:12: a module is a file in quotes, or { file = \"...\", cmdline = \"...\" }",
        ),
        (
            "modules = ['/nowhere/m']",
            "4:12: `modules`: /nowhere/m does not exist",
        ),
        (
            "modules = [{ cmdline = 'x' }]",
            "4:12: this module has no `file`",
        ),
        (
            "modules = [{ file = 'Cargo.toml', args = 'x' }]",
            "4:35: a module has no key `args`",
        ),
        ("name = 'b'", "4:1: duplicate key"),
        (
            "cmdline = 'never closed",
            "4:24: invalid literal string, expected `'`",
        ),
        (
            "[[vm]]\nname = 'a'\nkernel = 'spin'",
            "5:8: the name \"a\" is taken, at vms.toml:2:8",
        ),
        ("[[vm]]\nkernel = 'spin'", "4:1: this machine has no `name`"),
        ("[[vm]]\nname = 'b'", "4:1: this machine has no `kernel`"),
        (
            "[[vm]]\nname = 'b'\nkernel = 'helo'",
            "6:10: there is neither a guest nor a file `helo`; did you mean `hello`?",
        ),
        (
            "[[vm]]\nname = 'b'\nkernel = 'linus'",
            "6:10: there is neither a guest nor a file `linus`; did you mean `linux`?",
        ),
        (
            "[[vm]]\nname = 'b'\nkernel = '/nowhere/k'",
            "6:10: `kernel`: /nowhere/k does not exist",
        ),
        (
            "[[vm]]\nname = 'b c'\nkernel = 'spin'",
            "5:8: a name has 1 to 32 letters, digits, `-`, `_` or `.`, which \"b c\" has not",
        ),
        (
            "[[vm]]\nname = ''\nkernel = 'spin'",
            "5:8: a name has 1 to 32 letters, digits, `-`, `_` or `.`, which \"\" has not",
        ),
        (
            "[hypervisor]\nlog = 'loud'",
            "5:7: `log` is \"error\" or \"warn\" or \"info\" or \"debug\" or \"trace\", and not \"loud\"",
        ),
        (
            "[hypervisor]\nlogg = 'info'",
            "5:1: [hypervisor] has no key `logg`; did you mean `log`?",
        ),
        (
            "[hypervisor]\nwhen-done = 'reboot'",
            "5:13: `when-done` is \"power-off\" or \"halt\", and not \"reboot\"",
        ),
        (
            "[host]\ncpus = 0",
            "5:8: `cpus` is a number from 1 to 255, and not 0",
        ),
        (
            "[host]\nmemory = '32M'",
            "5:10: the machines want 32 MiB and the hypervisor 24 MiB, which is more than this; leave it out for what is needed",
        ),
    ] {
        let text = format!("[[vm]]\nname = 'a'\nkernel = 'spin'\n{line}\n");
        assert_eq!(complaints(&text), [expected], "{text}");
    }
}

#[test]
fn what_is_no_configuration_at_all_is_told() {
    for (text, expected) in [
        (
            "",
            "1:1: nothing begins with [[vm]]: there is no virtual machine in it",
        ),
        (
            "[hypervisor]\n",
            "1:1: nothing begins with [[vm]]: there is no virtual machine in it",
        ),
        (
            "[vm]\nname = 'a'\n",
            "1:1: each virtual machine begins with [[vm]], in two pairs of brackets",
        ),
        (
            "vm = 1\n",
            "1:6: each virtual machine begins with [[vm]], in two pairs of brackets",
        ),
        (
            "vm = [1]\n",
            "1:6: each virtual machine begins with [[vm]], in two pairs of brackets",
        ),
        (
            "[[host]]\ncpus = 1\n[[vm]]\nname = 'a'\nkernel = 'spin'\n",
            "1:1: [host] is a table, and may be there once",
        ),
        (
            "name = 'a'\n[[vm]]\nname = 'a'\nkernel = 'spin'\n",
            "1:1: a configuration has no key `name`; it belongs into [[vm]]",
        ),
        (
            "[hypervizor]\n[[vm]]\nname = 'a'\nkernel = 'spin'\n",
            "1:2: a configuration has no key `hypervizor`; did you mean `hypervisor`?",
        ),
    ] {
        assert_eq!(complaints(text), [expected], "{text}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_their_lines() {
    let text = "[[vm]]\nname = 'a'\nkernel = 'spin'\ncpus = 0\nmemory = 'x'\n\
                [[vm]]\nname = 'a'\nkernel = 'spin'\nweigth = 3\n";
    let places: Vec<_> = complaints(text)
        .iter()
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(places, ["4:8:", "5:10:", "7:8:", "9:1:"]);
}

#[test]
fn a_message_shows_the_line_and_marks_what_is_meant() {
    let report = read(
        "[[vm]]\nname = 'a'\nkernel = 'spin'\ncpus = 0 # none\n",
        EMULATED,
    )
    .unwrap_err();
    assert!(
        report.starts_with("the configuration has 1 mistake\n"),
        "{report}"
    );
    assert!(
        report.ends_with("\n  |\n4 | cpus = 0 # none\n  |        ^\n"),
        "{report}"
    );
}

#[test]
fn who_asks_only_for_a_cpu_that_is_not_there_is_not_told_that_others_own_it() {
    let text = "[[vm]]\nname = 'a'\nkernel = 'spin'\naffinity = [9]\n";
    let expected = "4:13: the machine has no CPU 9: it has CPU 0 only. Give it more by `cpus` in [host], or by --host-cpus";
    assert_eq!(complaints(text), [expected]);
}

#[test]
fn affinity_is_checked_against_the_machine_that_is_known() {
    let text = "[host]\ncpus = 2\n[[vm]]\nname = 'a'\nkernel = 'spin'\naffinity = [3]\n";
    assert!(complaints(text)[0].contains("its CPUs are 0 to 1"));
    assert!(read(text, ForMachine::Emulated { cpus: Some(4) }).is_ok());
    assert!(read(text, ForMachine::Unknown).is_ok());
}

#[test]
fn dedicated_machines_need_cpus_of_their_own() {
    let vm = |name: &str, rest: &str| format!("[[vm]]\nname = '{name}'\nkernel = 'spin'\n{rest}\n");
    let own = |cpus: u32| format!("placement = 'dedicated'\ncpus = {cpus}");
    let host = "[host]\ncpus = 4\n";
    let dedicated_to = |cpus, affinity: &str| own(cpus) + "\naffinity = " + affinity;
    let shared_on = |affinity: &str| format!("affinity = {affinity}");
    for (text, is_good) in [
        (vm("a", &own(3)), true),
        (vm("a", &own(4)), false),
        (vm("a", &own(3)) + &vm("b", ""), true),
        (vm("a", &own(2)) + &vm("b", &own(1)), true),
        (vm("a", &own(2)) + &vm("b", &own(2)), false),
        (vm("a", &dedicated_to(2, "[1, 2]")), true),
        (vm("a", &dedicated_to(2, "[0, 1]")), false),
        (vm("a", &dedicated_to(2, "[1]")), false),
        (vm("a", &own(1)) + &vm("b", &dedicated_to(1, "[3]")), true),
        (vm("a", &own(2)) + &vm("b", &shared_on("[3]")), true),
        (vm("a", &own(3)) + &vm("b", &shared_on("[3]")), false),
        (vm("a", &own(3)) + &vm("b", &shared_on("[0, 3]")), true),
    ] {
        let result = read(&(host.to_owned() + &text), EMULATED);
        assert_eq!(result.is_ok(), is_good, "{text}");
    }
}

#[test]
fn two_machines_cannot_have_the_terminal_to_themselves() {
    let vm =
        |name: &str| format!("[[vm]]\nname = '{name}'\nkernel = 'spin'\nconsole = 'terminal'\n");
    let complaints = complaints(&(vm("a") + &vm("b")));
    assert_eq!(
        complaints,
        [
            "8:11: only one machine can have the terminal to itself, and another has it at vms.toml:4:11; use \"shared\""
        ]
    );
}

#[test]
fn a_folder_is_read_in_the_order_of_its_names() {
    let folder = tempfile::tempdir().unwrap();
    for (file, text) in [
        ("20-b.toml", "[[vm]]\nname = 'b'\nkernel = 'spin'\n"),
        ("10-a.toml", "[[vm]]\nname = 'a'\nkernel = 'k'\n"),
        ("notes.txt", "not TOML"),
        ("k", "kernel"),
    ] {
        fs::write(folder.path().join(file), text).unwrap();
    }
    let configuration = Configuration::read(folder.path(), &tiny(), EMULATED).unwrap();
    let names: Vec<_> = guests(&configuration)
        .into_iter()
        .map(|guest| guest.config.name)
        .collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn files_of_a_folder_are_checked_against_each_other() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["1.toml", "2.toml"] {
        let text = "[host]\ncpus = 2\n[[vm]]\nname = 'a'\nkernel = 'spin'\n";
        fs::write(folder.path().join(file), text).unwrap();
    }
    let error = Configuration::read(folder.path(), &tiny(), EMULATED).unwrap_err();
    let error = error.to_string();
    let first = folder.path().join("1.toml").display().to_string();
    let second = folder.path().join("2.toml").display().to_string();
    for expected in [
        format!("{second}:2:8: `cpus` of [host] is set already, at {first}:2:8\n"),
        format!("{second}:4:8: the name \"a\" is taken, at {first}:4:8\n"),
    ] {
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn a_folder_without_configurations_and_a_missing_file_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let error = Configuration::read(folder.path(), &tiny(), EMULATED).unwrap_err();
    assert!(error.to_string().contains("no *.toml"), "{error}");
    let file = folder.path().join("none.toml");
    let error = Configuration::read(&file, &tiny(), EMULATED).unwrap_err();
    assert!(error.to_string().contains("none.toml"), "{error}");
}

#[test]
fn the_example_is_without_a_mistake() {
    let path = Paths::of_checkout()
        .root()
        .join("guests/examples/two-linux.toml");
    let configuration = Configuration::read(&path, &tiny(), EMULATED).unwrap();
    assert_eq!(configuration.vms.len(), 4);
    assert_eq!(configuration.host_cpus(), Some(2));
}
