//! `cargo xtask run` as somebody sits before it: keys, Ctrl-C, the window's size, and the way out.
//!
//! One boot of Linux serves for nearly all of it. It is the machine for people, which keeps to real time.

use std::time::Duration;

use anyhow::{Result, ensure};
use bundle::Console;
use libtest_mimic::Trial;
use plinth_tests::terminal::Terminal;
use plinth_tests::{Boot, Session};
use xtask::paths::Paths;

use crate::trial;

/// A boot at real time, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(500);

/// Without the longest part of a boot: the kernel's tests of its own cryptography.
const COMMAND_LINE: &str = "console=ttyS0 quiet cryptomgr.notests";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "somebody_at_a_terminal_has_a_shell_in_linux_and_leaves_it",
            session,
        ),
        trial(
            "what_a_guest_with_the_terminal_says_comes_byte_for_byte",
            raw,
        ),
        trial(
            "a_report_of_the_windows_size_goes_to_the_guest_that_asked",
            size_reports,
        ),
        trial(
            "somebody_at_a_terminal_switches_the_machine_off_by_a_key",
            key,
        ),
    ]
}

/// `cargo xtask` with these arguments in a terminal.
fn xtask(arguments: &[&str]) -> Result<Terminal> {
    let manifest = Paths::of_checkout().root().join("Cargo.toml");
    let manifest = manifest.to_string_lossy();
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let run = ["run", "--quiet", "--manifest-path", &manifest];
    let package = ["--package", "plinth-xtask", "--bin", "xtask", "--"];
    let command = [&[&*cargo][..], &run, &package, arguments].concat();
    Terminal::run(&command, 37, 111, PATIENCE)
}

/// Two tiny guests, of which the first has the terminal, and says something.
fn terminal_guest(says: &str) -> Result<Session> {
    let boot = Boot::tiny(&["spin", "spin"])?.with_guests(|guests| {
        guests[0].config.console = Console::Terminal;
        guests[0].config.cmdline = format!("say {says}");
        guests[1].config.name = "other".to_owned();
    });
    let mut machine = boot.start()?;
    machine.expect("[other] spin: ")?;
    if !machine
        .heard()
        .iter()
        .any(|line| line.starts_with("spin: "))
    {
        machine.expect("spin: ")?;
    }
    Ok(machine)
}

/// A line feed without a carriage return moves down, and no more.
fn raw() -> Result<()> {
    let machine = terminal_guest("first\nsecond\r\nthird\r\n")?;
    let shown = machine.screen()?.contents();
    ensure!(
        shown.contains("first\n     second\nthird\n"),
        "it was shown otherwise:\n{shown}"
    );
    Ok(())
}

/// The terminal is asked for reports only while the guest that wants them has the keys.
fn size_reports() -> Result<()> {
    let mut machine = terminal_guest("\x1b[?2048h")?;
    ensure!(machine.wants_size_reports()?, "it has not asked");
    machine.send(b"\x1dn")?;
    machine.expect("the keys go to other")?;
    ensure!(!machine.wants_size_reports()?, "another one gets them");
    machine.send(b"\x1dn")?;
    machine.expect("the keys go to spin")?;
    ensure!(machine.wants_size_reports()?, "it gets no more");
    Ok(())
}

fn key() -> Result<()> {
    let mut terminal = xtask(&["run", "spin"])?;
    terminal.expect("[spin]")?;
    terminal.press("\x1d?")?;
    terminal.expect("Ctrl-] q")?;
    terminal.press("\x1dq")?;
    terminal.expect("you have switched the machine off")?;
    let status = terminal.expect_end()?;
    ensure!(status.code() == Some(130), "it ended with {status}");
    ensure!(!terminal.is_raw()?, "the terminal is still raw");
    Ok(())
}

/// Anything that is typed is echoed: what is expected differs from it.
fn session() -> Result<()> {
    let mut terminal = xtask(&["run", "--cmdline", COMMAND_LINE])?;
    let before = terminal.settings()?;
    ensure!(!terminal.is_raw()?, "it was raw from the start");

    terminal.expect("booting Plinth")?;
    terminal.expect("linux (256 MiB)")?;
    terminal.expect("Ctrl-A x leaves")?;
    terminal.expect("This is Linux on Plinth")?;
    terminal.expect("root@linux:")?;
    ensure!(terminal.is_raw()?, "Ctrl-C does not go to the guest");
    terminal.press("stty size; echo answer $((6 * 7))\r")?;
    terminal.expect("37 111")?;
    terminal.expect("answer 42")?;

    // A program that is interrupted, and what stands behind it in the list as well.
    terminal.press("sh -c 'echo rea\"\"dy; exec sleep 100'; echo not inter''rupted\r")?;
    terminal.expect("ready")?;
    terminal.press("\x03")?;
    terminal.press("echo answer $((6 * 8))\r")?;
    terminal.expect("answer 48")?;

    // The window shrinks before the shell, and grows before a program that is told of it. The news of it and keys come
    // by different ways, so that it is waited for.
    terminal.resize(24, 80)?;
    terminal.press(
        "until [ \"$(stty size)\" = '24 80' ]; do sleep 1; done; echo answer $((6 * 9))\r",
    )?;
    terminal.expect("answer 54")?;
    terminal
        .press("sh -c 'trap \"stty size\" WINCH; echo wait\"\"ing; while :; do sleep 1; done'\r")?;
    terminal.expect("waiting")?;
    terminal.resize(50, 132)?;
    terminal.expect("50 132")?;
    terminal.press("\x03")?;

    // Keys of xtask's own: Ctrl-A for the guest, whose shell goes to the line's beginning, the help, and the way out.
    terminal.press("answer $((6 * 10))\x01\x01echo \r")?;
    terminal.expect("answer 60")?;
    terminal.press("\x01h")?;
    terminal.expect("send Ctrl-A to the guest")?;
    terminal.press("\x01x")?;
    terminal.expect("you have left")?;
    let status = terminal.expect_end()?;
    ensure!(status.code() == Some(130), "it ended with {status}");
    let shown = terminal.shown();
    ensure!(
        !shown.contains("not interrupted"),
        "Ctrl-C did not stop the list of commands:\n{shown}"
    );
    ensure!(
        !shown.contains("[?2048"),
        "the request for the window's size reached the terminal:\n{shown}"
    );
    ensure!(
        terminal.settings()? == before,
        "the terminal's settings are not what they were"
    );
    Ok(())
}
