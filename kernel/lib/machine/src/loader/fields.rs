//! Little-endian fields of a kernel file, each read checked against the file's end.

use super::LoadError;

/// The bytes of a file, or of a part of it, with the name that an error gives it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Fields<'a> {
    pub(super) const fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, what }
    }

    /// `count` bytes from `offset` on.
    pub(super) fn slice(&self, offset: u64, count: u64) -> Result<&'a [u8], LoadError> {
        let slice = || {
            let start = usize::try_from(offset).ok()?;
            let end = start.checked_add(usize::try_from(count).ok()?)?;
            self.bytes.get(start..end)
        };
        slice().ok_or(LoadError::Truncated(self.what))
    }

    fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N], LoadError> {
        let slice = self.slice(offset, N as u64)?;
        slice
            .try_into()
            .map_err(|_| LoadError::Truncated(self.what))
    }

    pub(super) fn u8(&self, offset: u64) -> Result<u8, LoadError> {
        self.array(offset).map(u8::from_le_bytes)
    }

    pub(super) fn u16(&self, offset: u64) -> Result<u16, LoadError> {
        self.array(offset).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&self, offset: u64) -> Result<u32, LoadError> {
        self.array(offset).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&self, offset: u64) -> Result<u64, LoadError> {
        self.array(offset).map(u64::from_le_bytes)
    }
}
