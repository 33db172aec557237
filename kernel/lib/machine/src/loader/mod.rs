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
#[cfg(test)]
mod fuzz;
mod linux;
mod multiboot;
mod multiboot2;
mod paging;
mod parts;
mod pvh;
mod sections;
mod space;
mod start;

use arch::{Cr0, SegmentName};
use memory::{GuestMemory, GuestPhys};

pub use error::LoadError;
#[cfg(test)]
pub(crate) use fake::FakeMemory;
pub use space::Placement;
use space::Space;
pub use start::InitialState;

use crate::layout::MachineLayout;
use crate::{Display, Handover};

/// The formats of kernel files.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// A Linux bzImage.
    Linux,
    /// ELF with a PVH entry note.
    Pvh,
    /// An image with a Multiboot header, version 1.
    Multiboot,
    /// An image with a Multiboot2 header.
    Multiboot2,
    /// ELF with none of these, entered in the mode of its class.
    Elf,
    /// Raw bytes, started in real mode.
    Flat {
        /// Where they go.
        address: GuestPhys,
    },
}

impl Format {
    /// A boot sector: raw bytes at 0x7c00.
    pub const BOOT_SECTOR: Self = Self::Flat {
        address: flat::BOOT_SECTOR,
    };

    /// Checks that its boot protocol has a way to pass on all that is requested: nothing is left out in silence.
    fn accepts(self, request: &Request<'_>) -> Result<(), LoadError> {
        let has_files = request.initrd.is_some() || !request.modules.is_empty();
        match self {
            Self::Pvh | Self::Multiboot | Self::Multiboot2 => Ok(()),
            Self::Linux if request.modules.is_empty() => Ok(()),
            Self::Linux => Err(LoadError::Unsupported(
                "a Linux kernel takes an initial RAM disk and no modules",
            )),
            Self::Elf | Self::Flat { .. } if has_files => Err(LoadError::Unsupported(
                "a plain ELF file or flat binary takes no initial RAM disk and no modules",
            )),
            Self::Elf | Self::Flat { .. } if !request.cmdline.is_empty() => Err(
                LoadError::Unsupported("a plain ELF file or flat binary takes no command line"),
            ),
            Self::Elf | Self::Flat { .. } => Ok(()),
        }
    }
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
    /// Whether there is a text screen that the kernel can be told of.
    pub display: Display,
}

/// A kernel that is ready to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// What it was.
    pub format: Format,
    /// How the boot CPU enters it.
    pub state: InitialState,
    /// In which state it expects the devices.
    pub handover: Handover,
    /// What lies where.
    pub placement: Placement,
}

/// Tells the format of a kernel file. Of several headers in one file, the one that tells the kernel most about
/// the machine counts: Linux, PVH, Multiboot2, Multiboot, ELF.
///
/// # Errors
/// [`LoadError::UnknownFormat`], or what is wrong with the header that it has.
pub fn detect(file: &[u8]) -> Result<Format, LoadError> {
    if linux::is_linux(file) {
        return Ok(Format::Linux);
    }
    let is_elf = file.starts_with(&elf::MAGIC);
    if is_elf && elf::Elf::parse(file)?.pvh_entry().is_some() {
        return Ok(Format::Pvh);
    }
    if multiboot2::is_multiboot2(file) {
        return Ok(Format::Multiboot2);
    }
    if multiboot::is_multiboot(file) {
        return Ok(Format::Multiboot);
    }
    if is_elf {
        return Ok(Format::Elf);
    }
    if flat::is_boot_sector(file) {
        return Ok(Format::BOOT_SECTOR);
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
    format.accepts(request)?;
    let mut space = Space::new(&request.layout);
    let state = match format {
        Format::Linux => linux::load(request, memory, &mut space)?,
        Format::Pvh => pvh::load(request, memory, &mut space)?,
        Format::Multiboot => multiboot::load(request, memory, &mut space)?,
        Format::Multiboot2 => multiboot2::load(request, memory, &mut space)?,
        Format::Elf => elf::load(request, memory, &mut space)?,
        Format::Flat { address } => flat::load(request, address, memory, &mut space)?,
    };
    let code = state.segment(SegmentName::Cs);
    let placement = Placement {
        entry: GuestPhys::new(code.base.wrapping_add(state.rip)),
        ..space.placement
    };
    let handover = match format {
        // The boot protocol promises a PC as its BIOS leaves it.
        Format::Multiboot | Format::Multiboot2 | Format::Flat { .. } => Handover::Bios,
        // And real-mode code calls it.
        Format::Linux if !state.cr0.contains(Cr0::PE) => Handover::Bios,
        Format::Linux | Format::Pvh | Format::Elf => Handover::PowerOn,
    };
    Ok(Loaded {
        format,
        state,
        handover,
        placement,
    })
}

#[cfg(test)]
mod tests {
    use super::fake::FakeMemory;
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
            display: Display::Absent,
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

    #[test]
    fn where_things_were_put_is_told() {
        let long = linux::tests::bzimage(0x20c);
        let elf = multiboot::tests::elf_kernel();
        let elf2 = multiboot2::tests::insisting_on(&[]);
        let flat = multiboot::tests::flat_kernel();
        for kernel in [&long, &elf, &elf2, &flat] {
            let memory = FakeMemory::new(16 << 20);
            let request = Request {
                initrd: Some(b"disk"),
                cmdline: "quiet please",
                layout: MachineLayout::new(16 << 20, 1),
                ..request(kernel)
            };
            let loaded = load(&request, &memory).unwrap();
            let placement = loaded.placement;
            let at = |address: Option<GuestPhys>| address.unwrap().as_u64();
            assert_eq!(memory.string(at(placement.cmdline)), b"quiet please");
            assert_eq!(memory.bytes(at(placement.initrd), 4), b"disk");
            assert_eq!(placement.entry.as_u64(), loaded.state.rip);
            assert!(placement.kernel.unwrap() <= placement.entry);
            let is_linux = loaded.format == Format::Linux;
            assert_eq!(placement.setup_bytes, if is_linux { 0x400 } else { 0 });
            if let Some(setup) = placement.setup {
                assert_eq!(memory.bytes(setup.as_u64() + 0x202, 4), b"HdrS");
            }
        }
    }

    #[test]
    fn what_a_boot_protocol_cannot_pass_on_is_refused() {
        let memory = FakeMemory::new(2 << 20);
        let plain = &fake::elf(
            1,
            0x10_0000,
            &[fake::FakeSegment {
                kind: 1,
                virtual_address: 0x10_0000,
                physical_address: 0x10_0000,
                memory_bytes: 0x200,
                contents: &[0x90; 0x100],
            }],
        );
        let linux = linux::tests::bzimage(0x206);
        let module = [Module {
            bytes: b"module",
            cmdline: "",
        }];
        for request in [
            Request {
                modules: &module,
                ..request(&linux)
            },
            Request {
                modules: &module,
                ..request(plain)
            },
            Request {
                initrd: Some(b"disk"),
                ..request(plain)
            },
            Request {
                cmdline: "quiet",
                ..request(plain)
            },
        ] {
            let error = load(&request, &memory).unwrap_err();
            assert!(matches!(error, LoadError::Unsupported(_)), "{error}");
        }
    }
}
