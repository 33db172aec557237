//! The user's terminal during a run: every key goes to the guest, except those after Ctrl-A ([`Escapes`]), and so does the
//! size of its window, where that is wanted ([`Reports`]).

mod window;

use crate::emulator::cleanup::remember_terminal;
use anyhow::Result;
use nix::sys::termios::{
    InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
};
use std::io::{IsTerminal, Write, stdin, stdout};
use std::os::fd::AsFd;

pub use window::{Reports, Size};

/// What xtask tells about the keys when a run begins.
pub const KEYS: &str =
    "every key goes to the guest, Ctrl-C too. Ctrl-A x leaves, Ctrl-A h shows the other keys";

/// All of them.
pub const HELP: [&str; 4] = [
    "Ctrl-A x, q        leave: the emulator is ended",
    "Ctrl-A Ctrl-A, a   send Ctrl-A to the guest",
    "Ctrl-A h, ?        show this",
    "Ctrl-] ?           show the keys of Plinth itself: its monitor, live figures, other guests",
];

/// Whether somebody sits before this program.
#[must_use]
pub fn is_interactive() -> bool {
    stdin().is_terminal() && stdout().is_terminal()
}

/// The size of the terminal's window.
#[must_use]
pub fn size() -> Option<Size> {
    is_interactive().then(|| Size::of(stdin())).flatten()
}

/// How a terminal was, and what undoes what is shown on it meanwhile.
#[derive(Clone, Debug)]
pub struct Before {
    settings: Termios,
    text: &'static str,
}

impl Before {
    /// Has the terminal pass every key on as it is pressed.
    fn make_raw(terminal: impl AsFd, text: &'static str) -> Result<Self> {
        let settings = tcgetattr(&terminal)?;
        let mut raw = settings.clone();
        // Output stays as it is: the terminal still turns a bare line feed into a new line.
        raw.local_flags
            .remove(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG | LocalFlags::IEXTEN);
        raw.input_flags
            .remove(InputFlags::IXON | InputFlags::ICRNL | InputFlags::INLCR | InputFlags::IGNCR);
        raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(&terminal, SetArg::TCSANOW, &raw)?;
        Ok(Self { settings, text })
    }

    /// Puts everything back.
    pub fn restore(&self, terminal: impl AsFd, mut output: impl Write) {
        // Whose terminal is gone has nothing to put back.
        let _ = output.write_all(self.text.as_bytes());
        let _ = output.flush();
        let _ = tcsetattr(terminal, SetArg::TCSANOW, &self.settings);
    }
}

/// The terminal passes every key on as it is pressed, until this is dropped.
#[derive(Debug)]
pub struct RawInput {
    before: Before,
}

impl RawInput {
    /// Changes the terminal's settings. In the end they are restored, and `after` is sent to the terminal.
    pub fn begin(after: &'static str) -> Result<Self> {
        let before = Before::make_raw(stdin(), after)?;
        remember_terminal(Some(before.clone()));
        Ok(Self { before })
    }
}

impl Drop for RawInput {
    fn drop(&mut self) {
        self.before.restore(stdin(), stdout());
        remember_terminal(None);
    }
}

/// What a pressed key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// It goes to the guest.
    Send(u8),
    /// Leave.
    Leave,
    /// Show the help.
    Help,
}

/// Recognises the keys after Ctrl-A.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Escapes {
    after_prefix: bool,
}

impl Escapes {
    const PREFIX: u8 = 0x01;

    /// Takes a key; none where it is the first half of something.
    pub fn push(&mut self, key: u8) -> Option<Key> {
        if !std::mem::take(&mut self.after_prefix) {
            if key == Self::PREFIX {
                self.after_prefix = true;
                return None;
            }
            return Some(Key::Send(key));
        }
        match key {
            b'x' | b'X' | b'q' => Some(Key::Leave),
            Self::PREFIX | b'a' => Some(Key::Send(Self::PREFIX)),
            b'h' | b'?' => Some(Key::Help),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::{OpenptyResult, openpty};
    use std::fs::File;
    use std::io::Read;

    fn keys(input: &[u8]) -> Vec<Key> {
        let mut escapes = Escapes::default();
        input.iter().filter_map(|key| escapes.push(*key)).collect()
    }

    #[test]
    fn ordinary_keys_and_ctrl_c_go_to_the_guest() {
        assert_eq!(keys(b"a\x03"), [Key::Send(b'a'), Key::Send(3)]);
    }

    #[test]
    fn the_terminal_stayed_raw_and_coloured_after_the_machine_had_died() {
        let OpenptyResult { master, slave } = openpty(None, None).unwrap();
        let (mut keyboard, mut program) = (File::from(master), File::from(slave));
        let usual = tcgetattr(&program).unwrap();
        let before = Before::make_raw(&program, "\x1b[0m").unwrap();
        // A key arrives without Enter, Ctrl-C is one, and nothing is echoed; so Ctrl-A x leaves.
        keyboard.write_all(b"\x03\r\x01x").unwrap();
        let mut typed = [0; 4];
        program.read_exact(&mut typed).unwrap();
        assert_eq!(keys(&typed), [Key::Send(3), Key::Send(b'\r'), Key::Leave]);
        before.restore(&program, &program);
        assert_eq!(tcgetattr(&program).unwrap(), usual);
        assert_eq!(Size::of(&program), None, "nobody has told it");
        program.write_all(b"$").unwrap();
        let mut shown = [0; 5];
        keyboard.read_exact(&mut shown).unwrap();
        assert_eq!(&shown, b"\x1b[0m$");
    }

    #[test]
    fn ctrl_a_x_leaves() {
        assert_eq!(keys(b"\x01x"), [Key::Leave]);
    }

    #[test]
    fn ctrl_a_twice_sends_one() {
        assert_eq!(keys(b"\x01\x01x"), [Key::Send(1), Key::Send(b'x')]);
    }

    #[test]
    fn what_the_help_names_does_what_it_says() {
        assert_eq!(keys(b"\x01q\x01X"), [Key::Leave, Key::Leave]);
        assert_eq!(keys(b"\x01a"), [Key::Send(1)]);
        assert_eq!(keys(b"\x01h\x01?"), [Key::Help, Key::Help]);
    }

    #[test]
    fn an_unknown_key_after_ctrl_a_is_swallowed_and_the_next_one_is_not() {
        assert_eq!(keys(b"\x01zx"), [Key::Send(b'x')]);
    }
}
