//! A stock Linux with its own default settings: it boots, finds a sound machine, and does what it is told.
//!
//! An emulated boot takes the better part of a minute, so there are few of them, and each looks at many things.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bundle::{ApicVirtualization, CodePages, Console, EndPolicy};
use libtest_mimic::{Completion, Failed, Trial};
use plinth_tests::console::End;
use plinth_tests::{Boot, Session, artifacts};
use xtask::bench::exits::Host;
use xtask::bootlog;
use xtask::emulator::{CpuModel, Engine, Pace};
use xtask::guests::Guest;
use xtask::linux::{COMMAND_LINE, KernelPackage, Linux, NAME, Task};
use xtask::paths::Paths;
use xtask::system::host::Virtualisation;

use crate::commands::xtask;
use crate::trial;

/// Stock settings include self-tests of the kernel's cryptography, which are most of the boot.
const BOOT: Duration = Duration::from_secs(400);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("stock_linux_finds_a_sound_machine", sound_machine),
        trial(
            "stock_linux_warns_of_nothing_that_the_bare_machine_does_not",
            bootlog,
        ),
        trial("stock_linux_has_a_shell_and_reboots", shell),
        kernel_trial(
            "the_oldest_stock_kernel_finds_a_sound_machine",
            OLDEST,
            brief,
        ),
        kernel_trial(
            "the_newest_stock_kernel_finds_a_sound_machine",
            NEWEST,
            brief,
        ),
        kernel_trial(
            "a_stock_kernel_for_any_machine_finds_a_sound_one_given_by_its_files",
            FOR_ANY_MACHINE,
            by_files,
        ),
        trial(
            "a_panic_of_a_stock_kernel_ends_its_vm_and_is_told_while_another_goes_on",
            panic_beside_another,
        ),
        trial(
            "a_panic_before_there_is_a_driver_to_tell_it_ends_the_vm_as_well",
            early_panic,
        ),
        trial(
            "a_linux_kernel_with_a_damaged_header_is_refused",
            damaged_header,
        ),
    ]
}

/// Debian's kernels besides the usual one: the oldest and the newest that its suites have, and the large build for any
/// machine instead of for virtual ones.
const OLDEST: &str = "bullseye/linux-image-cloud-amd64";
const NEWEST: &str = "sid/linux-image-cloud-amd64";
const FOR_ANY_MACHINE: &str = "linux-image-amd64";

/// What leaves out the longest part of a boot: the kernel's tests of its own cryptography.
const BRIEF: &str = " quiet cryptomgr.notests";

/// A test with another kernel. Where that is not to be had, it is passed over, and says why.
fn kernel_trial(name: &str, package: &'static str, body: fn(&Linux) -> Result<()>) -> Trial {
    Trial::ignorable_test(name, move || {
        let package: KernelPackage = package.parse().map_err(|error| failed(&error))?;
        match Linux::provide_kernel(&Paths::of_checkout(), &package) {
            Err(error) => Ok(Completion::ignored_with(format!("{error:#}"))),
            Ok(linux) => body(&linux)
                .map(|()| Completion::Completed)
                .map_err(|error| failed(&error)),
        }
    })
}

fn failed(error: &anyhow::Error) -> Failed {
    format!("{error:#}").into()
}

/// Boots to user space, looks around, and switches itself off.
fn brief(linux: &Linux) -> Result<()> {
    let mut machine = in_brief(linux, "brief")?;
    machine.expect("kernel: ")?;
    machine.expect_all_passed(NAME)
}

/// Any pair of files is a guest: here the large kernel, and our own initial file system, by `cargo xtask run`.
fn by_files(linux: &Linux) -> Result<()> {
    let initrd = initrd_of(linux, "brief");
    linux.guest(Task::Script("brief"), &initrd)?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("no text");
    let (kernel, initrd) = (text(linux.kernel())?, text(&initrd)?);
    let cmdline = format!("{COMMAND_LINE}{BRIEF}");
    let files = ["run", "--kernel", &kernel, "--initrd", &initrd];
    let options = ["--cmdline", &cmdline, "--timeout", "500"];
    let said = xtask(&[&files[..], &options].concat(), 0)?;
    for part in ["kernel: ", "PASS no_errors_in_the_log", " passed, 0 failed"] {
        ensure!(said.contains(part), "no `{part}` in:\n{said}");
    }
    Ok(())
}

/// The kernel of one says by pvpanic that it has panicked: the operator reads which VM has ended and why, and the last
/// lines of its console, which is not shown. The other goes on, and is well.
fn panic_beside_another() -> Result<()> {
    let stock = Linux::provide(&Paths::of_checkout())?;
    let mut guests = Vec::new();
    for (name, script) in [("red", "panic"), ("blue", "brief")] {
        let mut guest = stock.guest(Task::Script(script), &initrd_of(&stock, script))?;
        guest.config.name = name.to_owned();
        guest.config.memory_bytes = 160 << 20;
        guest.config.cmdline.push_str(BRIEF);
        // One processor for two: the script finds what is there for those that wait.
        guest.config.cmdline.push_str(" waits=yes");
        guests.push(guest);
    }
    guests[0].config.console = Console::None;
    let mut machine = Boot::of(guests)
        .pace(Pace::Measured)
        .patience(BOOT)
        .start()?;
    let why = "Kernel panic - not syncing: sysrq triggered crash";
    machine.expect(&format!("red: its kernel says that it has panicked: {why}"))?;
    let said = machine.expect("plinth: red said: ")?;
    ensure!(
        said.contains(why) || machine.expect(why)?.starts_with("plinth: red said: "),
        "its last lines do not tell the reason"
    );
    let detail = machine.expect_end("red", End::Crash)?;
    ensure!(
        detail.contains("panicked"),
        "its end was told as `{detail}`"
    );
    ensure!(
        !machine.heard().iter().any(|line| line.contains("DONE")),
        "the other was done before that"
    );
    machine.expect_all_passed("blue")?;
    ensure!(
        machine.expect_all_ended()? == 2,
        "the status of a crash is not 2"
    );
    machine.expect_power_off()
}

/// Without an initial file system there is nothing to start: the kernel panics before it has any module.
fn early_panic() -> Result<()> {
    let mut guest = linux(Task::Shell, "early-panic")?;
    guest.initrd = None;
    guest.config.cmdline.push_str(BRIEF);
    let mut machine = Boot::of(vec![guest])
        .pace(Pace::Measured)
        .patience(BOOT)
        .start()?;
    machine.expect("---[ end Kernel panic - not syncing: VFS: Unable to mount root fs")?;
    let detail = machine.expect_end(NAME, End::Crash)?;
    ensure!(
        detail.contains("the guest's kernel has panicked"),
        "its end was told as `{detail}`"
    );
    machine.expect_power_off()
}

/// A machine with this Linux, which runs a script.
fn in_brief(linux: &Linux, script: &str) -> Result<Session> {
    let mut guest = linux.guest(Task::Script(script), &initrd_of(linux, script))?;
    guest.config.cmdline.push_str(BRIEF);
    Boot::of(vec![guest])
        .pace(Pace::Measured)
        .patience(BOOT)
        .start()
}

/// Where the initial file system with a script is written that belongs to this kernel.
fn initrd_of(linux: &Linux, script: &str) -> PathBuf {
    let kernel = linux.kernel().to_string_lossy().replace('/', "-");
    Paths::of_checkout()
        .artifacts()
        .join(format!("test-{script}{kernel}.initrd"))
}

/// The guest with this task. Each test has its own initial file system.
fn linux(task: Task<'_>, test: &str) -> Result<Guest> {
    let paths = Paths::of_checkout();
    let initrd = paths.artifacts().join(format!("test-{test}.initrd"));
    let mut guest = Linux::provide(&paths)?.guest(task, &initrd)?;
    guest.config.on_reboot = EndPolicy::Stop;
    Ok(guest)
}

/// Nothing on the command line but the console; then the script `guests/linux/check` looks at everything.
fn sound_machine() -> Result<()> {
    let guest = linux(Task::Script("check"), "check")?;
    ensure!(
        guest.config.cmdline == "console=ttyS0",
        "the command line is not stock"
    );
    let mut machine = Boot::of(vec![guest])
        .pace(Pace::Measured)
        .patience(BOOT)
        .start()?;
    machine.expect("init: user space is up")?;
    let date = machine.expect("date: ")?;
    if Engine::choose(Virtualisation::of_this_machine()) == Engine::Bochs {
        ensure!(
            date.contains("2000-01-01 00:"),
            "an emulated clock starts with the year 2000, the guest says {date}"
        );
    }
    machine.expect_all_passed(NAME)
}

/// Its boot log beside that of the same kernel on the bare machine.
fn bootlog() -> Result<()> {
    let host = Host {
        engine: Engine::choose(Virtualisation::of_this_machine()),
        cpu_model: CpuModel::default(),
    };
    let package = KernelPackage::default();
    let [bare, guest] = bootlog::compare(&Paths::of_checkout(), artifacts()?, &package, host)?;
    let unexplained: Vec<_> = guest
        .beyond(&bare)
        .into_iter()
        .filter_map(|(warning, explained)| explained.is_none().then_some(warning))
        .collect();
    ensure!(
        unexplained.is_empty(),
        "only under Plinth it warns: {unexplained:#?}"
    );
    Ok(())
}

/// What is typed reaches the shell, Ctrl-C ends what runs in it and nothing else, and a reboot brings it up
/// again. All that with a local APIC in software, and code in small second-level pages; the others have the processor's as far
/// as Bochs can (see `Engine::usual_apic`), and pages of any size.
fn shell() -> Result<()> {
    let mut guest = linux(Task::Shell, "shell")?;
    guest.config.on_reboot = EndPolicy::Restart;
    guest.config.cmdline.push_str(BRIEF);
    let mut machine = Boot::of(vec![guest])
        .pace(Pace::Measured)
        .apic(ApicVirtualization::Software)
        .code_pages(CodePages::Small)
        .patience(BOOT)
        .start()?;
    machine.expect("This is Linux on Plinth")?;
    // What is typed is echoed: the answers differ from the questions. A terminal tells its size between the keys, when
    // it is asked (`cargo xtask run` does it for those that do not).
    machine.send(b"\x1b[48;37;111;0;0tstty size; echo answer $((6 * 7))\r")?;
    machine.expect("37 111")?;
    machine.expect("answer 42")?;
    // It is the program that waits for Ctrl-C which says that it is there. It reads nothing: what is typed next is the shell's.
    machine.send(b"sh -c 'echo rea\"\"dy; exec sleep 1000'; echo not inter''rupted\r")?;
    machine.expect("ready")?;
    machine.send(b"\x03echo answer $((6 * 8))\r")?;
    machine.expect("answer 48")?;
    ensure!(
        !machine
            .heard()
            .iter()
            .any(|line| line.contains("not interrupted")),
        "Ctrl-C did not stop the list of commands"
    );
    machine.send(b"reboot\r")?;
    machine.expect("plinth: restart linux reset")?;
    machine.expect("This is Linux on Plinth")?;
    machine.send(b"poweroff\r")?;
    machine.expect_end(NAME, End::PowerOff)?;
    ensure!(
        machine.expect_all_ended()? == 0,
        "a reboot before the end is told by the status"
    );
    machine.expect_power_off()
}

/// The kernel's own signature in its header is wrong.
fn damaged_header() -> Result<()> {
    /// Where the letters HdrS stand in every bzImage.
    const SIGNATURE: usize = 0x202;
    let paths = Paths::of_checkout();
    let mut guest = linux(Task::Shell, "damaged")?;
    let mut kernel = std::fs::read(&guest.kernel)?;
    kernel[SIGNATURE] ^= 0x20;
    guest.kernel = paths.artifacts().join("test-damaged-vmlinuz");
    std::fs::write(&guest.kernel, kernel)?;
    let machine = Boot::tiny(&["hello"])?.with_guests(|guests| guests.insert(0, guest));
    let mut machine = machine.start()?;
    let detail = machine.expect_end(NAME, End::Crash)?;
    ensure!(detail.contains("damaged"), "it was refused with `{detail}`");
    machine.expect_all_passed("hello")
}
