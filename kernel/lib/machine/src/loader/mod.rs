//! Puts a kernel into a guest's memory and says how to enter it.
//!
//! [`detect`] tells the [`Format`] of a file from its contents; [`load`] checks every offset and length in it,
//! writes the kernel and what its boot protocol wants beside it, and returns the registers of the first
//! instruction. The file is the only input that is not trusted: whatever it says, nothing is written outside
//! the RAM of the machine.

mod elf;
mod error;
#[cfg(test)]
mod fake;
mod fields;
mod flat;
mod paging;
mod pvh;
mod space;
mod start;

use memory::{GuestMemory, GuestPhys};

pub use error::LoadError;
pub use start::InitialState;

use crate::layout::MachineLayout;

/// The formats of kernel files.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// ELF with a PVH entry note.
    Pvh,
    /// ELF without one, entered in the mode of its class.
    Elf,
    /// Raw bytes, started in real mode.
    Flat {
        /// Where they go.
        address: GuestPhys,
    },
}

/// A boot module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Module<'a> {
    /// Its contents.
    pub bytes: &'a [u8],
    /// Its command line.
    pub cmdline: &'a str,
}

/// What is to be loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request<'a> {
    /// The kernel file.
    pub kernel: &'a [u8],
    /// Its format; `None` to find out.
    pub format: Option<Format>,
    /// The initial RAM disk.
    pub initrd: Option<&'a [u8]>,
    /// Boot modules.
    pub modules: &'a [Module<'a>],
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// The machine to be filled.
    pub layout: MachineLayout,
    /// Where the ACPI tables start.
    pub rsdp: Option<GuestPhys>,
}

/// A kernel that is ready to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// What it was.
    pub format: Format,
    /// How the boot CPU enters it.
    pub state: InitialState,
}

/// Tells the format of a kernel file.
///
/// # Errors
/// [`LoadError::UnknownFormat`], or what is wrong with the header that it has.
pub fn detect(file: &[u8]) -> Result<Format, LoadError> {
    if file.starts_with(&elf::MAGIC) {
        let elf = elf::Elf::parse(file)?;
        return Ok(if elf.pvh_entry().is_some() {
            Format::Pvh
        } else {
            Format::Elf
        });
    }
    if flat::is_boot_sector(file) {
        return Ok(Format::Flat {
            address: flat::BOOT_SECTOR,
        });
    }
    Err(LoadError::UnknownFormat)
}

/// Loads a kernel into the memory of a machine.
///
/// # Errors
/// Why it cannot be started; what was written to guest memory by then stays there.
pub fn load(request: &Request<'_>, memory: &impl GuestMemory) -> Result<Loaded, LoadError> {
    let format = match request.format {
        Some(format) => format,
        None => detect(request.kernel)?,
    };
    let state = match format {
        Format::Pvh => pvh::load(request, memory)?,
        Format::Elf => elf::load(request, memory)?,
        Format::Flat { address } => flat::load(request, address, memory)?,
    };
    Ok(Loaded { format, state })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn request(kernel: &[u8]) -> Request<'_> {
        Request {
            kernel,
            format: None,
            initrd: None,
            modules: &[],
            cmdline: "",
            layout: MachineLayout::new(2 << 20, 1),
            rsdp: None,
        }
    }

    #[test]
    fn a_file_without_a_known_header_is_refused() {
        assert_eq!(detect(&[]), Err(LoadError::UnknownFormat));
        assert_eq!(detect(&[0; 4096]), Err(LoadError::UnknownFormat));
        assert_eq!(
            detect(b"\x7fELF"),
            Err(LoadError::Truncated("the ELF header"))
        );
    }
}
