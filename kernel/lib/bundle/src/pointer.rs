//! A stand-in for the bundle: where in physical memory the emulator has placed the real one.
//!
//! The BIOS boot loader copies its RAM disk byte by byte, about a second for each MiB in an emulator. Runs in an
//! emulator therefore boot with a [`Pointer`] as the RAM disk, and let the emulator load the bundle.

use crate::error::BundleError;
use crate::format::{MAGIC, MAX_BUNDLE_BYTES, VERSION, read_u32, read_u64};

/// What a pointer starts with.
const POINTER_MAGIC: [u8; 8] = *b"PLINTH\x1aP";

/// Where the bundle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// Host physical address of the first byte.
    pub address: u64,
    /// Length of the bundle.
    pub bytes: u64,
}

impl Pointer {
    /// Size of a pointer on the wire.
    pub const WIRE_BYTES: usize = 32;

    /// What stands in a disk image until a run writes the real place over it. It is recognised as a pointer and
    /// refused, so an image that nobody completed gives a clear message.
    pub const PLACEHOLDER: [u8; Self::WIRE_BYTES] = *b"PLINTH\x1aPthe bundle is where: ???";

    /// The form in which it is stored.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::WIRE_BYTES] {
        let mut bytes = [0; Self::WIRE_BYTES];
        let fields = POINTER_MAGIC
            .into_iter()
            .chain(VERSION.to_le_bytes())
            .chain(self.crc32().to_le_bytes())
            .chain(self.address.to_le_bytes())
            .chain(self.bytes.to_le_bytes());
        for (to, from) in bytes.iter_mut().zip(fields) {
            *to = from;
        }
        bytes
    }

    fn crc32(self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.address.to_le_bytes());
        hasher.update(&self.bytes.to_le_bytes());
        hasher.finalize()
    }

    fn parse(ramdisk: &[u8]) -> Result<Self, BundleError> {
        let bytes: &[u8; Self::WIRE_BYTES] =
            ramdisk.first_chunk().ok_or(BundleError::Truncated {
                expected_bytes: Self::WIRE_BYTES as u64,
                actual_bytes: ramdisk.len() as u64,
            })?;
        let pointer = Self {
            address: read_u64(bytes, 16),
            bytes: read_u64(bytes, 24),
        };
        if read_u32(bytes, 8) != VERSION {
            return Err(BundleError::WrongVersion {
                found: read_u32(bytes, 8),
            });
        }
        if read_u32(bytes, 12) != pointer.crc32() {
            return Err(BundleError::HeaderDamaged);
        }
        if pointer.bytes > MAX_BUNDLE_BYTES {
            return Err(BundleError::TooLarge {
                bytes: pointer.bytes,
            });
        }
        Ok(pointer)
    }
}

/// What the boot loader's RAM disk turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ramdisk {
    /// The bundle itself.
    Bundle,
    /// A pointer to the bundle.
    Pointer(Pointer),
}

impl Ramdisk {
    /// Looks at the first bytes of the RAM disk.
    ///
    /// # Errors
    /// [`BundleError::BadMagic`] where it is neither; others where it is a pointer that cannot be trusted.
    pub fn inspect(ramdisk: &[u8]) -> Result<Self, BundleError> {
        let magic = ramdisk.first_chunk::<8>().ok_or(BundleError::Truncated {
            expected_bytes: 8,
            actual_bytes: ramdisk.len() as u64,
        })?;
        if *magic == MAGIC {
            Ok(Self::Bundle)
        } else if *magic == POINTER_MAGIC {
            Pointer::parse(ramdisk).map(Self::Pointer)
        } else {
            Err(BundleError::BadMagic)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_placeholder_is_refused() {
        assert!(matches!(
            Ramdisk::inspect(&Pointer::PLACEHOLDER),
            Err(BundleError::WrongVersion { .. })
        ));
    }

    #[test]
    fn a_pointer_is_laid_out_as_documented() {
        let bytes = Pointer {
            address: 0x1234_5000,
            bytes: 0x42,
        }
        .to_bytes();
        assert_eq!(&bytes[..8], b"PLINTH\x1aP");
        assert_eq!(bytes[8..12], VERSION.to_le_bytes());
        assert_eq!(bytes[16..24], [0, 0x50, 0x34, 0x12, 0, 0, 0, 0]);
        assert_eq!(bytes[24..32], [0x42, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn an_empty_ramdisk_is_truncated() {
        assert!(matches!(
            Ramdisk::inspect(&[]),
            Err(BundleError::Truncated {
                actual_bytes: 0,
                ..
            })
        ));
    }

    #[test]
    fn a_pointer_to_more_than_any_bundle_is_refused() {
        let bytes = Pointer {
            address: 0,
            bytes: 1 << 40,
        }
        .to_bytes();
        assert_eq!(
            Ramdisk::inspect(&bytes),
            Err(BundleError::TooLarge { bytes: 1 << 40 })
        );
    }

    proptest! {
        #[test]
        fn a_pointer_survives_the_trip(address: u64, bytes in 0..=MAX_BUNDLE_BYTES) {
            let pointer = Pointer { address, bytes };
            prop_assert_eq!(Ramdisk::inspect(&pointer.to_bytes()), Ok(Ramdisk::Pointer(pointer)));
        }

        #[test]
        fn any_single_changed_byte_is_noticed(address: u64, at in 0..Pointer::WIRE_BYTES, xor in 1u8..) {
            let mut bytes = Pointer { address, bytes: 4096 }.to_bytes();
            bytes[at] ^= xor;
            // The one change that leaves something valid turns the magic of a pointer into that of a bundle,
            // and then the bundle's own header checksum is the one that fails.
            match Ramdisk::inspect(&bytes) {
                Ok(Ramdisk::Pointer(_)) => prop_assert!(false),
                Ok(Ramdisk::Bundle) => prop_assert!(crate::Bundle::parse(&bytes).is_err()),
                Err(_) => {}
            }
        }
    }
}
