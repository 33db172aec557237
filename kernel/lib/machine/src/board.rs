//! [`Board`]: all devices of one virtual machine, and the wires between them.
//!
//! The board finds the device of a port or memory access, splits what a device cannot take in one piece as an
//! ISA bus does, and carries interrupt lines to the interrupt controllers. It knows no VM and no CPU: interrupt
//! messages, console output and requests remain in the [`Effects`] for the caller.

use arch::{Vector, Width};
use memory::GuestPhys;

use crate::bus::{self, Port};
use crate::devices::{Pic, PowerManagement, ResetControl, Uart};
use crate::{Effects, Gsi, Level};

/// What differs between boards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BoardConfig {
    /// Seconds since 1970-01-01 00:00 UTC at guest time 0, for the real-time clock.
    pub epoch_s: u64,
}

/// All devices of one virtual machine but the local APICs.
#[derive(Debug)]
pub struct Board {
    config: BoardConfig,
    pic: Pic,
    uart: Uart,
    pm: PowerManagement,
    reset: ResetControl,
    /// The earliest of the devices' deadlines; `u64::MAX` if there is none.
    deadline_ns: u64,
}

impl Board {
    /// The interrupt line of the serial port.
    pub const UART_GSI: Gsi = Gsi(4);
    /// The interrupt line of ACPI (SCI).
    pub const SCI_GSI: Gsi = Gsi(9);

    /// A board after power-on.
    pub fn new(config: BoardConfig) -> Self {
        Self {
            config,
            pic: Pic::new(),
            uart: Uart::new(Self::UART_GSI),
            pm: PowerManagement::new(Self::SCI_GSI),
            reset: ResetControl::new(),
            deadline_ns: u64::MAX,
        }
    }

    /// Puts all devices back into their state after power-on.
    pub fn reset(&mut self) {
        *self = Self::new(self.config);
    }

    /// Reads a port; bits above the width are zero. Ports without a device read as all ones.
    #[inline]
    pub fn read_port(&mut self, port: u16, width: Width, now_ns: u64, fx: &mut Effects) -> u32 {
        match (bus::owner(port), width) {
            (Port::Unassigned, Width::Byte) => 0xff,
            (owner, Width::Byte) => {
                let value = self.read_byte(owner, port, now_ns, fx);
                self.settle(fx);
                u32::from(value)
            }
            _ => self.read_bytes(port, width, now_ns, fx),
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
            _ => self.write_bytes(port, width, value, now_ns, fx),
        }
    }

    /// Reads memory that is not RAM; bits above the width are zero. Where no device is, all ones.
    pub fn read_mmio(
        &mut self,
        gpa: GuestPhys,
        width: Width,
        now_ns: u64,
        fx: &mut Effects,
    ) -> u64 {
        let _ = (gpa, now_ns, fx);
        width.mask()
    }

    /// Writes memory that is not RAM. Where no device is, nothing happens.
    pub fn write_mmio(
        &mut self,
        gpa: GuestPhys,
        width: Width,
        value: u64,
        now_ns: u64,
        fx: &mut Effects,
    ) {
        let _ = (gpa, width, value, now_ns, fx);
    }

    /// Console input for the guest; returns how many bytes were taken. The rest is to be offered again once
    /// [`console_room`](Self::console_room) says that there is room.
    pub fn receive(&mut self, bytes: &[u8], now_ns: u64, fx: &mut Effects) -> usize {
        let taken = self.uart.receive(bytes, now_ns, fx);
        self.settle(fx);
        self.update_deadline();
        taken
    }

    /// How many bytes of console input would be taken now.
    pub fn console_room(&self) -> usize {
        self.uart.room()
    }

    /// Sets an interrupt line from outside the board.
    pub fn set_line(&mut self, gsi: Gsi, level: Level, fx: &mut Effects) {
        fx.set_line(gsi, level);
        self.settle(fx);
    }

    /// When [`expire`](Self::expire) is next due, in guest time; `None` if no device waits for anything.
    #[inline]
    pub const fn next_deadline_ns(&self) -> Option<u64> {
        if self.deadline_ns == u64::MAX {
            None
        } else {
            Some(self.deadline_ns)
        }
    }

    /// Does what is due at `now_ns`. Calling it early or late is harmless.
    pub fn expire(&mut self, now_ns: u64, fx: &mut Effects) {
        self.uart.expire(now_ns, fx);
        self.pm.expire(now_ns, fx);
        self.settle(fx);
        self.update_deadline();
    }

    /// Somebody presses the power button; a guest with ACPI shuts down.
    pub fn press_power_button(&mut self, fx: &mut Effects) {
        self.pm.press_power_button(fx);
        self.settle(fx);
    }

    /// Whether the 8259As' INTR wire, which leads to LINT0 of the local APICs, is asserted.
    #[inline]
    pub const fn pic_asserted(&self) -> bool {
        self.pic.is_asserted()
    }

    /// The INTA cycle: the processor takes the interrupt that the 8259As offer.
    pub fn acknowledge_pic(&mut self) -> Vector {
        self.pic.acknowledge()
    }

    fn read_byte(&mut self, owner: Port, port: u16, now_ns: u64, fx: &mut Effects) -> u8 {
        match owner {
            Port::Unassigned => 0xff,
            Port::Pic => self.pic.read(port),
            Port::Elcr => self.pic.read_elcr(port),
            Port::Uart => {
                let value = self.uart.read(port, now_ns, fx);
                self.update_deadline();
                value
            }
            Port::PowerManagement => {
                let value = self.pm.read(port & 0xf, now_ns, fx);
                self.update_deadline();
                value
            }
            Port::SystemControl => self.reset.read_system(),
            Port::Reset => self.reset.read_reset(),
        }
    }

    fn write_byte(&mut self, owner: Port, port: u16, value: u8, now_ns: u64, fx: &mut Effects) {
        match owner {
            Port::Unassigned => {}
            Port::Pic => self.pic.write(port, value),
            Port::Elcr => self.pic.write_elcr(port, value),
            Port::Uart => {
                self.uart.write(port, value, now_ns, fx);
                self.update_deadline();
            }
            Port::PowerManagement => {
                self.pm.write(port & 0xf, value, now_ns, fx);
                self.update_deadline();
            }
            Port::SystemControl => self.reset.write_system(value, fx),
            Port::Reset => self.reset.write_reset(value, fx),
        }
    }

    /// A wider access to byte-wide devices, one byte after the other.
    fn read_bytes(&mut self, port: u16, width: Width, now_ns: u64, fx: &mut Effects) -> u32 {
        let mut value = 0;
        for index in 0..width.bytes().min(4) as u16 {
            let at = port.wrapping_add(index);
            let byte = self.read_byte(bus::owner(at), at, now_ns, fx);
            self.settle(fx);
            value |= u32::from(byte) << (8 * index);
        }
        value
    }

    fn write_bytes(&mut self, port: u16, width: Width, value: u32, now_ns: u64, fx: &mut Effects) {
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

    /// Carries line changes to the interrupt controllers.
    #[inline]
    fn settle(&mut self, fx: &mut Effects) {
        if fx.has_line_changes() {
            self.carry_lines(fx);
        }
    }

    fn carry_lines(&mut self, fx: &mut Effects) {
        let changes = fx.take_lines();
        for (mask, level) in [
            (changes.lowered, Level::Deasserted),
            (changes.raised, Level::Asserted),
            (changes.lowered_after, Level::Deasserted),
        ] {
            let mut rest = mask;
            while rest != 0 {
                let gsi = Gsi(rest.trailing_zeros() as u8);
                rest &= rest - 1;
                self.drive(gsi, level);
            }
        }
    }

    /// One line, to the 8259A input and the I/O APIC pin that it is wired to. The interval timer is input 0
    /// there and pin 2 here, as the MADT's interrupt source override says.
    fn drive(&mut self, gsi: Gsi, level: Level) {
        match gsi.0 {
            2 => self.pic.set_line(0, level),
            irq @ 1..16 => self.pic.set_line(irq, level),
            _ => {}
        }
    }

    fn update_deadline(&mut self) {
        self.deadline_ns = [self.uart.next_deadline_ns(), self.pm.next_deadline_ns()]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(u64::MAX);
    }
}
