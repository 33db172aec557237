//! [`OnItsWay`]: what one speaker has said and the serial port, which others use as well, has not sent yet; and whether
//! the speaker had better wait.

use core::ops::Range;

/// Pieces that are told apart; more are counted, but not when exactly they have left.
const PIECES: usize = 16;

/// A speaker's share of the port's queue. Half of it keeps the port busy until the speaker looks again.
const SHARE_BYTES: u64 = 512;
/// The same where others take so much of it that there is not enough for all.
const CROWDED_SHARE_BYTES: u64 = 64;

/// The queue in front of the port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Queue {
    /// Bytes that the port has sent since its start.
    pub sent: u64,
    /// Bytes that wait in the queue.
    pub waiting: usize,
    /// Bytes that there is room for.
    pub size: usize,
}

impl Queue {
    /// Whether it is so full that everybody's share is small.
    #[must_use]
    pub const fn is_crowded(&self) -> bool {
        self.waiting > self.size / 2
    }

    /// Whether it is so full that there is hardly room for the last words of those who do not look before they speak.
    const fn is_nearly_full(&self) -> bool {
        self.waiting > self.size - self.size / 4
    }
}

/// What speaks against saying more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Congestion {
    /// Nothing.
    None,
    /// The speaker has had its share.
    OwnShare,
    /// Nobody has room.
    NoRoom,
}

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

    /// Whether it may have had its share, as of the last look. The queue is crowded, or not.
    #[inline]
    #[must_use]
    pub const fn may_be_too_much(&self, is_crowded: bool) -> bool {
        self.bytes > share_bytes(is_crowded)
    }

    /// Looks at the queue.
    pub fn look(&mut self, queue: &Queue) -> Congestion {
        self.sent(queue.sent);
        if self.bytes <= share_bytes(queue.is_crowded()) / 2 {
            Congestion::None
        } else if queue.is_nearly_full() {
            Congestion::NoRoom
        } else {
            Congestion::OwnShare
        }
    }

    /// The port has sent so many bytes since its start.
    fn sent(&mut self, sent: u64) {
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

const fn share_bytes(is_crowded: bool) -> u64 {
    if is_crowded {
        CROWDED_SHARE_BYTES
    } else {
        SHARE_BYTES
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
    #[test]
    fn the_share_of_each_is_small_where_there_are_many() {
        let queue = |waiting| Queue {
            sent: 0,
            waiting,
            size: 1 << 14,
        };
        let mut own = OnItsWay::new();
        own.push(0..300);
        assert!(!own.may_be_too_much(false) && own.may_be_too_much(true));
        assert_eq!(own.look(&queue(300)), Congestion::OwnShare);
        assert_eq!(own.look(&queue(13_000)), Congestion::NoRoom);
        own.sent(100);
        assert_eq!(own.look(&queue(200)), Congestion::None);
        assert_eq!(own.look(&queue(9_000)), Congestion::OwnShare);
        own.sent(290);
        assert_eq!(own.look(&queue(1 << 14)), Congestion::None);
    }
}
