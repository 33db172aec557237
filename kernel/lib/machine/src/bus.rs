//! Which device answers at which port: a table made at compile time.
//!
//! The [`Board`](crate::Board) looks up the [`Port`] of an access here and calls the device. Most ports of a
//! PC belong to nobody, and guests probe many of them, so that answer takes one load.

use crate::devices::{PanicDevice, testdev};

/// The owner of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Port {
    /// Nobody: reads as all ones, writes vanish.
    Unassigned,
    /// The two 8259A.
    Pic,
    /// The interval timer.
    Pit,
    /// The keyboard controller's data port.
    KeyboardData,
    /// Port 0x61: channel 2 of the interval timer.
    PitControl,
    /// The keyboard controller's command and status port.
    KeyboardCommand,
    /// The real-time clock and its memory.
    Rtc,
    /// Port 0x92: fast reset and A20.
    SystemControl,
    /// The test devices, in machines that have them.
    Test,
    /// The serial port at 0x3f8.
    Uart,
    /// The display, in machines that have one.
    Vga,
    /// The edge/level control of the 8259A inputs.
    Elcr,
    /// The port that tells of a panic.
    Panic,
    /// The fixed ACPI hardware.
    PowerManagement,
    /// The PCI address register: answers to doublewords only.
    PciAddress,
    /// Port 0xcf9: reset, in the middle of the PCI address register.
    Reset,
    /// The window to PCI configuration space.
    PciData,
}

/// Ports below this number have an entry in the table.
const TABLE_PORTS: usize = 0xd00;

/// The assigned ranges: first port, number of ports, owner.
///
/// What else a PC has there and guests probe, but this board lacks, reads as all ones: the DMA controllers (0x00,
/// 0x80, 0xc0; so port 0x80, written for delays and progress codes, costs as little as it can), the coprocessor's
/// busy latch (0xf0), ATA (0x170, 0x1f0), the other serial and the parallel ports (0x2e8, 0x2f8, 0x378, 0x3e8),
/// a monochrome display (0x3b0) and the floppy controller (0x3f0).
const RANGES: &[(usize, usize, Port)] = &[
    (0x20, 2, Port::Pic),
    (0x40, 4, Port::Pit),
    (0x60, 1, Port::KeyboardData),
    (0x61, 1, Port::PitControl),
    (0x64, 1, Port::KeyboardCommand),
    (0x70, 2, Port::Rtc),
    (0x92, 1, Port::SystemControl),
    (0xa0, 2, Port::Pic),
    (0xe0, 12, Port::Test),
    (0xf4, 1, Port::Test),
    (0x3c0, 16, Port::Vga),
    (0x3d4, 2, Port::Vga),
    (0x3da, 1, Port::Vga),
    (0x3f8, 8, Port::Uart),
    (0x4d0, 2, Port::Elcr),
    (PanicDevice::PORT as usize, 1, Port::Panic),
    (0x510, 2, Port::Test),
    (0x514, 8, Port::Test),
    (0x600, 12, Port::PowerManagement),
    (0xcf8, 1, Port::PciAddress),
    (0xcf9, 1, Port::Reset),
    (0xcfc, 4, Port::PciData),
];

static TABLE: [Port; TABLE_PORTS] = build();

#[allow(
    clippy::indexing_slicing,
    reason = "runs in the compiler, which rejects an index out of bounds"
)]
const fn build() -> [Port; TABLE_PORTS] {
    let mut table = [Port::Unassigned; TABLE_PORTS];
    let mut index = 0;
    while index < RANGES.len() {
        let (first, count, owner) = RANGES[index];
        let mut port = first;
        while port < first + count {
            assert!(
                matches!(table[port], Port::Unassigned),
                "two devices claim a port"
            );
            table[port] = owner;
            port += 1;
        }
        index += 1;
    }
    table
}

/// The owner of `port`.
#[inline]
pub(crate) fn owner(port: u16) -> Port {
    match TABLE.get(usize::from(port)) {
        Some(owner) => *owner,
        None if port.wrapping_sub(testdev::LINES) < testdev::LINE_COUNT => Port::Test,
        None => Port::Unassigned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_owns_its_ports_and_not_their_neighbours() {
        assert_eq!(owner(0x3f7), Port::Unassigned);
        assert_eq!(owner(0x3f8), Port::Uart);
        assert_eq!(owner(0x3ff), Port::Uart);
        assert_eq!(owner(0x400), Port::Unassigned);
    }

    #[test]
    fn ports_above_the_table_belong_to_the_test_devices_or_nobody() {
        assert_eq!(owner(0x0d00), Port::Unassigned);
        assert_eq!(owner(0x1fff), Port::Unassigned);
        assert_eq!(owner(0x2000), Port::Test);
        assert_eq!(owner(0x2017), Port::Test);
        assert_eq!(owner(0x2018), Port::Unassigned);
        assert_eq!(owner(0xffff), Port::Unassigned);
    }
}
