//! Reads a bundle: [`Bundle`] checks the frame and the directory, [`File`] one file.

use crate::config::{Config, FileIndex};
use crate::error::{BundleError, FileError};
use crate::format::{Directory, Encoding, FileEntry, Header, MAX_BUNDLE_BYTES};
use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

/// A bundle whose header and directory have been verified.
#[derive(Debug)]
pub struct Bundle<'a> {
    bytes: &'a [u8],
    directory: Directory,
    /// Which files were verified: a machine that starts again and again need not wait for it each time.
    verified: Vec<AtomicBool>,
}

impl<'a> Bundle<'a> {
    /// Verifies the header and the directory; the files are verified one by one in [`Bundle::file`].
    ///
    /// Bytes after the end of the bundle are allowed: a RAM disk may be padded.
    ///
    /// # Errors
    /// The bundle as a whole is unusable.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BundleError> {
        let header = Header::parse(bytes)?;
        if header.total_bytes > MAX_BUNDLE_BYTES {
            return Err(BundleError::TooLarge {
                bytes: header.total_bytes,
            });
        }
        let bytes = slice(bytes, 0, header.total_bytes).ok_or(BundleError::Truncated {
            expected_bytes: header.total_bytes,
            actual_bytes: bytes.len() as u64,
        })?;
        let directory = slice(bytes, header.directory_offset, header.directory_bytes)
            .ok_or(BundleError::DirectoryDamaged)?;
        if crc32fast::hash(directory) != header.directory_crc32 {
            return Err(BundleError::DirectoryDamaged);
        }
        let directory = postcard::from_bytes::<Directory>(directory)
            .map_err(|_| BundleError::DirectoryDamaged)?;
        let verified = directory.files.iter().map(|_| AtomicBool::new(false));
        Ok(Self {
            bytes,
            verified: verified.collect(),
            directory,
        })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.directory.config
    }

    /// Length of the bundle.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// A file, once its checksum has been verified, which it is when it is asked for the first time.
    ///
    /// # Errors
    /// The file is missing or damaged.
    pub fn file(&self, index: FileIndex) -> Result<File<'_>, FileError> {
        let place = usize::try_from(index.0).map_err(|_| FileError::Missing { index })?;
        let files = self
            .directory
            .files
            .get(place)
            .zip(self.verified.get(place));
        let (entry, verified) = files.ok_or(FileError::Missing { index })?;
        let stored =
            slice(self.bytes, entry.offset, entry.stored_bytes).ok_or(FileError::OutOfBounds {
                name: entry.name.clone(),
            })?;
        if !verified.load(Ordering::Relaxed) {
            if crc32fast::hash(stored) != entry.crc32 {
                return Err(FileError::Damaged {
                    name: entry.name.clone(),
                });
            }
            verified.store(true, Ordering::Relaxed);
        }
        Ok(File { entry, stored })
    }
}

/// A file whose checksum has been verified.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    entry: &'a FileEntry,
    stored: &'a [u8],
}

impl<'a> File<'a> {
    /// Its name: for messages.
    #[must_use]
    pub fn name(&self) -> &'a str {
        &self.entry.name
    }

    /// Its contents: a part of the bundle, or a copy where it was compressed.
    ///
    /// # Errors
    /// It does not unpack to the length it should have, or there is no memory for that.
    pub fn contents(&self) -> Result<Cow<'a, [u8]>, FileError> {
        let undecodable = || FileError::Undecodable {
            name: self.entry.name.clone(),
        };
        match self.entry.encoding {
            Encoding::Plain => Ok(Cow::Borrowed(self.stored)),
            Encoding::Lz4 => {
                if self.entry.length > MAX_BUNDLE_BYTES {
                    return Err(undecodable());
                }
                let length = usize::try_from(self.entry.length).map_err(|_| undecodable())?;
                let mut contents = Vec::new();
                if contents.try_reserve_exact(length).is_err() {
                    return Err(FileError::NoMemory {
                        name: self.entry.name.clone(),
                        bytes: self.entry.length,
                    });
                }
                contents.resize(length, 0);
                let written = lz4_flex::block::decompress_into(self.stored, &mut contents)
                    .map_err(|_| undecodable())?;
                if written == length {
                    Ok(Cow::Owned(contents))
                } else {
                    Err(undecodable())
                }
            }
        }
    }
}

fn slice(bytes: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    bytes.get(start..end)
}
