//! The memory of a guest, as everything above the kernel sees it.

use core::fmt;

use crate::GuestPhys;

/// The RAM of one virtual machine.
///
/// Data is copied, never referenced: other vCPUs may write to it at any time, so a value is fetched once
/// and then validated. Accesses of 1, 2, 4 or 8 bytes at a multiple of their size are single accesses.
pub trait GuestMemory {
    /// Copies `buffer.len()` bytes from `gpa` on.
    ///
    /// # Errors
    /// [`Unbacked`] with the first address that is not RAM; `buffer` is then unspecified.
    fn read(&self, gpa: GuestPhys, buffer: &mut [u8]) -> Result<(), Unbacked>;

    /// Copies `bytes` to `gpa` on.
    ///
    /// # Errors
    /// [`Unbacked`] with the first address that is not RAM; nothing is written then.
    fn write(&self, gpa: GuestPhys, bytes: &[u8]) -> Result<(), Unbacked>;

    /// Replaces the naturally aligned 64-bit value at `gpa` by `new` if it is `current`, atomically, and
    /// returns what was there.
    ///
    /// # Errors
    /// [`Unbacked`] where `gpa` is not RAM or not a multiple of 8.
    fn compare_exchange_u64(&self, gpa: GuestPhys, current: u64, new: u64)
    -> Result<u64, Unbacked>;

    /// Replaces the naturally aligned 32-bit value at `gpa` by `new` if it is `current`, atomically, and
    /// returns what was there.
    ///
    /// # Errors
    /// [`Unbacked`] where `gpa` is not RAM or not a multiple of 4.
    fn compare_exchange_u32(&self, gpa: GuestPhys, current: u32, new: u32)
    -> Result<u32, Unbacked>;

    /// The address that memory and devices see where the guest's tables lead to `gpa`: on a PC whose A20 gate is closed,
    /// one without bit 20. RAM is found at either.
    fn on_bus(&self, gpa: GuestPhys) -> GuestPhys {
        gpa
    }

    /// Fills `bytes` bytes from `gpa` on with zeroes.
    ///
    /// # Errors
    /// [`Unbacked`] with the first address that is not RAM.
    fn zero(&self, gpa: GuestPhys, bytes: u64) -> Result<(), Unbacked> {
        const ZEROES: [u8; 256] = [0; 256];
        let mut done = 0;
        while done < bytes {
            let step = (bytes - done).min(ZEROES.len() as u64);
            let at = gpa.checked_add(done).ok_or(Unbacked(gpa))?;
            self.write(at, ZEROES.get(..step as usize).unwrap_or(&ZEROES))?;
            done += step;
        }
        Ok(())
    }

    /// The little-endian 32-bit value at `gpa`.
    ///
    /// # Errors
    /// [`Unbacked`] where it is not RAM.
    fn read_u32(&self, gpa: GuestPhys) -> Result<u32, Unbacked> {
        let mut bytes = [0; 4];
        self.read(gpa, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// The little-endian 64-bit value at `gpa`.
    ///
    /// # Errors
    /// [`Unbacked`] where it is not RAM.
    fn read_u64(&self, gpa: GuestPhys) -> Result<u64, Unbacked> {
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// No RAM of this guest lies at the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unbacked(pub GuestPhys);

impl fmt::Display for Unbacked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no guest memory at {}", self.0)
    }
}

impl core::error::Error for Unbacked {}
