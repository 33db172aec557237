//! A command line while it is being typed: what each byte does to it, and what a terminal is to be sent so that it
//! shows the line. That is plain text with carriage returns, so that a screen without escape sequences shows it, too.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

/// Stands before the line.
pub const PROMPT: &str = "plinth> ";
/// A longer line takes no more bytes.
const LONGEST: usize = 200;
/// Lines that are remembered.
const REMEMBERED: usize = 32;

/// What a byte has done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Edit {
    /// Nothing that shows.
    Nothing,
    /// The line has changed: this is to be sent.
    Show(Vec<u8>),
    /// The line is complete.
    Entered(String),
    /// The line was given up: a new one begins.
    Dropped,
    /// The operator wants to leave.
    Leave,
}

/// Bytes of a key that sends several.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Sequence {
    #[default]
    None,
    Escape,
    Control,
}

/// The line.
#[derive(Clone, Debug, Default)]
pub struct Line {
    text: String,
    sequence: Sequence,
    after_return: bool,
    history: VecDeque<String>,
    /// The remembered line that is shown, counted from the last.
    recalled: Option<usize>,
}

impl Line {
    /// An empty line.
    pub const fn new() -> Self {
        Self {
            text: String::new(),
            sequence: Sequence::None,
            after_return: false,
            history: VecDeque::new(),
            recalled: None,
        }
    }

    /// The prompt and what has been typed behind it.
    pub fn shown(&self) -> Vec<u8> {
        [PROMPT, &self.text].concat().into_bytes()
    }

    /// Takes a byte; Tab completes the first word with one of `words`.
    pub fn push<'a>(&mut self, byte: u8, words: impl IntoIterator<Item = &'a str>) -> Edit {
        let after_return = core::mem::take(&mut self.after_return);
        match (core::mem::take(&mut self.sequence), byte) {
            (Sequence::Escape, b'[' | b'O') => {
                self.sequence = Sequence::Control;
                return Edit::Nothing;
            }
            (Sequence::Control, b'A') => return self.recall(1),
            (Sequence::Control, b'B') => return self.recall(-1),
            (Sequence::Control, b'0'..=b'9' | b';') => {
                self.sequence = Sequence::Control;
                return Edit::Nothing;
            }
            (Sequence::Control | Sequence::Escape, _) => return Edit::Nothing,
            (Sequence::None, _) => {}
        }
        match byte {
            b'\n' if after_return => Edit::Nothing,
            b'\r' | b'\n' => {
                self.after_return = byte == b'\r';
                Edit::Entered(self.take())
            }
            0x1b => {
                self.sequence = Sequence::Escape;
                Edit::Nothing
            }
            0x08 | 0x7f => self.change(|text| {
                text.pop();
            }),
            // Ctrl-U, Ctrl-W.
            0x15 => self.change(String::clear),
            0x17 => self.change(|text| {
                let kept = text.trim_end().rfind(' ').map_or(0, |space| space + 1);
                text.truncate(kept);
            }),
            // Ctrl-C, and Ctrl-D on an empty line.
            0x03 => {
                self.text.clear();
                self.recalled = None;
                Edit::Dropped
            }
            0x04 if self.text.is_empty() => Edit::Leave,
            b'\t' => self.complete(words),
            0x20..=0x7e if self.text.len() < LONGEST => {
                self.text.push(byte.into());
                Edit::Show(alloc::vec![byte])
            }
            _ => Edit::Nothing,
        }
    }

    fn take(&mut self) -> String {
        self.recalled = None;
        let line = core::mem::take(&mut self.text);
        if !line.trim().is_empty() && self.history.back() != Some(&line) {
            if self.history.len() == REMEMBERED {
                self.history.pop_front();
            }
            self.history.push_back(line.clone());
        }
        line
    }

    /// Changes the text, and says what shows it in place of what stood there.
    fn change(&mut self, change: impl FnOnce(&mut String)) -> Edit {
        let before = self.text.len();
        change(&mut self.text);
        let rest = before.saturating_sub(self.text.len());
        let mut bytes = alloc::vec![b'\r'];
        bytes.extend(self.shown());
        if rest > 0 {
            bytes.extend(core::iter::repeat_n(b' ', rest));
            bytes.push(b'\r');
            bytes.extend(self.shown());
        }
        Edit::Show(bytes)
    }

    fn recall(&mut self, older: isize) -> Edit {
        let wanted = match self.recalled {
            None if older > 0 => Some(0),
            None => None,
            Some(at) => at.checked_add_signed(older),
        };
        let line = match wanted {
            // Past the newest one is what has not been typed yet.
            None => String::new(),
            Some(back) => {
                let at = self.history.len().checked_sub(back + 1);
                match at.and_then(|at| self.history.get(at)) {
                    Some(line) => line.clone(),
                    None => return Edit::Nothing,
                }
            }
        };
        self.recalled = wanted;
        self.change(|text| *text = line)
    }

    fn complete<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) -> Edit {
        if self.text.is_empty() || self.text.contains(' ') {
            return Edit::Nothing;
        }
        let mut fitting = words
            .into_iter()
            .filter(|word| word.starts_with(self.text.as_str()));
        match (fitting.next(), fitting.next()) {
            (Some(word), None) => self.change(|text| {
                text.clear();
                text.push_str(word);
                text.push(' ');
            }),
            _ => Edit::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WORDS: [&str; 3] = ["start", "stop", "vms"];

    /// A terminal of one line that knows carriage returns.
    #[derive(Default)]
    struct Terminal {
        cells: Vec<u8>,
        column: usize,
    }

    impl Terminal {
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                if *byte == b'\r' {
                    self.column = 0;
                } else {
                    self.cells
                        .resize(self.cells.len().max(self.column + 1), b' ');
                    self.cells[self.column] = *byte;
                    self.column += 1;
                }
            }
        }

        fn text(&self) -> &str {
            core::str::from_utf8(&self.cells).unwrap().trim_end()
        }
    }

    fn enter(line: &mut Line, typed: &[u8]) -> Vec<String> {
        let mut entered = Vec::new();
        for byte in typed {
            if let Edit::Entered(text) = line.push(*byte, WORDS) {
                entered.push(text);
            }
        }
        entered
    }

    #[test]
    fn lines_end_with_whatever_a_terminal_sends_for_enter() {
        let mut line = Line::new();
        assert_eq!(
            enter(&mut line, b"vms\rtop\nhelp\r\nx\r"),
            ["vms", "top", "help", "x"]
        );
    }

    #[test]
    fn mistakes_can_be_mended() {
        let mut line = Line::new();
        assert_eq!(enter(&mut line, b"vmx\x7fs\r"), ["vms"]);
        assert_eq!(
            enter(&mut line, b"nonsense\x15stop linux\x17hello\r"),
            ["stop hello"]
        );
        assert_eq!(enter(&mut line, b"\x7f\x7f\r"), [""]);
    }

    #[test]
    fn ctrl_c_drops_the_line_and_ctrl_d_leaves_an_empty_one() {
        let mut line = Line::new();
        line.push(b'x', WORDS);
        assert_eq!(line.push(4, WORDS), Edit::Nothing);
        assert_eq!(line.push(3, WORDS), Edit::Dropped);
        assert_eq!(line.push(4, WORDS), Edit::Leave);
    }

    #[test]
    fn the_arrows_bring_back_what_was_typed_before() {
        let mut line = Line::new();
        assert_eq!(
            enter(&mut line, b"one\rtwo\r\x1b[A\x1b[A\r"),
            ["one", "two", "one"]
        );
        assert_eq!(enter(&mut line, b"\x1b[A\x1b[A\x1b[B\r"), ["one"]);
        assert_eq!(enter(&mut line, b"\x1b[A\x1b[B\r"), [""]);
    }

    #[test]
    fn tab_completes_what_is_unambiguous() {
        let mut line = Line::new();
        assert_eq!(enter(&mut line, b"v\t\r"), ["vms "]);
        assert_eq!(enter(&mut line, b"st\t\r"), ["st"]);
        assert_eq!(enter(&mut line, b"sto\t1\r"), ["stop 1"]);
    }

    proptest! {
        #[test]
        fn the_terminal_shows_the_line_whatever_is_typed(
            typed in prop::collection::vec(
                prop::sample::select(&b"\x7f\x15\x17\t sv\r\x1b[ABx\x03\x04\xff"[..]), 0..60,
            ),
        ) {
            let mut line = Line::new();
            let mut terminal = Terminal::default();
            terminal.write(&line.shown());
            for byte in typed {
                match line.push(byte, WORDS) {
                    Edit::Show(bytes) => terminal.write(&bytes),
                    Edit::Nothing => {}
                    Edit::Entered(_) | Edit::Dropped | Edit::Leave => {
                        terminal = Terminal::default();
                        terminal.write(&line.shown());
                    }
                }
                let shown = line.shown();
                prop_assert_eq!(terminal.text(), core::str::from_utf8(&shown).unwrap().trim_end());
            }
        }
    }
}
