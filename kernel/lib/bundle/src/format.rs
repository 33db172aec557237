//! The bundle on the wire: the fixed header and the directory. [`crate::reader`] and [`crate::writer`] share it.

use crate::config::Config;
use crate::error::BundleError;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// What a bundle starts with.
pub(crate) const MAGIC: [u8; 8] = *b"PLINTH\x1aB";

/// Version of the format and of the configuration in it.
pub const VERSION: u32 = 5;

/// Files start at multiples of this, so that the hypervisor may map or copy them by pages.
pub const FILE_ALIGNMENT: u64 = 4096;

/// The largest bundle there may be: it has to fit below 4 GiB beside everything else.
pub const MAX_BUNDLE_BYTES: u64 = 2 << 30;

/// Size of [`Header`] on the wire.
pub(crate) const HEADER_BYTES: usize = 64;

/// Offset of the header's own checksum, which is computed as if these four bytes were zero.
const HEADER_CRC_OFFSET: usize = 12;

/// The fixed part at the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) total_bytes: u64,
    pub(crate) directory_offset: u64,
    pub(crate) directory_bytes: u64,
    pub(crate) directory_crc32: u32,
}

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.total_bytes.to_le_bytes());
        out.extend_from_slice(&self.directory_offset.to_le_bytes());
        out.extend_from_slice(&self.directory_bytes.to_le_bytes());
        out.extend_from_slice(&self.directory_crc32.to_le_bytes());
        let mut bytes = [0; HEADER_BYTES];
        for (to, from) in bytes.iter_mut().zip(out) {
            *to = from;
        }
        let crc = header_crc32(&bytes).to_le_bytes();
        for (to, from) in bytes.iter_mut().skip(HEADER_CRC_OFFSET).zip(crc) {
            *to = from;
        }
        bytes
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let truncated = BundleError::Truncated {
            expected_bytes: HEADER_BYTES as u64,
            actual_bytes: bytes.len() as u64,
        };
        if bytes.get(..MAGIC.len()).ok_or(truncated)? != MAGIC {
            return Err(BundleError::BadMagic);
        }
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(truncated)?;
        // The version comes before the checksum: another version may lay out the rest in another way.
        let version = read_u32(header, 8);
        if version != VERSION {
            return Err(BundleError::WrongVersion { found: version });
        }
        if read_u32(header, HEADER_CRC_OFFSET) != header_crc32(header) {
            return Err(BundleError::HeaderDamaged);
        }
        Ok(Self {
            total_bytes: read_u64(header, 16),
            directory_offset: read_u64(header, 24),
            directory_bytes: read_u64(header, 32),
            directory_crc32: read_u32(header, 40),
        })
    }
}

fn header_crc32(header: &[u8; HEADER_BYTES]) -> u32 {
    let mut copy = *header;
    for byte in copy.iter_mut().skip(HEADER_CRC_OFFSET).take(4) {
        *byte = 0;
    }
    crc32fast::hash(&copy)
}

/// The four bytes at `offset`; zero past the end, which callers exclude by the type of the array they pass.
pub(crate) fn read_u32(bytes: &[u8], offset: usize) -> u32 {
    bytes
        .get(offset..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// The eight bytes at `offset`; zero past the end, which callers exclude by the type of the array they pass.
pub(crate) fn read_u64(bytes: &[u8], offset: usize) -> u64 {
    bytes
        .get(offset..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

/// The part that says what is in the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Directory {
    pub(crate) config: Config,
    pub(crate) files: Vec<FileEntry>,
}

/// One file's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileEntry {
    pub(crate) name: String,
    pub(crate) offset: u64,
    pub(crate) stored_bytes: u64,
    /// Length once decoded.
    pub(crate) length: u64,
    /// Of the bytes as they are stored.
    pub(crate) crc32: u32,
    pub(crate) encoding: Encoding,
}

/// How a file's bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Encoding {
    /// As they are.
    Plain,
    /// As one LZ4 block.
    Lz4,
}
