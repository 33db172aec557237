//! `outside`: memory that is not there. Reads give all ones, writes go nowhere, and nothing else happens.
//!
//! The addresses are holes by the memory map: above its last RAM, below 4 GiB, and at the top of what the CPU
//! can address. A write to one of them must not show up in the guest's own memory either.

#![no_std]
#![no_main]

use plinth_guests::paging::{self, PageSize, entry};
use plinth_guests::places::NOTHING;
use plinth_guests::{Case, Report, StartInfo, Vector, cpu, guest, println, probe, x86};

guest!(main);

/// Where holes above 4 GiB are mapped.
const WINDOW: u64 = 0x100_0000_0000;

const PATTERN: u64 = 0x0123_4567_89ab_cdef;

fn main(report: &mut Report, start: StartInfo) {
    let map = start.memory_map();
    let ram_end = map
        .iter()
        .filter(|range| range.is_ram())
        .map(|range| range.end())
        .max()
        .unwrap_or(0);
    println!("outside: RAM ends at {ram_end:#x}");
    let claimed = |address: u64| {
        map.iter()
            .any(|range| range.start < address + 0x1000 && address < range.end())
    };
    let top = 1u64 << cpu::physical_address_bits();
    // A board may have devices in a hole: these places are free on the boards that guests run on.
    let holes: [(&str, u64); 8] = [
        (
            "just-above-its-memory",
            if ram_end < 0xc000_0000 {
                ram_end.next_multiple_of(0x20_0000)
            } else {
                NOTHING
            },
        ),
        ("far-above-its-memory", 0x9_0000_0000),
        ("in-the-hole-below-4-gib", NOTHING),
        ("below-the-apics", 0xfe40_0000),
        ("at-the-last-page", top - 0x1000),
        ("at-the-middle-of-physical-space", top / 2),
        ("at-one-tebibyte-less-a-page", (1 << 40) - 0x1000),
        ("at-64-gib", 64 << 30),
    ];
    for (name, address) in holes {
        report.case(name, |case| {
            if map.is_empty() || address + 0x1000 > top || claimed(address) {
                return case.skip("not a hole of this machine");
            }
            hole(case, address);
        });
    }
    report.case(
        "what-the-hypervisor-cannot-do-there-is-no-instruction",
        |case| {
            if !cpu::is_plinth() {
                return case.skip("hardware can do all its instructions everywhere");
            }
            // The x87 reads memory by itself: nobody emulates that.
            let loaded = probe(|| {
                x86!("fld dword ptr [{}]", in(reg) NOTHING);
            });
            case.faults("FLD from a hole", loaded, Vector::InvalidOpcode, 0);
        },
    );
    report.case("own-memory-is-unchanged", |case| {
        let checksum = |seed: u64| {
            // SAFETY: the guest's own code, read only.
            let code = unsafe { core::slice::from_raw_parts(0x10_0000 as *const u8, 4096) };
            code.iter()
                .fold(seed, |sum, byte| sum.rotate_left(5) ^ u64::from(*byte))
        };
        let before = checksum(1);
        for offset in (0..0x1000_0000u64).step_by(0x10_0000) {
            let address = ram_end.next_multiple_of(0x20_0000) + offset;
            if address < 0xb000_0000 && !claimed(address) {
                paging::poke(address, PATTERN);
            }
        }
        case.equal("the checksum of the code", checksum(1), before);
    });
    report.case("thousand-different-pages-of-nothing", |case| {
        let first = 0x8_0000_0000u64;
        if first >= ram_end && first + 1000 * 0x20_0000 < top {
            for page in 0..1000 {
                let address = first + page * 0x20_0000;
                paging::map(WINDOW, address, PageSize::Size2M, entry::P | entry::RW);
                case.equal("a read", paging::peek(WINDOW + 0x1238), !0);
                paging::poke(WINDOW + 0x1238, PATTERN);
            }
        } else {
            case.skip("no such hole in this machine");
        }
    });
    report.case("execution-there-is-survived", |case| {
        let address = NOTHING;
        if claimed(address) {
            return case.skip("not a hole of this machine");
        }
        // All ones is an invalid opcode; what matters is that some exception comes back to this guest.
        let outcome = probe(|| x86!("call {}", in(reg) address, clobber_abi("C")));
        case.ensure(
            outcome.is_err(),
            "code was found outside the machine's memory",
        );
    });
}

/// Reads and writes of every width, the string forms, and read-modify-write in one hole.
fn hole(case: &mut Case, physical: u64) {
    let address = if physical < 1 << 32 {
        physical
    } else {
        paging::map(
            WINDOW,
            physical & !0x1f_ffff,
            PageSize::Size2M,
            entry::P | entry::RW,
        );
        WINDOW + (physical & 0x1f_ffff)
    };
    for round in ["before a write", "after a write"] {
        let (byte, word, long, quad): (u64, u64, u64, u64);
        x86!(
            "movzx {0:e}, byte ptr [{4} + 3]",
            "movzx {1:e}, word ptr [{4} + 6]",
            "mov {2:e}, [{4} + 8]",
            "mov {3}, [{4} + 16]",
            out(reg) byte, out(reg) word, out(reg) long, out(reg) quad, in(reg) address,
            options(nostack),
        );
        case.equal(round, byte, 0xff);
        case.equal(round, word, 0xffff);
        case.equal(round, long, 0xffff_ffff);
        case.equal(round, quad, !0);
        x86!(
            "mov byte ptr [{0} + 3], {1:l}",
            "mov word ptr [{0} + 6], {1:x}",
            "mov dword ptr [{0} + 8], {1:e}",
            "mov qword ptr [{0} + 16], {1}",
            "mov dword ptr [{0} + 24], 0x1234",
            in(reg) address, in(reg_abcd) PATTERN,
            options(nostack),
        );
    }
    let mut buffer = [0u8; 16];
    x86!("rep movsb", inout("rcx") 16u64 => _, inout("rsi") address => _, inout("rdi") buffer.as_mut_ptr() => _, options(nostack));
    case.ensure(
        buffer == [0xff; 16],
        "REP MOVSB out of the hole is not all ones",
    );
    x86!("rep stosb", inout("rcx") 16u64 => _, in("al") 0x55u8, inout("rdi") address => _, options(nostack));
    case.equal("a read after REP STOSB", paging::peek(address), !0);
}
