//! A queue of bytes of a fixed size, without a heap.

/// Up to `SIZE` bytes, first in, first out. The size is a power of two.
#[derive(Debug)]
pub struct Ring<const SIZE: usize> {
    bytes: [u8; SIZE],
    first: usize,
    len: usize,
}

/// The ring is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

impl<const SIZE: usize> Ring<SIZE> {
    /// An empty ring.
    pub const fn new() -> Self {
        const { assert!(SIZE.is_power_of_two(), "a position is one mask away") };
        Self {
            bytes: [0; SIZE],
            first: 0,
            len: 0,
        }
    }

    /// Bytes in it.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in it.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a byte at the end.
    ///
    /// # Errors
    /// [`Full`]; the byte is not added.
    #[inline]
    pub fn push(&mut self, byte: u8) -> Result<(), Full> {
        if self.len == SIZE {
            return Err(Full);
        }
        if let Some(slot) = self.bytes.get_mut((self.first + self.len) & (SIZE - 1)) {
            *slot = byte;
            self.len += 1;
        }
        Ok(())
    }

    /// Takes the first byte.
    pub fn pop(&mut self) -> Option<u8> {
        let byte = *self.first_piece()?.first()?;
        self.discard(1);
        Some(byte)
    }

    /// The first bytes, as many as lie together; `None` where there are none.
    pub fn first_piece(&self) -> Option<&[u8]> {
        let end = (self.first + self.len).min(SIZE);
        self.bytes
            .get(self.first..end)
            .filter(|piece| !piece.is_empty())
    }

    /// Takes away the first `count` bytes, or all if there are fewer.
    pub const fn discard(&mut self, count: usize) {
        let count = if count < self.len { count } else { self.len };
        self.first = (self.first + count) & (SIZE - 1);
        self.len -= count;
    }

    /// Takes away all bytes.
    pub const fn clear(&mut self) {
        self.discard(self.len);
    }
}

impl<const SIZE: usize> Default for Ring<SIZE> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::VecDeque;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_ring_takes_nothing_and_loses_nothing() {
        let mut ring = Ring::<4>::new();
        for byte in 1..=4 {
            assert_eq!(ring.push(byte), Ok(()));
        }
        assert_eq!(ring.push(5), Err(Full));
        assert_eq!(ring.first_piece(), Some(&[1, 2, 3, 4][..]));
        ring.discard(9);
        assert!(ring.is_empty());
        assert_eq!(ring.first_piece(), None);
    }

    proptest! {
        #[test]
        fn it_does_what_a_queue_does(steps in prop::collection::vec((0u8..3, 0usize..12), 0..200)) {
            let mut ring = Ring::<8>::new();
            let mut model = VecDeque::new();
            for (step, (what, count)) in steps.into_iter().enumerate() {
                match what {
                    0 => for byte in 0..count {
                        let byte = (step * 16 + byte) as u8;
                        if ring.push(byte).is_ok() {
                            model.push_back(byte);
                        } else {
                            prop_assert_eq!(model.len(), 8);
                        }
                    },
                    1 => prop_assert_eq!(ring.pop(), model.pop_front()),
                    _ => {
                        ring.discard(count);
                        model.drain(..count.min(model.len()));
                    }
                }
                prop_assert_eq!(ring.len(), model.len());
                let piece = ring.first_piece().unwrap_or_default();
                prop_assert_eq!(piece, &model.iter().copied().take(piece.len()).collect::<Vec<_>>()[..]);
                prop_assert_eq!(piece.is_empty(), model.is_empty());
            }
        }
    }
}
