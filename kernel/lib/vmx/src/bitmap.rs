//! The pages that say which MSR and port accesses exit.
//!
//! Plain bytes of 4 KiB and their alignment: the kernel puts them into frames and their address into the VMCS.
//! SDM vol. 3, MSR-Bitmap Address and I/O-Bitmap Addresses.

/// What becomes of an access.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Intercept {
    /// It exits.
    Exit,
    /// The processor does it.
    Pass,
}

/// RDMSR or WRMSR.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the words say it")]
pub enum MsrAccess {
    Read,
    Write,
}

/// The MSR is in neither of the two ranges that the bitmap has bits for; its accesses always exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoBitForMsr(pub u32);

impl core::fmt::Display for NoBitForMsr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "MSR {:#x} has no bit in the MSR bitmap", self.0)
    }
}

impl core::error::Error for NoBitForMsr {}

/// The MSR bitmap: reads and writes of MSRs 0 to 0x1fff and of 0xc000_0000 to 0xc000_1fff.
#[derive(Clone, PartialEq, Eq, Debug)]
#[repr(C, align(4096))]
pub struct MsrBitmap {
    read_low: [u8; 1024],
    read_high: [u8; 1024],
    write_low: [u8; 1024],
    write_high: [u8; 1024],
}

const _: () = assert!(size_of::<MsrBitmap>() == 4096 && align_of::<MsrBitmap>() == 4096);

impl MsrBitmap {
    /// Everything exits.
    pub const ALL_EXIT: Self = Self {
        read_low: [0xff; 1024],
        read_high: [0xff; 1024],
        write_low: [0xff; 1024],
        write_high: [0xff; 1024],
    };

    /// The four areas of the page, in their order.
    pub const fn areas(&self) -> [&[u8; 1024]; 4] {
        [
            &self.read_low,
            &self.read_high,
            &self.write_low,
            &self.write_high,
        ]
    }

    /// Says what becomes of an access to an MSR.
    ///
    /// # Errors
    /// [`NoBitForMsr`] outside the two ranges.
    pub fn set(
        &mut self,
        msr: u32,
        access: MsrAccess,
        intercept: Intercept,
    ) -> Result<(), NoBitForMsr> {
        let (low, high) = match access {
            MsrAccess::Read => (&mut self.read_low, &mut self.read_high),
            MsrAccess::Write => (&mut self.write_low, &mut self.write_high),
        };
        let area = match msr >> 13 {
            0 => low,
            0x6_0000 => high,
            _ => return Err(NoBitForMsr(msr)),
        };
        set_bit(area, (msr & 0x1fff) as u16, intercept);
        Ok(())
    }

    /// What becomes of an access to an MSR.
    pub fn get(&self, msr: u32, access: MsrAccess) -> Intercept {
        let (low, high) = match access {
            MsrAccess::Read => (&self.read_low, &self.read_high),
            MsrAccess::Write => (&self.write_low, &self.write_high),
        };
        match msr >> 13 {
            0 => bit(low, (msr & 0x1fff) as u16),
            0x6_0000 => bit(high, (msr & 0x1fff) as u16),
            _ => Intercept::Exit,
        }
    }
}

/// I/O bitmaps A and B, which lie in two pages of their own.
#[derive(Clone, PartialEq, Eq, Debug)]
#[repr(C, align(4096))]
pub struct IoBitmaps {
    a: [u8; 4096],
    b: [u8; 4096],
}

const _: () = assert!(size_of::<IoBitmaps>() == 8192 && align_of::<IoBitmaps>() == 4096);

impl IoBitmaps {
    /// Everything exits.
    pub const ALL_EXIT: Self = Self {
        a: [0xff; 4096],
        b: [0xff; 4096],
    };
    /// Bytes from bitmap A to bitmap B.
    pub const B_OFFSET: usize = core::mem::offset_of!(Self, b);

    /// The two pages, A and B.
    pub const fn pages(&self) -> [&[u8; 4096]; 2] {
        [&self.a, &self.b]
    }

    /// Says what becomes of accesses to a port. A wide access exits if one of its ports does.
    pub fn set(&mut self, port: u16, intercept: Intercept) {
        let area = if port < 0x8000 {
            &mut self.a
        } else {
            &mut self.b
        };
        set_bit(area, port & 0x7fff, intercept);
    }

    /// What becomes of a byte access to a port.
    pub fn get(&self, port: u16) -> Intercept {
        bit(if port < 0x8000 { &self.a } else { &self.b }, port & 0x7fff)
    }
}

fn set_bit(area: &mut [u8], number: u16, intercept: Intercept) {
    let mask = 1 << (number % 8);
    if let Some(byte) = area.get_mut(usize::from(number / 8)) {
        match intercept {
            Intercept::Exit => *byte |= mask,
            Intercept::Pass => *byte &= !mask,
        }
    }
}

fn bit(area: &[u8], number: u16) -> Intercept {
    match area.get(usize::from(number / 8)) {
        Some(byte) if byte & (1 << (number % 8)) == 0 => Intercept::Pass,
        _ => Intercept::Exit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(bitmap: &MsrBitmap) -> std::vec::Vec<u8> {
        [
            bitmap.read_low,
            bitmap.read_high,
            bitmap.write_low,
            bitmap.write_high,
        ]
        .concat()
    }

    #[test]
    fn each_msr_has_its_bit_where_the_manual_says() {
        for (msr, access, byte, bit) in [
            (0, MsrAccess::Read, 0, 0),
            (0x1fff, MsrAccess::Read, 1023, 7),
            (0xc000_0100, MsrAccess::Read, 1024 + 0x20, 0),
            (0xc000_1fff, MsrAccess::Read, 2047, 7),
            (0x174, MsrAccess::Write, 2048 + 0x2e, 4),
            (0xc000_0081, MsrAccess::Write, 3072 + 0x10, 1),
        ] {
            let mut bitmap = MsrBitmap::ALL_EXIT;
            assert_eq!(bitmap.set(msr, access, Intercept::Pass), Ok(()));
            let mut expected = [0xff; 4096];
            expected[byte] = !(1 << bit);
            assert_eq!(bytes(&bitmap), expected, "{msr:#x}");
            assert_eq!(bitmap.get(msr, access), Intercept::Pass);
            assert_eq!(bitmap.set(msr, access, Intercept::Exit), Ok(()));
            assert_eq!(bitmap, MsrBitmap::ALL_EXIT);
        }
    }

    #[test]
    fn msrs_outside_the_two_ranges_always_exit() {
        let mut bitmap = MsrBitmap::ALL_EXIT;
        for msr in [0x2000, 0x4000_0000, 0xbfff_ffff, 0xc000_2000, u32::MAX] {
            assert_eq!(
                bitmap.set(msr, MsrAccess::Read, Intercept::Pass),
                Err(NoBitForMsr(msr))
            );
            assert_eq!(bitmap.get(msr, MsrAccess::Read), Intercept::Exit);
        }
        assert_eq!(bitmap, MsrBitmap::ALL_EXIT);
    }

    #[test]
    fn each_port_has_its_bit_in_its_bitmap() {
        let mut bitmaps = IoBitmaps::ALL_EXIT;
        for port in [0x80, 0x7fff, 0x8000, 0xffff] {
            bitmaps.set(port, Intercept::Pass);
            assert_eq!(bitmaps.get(port), Intercept::Pass);
        }
        assert_eq!((bitmaps.a[0x10], bitmaps.a[4095]), (0xfe, 0x7f));
        assert_eq!((bitmaps.b[0], bitmaps.b[4095]), (0xfe, 0x7f));
        assert_eq!(bitmaps.get(0x81), Intercept::Exit);
        bitmaps.set(0x80, Intercept::Exit);
        assert_eq!(bitmaps.get(0x80), Intercept::Exit);
    }
}
