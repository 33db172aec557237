//! The SMBIOS tables of a guest: its maker, product and firmware by name (System Management BIOS Reference
//! Specification 3.3). Operating systems find them by a search of the BIOS area and print them in their logs.

use alloc::vec::Vec;

use memory::{GuestMemory, GuestPhys, Unbacked};

/// Where the entry point is: the first address of the search.
pub const ENTRY_POINT: GuestPhys = GuestPhys::new(0xf_0000);
/// The structures follow it.
const STRUCTURES: GuestPhys = GuestPhys::new(0xf_0020);
const ENTRY_POINT_BYTES: u8 = 24;
const VERSION: [u8; 2] = [3, 3];

/// The structures' types.
mod kind {
    pub(super) const FIRMWARE: u8 = 0;
    pub(super) const SYSTEM: u8 = 1;
    pub(super) const END: u8 = 127;
}

/// Structures as they are put together.
#[derive(Default)]
struct Structures {
    bytes: Vec<u8>,
    count: u16,
}

impl Structures {
    /// Adds a structure: header, fields, and its strings, to which fields refer by number from 1 on.
    fn add(&mut self, kind: u8, fields: &[u8], strings: &[&str]) {
        self.bytes
            .extend_from_slice(&[kind, fields.len() as u8 + 4]);
        self.bytes.extend_from_slice(&self.count.to_le_bytes());
        self.bytes.extend_from_slice(fields);
        for string in strings {
            self.bytes.extend_from_slice(string.as_bytes());
            self.bytes.push(0);
        }
        if strings.is_empty() {
            self.bytes.push(0);
        }
        self.bytes.push(0);
        self.count += 1;
    }
}

fn structures() -> Vec<u8> {
    const NO_UUID: [u8; 16] = [0; 16];
    let mut all = Structures::default();
    // Vendor, version, segment 0xe000, release date, 64 KiB; characteristics: none are told (bit 3), a virtual
    // machine (bit 4 of the second extension byte); release 1.0, no embedded controller, no larger ROM size.
    let firmware = [
        &[1, 2, 0x00, 0xe0, 3, 0][..],
        &[0x08, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0x10, 1, 0, 0xff, 0xff, 0, 0],
    ];
    all.add(
        kind::FIRMWARE,
        &firmware.concat(),
        &["Plinth", "1.0", "01/01/2026"],
    );
    // Maker, product, version, no serial number, no UUID, woken by the power switch, no SKU, family.
    let system = [&[1, 2, 3, 0][..], &NO_UUID, &[6, 0, 4]];
    all.add(
        kind::SYSTEM,
        &system.concat(),
        &["Plinth", "Plinth PC", "1.0", "Virtual Machine"],
    );
    all.add(kind::END, &[], &[]);
    all.bytes
}

fn entry_point(structures_bytes: u32) -> Vec<u8> {
    let [major, minor] = VERSION;
    let mut entry = b"_SM3_\0".to_vec();
    // Its length, the version with a document revision, entry point revision 1, and a reserved byte.
    entry.extend_from_slice(&[ENTRY_POINT_BYTES, major, minor, 0, 1, 0]);
    entry.extend_from_slice(&structures_bytes.to_le_bytes());
    entry.extend_from_slice(&STRUCTURES.as_u64().to_le_bytes());
    let sum = entry.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(checksum) = entry.get_mut(5) {
        *checksum = sum.wrapping_neg();
    }
    entry
}

/// Writes the tables to a machine's memory.
///
/// # Errors
/// The machine has less than 1 MiB.
pub fn install(memory: &impl GuestMemory) -> Result<(), Unbacked> {
    let structures = structures();
    memory.write(STRUCTURES, &structures)?;
    memory.write(ENTRY_POINT, &entry_point(structures.len() as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The structures of a table: type, fields and strings.
    fn parse(table: &[u8]) -> Vec<(u8, Vec<u8>, Vec<Vec<u8>>)> {
        let (mut at, mut found) = (0, Vec::new());
        while at < table.len() {
            let length = usize::from(table[at + 1]);
            let fields = table[at..at + length].to_vec();
            let strings = &table[at + length..];
            let end = strings.windows(2).position(|pair| pair == [0, 0]).unwrap();
            let texts = strings[..end]
                .split(|&byte| byte == 0)
                .map(<[u8]>::to_vec)
                .collect();
            found.push((table[at], fields, texts));
            at += length + end + 2;
        }
        assert_eq!(at, table.len());
        found
    }

    #[test]
    fn the_structures_name_the_machine_and_end() {
        let all = parse(&structures());
        assert_eq!(all.iter().map(|one| one.0).collect::<Vec<_>>(), [0, 1, 127]);
        assert_eq!(
            (all[0].1.len(), all[1].1.len(), all[2].1.len()),
            (0x1a, 0x1b, 4)
        );
        assert_eq!(all[0].1[2..4], [0, 0]);
        assert_eq!(all[1].1[2..4], [1, 0]);
        assert_eq!(all[1].2[1], b"Plinth PC");
        // The number of each string that a field refers to exists.
        assert_eq!((all[0].1[8], all[0].2.len()), (3, 3));
        assert_eq!((all[1].1[0x1a], all[1].2.len()), (4, 4));
    }

    #[test]
    fn the_entry_point_has_a_good_checksum_and_leads_to_the_structures() {
        let bytes = structures().len() as u32;
        let entry = entry_point(bytes);
        assert_eq!(
            (&entry[..5], entry.len(), entry[6]),
            (&b"_SM3_"[..], 24, 24)
        );
        assert_eq!(
            entry.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)),
            0
        );
        assert_eq!(entry[12..16], bytes.to_le_bytes());
        assert_eq!(entry[16..24], 0xf_0020u64.to_le_bytes());
    }
}
