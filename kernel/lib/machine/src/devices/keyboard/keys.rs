//! Which keys are pressed where somebody types at a terminal: a US keyboard, scan code set 2.
//!
//! [`Typist`] turns the bytes that a terminal sends (characters, and ECMA-48 sequences for the other keys) into
//! [`Stroke`]s.

/// One key, pressed and released, and what is held down meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stroke {
    /// Its make code in set 2.
    pub(super) code: u8,
    /// Whether the code stands behind 0xe0.
    pub(super) extended: bool,
    pub(super) shift: bool,
    pub(super) control: bool,
}

impl Stroke {
    const fn plain(code: u8) -> Self {
        Self {
            code,
            extended: false,
            shift: false,
            control: false,
        }
    }

    const fn extended(code: u8) -> Self {
        Self {
            extended: true,
            ..Self::plain(code)
        }
    }
}

const ESCAPE: u8 = 0x76;
const ENTER: u8 = 0x5a;
const TAB: u8 = 0x0d;
const BACKSPACE: u8 = 0x66;

/// The keys that have characters: code in set 2, the character, and that with Shift.
pub(super) const CHARACTERS: [(u8, u8, u8); 48] = [
    (0x0e, b'`', b'~'),
    (0x15, b'q', b'Q'),
    (0x16, b'1', b'!'),
    (0x1a, b'z', b'Z'),
    (0x1b, b's', b'S'),
    (0x1c, b'a', b'A'),
    (0x1d, b'w', b'W'),
    (0x1e, b'2', b'@'),
    (0x21, b'c', b'C'),
    (0x22, b'x', b'X'),
    (0x23, b'd', b'D'),
    (0x24, b'e', b'E'),
    (0x25, b'4', b'$'),
    (0x26, b'3', b'#'),
    (0x29, b' ', b' '),
    (0x2a, b'v', b'V'),
    (0x2b, b'f', b'F'),
    (0x2c, b't', b'T'),
    (0x2d, b'r', b'R'),
    (0x2e, b'5', b'%'),
    (0x31, b'n', b'N'),
    (0x32, b'b', b'B'),
    (0x33, b'h', b'H'),
    (0x34, b'g', b'G'),
    (0x35, b'y', b'Y'),
    (0x36, b'6', b'^'),
    (0x3a, b'm', b'M'),
    (0x3b, b'j', b'J'),
    (0x3c, b'u', b'U'),
    (0x3d, b'7', b'&'),
    (0x3e, b'8', b'*'),
    (0x41, b',', b'<'),
    (0x42, b'k', b'K'),
    (0x43, b'i', b'I'),
    (0x44, b'o', b'O'),
    (0x45, b'0', b')'),
    (0x46, b'9', b'('),
    (0x49, b'.', b'>'),
    (0x4a, b'/', b'?'),
    (0x4b, b'l', b'L'),
    (0x4c, b';', b':'),
    (0x4d, b'p', b'P'),
    (0x4e, b'-', b'_'),
    (0x52, b'\'', b'"'),
    (0x54, b'[', b'{'),
    (0x55, b'=', b'+'),
    (0x5b, b']', b'}'),
    (0x5d, b'\\', b'|'),
];

/// The key of a character; control characters are letters with Ctrl.
fn key_of(byte: u8) -> Option<Stroke> {
    match byte {
        b'\r' | b'\n' => return Some(Stroke::plain(ENTER)),
        b'\t' => return Some(Stroke::plain(TAB)),
        0x08 | 0x7f => return Some(Stroke::plain(BACKSPACE)),
        _ => {}
    }
    let (wanted, control) = match byte {
        1..=0x1a => (byte | 0x60, true),
        0x1c..=0x1f => (byte | 0x40, true),
        _ => (byte, false),
    };
    CHARACTERS.iter().find_map(|&(code, character, shifted)| {
        let shift = wanted != character;
        (wanted == character || wanted == shifted).then_some(Stroke {
            code,
            extended: false,
            shift,
            control,
        })
    })
}

/// The key of a control sequence's final byte, and of its parameter where that byte is `~`.
const fn key_of_sequence(parameter: u8, last: u8) -> Option<Stroke> {
    Some(match (last, parameter) {
        (b'A', _) => Stroke::extended(0x75),
        (b'B', _) => Stroke::extended(0x72),
        (b'C', _) => Stroke::extended(0x74),
        (b'D', _) => Stroke::extended(0x6b),
        (b'H', _) | (b'~', 1 | 7) => Stroke::extended(0x6c),
        (b'F', _) | (b'~', 4 | 8) => Stroke::extended(0x69),
        (b'~', 2) => Stroke::extended(0x70),
        (b'~', 3) => Stroke::extended(0x71),
        (b'~', 5) => Stroke::extended(0x7d),
        (b'~', 6) => Stroke::extended(0x7a),
        // F1 to F4 come as SS3 P to S, or as ~ 11 to 14.
        (b'P', _) | (b'~', 11) => Stroke::plain(0x05),
        (b'Q', _) | (b'~', 12) => Stroke::plain(0x06),
        (b'R', _) | (b'~', 13) => Stroke::plain(0x04),
        (b'S', _) | (b'~', 14) => Stroke::plain(0x0c),
        (b'~', 15) => Stroke::plain(0x03),
        (b'~', 17) => Stroke::plain(0x0b),
        (b'~', 18) => Stroke::plain(0x83),
        (b'~', 19) => Stroke::plain(0x0a),
        (b'~', 20) => Stroke::plain(0x01),
        (b'~', 21) => Stroke::plain(0x09),
        (b'~', 23) => Stroke::plain(0x78),
        (b'~', 24) => Stroke::plain(0x07),
        _ => return None,
    })
}

/// What has been read of a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Seen {
    #[default]
    Nothing,
    /// ESC, which is a key of its own unless something follows soon.
    Escape,
    /// ESC [ or ESC O, and the first parameter so far; then others, which do not count.
    Sequence { parameter: u8, is_first: bool },
}

/// Whoever types at the terminal.
#[derive(Debug, Default)]
pub(super) struct Typist {
    seen: Seen,
}

impl Typist {
    pub(super) const fn new() -> Self {
        Self {
            seen: Seen::Nothing,
        }
    }

    /// Takes a byte; gives the key that it completes.
    pub(super) fn push(&mut self, byte: u8) -> Option<Stroke> {
        match (core::mem::take(&mut self.seen), byte) {
            (_, 0x1b) => self.seen = Seen::Escape,
            (Seen::Escape, b'[' | b'O') => {
                self.seen = Seen::Sequence {
                    parameter: 0,
                    is_first: true,
                };
            }
            (
                Seen::Sequence {
                    parameter,
                    is_first,
                },
                0x20..=0x3f,
            ) => {
                let digit = byte.wrapping_sub(b'0');
                let is_first = is_first && digit < 10;
                let parameter = if is_first {
                    parameter.wrapping_mul(10).wrapping_add(digit)
                } else {
                    parameter
                };
                self.seen = Seen::Sequence {
                    parameter,
                    is_first,
                };
            }
            (Seen::Sequence { parameter, .. }, _) => return key_of_sequence(parameter, byte),
            // What follows ESC without being a sequence is a key with Alt on a terminal: the key counts.
            _ => return key_of(byte),
        }
        None
    }

    /// Whether the Escape key may have been pressed: nothing has come behind ESC yet.
    pub(super) fn waits(&self) -> bool {
        self.seen == Seen::Escape
    }

    /// Nothing will come behind ESC any more.
    pub(super) fn give_up(&mut self) -> Option<Stroke> {
        if core::mem::take(&mut self.seen) == Seen::Escape {
            return Some(Stroke::plain(ESCAPE));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn typed(bytes: &[u8]) -> Vec<Stroke> {
        let mut typist = Typist::new();
        bytes.iter().filter_map(|&byte| typist.push(byte)).collect()
    }

    #[test]
    fn every_printable_character_has_a_key() {
        for byte in 0x20..0x7f {
            assert!(key_of(byte).is_some(), "{}", char::from(byte));
        }
        let shifted = Stroke {
            shift: true,
            ..Stroke::plain(0x1c)
        };
        assert_eq!(typed(b"aA"), [Stroke::plain(0x1c), shifted]);
    }

    #[test]
    fn control_characters_are_letters_with_ctrl_and_enter_is_enter() {
        let control = Stroke {
            control: true,
            ..Stroke::plain(0x32)
        };
        assert_eq!(typed(b"\x02"), [control]);
        assert_eq!(typed(b"\r\x7f"), [Stroke::plain(0x5a), Stroke::plain(0x66)]);
    }

    #[test]
    fn sequences_are_the_other_keys() {
        let keys = typed(b"\x1b[A\x1b[3~\x1bOP\x1b[15~\x1b[1;5B");
        let codes: Vec<_> = keys.iter().map(|key| (key.code, key.extended)).collect();
        let wanted = [
            (0x75, true),
            (0x71, true),
            (0x05, false),
            (0x03, false),
            (0x72, true),
        ];
        assert_eq!(codes, wanted);
    }

    #[test]
    fn a_lone_escape_is_a_key_once_nothing_follows() {
        let mut typist = Typist::new();
        assert_eq!(typist.push(0x1b), None);
        assert!(typist.waits());
        assert_eq!(typist.give_up(), Some(Stroke::plain(0x76)));
        assert_eq!(typist.give_up(), None);
    }
}
