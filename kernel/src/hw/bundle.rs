//! Where the guest bundle is: the boot loader's RAM disk, or, in an emulator, wherever that has put it.

use bundle::{BundleError, Ramdisk};
use host::{Kind, MemoryMap};
use memory::{HostPhys, HostVirt, Range};

use crate::memory::{direct_map, reserve};

/// What there is in place of a bundle.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NoBundle {
    /// The boot loader brought no RAM disk.
    NoRamdisk,
    /// It brought something that is no bundle.
    Unusable(BundleError),
    /// It says that the bundle is where no RAM is.
    OutsideRam(Range<HostPhys>),
}

impl core::fmt::Display for NoBundle {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoRamdisk => {
                f.write_str("the image carries no guests: make it with `cargo xtask image`")
            }
            Self::Unusable(error) => error.fmt(f),
            Self::OutsideRam(range) => write!(
                f,
                "the guest bundle should lie at {range}, but this machine has no memory there: give the emulator more memory"
            ),
        }
    }
}

/// A bundle that was found and whose memory is reserved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BundleMemory {
    range: Range<HostPhys>,
}

impl BundleMemory {
    /// Finds the bundle and keeps its memory out of the frame allocator.
    ///
    /// # Safety
    /// `ramdisk` is what the boot loader said about its RAM disk, which lies at `ramdisk_hpa`, and is still
    /// mapped.
    ///
    /// # Errors
    /// [`NoBundle`], with a message for people.
    pub(crate) unsafe fn find(
        map: &mut MemoryMap,
        ramdisk: Option<(HostVirt, HostPhys)>,
        ramdisk_bytes: u64,
    ) -> Result<Self, NoBundle> {
        let (address, hpa) = ramdisk.ok_or(NoBundle::NoRamdisk)?;
        // SAFETY: the boot loader has mapped the RAM disk there, as the caller promises, and nobody changes
        // it.
        let bytes = unsafe {
            core::slice::from_raw_parts(address.as_u64() as *const u8, ramdisk_bytes as usize)
        };
        let place = match Ramdisk::inspect(bytes).map_err(NoBundle::Unusable)? {
            Ramdisk::Bundle => (hpa, ramdisk_bytes),
            Ramdisk::Pointer(pointer) => (HostPhys::new(pointer.address), pointer.bytes),
        };
        let range =
            Range::<HostPhys>::from_len(place.0, place.1).ok_or(NoBundle::OutsideRam(Range {
                start: place.0,
                end: place.0,
            }))?;
        if !map.is_all(&[Kind::Usable, Kind::Loader], range) {
            return Err(NoBundle::OutsideRam(range));
        }
        reserve(map, range);
        Ok(Self { range })
    }

    /// The bundle's bytes. They stay as they are for ever.
    pub(crate) fn bytes(&self) -> &'static [u8] {
        let start = direct_map(self.range.start).as_u64() as *const u8;
        // SAFETY: the range is RAM, reserved, in the direct map, and nobody writes to it.
        unsafe { core::slice::from_raw_parts(start, self.range.len() as usize) }
    }
}
