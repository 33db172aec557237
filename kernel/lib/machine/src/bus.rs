//! Which device answers at which port: a table made at compile time.
//!
//! The [`Board`](crate::Board) looks up the [`Port`] of an access here and calls the device. Most ports of a
//! PC belong to nobody, and guests probe many of them, so that answer takes one load.

/// The owner of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Port {
    /// Nobody: reads as all ones, writes vanish.
    Unassigned,
    /// The two 8259A.
    Pic,
    /// The edge/level control of the 8259A inputs.
    Elcr,
    /// The serial port at 0x3f8.
    Uart,
    /// The fixed ACPI hardware.
    PowerManagement,
    /// Port 0x92: fast reset and A20.
    SystemControl,
    /// Port 0xcf9: reset. The PCI address register, one doubleword, begins before and ends behind it.
    Reset,
}

/// Ports below this number have an entry in the table; above, nothing is assigned.
const TABLE_PORTS: usize = 0xd00;

/// The assigned ranges: first port, number of ports, owner.
const RANGES: &[(usize, usize, Port)] = &[
    (0x20, 2, Port::Pic),
    (0x92, 1, Port::SystemControl),
    (0xa0, 2, Port::Pic),
    (0x3f8, 8, Port::Uart),
    (0x4d0, 2, Port::Elcr),
    (0x600, 12, Port::PowerManagement),
    (0xcf9, 1, Port::Reset),
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
    fn ports_above_the_table_belong_to_nobody() {
        assert_eq!(owner(0x0d00), Port::Unassigned);
        assert_eq!(owner(0xffff), Port::Unassigned);
    }
}
