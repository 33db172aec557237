//! [`Board`]: all devices of one virtual machine, and the wires between them.
//!
//! The board finds the device of a port (`ports.rs`) or memory access, splits what a device cannot take in one piece as an
//! ISA bus does, and carries interrupt lines to the interrupt controllers. It knows no VM and no CPU: interrupt
//! messages, console output and requests remain in the [`Effects`] for the caller, who takes them out after
//! each access.

mod config;
mod deadlines;
mod ports;
mod wire;

use arch::{Vector, Width};
use memory::{GuestMemory, GuestPhys};

pub use self::config::{BoardConfig, Display, Handover, TestBoard};
use self::deadlines::Deadlines;
use crate::devices::{
    I8042, IoApic, Keyboard, Pci, Pic, Pit, PowerManagement, ResetControl, Rtc, TestDevices,
    TextView, Uart, Vga, testdev,
};
use crate::layout::{ECAM, IOAPIC};
use crate::{Effects, Gsi, Level, Request, bios};

/// All devices of one virtual machine but the local APICs.
#[derive(Debug)]
pub struct Board {
    config: BoardConfig,
    pic: Pic,
    ioapic: IoApic,
    pit: Pit,
    rtc: Rtc,
    uart: Uart,
    vga: Option<Vga>,
    keyboard: I8042,
    pm: PowerManagement,
    reset: ResetControl,
    pci: Pci,
    test: Option<TestDevices>,
    deadlines: Deadlines,
}

impl Board {
    /// The interrupt line of the keyboard controller.
    pub const KEYBOARD_GSI: Gsi = Gsi(1);
    /// The interrupt line of the interval timer: ISA interrupt 0, on pin 2 of the I/O APIC.
    pub const PIT_GSI: Gsi = Gsi(2);
    /// The interrupt line of the serial port.
    pub const UART_GSI: Gsi = Gsi(4);
    /// The port of the serial port's line status.
    pub const LINE_STATUS_PORT: u16 = 0x3f8 + Uart::LINE_STATUS;
    /// The interrupt line of the real-time clock.
    pub const RTC_GSI: Gsi = Gsi(8);
    /// The interrupt line of ACPI (SCI).
    pub const SCI_GSI: Gsi = Gsi(9);

    /// A board after power-on, and after its BIOS where there is one.
    pub fn new(config: BoardConfig) -> Self {
        let handover = config.handover;
        let mut board = Self::after_power_on(config);
        if handover == Handover::Bios {
            let mut fx = Effects::new();
            for (port, value) in bios::SET_UP {
                board.write_port(port, Width::Byte, u32::from(value), 0, &mut fx);
            }
        }
        board
    }

    fn after_power_on(config: BoardConfig) -> Self {
        Self {
            pic: Pic::new(),
            ioapic: IoApic::new(),
            pit: Pit::new(Self::PIT_GSI),
            rtc: Rtc::new(Self::RTC_GSI, config.epoch_s, &config.layout),
            uart: Uart::new(Self::UART_GSI),
            vga: (config.display == Display::Vga).then(Vga::new),
            keyboard: I8042::new(
                Self::KEYBOARD_GSI,
                (config.display == Display::Vga).then(Keyboard::new),
            ),
            pm: PowerManagement::new(Self::SCI_GSI),
            reset: ResetControl::new(),
            pci: Pci::new(),
            test: match &config.test_board {
                TestBoard::Absent => None,
                TestBoard::Present(files) => Some(TestDevices::new(
                    &config.layout,
                    config.display,
                    files.clone(),
                )),
            },
            deadlines: Deadlines::NONE,
            config,
        }
    }

    /// Puts all devices back into their state after power-on. The clock shows the date of `now_ns` as if nobody
    /// had ever set it.
    pub fn reset(&mut self) {
        *self = Self::new(self.config.clone());
    }

    /// What a read of [`LINE_STATUS_PORT`](Self::LINE_STATUS_PORT) returns, where that is all it does: drivers ask there
    /// before each character. What time it is matters only to those who have to wait.
    #[inline]
    pub fn quiet_line_status(&self, now_ns: impl FnOnce() -> u64) -> Option<u8> {
        self.uart.quiet_line_status(now_ns)
    }

    /// Whether nobody answers at this address on any board, where there is no RAM: reads are all ones, and writes vanish.
    #[inline]
    pub fn is_vacant_memory(gpa: GuestPhys) -> bool {
        !IOAPIC.contains(gpa) && !ECAM.contains(gpa) && !testdev::MEMORY.contains(gpa)
    }

    /// Reads memory that is not RAM; bits above the width are zero. Where no device is, all ones.
    pub fn read_mmio(&mut self, gpa: GuestPhys, width: Width) -> u64 {
        if IOAPIC.contains(gpa) {
            self.ioapic
                .read(gpa.as_u64() - IOAPIC.start.as_u64(), width)
        } else if ECAM.contains(gpa) {
            self.pci
                .read_ecam(gpa.as_u64() - ECAM.start.as_u64(), width)
        } else if let Some(test) = &self.test
            && testdev::MEMORY.contains(gpa)
        {
            test.read_memory(gpa.as_u64() - testdev::MEMORY.start.as_u64(), width)
        } else {
            width.mask()
        }
    }

    /// Writes memory that is not RAM. Where no device is, nothing happens.
    pub fn write_mmio(&mut self, gpa: GuestPhys, width: Width, value: u64, fx: &mut Effects) {
        if IOAPIC.contains(gpa) {
            self.ioapic
                .write(gpa.as_u64() - IOAPIC.start.as_u64(), width, value, fx);
        } else if ECAM.contains(gpa) {
            self.pci
                .write_ecam(gpa.as_u64() - ECAM.start.as_u64(), width, value);
        } else if let Some(test) = &mut self.test
            && testdev::MEMORY.contains(gpa)
        {
            test.write_memory(gpa.as_u64() - testdev::MEMORY.start.as_u64(), width, value);
        }
    }

    /// Console input for the guest, at its keyboard if it has one, else its serial port; returns how many bytes were
    /// taken. The rest is to be offered again later.
    pub fn receive(&mut self, bytes: &[u8], now_ns: u64, fx: &mut Effects) -> usize {
        let taken = match self.keyboard.receive(bytes, now_ns, fx) {
            Some(taken) => {
                self.keyboard_accessed();
                taken
            }
            None => {
                let taken = self.uart.receive(bytes, now_ns, fx);
                self.uart_accessed();
                taken
            }
        };
        self.settle(fx);
        taken
    }

    /// Does a part of what a guest has asked of the firmware configuration; the rest is due at once.
    pub fn transfer_firmware(&mut self, memory: &impl GuestMemory) {
        if let Some(test) = &mut self.test {
            test.transfer(memory);
            self.deadlines.firmware = if test.is_transferring() { 0 } else { u64::MAX };
            self.deadlines.settle();
        }
    }

    /// What is on the display; `None` if there is none, or it is off or shows graphics.
    pub fn view(&self) -> Option<TextView> {
        self.vga.as_ref()?.view()
    }

    /// Sets an interrupt line from outside the board.
    pub fn set_line(&mut self, gsi: Gsi, level: Level, fx: &mut Effects) {
        self.drive(gsi, level, fx);
    }

    /// Somebody presses the power button; a guest with ACPI shuts down.
    pub fn press_power_button(&mut self, fx: &mut Effects) {
        self.pm.press_power_button(fx);
        self.settle(fx);
    }

    /// When [`expire`](Self::expire) is next due, in guest time; `None` if no device waits for anything.
    #[inline]
    pub const fn next_deadline_ns(&self) -> Option<u64> {
        match self.deadlines.next {
            u64::MAX => None,
            due => Some(due),
        }
    }

    /// The same as a number: `u64::MAX` if no device waits for anything.
    #[inline]
    pub const fn deadline_ns(&self) -> u64 {
        self.deadlines.next
    }

    /// Does what is due at `now_ns`. Calling it early or late is harmless.
    pub fn expire(&mut self, now_ns: u64, fx: &mut Effects) {
        if self.deadlines.uart <= now_ns {
            self.uart.expire(now_ns, fx);
            self.uart_accessed();
        }
        if self.deadlines.pit <= now_ns {
            self.pit.expire(now_ns, fx);
            self.pit_accessed();
        }
        if self.deadlines.rtc <= now_ns {
            self.rtc.expire(now_ns, fx);
            self.rtc_accessed();
        }
        if self.deadlines.keyboard <= now_ns {
            self.keyboard.expire(now_ns, fx);
            self.keyboard_accessed();
        }
        if self.deadlines.firmware <= now_ns {
            fx.ask(Request::FirmwareTransfer);
        }
        if self.deadlines.pm <= now_ns {
            self.pm.expire(now_ns, fx);
            self.pm_accessed();
        }
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

    /// A local APIC broadcasts the end of a level-triggered interrupt.
    pub fn end_of_interrupt(&mut self, vector: Vector, fx: &mut Effects) {
        self.ioapic.end_of_interrupt(vector, fx);
    }

    /// Whether an interrupt line may bring the CPUs an NMI, the way that it is programmed.
    pub fn may_send_nmi(&self) -> bool {
        self.ioapic.may_send_nmi()
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
                self.drive(gsi, level, fx);
            }
        }
    }

    /// One line, to the I/O APIC pin and the 8259A input that it is wired to. The interval timer has pin 2 there
    /// and input 0 here, as the MADT's interrupt source override says.
    fn drive(&mut self, gsi: Gsi, level: Level, fx: &mut Effects) {
        self.ioapic.set_line(gsi, level, fx);
        match gsi.0 {
            2 => self.pic.set_line(0, level),
            irq @ 1..16 => self.pic.set_line(irq, level),
            _ => {}
        }
    }

    fn uart_accessed(&mut self) {
        let due = self.uart.next_deadline_ns().unwrap_or(u64::MAX);
        if due != self.deadlines.uart {
            self.deadlines.uart = due;
            self.deadlines.settle();
        }
    }

    fn pit_accessed(&mut self) {
        self.deadlines.pit = self.pit.next_deadline_ns().unwrap_or(u64::MAX);
        self.deadlines.settle();
    }

    fn rtc_accessed(&mut self) {
        self.deadlines.rtc = self.rtc.next_deadline_ns().unwrap_or(u64::MAX);
        self.deadlines.settle();
    }

    fn keyboard_accessed(&mut self) {
        self.deadlines.keyboard = self.keyboard.next_deadline_ns().unwrap_or(u64::MAX);
        self.deadlines.settle();
    }

    fn pm_accessed(&mut self) {
        self.deadlines.pm = self.pm.next_deadline_ns().unwrap_or(u64::MAX);
        self.deadlines.settle();
    }
}

#[cfg(test)]
mod tests;
