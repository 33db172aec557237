//! Reports of the terminal's size, which go between the keys, and whom they are for: [`SizeReports`] follows what a guest
//! says about them, and [`Reporting`] has the terminal send them while the guest that wants them has the keys.
//!
//! A terminal that knows the private mode 2048 ("in-band window resize notifications") sends one when it is asked, and
//! whenever its window has changed. It knows nothing of guests: who has asked is not always who gets what is typed.

/// Has the terminal report its size, now and whenever it changes.
pub const ASK: &[u8] = b"\x1b[?2048h";
/// The same where it may do so already.
pub const ASK_ANEW: &[u8] = b"\x1b[?2048l\x1b[?2048h";
/// It is to report no more.
pub const ASK_NO_MORE: &[u8] = b"\x1b[?2048l";

/// What both begin with.
const BEGINNING: &[u8] = b"\x1b[?2048";

/// What one guest has said about reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct SizeReports {
    /// So much of the beginning has come.
    matched: usize,
    are_wanted: bool,
}

impl SizeReports {
    /// It has said nothing yet.
    pub const fn new() -> Self {
        Self {
            matched: 0,
            are_wanted: false,
        }
    }

    /// Whether it wants them.
    pub const fn are_wanted(&self) -> bool {
        self.are_wanted
    }

    /// Takes what the guest says; whether that was about reports.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let mut is_about_them = false;
        for &byte in bytes {
            if self.matched == BEGINNING.len() && matches!(byte, b'h' | b'l') {
                self.are_wanted = byte == b'h';
                is_about_them = true;
            }
            // Its only Escape is its first byte: where it does not go on, a new one may begin.
            self.matched = match BEGINNING.get(self.matched) {
                Some(&next) if byte == next => self.matched + 1,
                _ => usize::from(byte == 0x1b),
            };
        }
        is_about_them
    }
}

/// For whom the terminal reports: for the guest that has the keys, if that wants it.
#[derive(Clone, Copy, Debug)]
pub struct Reporting<G> {
    keys: Option<G>,
    /// Who has the keys wants reports.
    are_wanted: bool,
}

impl<G: Copy + PartialEq> Reporting<G> {
    /// Nobody has the keys.
    pub const fn new() -> Self {
        Self {
            keys: None,
            are_wanted: false,
        }
    }

    /// A guest wants reports from now on, or no more, and the terminal has heard it. Returns what the terminal is to be
    /// told behind that.
    pub fn said(&mut self, guest: G, are_wanted: bool) -> &'static [u8] {
        if self.keys == Some(guest) {
            self.are_wanted = are_wanted;
            b""
        } else if self.are_wanted {
            ASK_ANEW
        } else {
            ASK_NO_MORE
        }
    }

    /// A guest is no more. Returns what the terminal is to be told.
    pub fn gone(&mut self, guest: G) -> &'static [u8] {
        if self.keys != Some(guest) || !self.are_wanted {
            return b"";
        }
        self.are_wanted = false;
        ASK_NO_MORE
    }

    /// The keys go to this guest from now on, which wants reports or does not; or to no guest. Returns what the terminal
    /// is to be told: its size is news for who gets the keys.
    pub fn give_keys(&mut self, to: Option<(G, bool)>) -> &'static [u8] {
        let before = (self.keys, self.are_wanted);
        self.keys = to.map(|(guest, _)| guest);
        self.are_wanted = to.is_some_and(|(_, are_wanted)| are_wanted);
        match (before, self.are_wanted) {
            (before, true) if before == (self.keys, true) => b"",
            (_, true) => ASK_ANEW,
            ((_, true), false) => ASK_NO_MORE,
            ((_, false), false) => b"",
        }
    }
}

impl<G: Copy + PartialEq> Default for Reporting<G> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_heard_in_whatever_pieces_it_comes() {
        let mut reports = SizeReports::new();
        assert!(!reports.push(b"login: \x1b[?25h\x1b[?204\x1b[?2048"));
        assert!(reports.push(b"h"));
        assert!(reports.are_wanted());
        assert!(!reports.push(b"\x1b\x1b[?2048$p h l"));
        assert!(reports.are_wanted());
        for byte in ASK_NO_MORE.iter().take(ASK_NO_MORE.len() - 1) {
            assert!(!reports.push(&[*byte]));
        }
        assert!(reports.push(b"l more"));
        assert!(!reports.are_wanted());
        assert!(reports.push(ASK_ANEW) && reports.are_wanted());
    }

    #[test]
    fn a_report_of_the_windows_size_went_to_a_guest_that_had_not_asked() {
        let mut reporting = Reporting::new();
        assert_eq!(reporting.give_keys(Some(("asks", false))), b"");
        assert_eq!(reporting.said("asks", true), b"");
        assert_eq!(reporting.give_keys(Some(("other", false))), ASK_NO_MORE);
        assert_eq!(reporting.give_keys(Some(("asks", true))), ASK_ANEW);
        // The operator's command line wants none either.
        assert_eq!(reporting.give_keys(None), ASK_NO_MORE);
        assert_eq!(reporting.give_keys(Some(("asks", true))), ASK_ANEW);
        assert_eq!(reporting.gone("asks"), ASK_NO_MORE);
        assert_eq!(reporting.gone("asks"), b"");
    }

    #[test]
    fn who_asks_without_the_keys_gets_its_reports_with_them() {
        let mut reporting = Reporting::new();
        reporting.give_keys(Some(("other", false)));
        assert_eq!(reporting.said("asks", true), ASK_NO_MORE);
        assert_eq!(reporting.gone("none"), b"");
        assert_eq!(reporting.give_keys(Some(("asks", true))), ASK_ANEW);
        // Another's word does not count.
        assert_eq!(reporting.said("other", false), ASK_ANEW);
        assert_eq!(reporting.said("asks", false), b"");
        assert_eq!(reporting.said("other", true), ASK_NO_MORE);
    }

    #[test]
    fn a_terminal_that_nobody_asks_hears_nothing() {
        let mut reporting = Reporting::new();
        for to in [Some((1, false)), None, Some((2, false))] {
            assert_eq!(reporting.give_keys(to), b"");
        }
        assert_eq!(reporting.gone(2), b"");
    }

    #[test]
    fn who_has_the_keys_already_gets_them_without_a_word() {
        let mut reporting = Reporting::new();
        assert_eq!(reporting.give_keys(Some((1, true))), ASK_ANEW);
        assert_eq!(reporting.give_keys(Some((1, true))), b"");
        assert_eq!(reporting.gone(1), ASK_NO_MORE);
        for to in [Some((1, false)), None, None] {
            assert_eq!(reporting.give_keys(to), b"");
        }
    }
}
