//! The local APIC: all its registers with all kinds of values, in both modes, and the switches between them.

use plinth_guests::apic::BASE;
use plinth_guests::apic::base::{BSP, EN, EXTD};
use plinth_guests::cpu::{self, msr};
use plinth_guests::places::{IO_APIC, NOTHING};
use plinth_guests::random::Random;
use plinth_guests::{paging, probe, x86};

const ROUNDS: u64 = 6000;
/// RAM of this guest that it does not use.
const OWN_MEMORY: u64 = 0x50_0000;

/// The register at an offset in units of 16 bytes.
const ICR_LOW: u64 = 0x30;
const ICR_HIGH: u64 = 0x31;
const SELF_IPI: u64 = 0x3f;

/// A command that sends nothing by which a CPU is reset: delivery modes INIT, start-up and the reserved ones.
fn harmless_command(random: &mut Random) -> u64 {
    let mode = random.one_of(&[0u64, 1, 4]);
    random.bits() & 0xff | mode << 8 | random.below(4) << 18 | random.below(2) << 11
}

pub(crate) fn sweep(random: &mut Random) {
    mmio(random);
    base(random);
    x2apic(random);
    // Back to where it began, in steps that are allowed.
    let _ = cpu::try_wrmsr(msr::IA32_APIC_BASE, BASE | BSP);
    let _ = cpu::try_wrmsr(msr::IA32_APIC_BASE, BASE | EN | BSP);
    mmio(random);
}

fn mmio(random: &mut Random) {
    for offset in 0..0x1000u64 {
        let register = offset >> 4;
        let address = BASE + offset;
        let value = if matches!(register, ICR_LOW | ICR_HIGH) {
            harmless_command(random)
        } else {
            random.value()
        };
        let _ = probe(|| {
            let _ = paging::peek(address);
            match offset & 0xf {
                0 => x86!("mov [{}], {:e}", in(reg) address, in(reg) value),
                // What lies beside the registers is nobody's.
                4 | 8 | 12 => x86!("mov [{}], {:x}", in(reg) address, in(reg) value),
                _ => x86!("mov [{}], {}", in(reg) address, in(reg_byte) value as u8),
            }
        });
    }
    for _ in 0..ROUNDS {
        let register = random.below(0x40);
        let value = if register == ICR_LOW {
            harmless_command(random)
        } else {
            random.value()
        };
        let address = BASE + register * 16;
        let _ = probe(|| x86!("mov [{}], {:e}", in(reg) address, in(reg) value));
    }
}

/// Random values in the base register, by which the page moves, and what is at the place.
fn base(random: &mut Random) {
    for _ in 0..ROUNDS / 20 {
        let place = random.one_of(&[
            BASE,
            IO_APIC,
            OWN_MEMORY,
            NOTHING,
            0x1_0000_0000,
            0x40_0000_0000,
        ]);
        let bits = random.one_of(&[0, BSP, EN, EN | BSP, EXTD, EXTD | EN, 0xff]);
        let value = if random.below(4) == 0 {
            random.value() & !0xfff_f000 | BASE
        } else {
            place | bits
        };
        let _ = cpu::try_wrmsr(msr::IA32_APIC_BASE, value);
        let _ = probe(|| {
            let _ = paging::peek(BASE + 0x20);
            paging::poke(BASE + 0x80, 0);
        });
    }
    let _ = cpu::try_wrmsr(msr::IA32_APIC_BASE, BASE | BSP);
    let _ = cpu::try_wrmsr(msr::IA32_APIC_BASE, BASE | EN | BSP);
}

fn x2apic(random: &mut Random) {
    let _ = cpu::try_wrmsr(msr::IA32_APIC_BASE, BASE | EN | EXTD | BSP);
    for _ in 0..3 {
        for register in 0..=0xffu64 {
            let _ = cpu::try_rdmsr(0x800 + register as u32);
            write_x2apic(register, random);
        }
    }
    for _ in 0..ROUNDS {
        let any = random.below(0x40);
        let register = random.one_of(&[ICR_LOW, SELF_IPI, 0x08, 0x0b, 0x32, 0x38, 0x3e, any]);
        write_x2apic(register, random);
    }
    // In this mode the page is not there.
    let _ = probe(|| paging::poke(BASE + 0x300, 0x500));
}

fn write_x2apic(register: u64, random: &mut Random) {
    let value = if register == ICR_LOW {
        harmless_command(random) | random.below(3) << 32
    } else {
        random.value()
    };
    let _ = cpu::try_wrmsr(0x800 + register as u32, value);
}
