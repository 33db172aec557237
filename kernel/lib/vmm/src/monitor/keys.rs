//! Where a byte goes that was typed at the serial port: to the guest, to the monitor's command line, or, behind an
//! escape, to Plinth itself. The escape is Ctrl-] as in telnet.

/// Ctrl-].
pub const ESCAPE: u8 = 0x1d;

/// Who reads what is typed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reader {
    /// The guest that has the keys.
    #[default]
    Guest,
    /// The monitor's command line.
    Monitor,
}

/// What a byte means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// It is the guest's.
    ToGuest(u8),
    /// It is part of a command line.
    ToMonitor(u8),
    /// It asks for something at once.
    Shortcut(Shortcut),
}

/// What a single key behind the escape asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shortcut {
    /// Opens the monitor, or closes it.
    Monitor,
    /// The registers, last exits and figures of all vCPUs.
    Describe,
    /// The live view.
    Top,
    /// The next guest gets the keys.
    NextGuest,
    /// The whole machine is to be reset.
    ResetMachine,
    /// The whole machine is to be switched off.
    PowerOff,
    /// These keys are to be listed.
    Help,
}

/// The keys behind the escape, for the operator.
pub const HELP: [&str; 7] = [
    "Ctrl-] m   opens the monitor, or closes it (`help` lists its commands)",
    "Ctrl-] t   what all guests are doing, live",
    "Ctrl-] d   registers, last exits and exit figures of all guests",
    "Ctrl-] n   the next guest gets the keys",
    "Ctrl-] r   resets the whole machine",
    "Ctrl-] q   switches the whole machine off",
    "Ctrl-] Ctrl-]   sends Ctrl-] to the guest",
];

/// Tells the bytes apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keyboard {
    escaped: bool,
    reader: Reader,
}

impl Keyboard {
    /// Nothing typed yet; the guest has the keys.
    pub const fn new() -> Self {
        Self {
            escaped: false,
            reader: Reader::Guest,
        }
    }

    /// Who reads what is typed.
    pub const fn reader(&self) -> Reader {
        self.reader
    }

    /// Gives the keys to somebody else.
    pub const fn set_reader(&mut self, reader: Reader) {
        self.reader = reader;
    }

    /// What the next byte means; nothing where it begins an escape.
    pub const fn push(&mut self, byte: u8) -> Option<Key> {
        if self.escaped {
            self.escaped = false;
            return Some(match byte {
                b'm' | b':' => Key::Shortcut(Shortcut::Monitor),
                b't' => Key::Shortcut(Shortcut::Top),
                b'd' => Key::Shortcut(Shortcut::Describe),
                b'n' => Key::Shortcut(Shortcut::NextGuest),
                b'r' => Key::Shortcut(Shortcut::ResetMachine),
                b'q' => Key::Shortcut(Shortcut::PowerOff),
                ESCAPE => Key::ToGuest(ESCAPE),
                _ => Key::Shortcut(Shortcut::Help),
            });
        }
        if byte == ESCAPE {
            self.escaped = true;
            return None;
        }
        Some(match self.reader {
            Reader::Guest => Key::ToGuest(byte),
            Reader::Monitor => Key::ToMonitor(byte),
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn meaning(keyboard: &mut Keyboard, typed: &[u8]) -> Vec<Key> {
        typed
            .iter()
            .filter_map(|byte| keyboard.push(*byte))
            .collect()
    }

    #[test]
    fn the_guest_gets_every_byte_but_the_escape_and_what_follows_it() {
        let mut keyboard = Keyboard::new();
        assert_eq!(
            meaning(&mut keyboard, b"a\x03\x1dd\x1d\x1db"),
            [
                Key::ToGuest(b'a'),
                Key::ToGuest(3),
                Key::Shortcut(Shortcut::Describe),
                Key::ToGuest(ESCAPE),
                Key::ToGuest(b'b'),
            ]
        );
    }

    #[test]
    fn while_the_monitor_is_open_the_bytes_are_its_own() {
        let mut keyboard = Keyboard::new();
        keyboard.set_reader(Reader::Monitor);
        assert_eq!(
            meaning(&mut keyboard, b"v\x1dm"),
            [Key::ToMonitor(b'v'), Key::Shortcut(Shortcut::Monitor)]
        );
    }

    #[test]
    fn every_key_of_the_help_does_something_and_others_show_it() {
        for line in HELP {
            let key = line.as_bytes()[7];
            let key = if line.contains("Ctrl-] Ctrl-]") {
                ESCAPE
            } else {
                key
            };
            let mut keyboard = Keyboard::new();
            let meant = meaning(&mut keyboard, &[ESCAPE, key]);
            assert_ne!(meant, [Key::Shortcut(Shortcut::Help)], "{line}");
        }
        for key in [b'?', b'x', 0] {
            let meant = meaning(&mut Keyboard::new(), &[ESCAPE, key]);
            assert_eq!(meant, [Key::Shortcut(Shortcut::Help)]);
        }
    }
}
