//! [`LoadError`]: why a kernel file cannot be started, in one line each.

use core::fmt;

use memory::{GuestPhys, Unbacked};

/// Why a kernel cannot be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoadError {
    /// No known header.
    UnknownFormat,
    /// The file ends before this part of it.
    Truncated(&'static str),
    /// A field that makes no sense.
    Malformed(&'static str),
    /// A kind of kernel that cannot run here.
    Unsupported(&'static str),
    /// A Linux boot protocol older than 2.06, by its number.
    OldBootProtocol(u16),
    /// A part of the kernel wants to lie where the machine has no free RAM.
    OutsideMemory {
        /// Which part.
        what: &'static str,
        /// Its first address.
        start: u64,
        /// Its size.
        bytes: u64,
    },
    /// No free RAM is large enough for this.
    NoRoom {
        /// For what.
        what: &'static str,
        /// Its size.
        bytes: u64,
    },
    /// The command line is longer than the kernel takes.
    CommandLineTooLong {
        /// Its length.
        bytes: u64,
        /// The most that the kernel takes.
        limit: u64,
    },
    /// The guest memory refused a write although the layout has RAM there.
    Unbacked(GuestPhys),
}

impl From<Unbacked> for LoadError {
    fn from(Unbacked(gpa): Unbacked) -> Self {
        Self::Unbacked(gpa)
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownFormat => f.write_str(
                "the kernel's format is not known: it is no ELF file, Linux bzImage, Multiboot image or boot sector; \
                 use another file, or say its format (--format, format = ...)",
            ),
            Self::Truncated(what) => write!(f, "the kernel file is cut short: {what} is missing"),
            Self::Malformed(what) => write!(f, "the kernel file is damaged: {what}"),
            Self::Unsupported(what) => write!(f, "this kind of kernel cannot run here: {what}"),
            Self::OldBootProtocol(version) => write!(
                f,
                "the Linux kernel is too old: boot protocol {}.{:02}, needed is 2.06",
                version >> 8,
                version & 0xff
            ),
            Self::OutsideMemory { what, start, bytes } => write!(
                f,
                "{what} wants {bytes} bytes at {start:#x}, where the machine has no free RAM; give it more memory"
            ),
            Self::NoRoom { what, bytes } => {
                write!(f, "no room for {what} ({bytes} bytes); give the machine more memory")
            }
            Self::CommandLineTooLong { bytes, limit } => {
                write!(f, "the command line has {bytes} bytes, the kernel takes {limit}")
            }
            Self::Unbacked(gpa) => write!(f, "no guest memory at {gpa}"),
        }
    }
}

impl core::error::Error for LoadError {}
