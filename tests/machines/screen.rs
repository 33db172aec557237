//! Guests with a display and a keyboard: what the terminal at the serial port shows of them.

use std::time::Duration;

use anyhow::{Result, ensure};
use bundle::Screen;
use libtest_mimic::Trial;
use plinth_tests::Boot;
use plinth_tests::console::End;
use xtask::emulator::Pace;
use xtask::linux::{Linux, NAME, Task};
use xtask::paths::Paths;

use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_guests_screen_is_shown_and_takes_keys", screen),
        trial(
            "stock_linux_without_a_serial_console_has_a_shell_on_its_screen",
            linux,
        ),
    ]
}

/// The kernel's own drivers of the display and the keyboard; nothing is said at the serial port.
fn linux() -> Result<()> {
    let paths = Paths::of_checkout();
    let initrd = paths.artifacts().join("test-screen.initrd");
    let mut guest = Linux::provide(&paths)?.guest(Task::Shell, &initrd)?;
    guest.config.screen = Screen::Text;
    guest.config.cmdline = "console=tty0 quiet cryptomgr.notests".to_owned();
    let mut machine = Boot::of(vec![guest])
        .pace(Pace::Measured)
        .patience(Duration::from_secs(400))
        .start()?;
    machine.expect_shown("This is Linux on Plinth")?;
    machine.send(b"stty size; echo answer $((6 * 7)) on $(cat /sys/class/tty/console/active)\r")?;
    machine.expect_shown("25 80")?;
    machine.expect_shown("answer 42 on tty0")?;
    machine.send(b"poweroff\r")?;
    machine.expect_end(NAME, End::PowerOff)?;
    let prefix = format!("[{NAME}]");
    ensure!(
        !machine.heard().iter().any(|line| line.starts_with(&prefix)),
        "it has a serial console"
    );
    Ok(())
}

fn screen() -> Result<()> {
    let mut machine = Boot::tiny(&["screen"])?
        .with_guests(|guests| guests[0].config.screen = Screen::Text)
        .start()?;
    machine.expect("[screen] drawn")?;
    machine.expect_shown("└┘")?;
    let shown = machine.screen()?;
    let row = |row: u16| shown.contents_between(row, 0, row, 80);
    ensure!(
        row(23).ends_with("┌┐") && row(24).ends_with("└┘"),
        "no box: {:?}",
        row(23)
    );
    ensure!(
        shown.cursor_position() == (12, 34),
        "the cursor is elsewhere"
    );
    let colours = shown
        .cell(0, 3)
        .map(|cell| (cell.fgcolor(), cell.bgcolor()));
    let wanted = (vt100::Color::Idx(11), vt100::Color::Idx(4));
    ensure!(colours == Some(wanted), "other colours: {colours:?}");
    ensure!(
        row(0).starts_with("yellow on blue at the top"),
        "another first row: {:?}",
        row(0)
    );
    machine.send(b"k")?;
    machine.expect_shown("K was pressed")?;
    machine.send(b"\x1b")?;
    machine.expect_shown("Escape was pressed")?;
    machine.expect_all_passed("screen")?;
    // What it says at its serial port is below.
    let below = machine.screen()?.contents_between(25, 0, 40, 0);
    ensure!(below.contains("[screen] DONE"), "not below: {below:?}");
    Ok(())
}
