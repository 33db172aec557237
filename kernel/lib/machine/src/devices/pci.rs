//! [`Pci`]: the PCI bus, that is configuration space by ports (mechanism #1) and by memory (ECAM), and the
//! functions on bus 0.
//!
//! So far the only function is the host bridge. A further one is a [`ConfigSpace`] more in [`Pci`] and an arm
//! more in [`Pci::function`].
//!
//! PCI Local Bus Specification 3.0, "Configuration Space"; PCI Express Base Specification, "PCI Express
//! Enhanced Configuration Access Mechanism".

use arch::Width;

/// CONFIG_ADDRESS: configuration accesses by the data port are on.
const ENABLE: u32 = 1 << 31;
/// CONFIG_ADDRESS: the bits that exist.
const ADDRESS_KEPT: u32 = 0x80ff_fffc;

/// A bus, device and function number as ECAM and CONFIG_ADDRESS lay them out: 8, 5 and 3 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Address(u16);

const HOST_BRIDGE: Address = Address(0);

/// The 256 bytes of a function's configuration space, with the bits that software can change.
#[derive(Debug)]
struct ConfigSpace {
    values: [u8; 256],
    writable: [u8; 256],
}

impl ConfigSpace {
    /// The space of a function with these IDs.
    fn new(vendor: u16, device: u16, class: u32) -> Self {
        let mut space = Self {
            values: [0; 256],
            writable: [0; 256],
        };
        space.set(0x00, &vendor.to_le_bytes());
        space.set(0x02, &device.to_le_bytes());
        // Revision 0, then programming interface, subclass and class.
        space.set(0x08, &(class << 8).to_le_bytes());
        space
    }

    fn set(&mut self, offset: usize, bytes: &[u8]) {
        for (value, byte) in self.values.iter_mut().skip(offset).zip(bytes) {
            *value = *byte;
        }
    }

    fn allow(&mut self, offset: usize, bytes: &[u8]) {
        for (mask, byte) in self.writable.iter_mut().skip(offset).zip(bytes) {
            *mask = *byte;
        }
    }

    fn read(&self, offset: usize, width: Width) -> u32 {
        let mut value = 0;
        for (index, byte) in self
            .values
            .iter()
            .skip(offset)
            .take(width.bytes())
            .enumerate()
        {
            value |= u32::from(*byte) << (8 * index);
        }
        value
    }

    fn write(&mut self, offset: usize, width: Width, value: u32) {
        let bytes = value.to_le_bytes().into_iter().take(width.bytes());
        let places = self.values.iter_mut().zip(&self.writable).skip(offset);
        for ((place, mask), byte) in places.zip(bytes) {
            *place = (*place & !mask) | (byte & mask);
        }
    }
}

/// The PCI bus.
#[derive(Debug)]
pub struct Pci {
    config_address: u32,
    host_bridge: ConfigSpace,
}

impl Default for Pci {
    fn default() -> Self {
        Self::new()
    }
}

impl Pci {
    /// The bus after a reset.
    pub fn new() -> Self {
        // A generic host bridge, to which no operating system has quirks: the ID that QEMU gives its own.
        let mut host_bridge = ConfigSpace::new(0x1b36, 0x0008, 0x06_0000);
        // Memory space and bus master, which a host bridge has on: they read back as written.
        host_bridge.set(0x04, &[0x06, 0x00]);
        host_bridge.allow(0x04, &[0x46, 0x01]);
        // Subsystem IDs, and the interrupt line register, which is the operating system's scratch pad.
        host_bridge.set(0x2c, &[0xf4, 0x1a, 0x00, 0x11]);
        host_bridge.allow(0x3c, &[0xff]);
        Self {
            config_address: 0,
            host_bridge,
        }
    }

    /// Reads CONFIG_ADDRESS, the doubleword port 0xcf8.
    pub const fn read_address(&self) -> u32 {
        self.config_address
    }

    /// Writes CONFIG_ADDRESS.
    pub const fn write_address(&mut self, value: u32) {
        self.config_address = value & ADDRESS_KEPT;
    }

    /// Reads CONFIG_DATA, port 0xcfc plus `offset`; the access stays within the four ports.
    pub fn read_data(&mut self, offset: u16, width: Width) -> u32 {
        match self.selected() {
            Some((address, register)) => {
                self.read(address, register + usize::from(offset & 3), width)
            }
            None => width.mask() as u32,
        }
    }

    /// Writes CONFIG_DATA, port 0xcfc plus `offset`; the access stays within the four ports.
    pub fn write_data(&mut self, offset: u16, width: Width, value: u32) {
        if let Some((address, register)) = self.selected() {
            self.write(address, register + usize::from(offset & 3), width, value);
        }
    }

    /// Reads the ECAM window: bits 20 to 27 of the offset are the bus, 15 to 19 the device, 12 to 14 the function.
    pub fn read_ecam(&mut self, offset: u64, width: Width) -> u64 {
        match ecam(offset, width) {
            Some((address, register)) => u64::from(self.read(address, register, width)),
            None => width.mask(),
        }
    }

    /// Writes the ECAM window.
    pub fn write_ecam(&mut self, offset: u64, width: Width, value: u64) {
        if let Some((address, register)) = ecam(offset, width) {
            self.write(address, register, width, value as u32);
        }
    }

    const fn selected(&self) -> Option<(Address, usize)> {
        if self.config_address & ENABLE == 0 {
            return None;
        }
        let address = Address((self.config_address >> 8) as u16);
        Some((address, (self.config_address & 0xfc) as usize))
    }

    fn read(&mut self, address: Address, register: usize, width: Width) -> u32 {
        match self.function(address) {
            Some(function) if register < 256 => function.read(register, width),
            // Nobody there, or no extended configuration space.
            _ => width.mask() as u32,
        }
    }

    fn write(&mut self, address: Address, register: usize, width: Width, value: u32) {
        if let Some(function) = self.function(address) {
            function.write(register, width, value);
        }
    }

    const fn function(&mut self, address: Address) -> Option<&mut ConfigSpace> {
        match address {
            HOST_BRIDGE => Some(&mut self.host_bridge),
            _ => None,
        }
    }
}

/// Takes an ECAM offset apart. Accesses of eight bytes, or across a doubleword, are not configuration accesses.
const fn ecam(offset: u64, width: Width) -> Option<(Address, usize)> {
    if offset >> 28 != 0 || (offset & 3) as usize + width.bytes() > 4 {
        return None;
    }
    Some((Address((offset >> 12) as u16), (offset & 0xfff) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pci: &mut Pci, address: u32, width: Width) -> u32 {
        pci.write_address(0x8000_0000 | address & !3);
        pci.read_data((address & 3) as u16, width)
    }

    #[test]
    fn the_host_bridge_is_the_only_function() {
        let mut pci = Pci::new();
        assert_eq!(config(&mut pci, 0, Width::Dword), 0x0008_1b36);
        assert_eq!(config(&mut pci, 0x0a, Width::Word), 0x0600);
        assert_eq!(config(&mut pci, 0x0b, Width::Byte), 0x06);
        assert_eq!(
            config(&mut pci, 0x0e, Width::Byte),
            0,
            "one function, an ordinary header"
        );
        for other in [0x100, 0x800, 0x1_0000, 0xff_ff00] {
            assert_eq!(config(&mut pci, other, Width::Dword), 0xffff_ffff);
        }
    }

    #[test]
    fn the_address_register_keeps_its_bits_and_its_top_bit_enables() {
        let mut pci = Pci::new();
        pci.write_address(0xffff_ffff);
        assert_eq!(pci.read_address(), 0x80ff_fffc);
        pci.write_address(0);
        assert_eq!(pci.read_data(0, Width::Dword), 0xffff_ffff);
        assert_eq!(pci.read_data(0, Width::Byte), 0xff);
    }

    #[test]
    fn ids_cannot_be_written_and_the_command_register_can() {
        let mut pci = Pci::new();
        pci.write_address(0x8000_0000);
        pci.write_data(0, Width::Dword, 0);
        assert_eq!(pci.read_data(0, Width::Dword), 0x0008_1b36);
        pci.write_address(0x8000_0004);
        pci.write_data(0, Width::Word, 0xffff);
        assert_eq!(pci.read_data(0, Width::Dword), 0x0146);
        pci.write_address(0x8000_0010);
        pci.write_data(0, Width::Dword, 0xffff_ffff);
        assert_eq!(
            pci.read_data(0, Width::Dword),
            0,
            "no base address registers"
        );
    }

    #[test]
    fn ecam_shows_the_same_and_nothing_beyond() {
        let mut pci = Pci::new();
        assert_eq!(pci.read_ecam(0, Width::Dword), 0x0008_1b36);
        assert_eq!(pci.read_ecam(2, Width::Word), 0x0008);
        assert_eq!(
            pci.read_ecam(0x100, Width::Dword),
            0xffff_ffff,
            "no extended capabilities"
        );
        assert_eq!(pci.read_ecam(0x8000, Width::Dword), 0xffff_ffff);
        assert_eq!(pci.read_ecam(0, Width::Qword), u64::MAX);
        assert_eq!(pci.read_ecam(3, Width::Word), 0xffff);
        pci.write_ecam(0x3c, Width::Byte, 0x0b);
        assert_eq!(config(&mut pci, 0x3c, Width::Byte), 0x0b);
    }
}
