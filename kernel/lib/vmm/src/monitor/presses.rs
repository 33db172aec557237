//! [`Presses`]: which bytes from a terminal are keys that somebody has pressed.
//!
//! A terminal also sends what nobody has pressed: how large its window is now, where a program has asked for that
//! (`CSI 48 ; rows ; columns ; height ; width t`). A view that any key ends must not end by it.

/// How long after an Escape the rest of a sequence may come. What comes alone is the key.
const PATIENCE_NS: u64 = 100_000_000;

/// What has come of a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Sequence {
    /// Nothing.
    #[default]
    None,
    /// Escape, at this time.
    Escape(u64),
    /// That and a bracket, and perhaps numbers.
    Control,
}

/// Looks at what comes from a terminal.
#[derive(Clone, Debug, Default)]
pub struct Presses {
    sequence: Sequence,
}

impl Presses {
    /// Nothing has come yet.
    pub const fn new() -> Self {
        Self {
            sequence: Sequence::None,
        }
    }

    /// Takes a byte; whether it completes a key.
    pub fn push(&mut self, byte: u8, now_ns: u64) -> bool {
        let before = core::mem::take(&mut self.sequence);
        match (before, byte) {
            (Sequence::None, 0x1b) => {
                self.sequence = Sequence::Escape(now_ns);
                false
            }
            (Sequence::Escape(_), b'[') | (Sequence::Control, b'0'..=b'9' | b';' | b':' | b'?') => {
                self.sequence = Sequence::Control;
                false
            }
            (Sequence::Control, b't') => false,
            _ => true,
        }
    }

    /// When an Escape that has come will have been a key, if nothing follows it.
    pub const fn escape_due_ns(&self) -> Option<u64> {
        match self.sequence {
            Sequence::Escape(since_ns) => Some(since_ns + PATIENCE_NS),
            Sequence::None | Sequence::Control => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many keys that is.
    fn keys(bytes: &[u8]) -> usize {
        let mut presses = Presses::new();
        bytes.iter().filter(|byte| presses.push(**byte, 0)).count()
    }

    #[test]
    fn a_window_that_changed_its_size_ended_the_live_view() {
        assert_eq!(keys(b"\x1b[48;37;111;0;0t\x1b[48;38:1;111;0;0t"), 0);
        assert_eq!(keys(b"\x1b[48;37;111;0;0tq"), 1);
    }

    #[test]
    fn ordinary_and_special_keys_are_keys() {
        assert_eq!(keys(b"q"), 1);
        assert_eq!(keys(b"\x1b[A"), 1);
        assert_eq!(keys(b"\x1b[15~"), 1);
        assert_eq!(keys(b"\x1bx"), 1);
        assert_eq!(keys(b"\x1b\x1b"), 1);
    }

    #[test]
    fn escape_alone_is_a_key_after_a_moment() {
        let mut presses = Presses::new();
        assert_eq!(presses.escape_due_ns(), None);
        assert!(!presses.push(0x1b, 5));
        assert_eq!(presses.escape_due_ns(), Some(5 + PATIENCE_NS));
        assert!(presses.push(b'x', 6));
        assert_eq!(presses.escape_due_ns(), None);
    }
}
