//! Guests with a display and a keyboard: what the terminal at the serial port shows of them.

use anyhow::{Result, ensure};
use bundle::Screen;
use libtest_mimic::Trial;
use plinth_tests::Boot;

use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("a_guests_screen_is_shown_and_takes_keys", screen)]
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
