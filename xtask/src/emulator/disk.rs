//! [`Disk`]: what a machine boots from, and how the bundle of its guests gets into it.

use super::files;
use anyhow::{Context, Result, bail};
use bundle::Pointer;
use std::fs;
use std::path::{Path, PathBuf};

/// What the machine boots from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disk {
    /// An image whose RAM disk is a pointer; the emulator itself loads the bundle. BIOS only: UEFI firmware uses
    /// memory as it likes.
    WithPointer {
        /// The image, which is copied.
        image: PathBuf,
        /// What the pointer is to point to.
        bundle: Vec<u8>,
    },
    /// An image with everything in it.
    Complete {
        /// The image, which is copied.
        image: PathBuf,
    },
}

/// Memory above this address may be something else: the windows of PCI devices start below 4 GiB.
const LOW_MEMORY_END_MIB: u32 = 2048;

/// Left free at the end of memory, where firmware keeps its tables.
const FIRMWARE_BYTES: u64 = 4 << 20;

/// A bundle starts at a multiple of this, so that it cuts no large page in two.
const BUNDLE_ALIGNMENT: u64 = 2 << 20;

/// The boot loader's and the hypervisor's own memory ends far below this.
const LOADER_BYTES: u64 = 48 << 20;

/// How much memory a machine needs to keep this much free below a bundle of this size.
#[must_use]
pub fn bytes_with_bundle(free_bytes: u64, bundle_bytes: u64) -> u64 {
    let below = free_bytes
        .max(LOADER_BYTES)
        .next_multiple_of(BUNDLE_ALIGNMENT);
    below + bundle_bytes.next_multiple_of(BUNDLE_ALIGNMENT) + FIRMWARE_BYTES
}

impl Disk {
    /// Writes the files of a run to its folder; where the emulator is to load the bundle in a machine with so much
    /// memory, if it is.
    pub(super) fn write_to(&self, folder: &Path, memory_mib: u32) -> Result<Option<u64>> {
        let disk = folder.join(files::DISK);
        match self {
            Self::Complete { image } => {
                fs::copy(image, &disk)
                    .with_context(|| format!("cannot copy {}", image.display()))?;
                Ok(None)
            }
            Self::WithPointer { image, bundle } => {
                let mut bytes =
                    fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
                let bundle_bytes = bundle.len() as u64;
                let address = bundle_address(memory_mib, bundle_bytes)?;
                let pointer = Pointer {
                    address,
                    bytes: bundle_bytes,
                };
                write_pointer(&mut bytes, pointer)
                    .with_context(|| format!("{} was not made for runs", image.display()))?;
                fs::write(&disk, bytes)?;
                fs::write(folder.join(files::BUNDLE), bundle)?;
                Ok(Some(address))
            }
        }
    }
}

/// Where the emulator puts a bundle of this size in a machine with so much memory: as high as it can, out of the way of
/// the boot loader, which allocates upwards from the lowest address.
fn bundle_address(memory_mib: u32, bundle_bytes: u64) -> Result<u64> {
    let end = (u64::from(memory_mib.min(LOW_MEMORY_END_MIB)) << 20).saturating_sub(FIRMWARE_BYTES);
    let start = end.saturating_sub(bundle_bytes) / BUNDLE_ALIGNMENT * BUNDLE_ALIGNMENT;
    if start < LOADER_BYTES {
        bail!(
            "the guests' files ({} MiB) do not fit into a machine with {memory_mib} MiB: use --host-memory with more",
            bundle_bytes >> 20
        );
    }
    Ok(start)
}

/// Writes a pointer over the placeholder in a disk image. A file of one sector lies in one piece, so its bytes can
/// be found without reading the file system; files start at sectors.
fn write_pointer(image: &mut [u8], pointer: Pointer) -> Result<()> {
    let mut places = image
        .chunks_exact_mut(512)
        .filter(|sector| sector.starts_with(&Pointer::PLACEHOLDER));
    match (places.next(), places.next()) {
        (Some(sector), None) => {
            sector[..Pointer::WIRE_BYTES].copy_from_slice(&pointer.to_bytes());
            Ok(())
        }
        (None, _) => bail!("the image has no place for a pointer"),
        (Some(_), Some(_)) => bail!("the image has two places for a pointer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_lies_at_the_end_of_memory_below_the_firmware() {
        assert_eq!(bundle_address(512, 1).unwrap(), (512 - 6) << 20);
        assert_eq!(bundle_address(512, 2 << 20).unwrap(), (512 - 6) << 20);
        assert_eq!(bundle_address(512, (2 << 20) + 1).unwrap(), (512 - 8) << 20);
    }

    #[test]
    fn a_bundle_stays_below_the_pci_windows_of_a_large_machine() {
        assert!(bundle_address(16 << 10, 1 << 20).unwrap() < 3 << 30);
    }

    #[test]
    fn a_bundle_too_large_for_the_machine_is_refused_with_a_remedy() {
        let error = bundle_address(512, 500 << 20).unwrap_err();
        assert!(error.to_string().contains("--host-memory"), "{error}");
    }

    #[test]
    fn the_pointer_is_written_over_its_placeholder_and_nowhere_else() {
        let mut image = vec![0; 4096];
        // Not at the start of a sector: part of the hypervisor, which knows the placeholder as well.
        image[700..700 + 32].copy_from_slice(&Pointer::PLACEHOLDER);
        image[1024..1024 + 32].copy_from_slice(&Pointer::PLACEHOLDER);
        let pointer = Pointer {
            address: 0x100_0000,
            bytes: 5,
        };
        write_pointer(&mut image, pointer).unwrap();
        assert_eq!(image[1024..1024 + 32], pointer.to_bytes());
        assert_eq!(image[700..700 + 32], Pointer::PLACEHOLDER);
        assert!(write_pointer(&mut image, pointer).is_err());
    }
}
