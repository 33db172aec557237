//! [`Input`] tells what somebody types from what the terminal itself reports about the size of its window.
//!
//! A serial line has no wire for that. Terminals that know the private mode 2048 ("in-band window resize notifications")
//! send, once they are [asked](ASK), a control sequence each time the window has changed, and one at once:
//! `CSI 48 ; rows ; columns ; height ; width t`, the latter two in pixels. `cargo xtask run` does it for all others.

/// Has the terminal report its window's size, now and whenever it changes.
pub const ASK: &[u8] = b"\x1b[?2048h";
/// It need not any more.
pub const ASK_NO_MORE: &[u8] = b"\x1b[?2048l";

/// How long to wait for the rest of what may be a report: whoever presses Escape does not want to wait for longer.
pub const PATIENCE_MS: u64 = 100;

/// The size of a window, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in each.
    pub columns: u16,
}

const ESCAPE: u8 = 0x1b;
/// What a report begins with.
const BEGINNING: &[u8] = b"\x1b[48;";
/// No report is longer.
const LONGEST: usize = 48;

/// What comes from a terminal. The beginning of what may be a report is held back until that is clear.
#[derive(Clone, Debug)]
pub struct Input {
    held: [u8; LONGEST],
    length: usize,
}

impl Default for Input {
    fn default() -> Self {
        Self::new()
    }
}

/// What a beginning may become.
enum Progress {
    /// It may become a report.
    Report,
    /// It is one.
    Complete(Size),
    /// It is something that was typed.
    Typed,
}

impl Input {
    /// Nothing has come yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            held: [0; LONGEST],
            length: 0,
        }
    }

    /// Takes a byte. `typed` gets what is known to be no report, and the size is that which a report has told.
    pub fn push(&mut self, byte: u8, mut typed: impl FnMut(&[u8])) -> Option<Size> {
        if byte == ESCAPE || self.length == LONGEST {
            self.give_up(&mut typed);
        }
        if let Some(place) = self.held.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
        match progress(self.held()) {
            Progress::Report => None,
            Progress::Complete(size) => {
                self.length = 0;
                Some(size)
            }
            Progress::Typed => {
                self.give_up(typed);
                None
            }
        }
    }

    /// Whether something is held back.
    #[must_use]
    pub const fn holds_back(&self) -> bool {
        self.length > 0
    }

    /// The rest of a report does not come: what was held back was typed.
    pub fn give_up(&mut self, mut typed: impl FnMut(&[u8])) {
        if self.holds_back() {
            typed(self.held());
            self.length = 0;
        }
    }

    fn held(&self) -> &[u8] {
        self.held.get(..self.length).unwrap_or(&[])
    }
}

fn progress(held: &[u8]) -> Progress {
    let Some(rest) = held.strip_prefix(BEGINNING) else {
        return if BEGINNING.starts_with(held) {
            Progress::Report
        } else {
            Progress::Typed
        };
    };
    match rest.split_last() {
        None | Some((b'0'..=b'9' | b';' | b':', _)) => Progress::Report,
        Some((b't', numbers)) => size(numbers).map_or(Progress::Typed, Progress::Complete),
        Some(_) => Progress::Typed,
    }
}

/// Rows and columns; what may follow behind a colon in each is for others. A window of no size is none.
fn size(numbers: &[u8]) -> Option<Size> {
    let mut parts = numbers.split(|byte| *byte == b';');
    let mut next = || {
        let number = parts.next()?.split(|byte| *byte == b':').next()?;
        let number = core::str::from_utf8(number).ok()?.parse().ok()?;
        (number > 0).then_some(number)
    };
    Some(Size {
        rows: next()?,
        columns: next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of these bytes: what was typed, and the sizes.
    fn heard(bytes: &[u8]) -> (Vec<u8>, Vec<(u16, u16)>) {
        let mut input = Input::new();
        let mut typed = Vec::new();
        let mut sizes = Vec::new();
        for byte in bytes {
            let size = input.push(*byte, |bytes| typed.extend_from_slice(bytes));
            sizes.extend(size.map(|size| (size.rows, size.columns)));
        }
        input.give_up(|bytes| typed.extend_from_slice(bytes));
        (typed, sizes)
    }

    #[test]
    fn a_report_between_keys_is_taken_out_and_the_keys_are_not() {
        let (typed, sizes) = heard(b"ls\x1b[48;37;111;0;0t -l\r");
        assert_eq!(typed, b"ls -l\r");
        assert_eq!(sizes, [(37, 111)]);
    }

    #[test]
    fn what_only_begins_like_a_report_is_typed() {
        for keys in [
            &b"\x1b"[..],
            b"\x1b\x1b\x1b[A",
            b"\x1b[4~\x1b[48~",
            b"\x1b[48;5;1u",
            b"\x1b[48;x",
            b"\x1b[48;",
            b"\x1b[48;0;0;0;0t",
            b"\x1b[48;70000;80t",
            b"\x1b[48;5t",
            b"\x1b[8;24;80t",
            b"\x03\x04\xff",
        ] {
            assert_eq!(heard(keys), (keys.to_vec(), vec![]), "{keys:?}");
        }
    }

    #[test]
    fn a_report_may_follow_an_escape_key_and_have_more_in_its_parts() {
        assert_eq!(
            heard(b"\x1b\x1b[48;24:1;80:2;600;800t\x1b"),
            (b"\x1b\x1b".to_vec(), vec![(24, 80)])
        );
    }

    #[test]
    fn endless_numbers_are_typed_and_nothing_of_them_is_lost() {
        let mut keys = b"\x1b[48;".to_vec();
        keys.resize(1000, b'1');
        assert_eq!(heard(&keys), (keys, vec![]));
    }

    #[test]
    fn what_is_held_back_is_known() {
        let mut input = Input::new();
        assert!(!input.holds_back());
        assert_eq!(input.push(ESCAPE, |_| unreachable!()), None);
        assert!(input.holds_back());
        let mut typed = Vec::new();
        input.give_up(|bytes| typed.extend_from_slice(bytes));
        assert_eq!(typed, [ESCAPE]);
        assert!(!input.holds_back());
    }
}
