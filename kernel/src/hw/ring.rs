//! A queue of bytes of a fixed size, without a heap.

/// Up to `SIZE` bytes, first in, first out.
pub(crate) struct Ring<const SIZE: usize> {
    bytes: [u8; SIZE],
    first: usize,
    len: usize,
}

/// The ring is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full;

impl<const SIZE: usize> Ring<SIZE> {
    /// An empty ring.
    pub(crate) const fn new() -> Self {
        const { assert!(SIZE.is_power_of_two(), "so that a position is one mask away") };
        Self { bytes: [0; SIZE], first: 0, len: 0 }
    }

    /// Bytes in it.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Adds a byte at the end.
    ///
    /// # Errors
    /// [`Full`]; the byte is not added.
    #[inline]
    pub(crate) const fn push(&mut self, byte: u8) -> Result<(), Full> {
        if self.len == SIZE {
            return Err(Full);
        }
        self.bytes[(self.first + self.len) & (SIZE - 1)] = byte;
        self.len += 1;
        Ok(())
    }

    /// Takes the first byte.
    pub(crate) const fn pop(&mut self) -> Option<u8> {
        if self.len == 0 {
            return None;
        }
        let byte = self.bytes[self.first];
        self.discard(1);
        Some(byte)
    }

    /// The first bytes, as many as lie together; `None` where there are none.
    pub(crate) fn first_piece(&self) -> Option<&[u8]> {
        let end = (self.first + self.len).min(SIZE);
        (self.len > 0).then(|| &self.bytes[self.first..end])
    }

    /// Takes away the first `count` bytes, or all if there are fewer.
    pub(crate) const fn discard(&mut self, count: usize) {
        let count = if count < self.len { count } else { self.len };
        self.first = (self.first + count) & (SIZE - 1);
        self.len -= count;
    }

    /// Takes away all bytes.
    pub(crate) const fn clear(&mut self) {
        self.discard(self.len);
    }
}
