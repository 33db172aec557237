//! The walk against cases from the manual, and against a slow model that shares no line with it.

use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use proptest::prelude::*;

use super::*;

/// 64 KiB of RAM; another CPU may interfere with one compare-and-exchange.
struct Ram {
    bytes: RefCell<Vec<u8>>,
    interfere: Cell<Option<(u64, u64)>>,
    interfere_always: Cell<bool>,
}

const RAM: usize = 1 << 16;

impl Ram {
    fn new() -> Self {
        Self {
            bytes: RefCell::new(alloc::vec![0; RAM]),
            interfere: Cell::new(None),
            interfere_always: Cell::new(false),
        }
    }

    fn set(&self, at: u64, value: u64) {
        self.bytes.borrow_mut()[at as usize..][..8].copy_from_slice(&value.to_le_bytes());
    }

    fn set32(&self, at: u64, value: u32) {
        self.bytes.borrow_mut()[at as usize..][..4].copy_from_slice(&value.to_le_bytes());
    }

    fn get(&self, at: u64) -> u64 {
        self.read_u64(GuestPhys::new(at)).unwrap()
    }

    fn span(gpa: GuestPhys, bytes: usize) -> Result<core::ops::Range<usize>, Unbacked> {
        let start = gpa.as_u64() as usize;
        let end = start
            .checked_add(bytes)
            .filter(|&end| end <= RAM)
            .ok_or(Unbacked(gpa))?;
        Ok(start..end)
    }
}

impl GuestMemory for Ram {
    fn read(&self, gpa: GuestPhys, buffer: &mut [u8]) -> Result<(), Unbacked> {
        let span = Self::span(gpa, buffer.len())?;
        buffer.copy_from_slice(&self.bytes.borrow()[span]);
        Ok(())
    }

    fn write(&self, gpa: GuestPhys, bytes: &[u8]) -> Result<(), Unbacked> {
        let span = Self::span(gpa, bytes.len())?;
        self.bytes.borrow_mut()[span].copy_from_slice(bytes);
        Ok(())
    }

    fn compare_exchange_u64(&self, gpa: GuestPhys, old: u64, new: u64) -> Result<u64, Unbacked> {
        if let Some((at, value)) = self.interfere.take() {
            self.set(at, value);
        }
        if self.interfere_always.get() {
            return Ok(!old);
        }
        let seen = self.read_u64(gpa)?;
        if seen == old {
            self.set(gpa.as_u64(), new);
        }
        Ok(seen)
    }

    fn compare_exchange_u32(&self, gpa: GuestPhys, old: u32, new: u32) -> Result<u32, Unbacked> {
        let seen = self.read_u32(gpa)?;
        if seen == old {
            self.set32(gpa.as_u64(), new);
        }
        Ok(seen)
    }
}

const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const XD: u64 = 1 << 63;

const GVA: u64 = 0x0000_1234_5678_9abc;

fn registers() -> GuestPaging {
    GuestPaging {
        cr0: Cr0::PE | Cr0::PG | Cr0::WP,
        cr3: 0x1000,
        cr4: Cr4::PAE | Cr4::PSE,
        efer: Efer::LME | Efer::LMA | Efer::NXE,
        rflags: Rflags::ONE,
        pkru: 0,
        pdptes: [0; 4],
        physical_bits: 40,
        features: WalkFeatures::all(),
    }
}

/// Addresses of the four entries that translate [`GVA`] when the tables lie at 0x1000, 0x2000 and so on.
fn entry_at(level: u64) -> u64 {
    let table = (5 - level) * 0x1000;
    table + (GVA >> (12 + 9 * (level - 1)) & 0x1ff) * 8
}

/// Tables for [`GVA`] with these flags in the entries of levels 4 to 1; the page is at 0x9000.
fn four_levels(flags: [u64; 4]) -> Ram {
    let ram = Ram::new();
    for (level, flags) in [4, 3, 2, 1].into_iter().zip(flags) {
        let next = if level == 1 {
            0x9000
        } else {
            (6 - level) * 0x1000
        };
        ram.set(entry_at(level), next | flags);
    }
    ram
}

fn code(result: Result<GuestPhys, WalkFault>) -> Result<u64, u32> {
    match result {
        Ok(gpa) => Ok(gpa.as_u64()),
        Err(WalkFault::PageFault { error_code }) => Err(error_code.bits()),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn rights_of_a_page_decide_with_the_error_codes_of_the_manual() {
    use AccessKind::{Execute, Read, Write};
    use Privilege::{ImplicitSupervisor, Supervisor, User};
    let all = P | RW | US | A | D;
    let open = [all; 4];
    let with = |level: usize, flags| {
        let mut entries = open;
        entries[4 - level] = flags;
        entries
    };
    let plain = registers();
    let no_wp = GuestPaging {
        cr0: plain.cr0 - Cr0::WP,
        ..plain
    };
    let smep = GuestPaging {
        cr4: plain.cr4 | Cr4::SMEP,
        ..plain
    };
    let smap = GuestPaging {
        cr4: plain.cr4 | Cr4::SMAP,
        ..plain
    };
    let smap_ac = GuestPaging {
        rflags: plain.rflags | Rflags::AC,
        ..smap
    };
    let no_nx = GuestPaging {
        efer: plain.efer - Efer::NXE,
        ..plain
    };
    let smep_no_nx = GuestPaging {
        cr4: plain.cr4 | Cr4::SMEP,
        ..no_nx
    };
    let page = Ok(0x9abc);
    for (name, registers, entries, kind, privilege, answer) in [
        ("open", plain, open, Write, User, page),
        (
            "not present at level 4",
            plain,
            with(4, 0),
            Read,
            User,
            Err(0x4),
        ),
        (
            "not present at level 1",
            plain,
            with(1, RW | US),
            Write,
            Supervisor,
            Err(0x2),
        ),
        (
            "not present, fetch",
            plain,
            with(2, 0),
            Execute,
            User,
            Err(0x14),
        ),
        (
            "not present, fetch, no NX",
            no_nx,
            with(2, 0),
            Execute,
            User,
            Err(0x4),
        ),
        (
            "not present, fetch, SMEP",
            smep_no_nx,
            with(2, 0),
            Execute,
            User,
            Err(0x14),
        ),
        (
            "user on supervisor page",
            plain,
            with(3, all - US),
            Read,
            User,
            Err(0x5),
        ),
        (
            "user writes read-only",
            plain,
            with(2, all - RW),
            Write,
            User,
            Err(0x7),
        ),
        (
            "supervisor writes read-only",
            plain,
            with(2, all - RW),
            Write,
            Supervisor,
            Err(0x3),
        ),
        (
            "without WP",
            no_wp,
            with(2, all - RW),
            Write,
            Supervisor,
            page,
        ),
        (
            "without WP, user",
            no_wp,
            with(2, all - RW),
            Write,
            User,
            Err(0x7),
        ),
        (
            "no execute",
            plain,
            with(4, all | XD),
            Execute,
            User,
            Err(0x15),
        ),
        (
            "no execute, data",
            plain,
            with(4, all | XD),
            Write,
            User,
            page,
        ),
        (
            "NX bit without NXE",
            no_nx,
            with(1, all | XD),
            Read,
            Supervisor,
            Err(0x9),
        ),
        (
            "supervisor fetches user page",
            plain,
            open,
            Execute,
            Supervisor,
            page,
        ),
        ("SMEP", smep, open, Execute, Supervisor, Err(0x11)),
        (
            "SMEP, supervisor page",
            smep,
            with(1, all - US),
            Execute,
            Supervisor,
            page,
        ),
        ("SMEP, user", smep, open, Execute, User, page),
        ("SMAP", smap, open, Read, Supervisor, Err(0x1)),
        ("SMAP, write", smap, open, Write, Supervisor, Err(0x3)),
        ("SMAP with AC", smap_ac, open, Write, Supervisor, page),
        (
            "SMAP with AC, implicit",
            smap_ac,
            open,
            Read,
            ImplicitSupervisor,
            Err(0x1),
        ),
        ("SMAP, user", smap, open, Write, User, page),
        (
            "SMAP, supervisor page",
            smap,
            with(2, all - US),
            Write,
            Supervisor,
            page,
        ),
        ("SMAP, fetch", smap, open, Execute, Supervisor, page),
        (
            "address too wide",
            plain,
            with(3, all | 1 << 40),
            Read,
            Supervisor,
            Err(0x9),
        ),
        (
            "address just fits, unbacked later",
            plain,
            with(1, all | 1 << 39),
            Read,
            User,
            Ok((1 << 39) | 0x9abc),
        ),
        (
            "ignored bits",
            plain,
            with(2, all | 0x7ff << 52),
            Read,
            User,
            page,
        ),
        (
            "large bit at level 4",
            plain,
            with(4, all | PS),
            Write,
            User,
            Err(0xf),
        ),
        (
            "not present beats reserved",
            plain,
            with(4, PS | 1 << 45),
            Read,
            User,
            Err(0x4),
        ),
    ] {
        let ram = four_levels(entries);
        let before = ram.bytes.borrow().clone();
        let result = registers.translate(&ram, GuestVirt::new(GVA), kind, privilege);
        assert_eq!(code(result), answer, "{name}");
        assert!(
            *ram.bytes.borrow() == before,
            "{name}: nothing was to be marked"
        );
    }
}

#[test]
fn protection_keys_bind_supervisors_too_but_no_fetches() {
    use AccessKind::{Execute, Read, Write};
    use Privilege::{Supervisor, User};
    let key = |key: u64| {
        [
            P | RW | US | A | D,
            P | RW | US | A | D,
            P | RW | US | A | D,
            P | RW | US | A | D | key << 59,
        ]
    };
    let pke = |pkru| GuestPaging {
        cr4: registers().cr4 | Cr4::PKE,
        pkru,
        ..registers()
    };
    let disable = pke(1 << 6);
    let no_write = pke(2 << 6);
    let no_wp = GuestPaging {
        cr0: registers().cr0 - Cr0::WP,
        ..no_write
    };
    for (name, registers, key_of_page, kind, privilege, answer) in [
        ("another key", disable, 4, Read, User, Ok(0x9abc)),
        ("access disabled", disable, 3, Read, User, Err(0x25)),
        (
            "access disabled, supervisor",
            disable,
            3,
            Write,
            Supervisor,
            Err(0x23),
        ),
        (
            "access disabled, fetch",
            disable,
            3,
            Execute,
            User,
            Ok(0x9abc),
        ),
        ("write disabled, read", no_write, 3, Read, User, Ok(0x9abc)),
        ("write disabled", no_write, 3, Write, User, Err(0x27)),
        (
            "write disabled, supervisor",
            no_write,
            3,
            Write,
            Supervisor,
            Err(0x23),
        ),
        (
            "write disabled, supervisor without WP",
            no_wp,
            3,
            Write,
            Supervisor,
            Ok(0x9abc),
        ),
        (
            "write disabled, user without WP",
            no_wp,
            3,
            Write,
            User,
            Err(0x27),
        ),
        ("keys off", registers(), 3, Write, User, Ok(0x9abc)),
    ] {
        let ram = four_levels(key(key_of_page));
        let result = registers.translate(&ram, GuestVirt::new(GVA), kind, privilege);
        assert_eq!(code(result), answer, "{name}");
    }
}

#[test]
fn accessed_and_dirty_flags_are_set_where_the_access_succeeds() {
    let all = P | RW | US;
    let ram = four_levels([all; 4]);
    let user = |ram: &Ram, kind| {
        code(registers().translate(ram, GuestVirt::new(GVA), kind, Privilege::User))
    };
    assert_eq!(user(&ram, AccessKind::Read), Ok(0x9abc));
    let flags = |ram: &Ram| [4, 3, 2, 1].map(|level| ram.get(entry_at(level)) & 0xff);
    assert_eq!(flags(&ram), [all | A; 4]);
    assert_eq!(user(&ram, AccessKind::Write), Ok(0x9abc));
    assert_eq!(flags(&ram), [all | A, all | A, all | A, all | A | D]);

    let read_only = four_levels([all, all, all, P | US]);
    assert_eq!(user(&read_only, AccessKind::Write), Err(0x7));
    assert_eq!(
        flags(&read_only),
        [all, all, all, P | US],
        "a fault leaves no mark"
    );
}

#[test]
fn a_walk_that_another_cpu_disturbs_is_started_anew() {
    let all = P | RW | US;
    let ram = four_levels([all | A, all | A, all | A, all]);
    // Between check and update the page is moved, and made read-only.
    ram.interfere.set(Some((entry_at(1), 0x7000 | P | US)));
    let result =
        registers().translate(&ram, GuestVirt::new(GVA), AccessKind::Read, Privilege::User);
    assert_eq!(code(result), Ok(0x7abc));
    assert_eq!(ram.get(entry_at(1)), 0x7000 | P | US | A);

    let ram = four_levels([all; 4]);
    ram.interfere_always.set(true);
    let result =
        registers().translate(&ram, GuestVirt::new(GVA), AccessKind::Read, Privilege::User);
    assert_eq!(result, Err(WalkFault::Contended), "but not for ever");
}

#[test]
fn large_pages_check_the_bits_below_their_address() {
    let all = P | RW | US | A | D;
    let read = |registers: &GuestPaging, level, entry| {
        let ram = four_levels([all; 4]);
        ram.set(entry_at(level), entry);
        code(registers.translate(&ram, GuestVirt::new(GVA), AccessKind::Read, Privilege::User))
    };
    let two_mib = |bits| read(&registers(), 2, all | PS | 0x4060_0000 | bits);
    assert_eq!(two_mib(0), Ok(0x4060_0000 | GVA & 0x1f_ffff));
    assert_eq!(
        two_mib(1 << 12),
        Ok(0x4060_0000 | GVA & 0x1f_ffff),
        "the PAT bit"
    );
    assert_eq!(two_mib(1 << 13), Err(0xd));
    assert_eq!(two_mib(1 << 20), Err(0xd));
    let one_gib = |registers: &GuestPaging, bits| read(registers, 3, all | PS | 0x8000_0000 | bits);
    assert_eq!(
        one_gib(&registers(), 0),
        Ok(0x8000_0000 | GVA & 0x3fff_ffff)
    );
    assert_eq!(one_gib(&registers(), 1 << 21), Err(0xd));
    let without = GuestPaging {
        features: WalkFeatures::PSE36,
        ..registers()
    };
    assert_eq!(
        one_gib(&without, 0),
        Err(0xd),
        "bit 7 is reserved without 1 GiB pages"
    );
}

#[test]
fn tables_outside_ram_are_told_from_page_faults() {
    let registers = GuestPaging {
        cr3: 0x8000_0000,
        ..registers()
    };
    let result = registers.translate(
        &Ram::new(),
        GuestVirt::new(GVA),
        AccessKind::Read,
        Privilege::User,
    );
    let entry = 0x8000_0000 + (GVA >> 39 & 0x1ff) * 8;
    assert_eq!(result, Err(WalkFault::Unbacked(GuestPhys::new(entry))));
}

#[test]
fn without_paging_linear_addresses_are_physical() {
    let registers = GuestPaging {
        cr0: Cr0::PE,
        ..registers()
    };
    let result = registers.translate(
        &Ram::new(),
        GuestVirt::new(0xfee0_0020),
        AccessKind::Write,
        Privilege::User,
    );
    assert_eq!(code(result), Ok(0xfee0_0020));
}

#[test]
fn five_levels_start_one_table_higher() {
    let gva = 0x00ab_1234_5678_9abc;
    let ram = four_levels([P | RW | US | A | D; 4]);
    ram.set(0x8000 + (gva >> 48 & 0x1ff) * 8, 0x1000 | P | RW | US);
    let registers = GuestPaging {
        cr3: 0x8000,
        cr4: registers().cr4 | Cr4::LA57,
        ..registers()
    };
    let result = registers.translate(&ram, GuestVirt::new(gva), AccessKind::Read, Privilege::User);
    assert_eq!(code(result), Ok(0x9abc));
    assert_eq!(
        ram.get(0x8000 + (gva >> 48 & 0x1ff) * 8),
        0x1000 | P | RW | US | A
    );
}

#[test]
fn thirty_two_bit_paging_with_small_and_large_pages() {
    let ram = Ram::new();
    let gva = 0x1234_5678u64;
    let (directory, table) = (0x1000 + (gva >> 22) * 4, 0x2000 + (gva >> 12 & 0x3ff) * 4);
    ram.set32(directory, 0x2000 | 7);
    ram.set32(table, 0x9000 | 7);
    let legacy = GuestPaging {
        efer: Efer::empty(),
        cr4: Cr4::PSE,
        cr3: 0x1fff,
        ..registers()
    };
    let write = |registers: &GuestPaging| {
        code(registers.translate(
            &ram,
            GuestVirt::new(gva),
            AccessKind::Write,
            Privilege::User,
        ))
    };
    assert_eq!(write(&legacy), Ok(0x9678));
    assert_eq!(ram.get(directory) as u32, 0x2000 | 7 | A as u32);
    assert_eq!(ram.get(table) as u32, 0x9000 | 7 | (A | D) as u32);

    // A 4 MiB page at 0xab_1240_0000: bits 39:32 of the address are bits 20:13 of the entry.
    ram.set32(directory, 0x1240_0000 | 0xab << 13 | 0x87);
    assert_eq!(write(&legacy), Ok(0xab_1240_0000 | gva & 0x3f_ffff));
    assert_eq!(
        write(&GuestPaging {
            physical_bits: 36,
            ..legacy
        }),
        Err(0xf),
        "bit 39 is too high"
    );
    assert_eq!(
        write(&GuestPaging {
            features: WalkFeatures::empty(),
            ..legacy
        }),
        Err(0xf)
    );
    ram.set32(directory, 0x1240_0000 | 1 << 21 | 0x87);
    assert_eq!(write(&legacy), Err(0xf), "bit 21 is reserved");
    ram.set32(directory, 0x2000 | 0x87);
    let no_pse = GuestPaging {
        cr4: Cr4::empty(),
        ..legacy
    };
    assert_eq!(write(&no_pse), Ok(0x9678), "bit 7 is ignored without PSE");
}

#[test]
fn pae_paging_takes_the_upper_entries_from_the_processor() {
    let ram = Ram::new();
    let gva = 0xc123_4567u64;
    let directory = 0x2000 + (gva >> 21 & 0x1ff) * 8;
    ram.set(directory, 0x3000 | 7);
    ram.set(0x3000 + (gva >> 12 & 0x1ff) * 8, 0x9000 | 7);
    let pae = GuestPaging {
        efer: Efer::NXE,
        cr4: Cr4::PAE,
        pdptes: [0, 0, 0, 0x2001],
        ..registers()
    };
    let at =
        |gva| code(pae.translate(&ram, GuestVirt::new(gva), AccessKind::Read, Privilege::User));
    assert_eq!(at(gva), Ok(0x9567));
    assert_eq!(at(0x4000_0000), Err(0x4), "entry 1 is not present");
    ram.set(directory, 0x3000 | 7 | 1 << 52);
    assert_eq!(at(gva), Err(0xd), "bits 62:52 are reserved here");
    ram.set(directory, 0x8000_0000 | 7 | PS | XD);
    assert_eq!(at(gva), Ok(0x8000_0000 | gva & 0x1f_ffff));
}

/// The manual's rules once more, as plainly and slowly as possible: bit ranges as text, one rule per line.
mod model {
    use super::*;

    fn bits(entry: u64, high: u32, low: u32) -> u64 {
        (0..=high - low)
            .map(|bit| (entry >> (low + bit) & 1) << bit)
            .sum()
    }

    pub(super) struct Outcome {
        pub(super) result: Result<u64, u32>,
        /// Entries to be marked: address, bytes, flags.
        pub(super) marks: Vec<(u64, u64)>,
    }

    pub(super) fn translate(
        r: &GuestPaging,
        ram: &Ram,
        gva: u64,
        kind: AccessKind,
        privilege: Privilege,
    ) -> Outcome {
        let long = r.efer.contains(Efer::LMA);
        let pae = r.cr4.contains(Cr4::PAE);
        let wide = long || pae;
        let mut base_code = 0u32;
        if kind == AccessKind::Write {
            base_code += 2;
        }
        if privilege == Privilege::User {
            base_code += 4;
        }
        if kind == AccessKind::Execute
            && (r.cr4.contains(Cr4::SMEP) || pae && r.efer.contains(Efer::NXE))
        {
            base_code += 16;
        }
        let fail = |extra: u32| Outcome {
            result: Err(base_code + extra),
            marks: Vec::new(),
        };

        // (bit position of the index, bits of the index) from the root down.
        let shape: &[(u32, u32)] = if long && r.cr4.contains(Cr4::LA57) {
            &[(48, 9), (39, 9), (30, 9), (21, 9), (12, 9)]
        } else if long {
            &[(39, 9), (30, 9), (21, 9), (12, 9)]
        } else if pae {
            &[(21, 9), (12, 9)]
        } else {
            &[(22, 10), (12, 10)]
        };
        let mut table = if long {
            bits(r.cr3, 51, 12) << 12
        } else if pae {
            let entry = r.pdptes[bits(gva, 31, 30) as usize];
            if bits(entry, 0, 0) == 0 {
                return fail(0);
            }
            bits(entry, 51, 12) << 12
        } else {
            bits(r.cr3, 31, 12) << 12
        };

        let (mut writable, mut user, mut xd) = (true, true, false);
        let mut marks = Vec::new();
        for &(position, width) in shape {
            let index = bits(gva, position + width - 1, position);
            let at = table + index * if wide { 8 } else { 4 };
            let entry = if wide {
                ram.get(at)
            } else {
                ram.get(at) & 0xffff_ffff
            };
            if bits(entry, 0, 0) == 0 {
                return fail(0);
            }
            let ps = bits(entry, 7, 7) == 1;
            let page = match position {
                12 => true,
                21 => ps,
                22 => ps && r.cr4.contains(Cr4::PSE),
                30 => ps && r.features.contains(WalkFeatures::PAGES_1G),
                _ => false,
            };
            let m = u32::from(r.physical_bits);
            let mut bad = false;
            if wide {
                bad |= m < 52 && bits(entry, 51, m) != 0;
                bad |= !long && bits(entry, 62, 52) != 0;
                bad |= !r.efer.contains(Efer::NXE) && bits(entry, 63, 63) != 0;
                bad |= position >= 30 && ps && !page;
                bad |= position == 21 && page && bits(entry, 20, 13) != 0;
                bad |= position == 30 && page && bits(entry, 29, 13) != 0;
            } else if position == 22 && page {
                let m = if r.features.contains(WalkFeatures::PSE36) {
                    m.min(40)
                } else {
                    32
                };
                bad |= bits(entry, 21, 13 + (m - 32)) != 0;
            }
            if bad {
                return fail(1 + 8);
            }
            writable &= bits(entry, 1, 1) == 1;
            user &= bits(entry, 2, 2) == 1;
            xd |= wide && bits(entry, 63, 63) == 1;
            marks.push((at, A));
            if !page {
                table = if wide {
                    bits(entry, 51, 12) << 12
                } else {
                    bits(entry, 31, 12) << 12
                };
                continue;
            }

            let mut key_fault = false;
            if long && r.cr4.contains(Cr4::PKE) && user && kind != AccessKind::Execute {
                let rights = r.pkru >> (bits(entry, 62, 59) * 2) & 3;
                let strict = privilege == Privilege::User || r.cr0.contains(Cr0::WP);
                key_fault |= rights & 1 == 1;
                key_fault |= rights & 2 == 2 && kind == AccessKind::Write && strict;
            }
            let allowed = match (privilege, kind) {
                (Privilege::User, AccessKind::Read) => user,
                (Privilege::User, AccessKind::Write) => user && writable,
                (Privilege::User, AccessKind::Execute) => user && !xd,
                (_, AccessKind::Execute) => !(xd || user && r.cr4.contains(Cr4::SMEP)),
                (_, _) => {
                    let smap_ok = !user
                        || !r.cr4.contains(Cr4::SMAP)
                        || privilege == Privilege::Supervisor && r.rflags.contains(Rflags::AC);
                    let write_ok = kind == AccessKind::Read || writable || !r.cr0.contains(Cr0::WP);
                    smap_ok && write_ok
                }
            };
            if key_fault {
                return fail(1 + 32);
            }
            if !allowed {
                return fail(1);
            }
            if kind == AccessKind::Write {
                marks.last_mut().unwrap().1 |= D;
            }
            let frame = if position == 22 {
                bits(entry, 31, 22) << 22 | bits(entry, 20, 13) << 32
            } else if wide {
                bits(entry, 51, position) << position
            } else {
                bits(entry, 31, 12) << 12
            };
            return Outcome {
                result: Ok(frame + bits(gva, position - 1, 0)),
                marks,
            };
        }
        unreachable!("the last level always has a page");
    }
}

/// Entries that mostly lead somewhere: tables within RAM, and few odd bits.
fn entry() -> impl Strategy<Value = u64> {
    let low = prop_oneof![
        6 => Just(P | RW | US),
        2 => (0u64..0x100).prop_map(|bits| bits | P),
        1 => 0u64..0x100
    ];
    let high = prop_oneof![
        8 => Just(0u64),
        1 => (0u32..52).prop_map(|bit| 1 << bit.max(12)),
        1 => Just(XD),
        2 => (0u64..16).prop_map(|key| key << 59),
        1 => (52u32..59).prop_map(|bit| 1 << bit)
    ];
    (low, 1u64..8, high, prop::bool::weighted(0.2)).prop_map(|(low, table, high, large)| {
        if large {
            low | PS | 0x4000_0000 | high
        } else {
            low | table << 12 | high
        }
    })
}

fn any_registers() -> impl Strategy<Value = GuestPaging> {
    let controls = (
        any::<[bool; 10]>(),
        0..4u8,
        prop_oneof![Just(36u8), Just(40), Just(52)],
    );
    (controls, any::<u32>(), prop::array::uniform4(entry())).prop_map(
        |((flags, mode, physical_bits), pkru, pdptes)| {
            let [wp, smep, smap, pke, ac, nxe, pse, gib, pse36, la57] = flags;
            let mut r = registers();
            r.cr0.set(Cr0::WP, wp);
            r.cr4.set(Cr4::SMEP, smep);
            r.cr4.set(Cr4::SMAP, smap);
            r.cr4.set(Cr4::PKE, pke);
            r.cr4.set(Cr4::PSE, pse);
            r.cr4.set(Cr4::LA57, la57 && mode > 1);
            r.cr4.set(Cr4::PAE, mode > 0);
            r.efer = if mode > 1 {
                Efer::LMA | Efer::LME
            } else {
                Efer::empty()
            };
            r.efer.set(Efer::NXE, nxe);
            r.rflags.set(Rflags::AC, ac);
            r.features.set(WalkFeatures::PAGES_1G, gib);
            r.features.set(WalkFeatures::PSE36, pse36);
            GuestPaging {
                pkru,
                pdptes: pdptes.map(|p| p & 0xffff),
                physical_bits,
                ..r
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8_000))]

    #[test]
    fn every_walk_agrees_with_the_slow_model(
        r in any_registers(),
        gva in any::<u64>(),
        tables in prop::collection::vec(entry(), 7),
        kind in prop_oneof![Just(AccessKind::Read), Just(AccessKind::Write), Just(AccessKind::Execute)],
        privilege in prop_oneof![
            Just(Privilege::User), Just(Privilege::Supervisor), Just(Privilege::ImplicitSupervisor)
        ],
    ) {
        let gva = if r.efer.contains(Efer::LMA) { gva } else { gva & 0xffff_ffff };
        let ram = Ram::new();
        // Every slot of a table holds the same entry, so that any index finds something.
        let wide = r.cr4.contains(Cr4::PAE);
        for (number, &entry) in (1u64..).zip(&tables) {
            for slot in 0..512 {
                let entry = if wide { entry } else { entry & 0xffff_ffff | entry << 32 };
                ram.set(number * 0x1000 + slot * 8, entry);
            }
        }
        let fast = r.translate(&ram, GuestVirt::new(gva), kind, privilege);
        if let Err(WalkFault::Unbacked(_)) = fast {
            return Ok(());
        }
        let after = ram.bytes.borrow().clone();
        // The model starts from the same memory.
        for (number, &entry) in (1u64..).zip(&tables) {
            for slot in 0..512 {
                let entry = if wide { entry } else { entry & 0xffff_ffff | entry << 32 };
                ram.set(number * 0x1000 + slot * 8, entry);
            }
        }
        let slow = model::translate(&r, &ram, gva, kind, privilege);
        prop_assert_eq!(code(fast), slow.result);
        for (at, flags) in slow.marks {
            if slow.result.is_ok() {
                let entry = ram.get(at) | flags;
                ram.set(at, entry);
            }
        }
        prop_assert!(*ram.bytes.borrow() == after, "the marks differ");
    }
}
