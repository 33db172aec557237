//! What the firmware's MADT says of CPUs and interrupt controllers (ACPI specification, Multiple APIC Description Table).

use alloc::vec::Vec;
use core::fmt;

/// An I/O APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoApicInfo {
    /// The physical address of its registers.
    pub address: u32,
    /// The global interrupt number of its first pin.
    pub first_gsi: u32,
}

/// An ISA interrupt that does not arrive at the pin of its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IsaOverride {
    /// The ISA interrupt.
    pub irq: u8,
    /// The global interrupt number of its pin.
    pub gsi: u32,
    /// Polarity and trigger mode (ACPI specification, MPS INTI Flags).
    pub flags: u16,
}

/// The parts of the table that are of use.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Madt {
    /// APIC IDs of the CPUs that can be used, as listed; once each, though some firmware lists a CPU in both forms.
    pub apic_ids: Vec<u32>,
    /// The I/O APICs.
    pub io_apics: Vec<IoApicInfo>,
    /// ISA interrupts at unusual pins.
    pub overrides: Vec<IsaOverride>,
    /// The first entry that makes no sense.
    pub broken: Option<Broken>,
}

/// An entry that makes no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken {
    /// Where it begins, in bytes from the first entry.
    pub offset: usize,
    /// Its type.
    pub kind: u8,
    /// Its length, as it says.
    pub length: u8,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an entry of type {:#x} at offset {} gives its length as {} bytes",
            self.kind, self.offset, self.length
        )
    }
}

/// Bytes between the table's header and its first entry: address of the local APICs, and flags.
const FIXED_BYTES: usize = 8;
/// Type and length.
const ENTRY_HEADER_BYTES: u8 = 2;
/// Flags of a CPU: it is there; the other one, that it may come later, is of no use.
const CPU_ENABLED: u32 = 1 << 0;
/// The APIC IDs that mean everybody.
const BROADCAST_XAPIC_ID: u8 = 0xff;
const BROADCAST_X2APIC_ID: u32 = u32::MAX;

impl Madt {
    /// Reads what comes behind the table's header. Firmware may have made it in a hurry: an entry too short for its type
    /// is passed over, and behind one that has no length, or does not end within the table, nothing can be found.
    pub fn read(body: &[u8]) -> Self {
        let mut madt = Self::default();
        let entries = body.get(FIXED_BYTES..).unwrap_or_default();
        let mut offset = 0;
        while let Some(&[kind, length, ..]) = entries.get(offset..) {
            let broken = Broken {
                offset,
                kind,
                length,
            };
            let end = offset + usize::from(length);
            let entry = entries.get(offset..end);
            match entry.filter(|_| length >= ENTRY_HEADER_BYTES) {
                None => {
                    madt.broken.get_or_insert(broken);
                    break;
                }
                Some(entry) => {
                    if madt.add(kind, entry).is_none() {
                        madt.broken.get_or_insert(broken);
                    }
                }
            }
            offset = end;
        }
        madt
    }

    /// `None` where the entry is too short.
    fn add(&mut self, kind: u8, entry: &[u8]) -> Option<()> {
        let byte = |at: usize| entry.get(at).copied();
        let word = |at: usize| Some(u16::from_le_bytes([byte(at)?, byte(at + 1)?]));
        let dword = |at: usize| {
            let bytes = entry.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(bytes))
        };
        match kind {
            // Processor Local APIC.
            0 => {
                let (apic_id, flags) = (byte(3)?, dword(4)?);
                if flags & CPU_ENABLED != 0 && apic_id != BROADCAST_XAPIC_ID {
                    self.add_cpu(apic_id.into());
                }
            }
            // I/O APIC.
            1 => self.io_apics.push(IoApicInfo {
                address: dword(4)?,
                first_gsi: dword(8)?,
            }),
            // Interrupt Source Override; bus 0 is ISA.
            2 => {
                let (bus, flags) = (byte(2)?, word(8)?);
                let (irq, gsi) = (byte(3)?, dword(4)?);
                if bus == 0 {
                    self.overrides.push(IsaOverride { irq, gsi, flags });
                }
            }
            // Processor Local x2APIC.
            9 => {
                let (apic_id, flags) = (dword(4)?, dword(8)?);
                if flags & CPU_ENABLED != 0 && apic_id != BROADCAST_X2APIC_ID {
                    self.add_cpu(apic_id);
                }
            }
            _ => {}
        }
        Some(())
    }

    fn add_cpu(&mut self, apic_id: u32) {
        if !self.apic_ids.contains(&apic_id) {
            self.apic_ids.push(apic_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    /// The table's body with these entries.
    fn body(entries: &[&[u8]]) -> Vec<u8> {
        let mut body = vec![0, 0, 0xe0, 0xfe, 1, 0, 0, 0];
        entries
            .iter()
            .for_each(|entry| body.extend_from_slice(entry));
        body
    }

    const CPU_3: &[u8] = &[0, 8, 7, 3, 1, 0, 0, 0];
    const CPU_5_OFF: &[u8] = &[0, 8, 7, 5, 2, 0, 0, 0];
    const IO_APIC: &[u8] = &[1, 12, 2, 0, 0, 0, 0xc0, 0xfe, 0x18, 0, 0, 0];
    const OVERRIDE: &[u8] = &[2, 10, 0, 9, 20, 0, 0, 0, 0x0d, 0];
    const CPU_300: &[u8] = &[9, 16, 0, 0, 0x2c, 1, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0];
    const CPU_3_AGAIN: &[u8] = &[9, 16, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0];

    #[test]
    fn cpus_and_interrupt_controllers_are_found_and_each_cpu_once() {
        let madt = Madt::read(&body(&[
            CPU_3,
            CPU_5_OFF,
            IO_APIC,
            &[0x81, 3, 0xaa],
            OVERRIDE,
            CPU_300,
            CPU_3_AGAIN,
        ]));
        assert_eq!(madt.apic_ids, [3, 300]);
        let io_apic = IoApicInfo {
            address: 0xfec0_0000,
            first_gsi: 24,
        };
        assert_eq!(madt.io_apics, [io_apic]);
        let (irq, gsi, flags) = (9, 20, 0xd);
        assert_eq!(madt.overrides, [IsaOverride { irq, gsi, flags }]);
        assert_eq!(madt.broken, None);
    }

    #[test]
    fn ids_that_mean_everybody_are_no_cpus() {
        let all = &[0, 8, 7, 0xff, 1, 0, 0, 0];
        let all_x2apic = &[9, 16, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 8, 0, 0, 0];
        // In x2APIC mode 255 is one CPU.
        let one = &[9, 16, 0, 0, 0xff, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0];
        let madt = Madt::read(&body(&[all, all_x2apic, one]));
        assert_eq!(madt.apic_ids, [255]);
    }

    #[test]
    fn an_entry_of_length_0_was_read_again_for_ever() {
        for (kind, length) in [(0, 0), (9, 1), (0x7f, 0), (0xff, 0), (0xff, 1)] {
            let broken = [kind, length, 0, 0];
            let madt = Madt::read(&body(&[CPU_3, &broken, CPU_300]));
            assert_eq!(madt.apic_ids, [3]);
            let told = madt.broken.expect("it is told");
            assert_eq!((told.offset, told.kind, told.length), (8, kind, length));
        }
        let broken = Madt::read(&body(&[CPU_3, &[0xff, 0]])).broken;
        assert_eq!(
            broken.unwrap().to_string(),
            "an entry of type 0xff at offset 8 gives its length as 0 bytes"
        );
    }

    #[test]
    fn an_entry_too_short_for_its_type_is_told_and_those_behind_it_are_read() {
        let madt = Madt::read(&body(&[&[9, 8, 0, 0, 5, 0, 0, 0], &[1, 4, 0, 0], CPU_3]));
        assert_eq!(madt.apic_ids, [3]);
        assert_eq!(madt.io_apics, []);
        assert_eq!(madt.broken.map(|it| (it.offset, it.kind)), Some((0, 9)));
    }

    #[test]
    fn an_entry_beyond_the_end_of_the_table_is_not_read() {
        let all = body(&[CPU_3, CPU_300]);
        for bytes in 0..all.len() {
            let madt = Madt::read(&all[..bytes]);
            assert_eq!(madt.apic_ids.len(), usize::from(bytes >= 16));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(0u8..20, 0..400)) {
            let madt = Madt::read(&bytes);
            prop_assert!(madt.io_apics.len() <= bytes.len() / 12);
        }
    }
}
