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
mod linux;
mod multiboot;
mod multiboot2;
mod paging;
mod parts;
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
}

/// A kernel that is ready to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// What it was.
    pub format: Format,
    /// How the boot CPU enters it.
    pub state: InitialState,
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
    let state = match format {
        Format::Linux => linux::load(request, memory)?,
        Format::Pvh => pvh::load(request, memory)?,
        Format::Multiboot => multiboot::load(request, memory)?,
        Format::Multiboot2 => multiboot2::load(request, memory)?,
        Format::Elf => elf::load(request, memory)?,
        Format::Flat { address } => flat::load(request, address, memory)?,
    };
    Ok(Loaded { format, state })
}

#[cfg(test)]
mod tests {
    use super::fake::FakeMemory;
    use super::*;
    use alloc::vec::Vec;
    use proptest::collection::vec;
    use proptest::prelude::*;

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

    #[test]
    fn what_a_boot_protocol_cannot_pass_on_is_refused() {
        let memory = FakeMemory::new(2 << 20);
        let plain = &seeds()[0];
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

    /// Loads a file and checks the two promises: an error or a kernel, and never a write outside RAM.
    fn load_safely(request: &Request<'_>) {
        let memory = FakeMemory::new(request.layout.ram_bytes() as usize);
        if let Err(LoadError::Unbacked(gpa)) = load(request, &memory) {
            panic!("wrote outside RAM, at {gpa}");
        }
    }

    /// Small files of each format, good ones.
    fn seeds() -> [Vec<u8>; 8] {
        let segment = |kind, contents| fake::FakeSegment {
            kind,
            virtual_address: 0x10_0000,
            physical_address: 0x10_0000,
            memory_bytes: 0x200,
            contents,
        };
        let note = b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0\x04\0\x10\0\0\0\0\0";
        let code: &[u8] = &[0x90; 0x100];
        [
            fake::elf(1, 0x10_0000, &[segment(1, code)]),
            fake::elf(2, 0x10_0000, &[segment(1, code)]),
            fake::elf(2, 0x10_0000, &[segment(1, code), segment(4, note)]),
            linux::tests::bzimage(0x20f),
            linux::tests::bzimage(0x206),
            multiboot::tests::elf_kernel(),
            multiboot::tests::flat_kernel(),
            multiboot2::tests::kernel(),
        ]
    }

    /// Numbers that loaders stumble over.
    const EVIL: [u64; 12] = [
        0,
        1,
        3,
        0x1000,
        0xa_0000,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x1_0000_0000,
        i64::MAX as u64,
        u64::MAX - 1,
        u64::MAX,
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_file_with_wrong_fields_does_no_harm(
            seed in 0usize..8,
            changes in vec((prop_oneof![0usize..0x100, 0usize..0x300], 0..EVIL.len(), 1usize..=8), 1..4),
            cut in any::<Option<u16>>(),
            initrd_bytes in prop_oneof![Just(0usize), Just(0x1800), Just(3 << 20)],
        ) {
            let mut file = seeds()[seed].clone();
            for (at, evil, width) in changes {
                for (place, byte) in
                    file.iter_mut().skip(at).take(width).zip(EVIL[evil].to_le_bytes())
                {
                    *place = byte;
                }
            }
            if let Some(cut) = cut {
                file.truncate(usize::from(cut) % (file.len() + 1));
            }
            let initrd = alloc::vec![0; initrd_bytes];
            let request = Request { initrd: Some(&initrd), cmdline: "quiet", ..request(&file) };
            load_safely(&request);
        }

        #[test]
        fn random_bytes_behind_each_magic_number_do_no_harm(
            magic in prop_oneof![Just((0usize, *b"\x7fELF")), Just((0x202, *b"HdrS"))],
            bytes in vec(any::<u8>(), 0..0x500),
            megabytes in 0u64..4,
        ) {
            let mut file = bytes;
            for (place, byte) in file.iter_mut().skip(magic.0).zip(magic.1) {
                *place = byte;
            }
            if let Some(flag) = file.get_mut(0x1fe..0x200) {
                flag.copy_from_slice(&[0x55, 0xaa]);
            }
            let layout = MachineLayout::new(megabytes << 20, 1);
            load_safely(&Request { layout, ..request(&file) });
        }

        #[test]
        fn a_flat_binary_at_any_address_does_no_harm(
            address in prop_oneof![any::<u64>(), 0u64..0x20_0000],
            bytes in 0usize..0x1000,
        ) {
            let file = alloc::vec![0x90; bytes];
            let format = Some(Format::Flat { address: GuestPhys::new(address) });
            load_safely(&Request { format, ..request(&file) });
        }
    }
}
