//! The ports of a [`Board`]: who answers at which, a byte at a time or in one piece.

use arch::Width;

use super::Board;
use crate::bus::{self, Port};
use crate::devices::{PanicDevice, testdev};
use crate::{Effects, Request};

impl Board {
    /// Reads a port; bits above the width are zero. Ports without a device read as all ones.
    #[inline]
    pub fn read_port(&mut self, port: u16, width: Width, now_ns: u64, fx: &mut Effects) -> u32 {
        match (bus::owner(port), width) {
            (Port::Unassigned, Width::Byte) => 0xff,
            (Port::Pic, Width::Byte) => u32::from(self.pic.read(port)),
            (Port::Uart, Width::Byte) => {
                let value = self.uart.read(port, now_ns, fx);
                self.uart_accessed();
                self.settle(fx);
                u32::from(value)
            }
            (owner, Width::Byte) => {
                let value = self.read_byte(owner, port, now_ns, fx);
                self.settle(fx);
                u32::from(value)
            }
            (owner, _) => self.read_wide(owner, port, width, now_ns, fx),
        }
    }

    /// Writes a port; bits above the width do not count. Ports without a device ignore it.
    #[inline]
    pub fn write_port(
        &mut self,
        port: u16,
        width: Width,
        value: u32,
        now_ns: u64,
        fx: &mut Effects,
    ) {
        match (bus::owner(port), width) {
            (Port::Unassigned, Width::Byte) => {}
            (owner, Width::Byte) => {
                self.write_byte(owner, port, value as u8, now_ns, fx);
                self.settle(fx);
            }
            (owner, _) => self.write_wide(owner, port, width, value, now_ns, fx),
        }
    }

    /// Whether nobody answers at this port on any board: reads are all ones, and writes vanish. Nobody has to be asked
    /// then.
    #[inline]
    pub fn is_vacant_port(port: u16) -> bool {
        bus::owner(port) == Port::Unassigned
    }

    fn read_byte(&mut self, owner: Port, port: u16, now_ns: u64, fx: &mut Effects) -> u8 {
        match owner {
            Port::Unassigned | Port::PciAddress => 0xff,
            Port::Pic => self.pic.read(port),
            Port::Elcr => self.pic.read_elcr(port),
            Port::Pit => self.pit.read(port, now_ns),
            Port::PitControl => self.pit.read_control(now_ns),
            Port::KeyboardData => self.keyboard.read_data(fx),
            Port::KeyboardCommand => self.keyboard.read_status(),
            Port::Rtc => {
                let value = self.rtc.read(port, now_ns, fx);
                self.rtc_accessed();
                value
            }
            Port::SystemControl => self.reset.read_system(),
            Port::Test => self.test.as_mut().map_or(0xff, |test| test.read(port)),
            Port::Panic => PanicDevice.read(),
            Port::Uart => {
                let value = self.uart.read(port, now_ns, fx);
                self.uart_accessed();
                value
            }
            Port::Vga => self.vga.as_mut().map_or(0xff, |vga| vga.read(port, now_ns)),
            Port::PowerManagement => {
                let value = self.pm.read(port & 0xf, now_ns, fx);
                self.pm_accessed();
                value
            }
            Port::Reset => self.reset.read_reset(),
            Port::PciData => self.pci.read_data(port, Width::Byte) as u8,
        }
    }

    fn write_byte(&mut self, owner: Port, port: u16, value: u8, now_ns: u64, fx: &mut Effects) {
        match owner {
            Port::Unassigned | Port::PciAddress => {}
            Port::Pic => self.pic.write(port, value),
            Port::Elcr => self.pic.write_elcr(port, value),
            Port::Pit => {
                self.pit.write(port, value, now_ns, fx);
                self.pit_accessed();
            }
            Port::PitControl => self.pit.write_control(value, now_ns),
            Port::KeyboardData => {
                self.keyboard.write_data(value, fx);
                self.a20_accessed(fx);
            }
            Port::KeyboardCommand => {
                self.keyboard.write_command(value, fx);
                self.a20_accessed(fx);
            }
            Port::Rtc => {
                self.rtc.write(port, value, now_ns, fx);
                self.rtc_accessed();
            }
            Port::SystemControl => {
                self.reset.write_system(value, fx);
                self.a20_accessed(fx);
            }
            Port::Test => {
                if let Some(test) = &mut self.test {
                    test.write(port, value, fx);
                }
            }
            Port::Panic => PanicDevice.write(value, fx),
            Port::Uart => {
                self.uart.write(port, value, now_ns, fx);
                self.uart_accessed();
            }
            Port::Vga => {
                if let Some(vga) = &mut self.vga {
                    vga.write(port, value);
                }
            }
            Port::PowerManagement => {
                self.pm.write(port & 0xf, value, now_ns, fx);
                self.pm_accessed();
            }
            Port::Reset => self.reset.write_reset(value, fx),
            Port::PciData => self.pci.write_data(port, Width::Byte, u32::from(value)),
        }
    }

    /// There is one gate of address line 20, whichever device has moved it.
    const fn a20_accessed(&mut self, fx: &Effects) {
        if let Some(Request::AddressLine20(gate)) = fx.request {
            self.reset.set_a20(gate);
            self.keyboard.set_a20(gate);
        }
    }

    /// Words and doublewords: in one piece where a device takes them so, or else byte after byte.
    fn read_wide(
        &mut self,
        owner: Port,
        port: u16,
        width: Width,
        now_ns: u64,
        fx: &mut Effects,
    ) -> u32 {
        match (owner, width) {
            (Port::PciAddress, Width::Dword) => return self.pci.read_address(),
            (Port::PciData, _) if fits_pci_data(port, width) => {
                return self.pci.read_data(port, width);
            }
            _ => {}
        }
        let mut value = 0;
        for index in 0..width.bytes().min(4) as u16 {
            let at = port.wrapping_add(index);
            let byte = self.read_byte(bus::owner(at), at, now_ns, fx);
            self.settle(fx);
            value |= u32::from(byte) << (8 * index);
        }
        value
    }

    fn write_wide(
        &mut self,
        owner: Port,
        port: u16,
        width: Width,
        value: u32,
        now_ns: u64,
        fx: &mut Effects,
    ) {
        match (owner, width) {
            (Port::PciAddress, Width::Dword) => return self.pci.write_address(value),
            (Port::PciData, _) if fits_pci_data(port, width) => {
                return self.pci.write_data(port, width, value);
            }
            (Port::Test, _) if port == testdev::EXIT => {
                if let Some(test) = &self.test {
                    return test.exit(width.truncate(u64::from(value)) as u32, fx);
                }
            }
            (Port::Test, Width::Word) if port == testdev::SELECT => {
                if let Some(test) = &mut self.test {
                    test.select(value as u16);
                }
                return;
            }
            (Port::Test, Width::Dword) if port == testdev::DMA_HIGH || port == testdev::DMA_LOW => {
                if let Some(test) = &mut self.test {
                    test.write_dma(port, value, fx);
                }
                return;
            }
            (Port::Test, _) if port >= testdev::LINES => {
                self.write_byte(owner, port, value as u8, now_ns, fx);
                return self.settle(fx);
            }
            _ => {}
        }
        for (index, byte) in value
            .to_le_bytes()
            .into_iter()
            .take(width.bytes())
            .enumerate()
        {
            let at = port.wrapping_add(index as u16);
            self.write_byte(bus::owner(at), at, byte, now_ns, fx);
            self.settle(fx);
        }
    }
}

const fn fits_pci_data(port: u16, width: Width) -> bool {
    (port & 3) as usize + width.bytes() <= 4
}
