//! The ACPI tables of a guest: how an operating system learns what its machine has.
//!
//! [`Acpi::build`] makes them for a [`MachineLayout`] and says where they go: into the area of the BIOS below 1 MiB, the
//! RSDP first, where a search for it begins. [`Acpi::install`] also writes them. The area's second half is left to the
//! SMBIOS tables.
//!
//! Built with the `acpi_tables` crate where it knows a table; it encodes the AML.

mod dsdt;
mod tables;

use alloc::vec::Vec;
use core::fmt;

use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use memory::{GuestMemory, GuestPhys, Unbacked};

use crate::Display;
use crate::layout::{BIOS, MachineLayout};

const OEM_ID: [u8; 6] = *b"PLINTH";
const OEM_TABLE_ID: [u8; 8] = *b"PLINTHPC";
const OEM_REVISION: u32 = 1;
/// Every table starts at a multiple of this, as the FACS must.
const ALIGN: u64 = 64;
/// More CPUs than this have no room in the tables.
const MAX_CPUS: u32 = 1024;

/// Why there are no tables for a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcpiError {
    /// The machine has more CPUs than the tables can hold.
    TooManyCpus(u32),
    /// The area of the BIOS is not backed by memory: the machine has less than 1 MiB.
    Unbacked(GuestPhys),
}

impl From<Unbacked> for AcpiError {
    fn from(Unbacked(gpa): Unbacked) -> Self {
        Self::Unbacked(gpa)
    }
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyCpus(count) => {
                write!(
                    f,
                    "{count} CPUs are more than the ACPI tables can hold ({MAX_CPUS})"
                )
            }
            Self::Unbacked(gpa) => write!(f, "no guest memory for the ACPI tables at {gpa}"),
        }
    }
}

impl core::error::Error for AcpiError {}

/// The tables of a machine, each with its address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcpiTables {
    /// The address of the RSDP, for the boot protocols that pass it on.
    pub rsdp: GuestPhys,
    /// What goes where.
    pub blocks: Vec<(GuestPhys, Vec<u8>)>,
}

/// What the tables of all machines have in common, encoded once: the encoder makes many small allocations, which would
/// be half of what a small machine's start takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acpi {
    devices: dsdt::CommonDevices,
}

impl Default for Acpi {
    fn default() -> Self {
        let devices = dsdt::CommonDevices::encode();
        Self { devices }
    }
}

impl Acpi {
    /// Makes the tables of a machine.
    ///
    /// # Errors
    /// [`AcpiError::TooManyCpus`].
    pub fn build(&self, layout: &MachineLayout, display: Display) -> Result<AcpiTables, AcpiError> {
        if layout.cpus() > MAX_CPUS {
            return Err(AcpiError::TooManyCpus(layout.cpus()));
        }
        let mut area = Area {
            next: BIOS.start,
            blocks: Vec::new(),
        };
        let rsdp = area.reserve(Rsdp::len() as u64);
        let dsdt = area.add(dsdt::build(&self.devices, layout, display));
        let facs = area.add(tables::facs());
        let listed = [
            tables::fadt(dsdt, facs, display),
            tables::madt(layout),
            tables::mcfg(),
            tables::spcr(),
        ]
        .map(|table| area.add(table));
        let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
        for table in listed {
            xsdt.add_entry(table.as_u64());
        }
        let xsdt = area.add(bytes(&xsdt));
        area.blocks
            .push((rsdp, bytes(&Rsdp::new(OEM_ID, xsdt.as_u64()))));
        Ok(AcpiTables {
            rsdp,
            blocks: area.blocks,
        })
    }

    /// Makes the tables of a machine, writes them to its memory, and returns the address of the RSDP.
    ///
    /// # Errors
    /// Why there are none.
    pub fn install(
        &self,
        layout: &MachineLayout,
        display: Display,
        memory: &impl GuestMemory,
    ) -> Result<GuestPhys, AcpiError> {
        let tables = self.build(layout, display)?;
        for (address, bytes) in &tables.blocks {
            memory.write(*address, bytes)?;
        }
        Ok(tables.rsdp)
    }
}

/// The area of the BIOS, filled from its start. [`MAX_CPUS`] keeps the tables within it.
struct Area {
    next: GuestPhys,
    blocks: Vec<(GuestPhys, Vec<u8>)>,
}

impl Area {
    fn reserve(&mut self, bytes: u64) -> GuestPhys {
        let at = self.next;
        self.next = at.wrapping_add(bytes.next_multiple_of(ALIGN));
        at
    }

    fn add(&mut self, table: Vec<u8>) -> GuestPhys {
        let at = self.reserve(table.len() as u64);
        self.blocks.push((at, table));
        at
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The area of the BIOS with the tables of a machine in it.
    struct Bios(Vec<u8>);

    impl Bios {
        fn of(cpus: u32) -> Self {
            Self::with(cpus, Display::Absent)
        }

        fn with(cpus: u32, display: Display) -> Self {
            let tables = Acpi::default()
                .build(&MachineLayout::new(1 << 30, cpus), display)
                .unwrap();
            let mut bytes = alloc::vec![0; BIOS.len() as usize];
            for (at, table) in tables.blocks {
                let offset = at.offset_from(BIOS.start).unwrap() as usize;
                let place = &mut bytes[offset..offset + table.len()];
                assert!(place.iter().all(|&byte| byte == 0), "two tables overlap");
                place.copy_from_slice(&table);
            }
            Self(bytes)
        }

        fn at(&self, address: u64, count: usize) -> &[u8] {
            &self.0[(address - 0xe_0000) as usize..][..count]
        }

        fn u32(&self, address: u64) -> u32 {
            u32::from_le_bytes(self.at(address, 4).try_into().unwrap())
        }

        fn u64(&self, address: u64) -> u64 {
            u64::from_le_bytes(self.at(address, 8).try_into().unwrap())
        }

        /// A table with a good checksum: its signature and its bytes.
        fn table(&self, address: u64) -> (&[u8], &[u8]) {
            let table = self.at(address, self.u32(address + 4) as usize);
            assert_eq!(sum(table), 0, "checksum of the table at {address:#x}");
            (&table[..4], table)
        }

        /// The tables that the XSDT lists.
        fn listed(&self) -> Vec<u64> {
            let xsdt = self.u64(0xe_0000 + 24);
            let (signature, table) = self.table(xsdt);
            assert_eq!(signature, b"XSDT");
            (36..table.len())
                .step_by(8)
                .map(|offset| self.u64(xsdt + offset as u64))
                .collect()
        }

        fn find(&self, signature: &[u8; 4]) -> u64 {
            *self
                .listed()
                .iter()
                .find(|&&at| self.at(at, 4) == signature)
                .unwrap()
        }
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn the_rsdp_is_where_a_search_begins_and_leads_to_every_table() {
        let bios = Bios::of(2);
        assert_eq!(bios.at(0xe_0000, 8), b"RSD PTR ");
        assert_eq!(
            (sum(bios.at(0xe_0000, 20)), sum(bios.at(0xe_0000, 36))),
            (0, 0)
        );
        let signatures: Vec<&[u8]> = bios.listed().iter().map(|&at| bios.table(at).0).collect();
        assert_eq!(signatures, [b"FACP", b"APIC", b"MCFG", b"SPCR"]);
    }

    #[test]
    fn the_fadt_leads_to_dsdt_and_facs_and_names_the_fixed_hardware() {
        let bios = Bios::of(1);
        let fadt = bios.find(b"FACP");
        let dsdt = bios.u64(fadt + 140);
        assert_eq!(bios.table(dsdt).0, b"DSDT");
        assert_eq!(u64::from(bios.u32(fadt + 40)), dsdt);
        let facs = u64::from(bios.u32(fadt + 36));
        assert_eq!(bios.at(facs, 4), b"FACS");
        assert_eq!(facs % 64, 0);
        assert_eq!(bios.u32(fadt + 48), 0, "no SMI command port");
        assert_eq!(
            [56, 64, 76].map(|at| bios.u32(fadt + at)),
            [0x600, 0x604, 0x608]
        );
        assert_eq!(bios.at(fadt + 46, 1), [9]);
        assert_eq!(bios.u32(fadt + 112) & (1 << 20), 0, "not hardware-reduced");
        assert_eq!(
            (bios.u64(fadt + 120), bios.at(fadt + 128, 1)),
            (0xcf9, &[6][..])
        );
        assert_eq!(bios.at(fadt + 108, 1), [0x32]);
    }

    #[test]
    fn a_keyboard_and_a_display_are_announced_exactly_where_they_are() {
        let boot_flags = |display| {
            let bios = Bios::with(1, display);
            let fadt = bios.find(b"FACP");
            let (_, dsdt) = bios.table(bios.u64(fadt + 140));
            // PNP0303 as an EISA ID.
            let keyboards = dsdt
                .windows(4)
                .filter(|part| *part == [0x41, 0xd0, 0x03, 0x03])
                .count();
            (bios.at(fadt + 109, 1)[0], keyboards)
        };
        assert_eq!(boot_flags(Display::Absent), (0b101, 0));
        assert_eq!(boot_flags(Display::Vga), (0b011, 1));
    }

    /// The MADT's structures: type and contents.
    fn madt(bios: &Bios) -> Vec<(u8, Vec<u8>)> {
        let (_, table) = bios.table(bios.find(b"APIC"));
        assert_eq!(table[36..44], [0, 0, 0xe0, 0xfe, 1, 0, 0, 0]);
        let (mut at, mut found) = (44, Vec::new());
        while at < table.len() {
            let length = usize::from(table[at + 1]);
            found.push((table[at], table[at + 2..at + length].to_vec()));
            at += length;
        }
        assert_eq!(at, table.len());
        found
    }

    #[test]
    fn the_madt_lists_every_cpu_and_the_interrupts_that_are_not_as_usual() {
        let structures = madt(&Bios::of(3));
        let cpus: Vec<_> = structures.iter().filter(|(kind, _)| *kind == 0).collect();
        assert_eq!(cpus.len(), 3);
        assert_eq!(cpus[2].1, [2, 2, 1, 0, 0, 0]);
        assert!(structures.contains(&(1, alloc::vec![0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0])));
        assert!(structures.contains(&(2, alloc::vec![0, 0, 2, 0, 0, 0, 0, 0])));
        assert!(structures.contains(&(2, alloc::vec![0, 9, 9, 0, 0, 0, 0x0d, 0])));
        assert!(structures.contains(&(4, alloc::vec![0xff, 0, 0, 1])));
    }

    #[test]
    fn from_apic_id_255_on_cpus_are_x2apics() {
        let structures = madt(&Bios::of(300));
        let count = |wanted: u8| {
            structures
                .iter()
                .filter(|(kind, _)| *kind == wanted)
                .count()
        };
        assert_eq!((count(0), count(9), count(10)), (255, 45, 1));
        let (_, first) = structures.iter().find(|(kind, _)| *kind == 9).unwrap();
        assert_eq!(first[2..], [255, 0, 0, 0, 1, 0, 0, 0, 255, 0, 0, 0]);
    }

    #[test]
    fn every_cpu_of_the_madt_is_in_the_dsdt() {
        let bios = Bios::of(17);
        let (_, dsdt) = bios.table(bios.u64(bios.find(b"FACP") + 140));
        let count = |text: &[u8]| {
            dsdt.windows(text.len())
                .filter(|part| *part == text)
                .count()
        };
        assert_eq!(count(b"ACPI0007"), 17);
        assert_eq!((count(b"C00F"), count(b"C010"), count(b"C011")), (1, 1, 0));
        assert_eq!(
            (
                count(b"_S5_"),
                count(b"PCI0"),
                count(b"_PRT"),
                count(b"COM1")
            ),
            (1, 1, 1, 1)
        );
    }

    #[test]
    fn every_pin_of_every_pci_device_is_routed_to_an_interrupt_of_its_own_eight() {
        let bios = Bios::of(1);
        let (_, dsdt) = bios.table(bios.u64(bios.find(b"FACP") + 140));
        let name = dsdt.windows(4).position(|part| part == b"_PRT").unwrap();
        // A package of 128 elements whose length takes two bytes.
        let routing = &dsdt[name + 4..];
        assert_eq!((routing[0], routing[1] >> 6, routing[3]), (0x12, 1, 128));
        let length = usize::from(routing[1] & 0xf) | usize::from(routing[2]) << 4;
        let entries: Vec<_> = routing[4..1 + length].chunks(13).collect();
        assert_eq!(entries.len(), 128);
        for (index, entry) in entries.into_iter().enumerate() {
            let (device, pin) = (index as u8 / 4, index as u8 % 4);
            assert_eq!(entry[..3], [0x12, 12, 4]);
            assert_eq!(entry[3..8], [0x0c, 0xff, 0xff, device, 0]);
            assert_eq!(entry[8..], [0x0a, pin, 0, 0x0a, 16 + (device + pin) % 8]);
        }
    }

    #[test]
    fn mcfg_and_spcr_name_the_window_and_the_console() {
        let bios = Bios::of(1);
        let mcfg = bios.find(b"MCFG");
        assert_eq!(bios.u64(mcfg + 44), 0xe000_0000);
        assert_eq!(bios.at(mcfg + 54, 2), [0, 0xff]);
        let spcr = bios.find(b"SPCR");
        assert_eq!(
            (bios.at(spcr + 40, 1), bios.u64(spcr + 44)),
            (&[1][..], 0x3f8)
        );
        assert_eq!(bios.table(spcr).1.len(), 80);
    }

    #[test]
    fn the_most_cpus_fit_and_more_are_refused() {
        let tables = Acpi::default()
            .build(&MachineLayout::new(1 << 30, 1024), Display::Vga)
            .unwrap();
        for (at, bytes) in &tables.blocks {
            let end = at.checked_add(bytes.len() as u64).unwrap();
            assert!(BIOS.contains(*at) && end <= crate::smbios::ENTRY_POINT);
        }
        assert_eq!(
            Acpi::default().build(&MachineLayout::new(1 << 30, 1025), Display::Vga),
            Err(AcpiError::TooManyCpus(1025))
        );
    }
}
