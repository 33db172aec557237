//! Flat binaries, started in real mode like a boot sector.

use arch::{Gpr, Gprs};
use memory::{GuestMemory, GuestPhys};

use super::space::Space;
use super::start::InitialState;
use super::{LoadError, Request};

/// Where a BIOS puts a boot sector.
pub(super) const BOOT_SECTOR: GuestPhys = GuestPhys::new(0x7c00);
/// The BIOS's number for the first hard disk, which a boot sector finds in DL.
const FIRST_DISK: u64 = 0x80;
const SIGNATURE: [u8; 2] = [0x55, 0xaa];

/// Whether a file ends its first 512 bytes with the signature of a boot sector.
pub(super) fn is_boot_sector(file: &[u8]) -> bool {
    file.get(510..512) == Some(&SIGNATURE)
}

/// Loads a file at `address` and starts it there in real mode: at 0000:7C00 for a boot sector, and elsewhere at
/// the segment that starts there.
pub(super) fn load(
    request: &Request<'_>,
    address: GuestPhys,
    memory: &impl GuestMemory,
    space: &mut Space,
) -> Result<InitialState, LoadError> {
    let start = address.as_u64();
    let (segment, offset) = if address == BOOT_SECTOR {
        (0, BOOT_SECTOR.as_u64() as u16)
    } else {
        let segment = u16::try_from(start >> 4).ok().filter(|_| start & 0xf == 0);
        let segment = segment.ok_or(LoadError::Unsupported(
            "a flat binary at an address that is no multiple of 16 below 1 MiB",
        ))?;
        (segment, 0)
    };
    let size = request.kernel.len() as u64;
    let range = space.claim_kernel("the flat binary", start, size)?;
    memory.write(range.start, request.kernel)?;
    let mut gprs = Gprs::new();
    gprs.set(Gpr::Rdx, FIRST_DISK);
    gprs.set(Gpr::Rsp, BOOT_SECTOR.as_u64());
    Ok(InitialState::real(segment, offset, 0, gprs))
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeMemory;
    use super::super::{Format, detect, load, tests::request};
    use super::*;
    use arch::SegmentName;

    fn sector() -> [u8; 512] {
        let mut sector = [0x90; 512];
        sector[510] = 0x55;
        sector[511] = 0xaa;
        sector
    }

    #[test]
    fn a_boot_sector_is_recognised_and_starts_at_7c00() {
        let memory = FakeMemory::new(2 << 20);
        let sector = sector();
        assert_eq!(
            detect(&sector),
            Ok(Format::Flat {
                address: GuestPhys::new(0x7c00)
            })
        );
        let loaded = load(&request(&sector), &memory).unwrap();
        assert_eq!(loaded.state.rip, 0x7c00);
        assert_eq!(loaded.state.segment(SegmentName::Cs).base, 0);
        assert_eq!(loaded.state.gprs.get(Gpr::Rdx), 0x80);
        assert_eq!(memory.bytes(0x7c00, 512), sector);
    }

    #[test]
    fn a_flat_binary_starts_where_it_is_told() {
        let memory = FakeMemory::new(2 << 20);
        let mut request = request(&[0xf4]);
        request.format = Some(Format::Flat {
            address: GuestPhys::new(0x1_0000),
        });
        let loaded = load(&request, &memory).unwrap();
        assert_eq!(
            (loaded.state.rip, loaded.state.segment(SegmentName::Cs).base),
            (0, 0x1_0000)
        );
        assert_eq!(memory.bytes(0x1_0000, 1), [0xf4]);
    }

    #[test]
    fn a_flat_binary_that_reaches_into_the_firmwares_memory_is_refused() {
        let memory = FakeMemory::new(2 << 20);
        let file = alloc::vec![0; 0x9_fc00 - 0x7c00 + 1];
        let mut request = request(&file);
        request.format = Some(Format::Flat {
            address: BOOT_SECTOR,
        });
        assert!(matches!(
            load(&request, &memory),
            Err(LoadError::OutsideMemory { .. })
        ));
    }
}
