//! Makes a bundle. Used on the host; it lives here so that the format has one home, and one test for both ways.

use crate::config::{Config, FileIndex};
use crate::format::{
    Directory, Encoding, FILE_ALIGNMENT, FileEntry, HEADER_BYTES, Header, MAX_BUNDLE_BYTES,
};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// Whether files are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Never: the bundle is placed in memory at no cost.
    Off,
    /// Where it saves an eighth or more: the bundle is copied by a slow boot loader.
    WhereItPays,
}

/// A bundle in the making.
#[derive(Debug)]
pub struct Writer {
    compression: Compression,
    files: Vec<(FileEntry, Vec<u8>)>,
}

/// Why a bundle could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// The files are more than a bundle can hold.
    TooLarge {
        /// What they come to.
        bytes: u64,
    },
    /// The configuration could not be encoded.
    Encoding,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { bytes } => write!(
                f,
                "the guests come to {bytes} bytes, a bundle holds {MAX_BUNDLE_BYTES}: \
                 use smaller kernels and RAM disks"
            ),
            Self::Encoding => write!(f, "the configuration cannot be encoded"),
        }
    }
}

impl core::error::Error for WriteError {}

impl Writer {
    /// An empty bundle.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        Self {
            compression,
            files: Vec::new(),
        }
    }

    /// Adds a file, and says under which index the configuration names it. A file that is there already, under
    /// whatever name, is not stored a second time.
    pub fn add_file(&mut self, name: impl Into<String>, contents: Vec<u8>) -> FileIndex {
        let length = contents.len() as u64;
        let (encoding, stored) = self.encode(contents);
        let same = |(entry, other): &(FileEntry, Vec<u8>)| {
            entry.encoding == encoding && entry.length == length && *other == stored
        };
        let index = self.files.iter().position(same).unwrap_or_else(|| {
            let entry = FileEntry {
                name: name.into(),
                offset: 0,
                stored_bytes: stored.len() as u64,
                length,
                crc32: crc32fast::hash(&stored),
                encoding,
            };
            self.files.push((entry, stored));
            self.files.len().wrapping_sub(1)
        });
        // A bundle of 2 GiB has no room for 2^32 directory entries, so `finish` fails long before this saturates.
        FileIndex(u32::try_from(index).unwrap_or(u32::MAX))
    }

    fn encode(&self, contents: Vec<u8>) -> (Encoding, Vec<u8>) {
        match self.compression {
            Compression::Off => (Encoding::Plain, contents),
            Compression::WhereItPays => {
                let packed = lz4_flex::block::compress(&contents);
                let worth_it = contents.len().saturating_sub(contents.len() / 8);
                if packed.len() <= worth_it && !contents.is_empty() {
                    (Encoding::Lz4, packed)
                } else {
                    (Encoding::Plain, contents)
                }
            }
        }
    }

    /// The finished bundle.
    ///
    /// # Errors
    /// The bundle would be too large.
    pub fn finish(self, config: Config) -> Result<Vec<u8>, WriteError> {
        let (mut files, contents): (Vec<_>, Vec<_>) = self.files.into_iter().unzip();
        let stored: u64 = contents.iter().map(|file| file.len() as u64).sum();
        if stored > MAX_BUNDLE_BYTES {
            return Err(WriteError::TooLarge { bytes: stored });
        }
        // The offsets are part of the directory, whose length (numbers are of variable length) decides where the
        // files begin. With every offset at its largest the directory takes the most room it can.
        for file in &mut files {
            file.offset = MAX_BUNDLE_BYTES;
        }
        let mut directory = Directory { config, files };
        let room = postcard::to_allocvec(&directory)
            .map_err(|_| WriteError::Encoding)?
            .len();
        let mut end = (HEADER_BYTES as u64).saturating_add(room as u64);
        for file in &mut directory.files {
            file.offset = end.next_multiple_of(FILE_ALIGNMENT);
            end = file.offset.saturating_add(file.stored_bytes);
        }
        if end > MAX_BUNDLE_BYTES {
            return Err(WriteError::TooLarge { bytes: end });
        }

        let encoded = postcard::to_allocvec(&directory).map_err(|_| WriteError::Encoding)?;
        let header = Header {
            total_bytes: end,
            directory_offset: HEADER_BYTES as u64,
            directory_bytes: encoded.len() as u64,
            directory_crc32: crc32fast::hash(&encoded),
        };
        let mut out = Vec::with_capacity(usize::try_from(end).unwrap_or(0));
        out.extend_from_slice(&header.to_bytes());
        out.extend_from_slice(&encoded);
        for (entry, contents) in directory.files.iter().zip(contents) {
            out.resize(usize::try_from(entry.offset).unwrap_or(out.len()), 0);
            out.extend_from_slice(&contents);
        }
        // Without files the directory may have come out shorter than the room kept for it.
        out.resize(usize::try_from(end).unwrap_or(out.len()), 0);
        Ok(out)
    }
}
