//! [`Reports`] of the size of the terminal's window, for programs in the machine that ask for them.
//!
//! A serial line has no wire for the size. What there is instead goes between the keys: a program that asks for private
//! mode 2048 ("in-band window resize notifications") is sent `CSI 48 ; rows ; columns ; height ; width t`, at once and
//! whenever the window has changed. Some terminals do that by themselves; for all others it is done here, and so the
//! terminal never sees the request, which could outlive the run. The Linux guest asks, and gives the size to whatever
//! runs in it (`guests/programs`, the program `console`); as long as nobody has asked, nothing
//! is sent. With several guests Plinth asks while the one that wants reports has the keys (`host/size_reports.rs`), and takes
//! it back meanwhile.

use rustix::termios::tcgetwinsize;
use std::os::fd::AsFd;

/// What a program sends to have reports, and to have no more.
const ASK: &[u8] = b"\x1b[?2048h";
const ASK_NO_MORE: &[u8] = b"\x1b[?2048l";

/// The size of a window, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in each.
    pub columns: u16,
}

impl Size {
    /// That of this terminal; a terminal that does not know says zero.
    #[must_use]
    pub fn of(terminal: impl AsFd) -> Option<Self> {
        let size = tcgetwinsize(terminal).ok()?;
        (size.ws_row > 0 && size.ws_col > 0).then_some(Self {
            rows: size.ws_row,
            columns: size.ws_col,
        })
    }

    /// What a program is told that has asked; nothing here counts in pixels.
    fn report(self) -> Vec<u8> {
        format!("\x1b[48;{};{};0;0t", self.rows, self.columns).into_bytes()
    }
}

/// Whether the machine wants reports, by what it says.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    wanted: bool,
    /// The beginning of what may be a request.
    held: Vec<u8>,
}

impl Reports {
    /// Takes what the machine has said; gives what the terminal is to show, and whether the size was asked for.
    pub fn push(&mut self, said: &[u8]) -> (Vec<u8>, bool) {
        let mut shown = Vec::with_capacity(said.len());
        let mut asked = false;
        for &byte in said {
            let could_go_on = |held: &[u8]| ASK.starts_with(held) || ASK_NO_MORE.starts_with(held);
            self.held.push(byte);
            if self.held == ASK || self.held == ASK_NO_MORE {
                self.wanted = self.held == ASK;
                asked |= self.wanted;
                self.held.clear();
            } else if !could_go_on(&self.held) {
                // A request begins with its only Escape: where one came, a new one may begin.
                self.held.pop();
                shown.append(&mut self.held);
                if could_go_on(&[byte]) {
                    self.held.push(byte);
                } else {
                    shown.push(byte);
                }
            }
        }
        (shown, asked)
    }

    /// What to send to the machine for a window of this size.
    #[must_use]
    pub fn report(&self, size: Option<Size>) -> Option<Vec<u8>> {
        size.filter(|_| self.wanted).map(Size::report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Option<Size> = Some(Size {
        rows: 50,
        columns: 132,
    });

    #[test]
    fn who_has_not_asked_is_told_nothing() {
        let mut reports = Reports::default();
        assert_eq!(reports.push(b"login: "), (b"login: ".to_vec(), false));
        assert_eq!(reports.report(SIZE), None);
    }

    #[test]
    fn who_asks_is_told_until_it_asks_no_more_and_the_terminal_sees_none_of_it() {
        let mut reports = Reports::default();
        let said = b"a\x1b[?2048hb";
        assert_eq!(reports.push(said), (b"ab".to_vec(), true));
        assert_eq!(reports.report(SIZE).unwrap(), b"\x1b[48;50;132;0;0t");
        assert_eq!(reports.report(None), None);
        assert_eq!(reports.push(b"c\x1b[?2048l"), (b"c".to_vec(), false));
        assert_eq!(reports.report(SIZE), None);
    }

    #[test]
    fn a_request_in_pieces_is_one() {
        let mut reports = Reports::default();
        for byte in &ASK[..ASK.len() - 1] {
            assert_eq!(reports.push(&[*byte]), (vec![], false));
        }
        assert_eq!(reports.push(b"hx"), (b"x".to_vec(), true));
    }

    #[test]
    fn other_sequences_are_shown_whole() {
        let said = b"\x1b[?2026h\x1b\x1b[?2048\x1b[1;1H\x1b[?25l\x1b[?2048$p.";
        let mut reports = Reports::default();
        assert_eq!(reports.push(said), (said.to_vec(), false));
        assert_eq!(reports.report(SIZE), None);
    }
}
