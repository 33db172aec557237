//! [`Fifo`]: the characters that a serial port has received and its guest has not read.

use super::LineStatus;

/// Bytes in the receive FIFO, and in the transmitter's.
pub(super) const FIFO_BYTES: usize = 16;

/// A received character with what went wrong on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Character {
    pub(super) byte: u8,
    pub(super) errors: LineStatus,
}

/// The receive FIFO, or the one-byte buffer when FIFOs are off.
#[derive(Debug)]
pub(super) struct Fifo {
    slots: [Character; FIFO_BYTES],
    first: usize,
    count: usize,
}

impl Fifo {
    /// How many characters wait.
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    pub(super) const fn new() -> Self {
        let empty = Character {
            byte: 0,
            errors: LineStatus::empty(),
        };
        Self {
            slots: [empty; FIFO_BYTES],
            first: 0,
            count: 0,
        }
    }

    pub(super) fn push(&mut self, character: Character) {
        if let Some(slot) = self.slots.get_mut((self.first + self.count) % FIFO_BYTES) {
            *slot = character;
            self.count = (self.count + 1).min(FIFO_BYTES);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Character> {
        let character = self.front()?;
        self.first = (self.first + 1) % FIFO_BYTES;
        self.count -= 1;
        Some(character)
    }

    pub(super) fn front(&self) -> Option<Character> {
        if self.count == 0 {
            None
        } else {
            self.slots.get(self.first).copied()
        }
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut Character> {
        if self.count == 0 {
            None
        } else {
            self.slots.get_mut(self.first)
        }
    }

    pub(super) fn has_errors(&self) -> bool {
        (0..self.count).any(|index| {
            self.slots
                .get((self.first + index) % FIFO_BYTES)
                .is_some_and(|character| !character.errors.is_empty())
        })
    }

    pub(super) fn clear(&mut self) {
        self.count = 0;
    }
}
