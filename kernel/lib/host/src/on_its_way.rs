//! [`OnItsWay`]: what one speaker has said and the serial port, which others use as well, has not sent yet.

use core::ops::Range;

/// Pieces that are told apart; more are counted, but not when exactly they have left.
const PIECES: usize = 16;

/// Some bytes of one speaker.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Piece {
    bytes: u64,
    /// All are sent when the port has sent so many bytes since its start.
    end: u64,
}

/// What one speaker has said and the port has not sent yet. What others say in between does not count.
#[derive(Clone, Debug, Default)]
pub struct OnItsWay {
    /// The oldest first.
    pieces: [Piece; PIECES],
    count: usize,
    bytes: u64,
}

impl OnItsWay {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes there are, as of the last look at what the port [has sent](Self::sent).
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The speaker has said these, by their places among all that the port ever sends.
    pub fn push(&mut self, places: Range<u64>) {
        let bytes = places.end.saturating_sub(places.start);
        self.bytes += bytes;
        if self.count == PIECES
            && let Some(last) = self.pieces.last_mut()
        {
            last.bytes += bytes;
            last.end = places.end;
        } else if let Some(piece) = self.pieces.get_mut(self.count) {
            *piece = Piece {
                bytes,
                end: places.end,
            };
            self.count += 1;
        }
    }

    /// The port has sent so many bytes since its start.
    pub fn sent(&mut self, sent: u64) {
        let mut left = Self::new();
        for piece in self.pieces.iter().take(self.count) {
            let bytes = piece.bytes.min(piece.end.saturating_sub(sent));
            if bytes != 0 {
                left.push(piece.end - bytes..piece.end);
            }
        }
        *self = left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_waited_for_what_others_had_said_before_and_after_it() {
        let mut own = OnItsWay::new();
        own.push(1000..1100);
        own.push(5000..5010);
        own.sent(500);
        assert_eq!(own.bytes(), 110);
        own.sent(1060);
        assert_eq!(own.bytes(), 50);
        own.sent(4000);
        assert_eq!(own.bytes(), 10);
        own.sent(5010);
        assert_eq!(own.bytes(), 0);
    }

    #[test]
    fn many_pieces_are_counted_until_the_last_has_left() {
        let mut own = OnItsWay::new();
        let pieces = PIECES as u64 + 10;
        for piece in 0..pieces {
            own.push(piece * 100..piece * 100 + 10);
        }
        assert_eq!(own.bytes(), pieces * 10);
        // What cannot be told apart leaves last.
        own.sent(PIECES as u64 * 100);
        assert_eq!(own.bytes(), 110);
        own.sent(pieces * 100);
        assert_eq!(own.bytes(), 0);
    }
}
