//! The last that a guest has said, kept in a few kilobytes.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::EscapeFilter;

/// Bytes that are kept.
const KEPT: usize = 4096;

/// The last bytes of an endless text.
#[derive(Clone, Debug)]
pub struct Tail {
    ring: Box<[u8]>,
    /// How many bytes there have been.
    written: usize,
}

impl Default for Tail {
    fn default() -> Self {
        Self::new()
    }
}

impl Tail {
    /// Nothing was said yet.
    pub fn new() -> Self {
        Self {
            ring: vec![0; KEPT].into_boxed_slice(),
            written: 0,
        }
    }

    /// Takes what is said.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(place) = self.ring.get_mut(self.written % KEPT) {
                *place = *byte;
            }
            self.written = self.written.wrapping_add(1);
        }
    }

    /// The last lines, at most so many, without control characters and escape sequences. What is left of a line
    /// whose beginning was not kept is one, too; a line that has not ended is the last.
    pub fn lines(&self, most: usize) -> Vec<String> {
        let mut filter = EscapeFilter::new();
        let mut lines = vec![String::new()];
        for at in self.written.saturating_sub(KEPT)..self.written {
            let byte = self.ring.get(at % KEPT).copied().unwrap_or(b' ');
            if !filter.passes(byte) {
                continue;
            }
            if byte == b'\n' {
                lines.push(String::new());
            } else if let Some(line) = lines.last_mut() {
                // Not everything that guests say is UTF-8, nor is the middle of it.
                line.push(if byte.is_ascii() { byte.into() } else { '?' });
            }
        }
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines.split_off(lines.len().saturating_sub(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let mut tail = Tail::new();
        assert!(tail.lines(10).is_empty());
        for number in 0..1000 {
            tail.push(alloc::format!("line {number}\r\n").as_bytes());
        }
        assert_eq!(tail.lines(2), ["line 998", "line 999"]);
        tail.push(b"# \x1b[1mprompt");
        assert_eq!(tail.lines(2), ["line 999", "# prompt"]);
        assert!(tail.lines(1000).len() < 500);
    }

    #[test]
    fn a_line_that_is_too_long_is_shown_from_where_it_was_kept() {
        let mut tail = Tail::new();
        tail.push(&[b'x'; 10_000]);
        tail.push(b"y");
        let lines = tail.lines(10);
        assert_eq!((lines.len(), lines[0].len()), (1, KEPT));
        assert!(lines[0].ends_with("xy"));
    }
}
