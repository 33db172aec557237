//! What of a guest's output is shown among that of others, and how lines end on a serial line.

/// Gives `take` the pieces of a text for a serial line, with a carriage return before each line feed.
pub fn for_serial_line(text: &[u8], mut take: impl FnMut(&[u8])) {
    let mut rest = text;
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        let (line, after) = rest.split_at(end);
        take(line);
        take(b"\r\n");
        rest = after.get(1..).unwrap_or_default();
    }
    take(rest);
}

/// Lets plain text through and drops control characters and escape sequences, with which a guest could
/// otherwise rewrite what others have said (ECMA-48, Control Functions for Coded Character Sets).
#[derive(Clone, Copy, Debug)]
pub struct EscapeFilter(State);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Text,
    Escape,
    /// After `ESC [`: until a final byte.
    ControlSequence,
    /// After `ESC ]` and the like: until BEL or ESC.
    String,
}

impl EscapeFilter {
    /// A filter that has seen nothing yet.
    pub const fn new() -> Self {
        Self(State::Text)
    }

    /// Whether the byte is text.
    #[inline]
    pub const fn passes(&mut self, byte: u8) -> bool {
        match (self.0, byte) {
            (State::Text, b'\n' | b'\t' | 0x20..=0x7e | 0x80..) => return true,
            _ => self.follow(byte),
        }
        false
    }

    /// Follows a sequence; no byte of it is text.
    const fn follow(&mut self, byte: u8) {
        self.0 = match (self.0, byte) {
            (_, 0x1b) => State::Escape,
            (State::Escape, b'[') => State::ControlSequence,
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => State::String,
            // Intermediate bytes; a final byte follows.
            (State::Escape, 0x20..=0x2f) => State::Escape,
            (State::ControlSequence, 0x20..=0x3f) => State::ControlSequence,
            (State::String, 0x08..=0x0d | 0x20..=0x9b | 0x9d..) => State::String,
            // A lone control character, or the end of a sequence.
            _ => State::Text,
        };
    }
}

impl Default for EscapeFilter {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn filtered(bytes: &[u8]) -> String {
        let mut filter = EscapeFilter::new();
        let text = bytes
            .iter()
            .copied()
            .filter(|&byte| filter.passes(byte))
            .collect();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn lines_end_with_both_on_a_serial_line() {
        for (text, sent) in [
            (&b"a\nbc\n\nd"[..], &b"a\r\nbc\r\n\r\nd"[..]),
            (b"\n", b"\r\n"),
            (b"", b""),
            (b"prompt", b"prompt"),
        ] {
            let mut line = Vec::new();
            for_serial_line(text, |piece| line.extend_from_slice(piece));
            assert_eq!(line, sent);
        }
    }

    #[test]
    fn plain_text_comes_through() {
        assert_eq!(
            filtered("tab\tline\nümlaut ~".as_bytes()),
            "tab\tline\nümlaut ~"
        );
    }

    #[test]
    fn carriage_returns_bells_and_backspaces_do_not() {
        assert_eq!(filtered(b"a\rb\x07c\x08d\x7fe\0f"), "abcdef");
    }

    #[test]
    fn colours_cursor_moves_and_titles_do_not() {
        assert_eq!(
            filtered(b"\x1b[1;31mred\x1b[0m \x1b[2J\x1b[H\x1b]0;title\x07end"),
            "red end"
        );
        assert_eq!(
            filtered(b"\x1b]0;title\x1b\\end\x1b(Bmore\x1bcrest"),
            "endmorerest"
        );
    }

    #[test]
    fn a_broken_sequence_ends_at_the_next_escape() {
        assert_eq!(filtered(b"\x1b[12\x1b[mtext"), "text");
    }

    proptest! {
        #[test]
        fn no_control_character_ever_comes_through(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut filter = EscapeFilter::new();
            for byte in bytes {
                let control = byte < 0x20 && byte != b'\n' && byte != b'\t' || byte == 0x7f;
                prop_assert!(!(filter.passes(byte) && control), "{:#x}", byte);
            }
        }
    }
}
