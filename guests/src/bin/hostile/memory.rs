//! Memory that is not RAM: devices, and where nothing is at all.

use plinth_guests::paging::{self, PageSize, entry};
use plinth_guests::places::{IO_APIC, LOCAL_APIC, NOTHING};
use plinth_guests::random::Random;
use plinth_guests::{probe, x86};

/// Where holes above 4 GiB are mapped.
const WINDOW: u64 = 0x180_0000_0000;

/// Places that a PC may have a device at, or that lie at an edge.
pub(crate) const PLACES: [u64; 16] = [
    0xa_0000,
    0xc_0000,
    0xf_fff0,
    0xc000_0000,
    NOTHING,
    0xdfff_fff8,
    0xe000_0000,
    0xe010_0000,
    0xefff_fff8,
    IO_APIC,
    IO_APIC + 0x10,
    0xfed0_0000,
    0xfed0_00f0,
    LOCAL_APIC,
    LOCAL_APIC + 0xff8,
    0xffff_fff0,
];

/// How many random accesses.
const ROUNDS: u64 = 8000;

pub(crate) fn sweep(random: &mut Random) {
    io_apic(random);
    for _ in 0..ROUNDS {
        let address = match random.below(8) {
            0 => {
                let hole = random.bits() & 0x7f_ffe0_0000;
                // RAM of its own must not be where the window is.
                let hole = hole.max(0x2_0000_0000);
                paging::map(WINDOW, hole, PageSize::Size2M, entry::P | entry::RW);
                WINDOW + random.below(0x1f_fff0)
            }
            1..4 => random.one_of(&PLACES) & !0xfff | random.below(0x1000),
            _ => random.one_of(&PLACES) + random.below(16),
        };
        touch(address, random);
    }
}

/// Every index, with every byte of the window registers, and the entries with random contents.
fn io_apic(random: &mut Random) {
    let select = |index: u64| paging::poke(IO_APIC, index);
    for index in 0..=0xff {
        select(index);
        let _ = paging::peek(IO_APIC + 0x10);
        // Entries stay masked: their interrupts are the business of `storms`.
        let value = if index & 1 == 0 {
            random.value() | 1 << 16
        } else {
            random.value()
        };
        paging::poke_32(IO_APIC + 0x10, value as u32);
    }
    for offset in 0..0x1000 {
        x86!("mov [{}], {}", in(reg) IO_APIC + offset, in(reg_byte) random.value() as u8, options(nostack));
    }
}

/// One access, by an instruction that has to be emulated. The APIC's command register is spared, since what it
/// sends may be the end (`ruin`).
fn touch(address: u64, random: &mut Random) {
    let offset = address & 0xfff;
    if address & !0xfff == LOCAL_APIC && (0x2f0..0x320).contains(&offset) {
        return;
    }
    let value = random.value();
    let count = random.below(8);
    let mut other = [0u64; 8];
    let buffer = other.as_mut_ptr();
    let kind = random.below(20);
    let _ = probe(|| match kind {
        0 => x86!("mov [{}], {}", in(reg) address, in(reg_byte) value as u8),
        1 => x86!("mov [{}], {:x}", in(reg) address, in(reg) value),
        2 => x86!("mov [{}], {:e}", in(reg) address, in(reg) value),
        3 => x86!("mov [{}], {}", in(reg) address, in(reg) value),
        4 => x86!("movzx {:e}, byte ptr [{}]", out(reg) _, in(reg) address),
        5 => x86!("movsx {}, word ptr [{}]", out(reg) _, in(reg) address),
        6 => x86!("mov {}, [{}]", out(reg) _, in(reg) address),
        7 => x86!("lock xadd [{}], {:e}", in(reg) address, inout(reg) value => _),
        8 => x86!("xchg [{}], {}", in(reg) address, inout(reg) value => _),
        9 => x86!("lock cmpxchg [{}], {}", in(reg) address, in(reg) value, inout("rax") value => _),
        10 => x86!("lock bts dword ptr [{}], {:e}", in(reg) address, in(reg) value & 0x1f),
        11 => x86!("add qword ptr [{}], {}", in(reg) address, in(reg) value),
        12 => x86!("not word ptr [{}]", in(reg) address),
        13 => x86!("push qword ptr [{0}]", "pop qword ptr [{0}]", in(reg) address),
        14 => {
            x86!("rep movsb", inout("rcx") count => _, inout("rsi") address => _, inout("rdi") buffer => _)
        }
        15 => {
            x86!("rep movsd", inout("rcx") count => _, inout("rsi") buffer => _, inout("rdi") address => _)
        }
        16 => {
            x86!("rep stosw", inout("rcx") count => _, in("rax") value, inout("rdi") address => _)
        }
        17 => {
            x86!("repe cmpsb", inout("rcx") count => _, inout("rsi") address => _, inout("rdi") address => _)
        }
        18 => {
            x86!("lock cmpxchg16b [{}]", in(reg) address & !15, out("rax") _, out("rdx") _, out("rcx") _)
        }
        _ => x86!("movups [{}], xmm0", in(reg) address),
    });
}
