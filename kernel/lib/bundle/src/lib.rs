//! What the host hands to the hypervisor: one blob with the configuration of the virtual machines and the files
//! they start from.
//!
//! The host (`cargo xtask`) makes it with [`Writer`]; the hypervisor reads it with [`Bundle::parse`]. The boot
//! loader delivers it as its RAM disk. In test runs the emulator places the bundle in memory by itself, which is
//! much faster; the RAM disk is then a [`Pointer`] to it. [`Ramdisk::inspect`] tells the two apart.
//!
//! On the wire (little endian):
//!
//! ```text
//! 0      Header: magic, version, checksums, total length, place and length of the directory
//! 64     Directory: `Config` and the list of files, in postcard's encoding
//! n*4096 each file, page-aligned, as it is or as one LZ4 block
//! ```
//!
//! A damaged header or directory spoils the bundle. A damaged file only spoils the machines that use it: its
//! checksum is verified when it is first asked for.

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

extern crate alloc;

mod config;
mod error;
mod format;
mod pointer;
mod reader;
mod writer;

pub use config::{
    ApicVirtualization, Autostart, CodePages, Config, Console, EndPolicy, FileIndex,
    HypervisorOptions, KernelFormat, LogLevel, Module, PanicPolicy, Placement, Screen, TestDevices,
    VmConfig, WhenDone,
};
pub use error::{BundleError, FileError};
pub use format::{FILE_ALIGNMENT, MAX_BUNDLE_BYTES, VERSION};
pub use pointer::{Pointer, Ramdisk};
pub use reader::{Bundle, File};
pub use writer::{Compression, WriteError, Writer};
