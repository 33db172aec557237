//! What can be wrong with a bundle. Each message is one line that says what is wrong and what to do about it.

use crate::config::FileIndex;
use crate::format::{MAX_BUNDLE_BYTES, VERSION};
use alloc::string::String;
use core::fmt;

/// The bundle as a whole cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleError {
    /// It ends before it should.
    Truncated {
        /// Bytes that there should be.
        expected_bytes: u64,
        /// Bytes that there are.
        actual_bytes: u64,
    },
    /// It is not a bundle at all.
    BadMagic,
    /// It was made by another version of the tools.
    WrongVersion {
        /// The version it names.
        found: u32,
    },
    /// The header's checksum is wrong.
    HeaderDamaged,
    /// The directory's checksum is wrong, or it makes no sense in spite of it.
    DirectoryDamaged,
    /// It is larger than any bundle may be.
    TooLarge {
        /// The length it names.
        bytes: u64,
    },
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated {
                expected_bytes,
                actual_bytes,
            } => write!(
                f,
                "the guest bundle is cut short ({actual_bytes} of {expected_bytes} bytes): \
                 make and write the image again"
            ),
            Self::BadMagic => write!(
                f,
                "the boot loader's RAM disk is no guest bundle: make the image with `cargo xtask image`"
            ),
            Self::WrongVersion { found } => write!(
                f,
                "the guest bundle has format version {found}, this hypervisor reads {VERSION}: \
                 make hypervisor and bundle with the same `cargo xtask`"
            ),
            Self::HeaderDamaged => write!(
                f,
                "the guest bundle's header is damaged (wrong checksum): make and write the image again"
            ),
            Self::DirectoryDamaged => write!(
                f,
                "the guest bundle's directory is damaged (wrong checksum): make and write the image again"
            ),
            Self::TooLarge { bytes } => write!(
                f,
                "the guest bundle claims {bytes} bytes, at most {MAX_BUNDLE_BYTES} are possible: \
                 use smaller kernels and RAM disks"
            ),
        }
    }
}

impl core::error::Error for BundleError {}

/// One file cannot be used; machines that do not need it are not concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileError {
    /// The configuration names a file that the bundle does not have.
    Missing {
        /// The number it names.
        index: FileIndex,
    },
    /// Its place lies outside the bundle.
    OutOfBounds {
        /// The file's name.
        name: String,
    },
    /// Its checksum is wrong.
    Damaged {
        /// The file's name.
        name: String,
    },
    /// Its checksum is right, but it does not unpack to what it should be.
    Undecodable {
        /// The file's name.
        name: String,
    },
    /// There is not enough memory to unpack it.
    NoMemory {
        /// The file's name.
        name: String,
        /// Its length when unpacked.
        bytes: u64,
    },
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { index } => write!(
                f,
                "the guest bundle has no file number {}: make the image again",
                index.0
            ),
            Self::OutOfBounds { name } => write!(
                f,
                "`{name}` lies outside the guest bundle: make and write the image again"
            ),
            Self::Damaged { name } => write!(
                f,
                "`{name}` in the guest bundle is damaged (wrong checksum): make and write the image again"
            ),
            Self::Undecodable { name } => write!(
                f,
                "`{name}` in the guest bundle does not unpack: make the image again"
            ),
            Self::NoMemory { name, bytes } => write!(
                f,
                "no memory to unpack `{name}` ({bytes} bytes): give the machine more memory or the guests less"
            ),
        }
    }
}

impl core::error::Error for FileError {}
