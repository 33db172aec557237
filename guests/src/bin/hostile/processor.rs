//! The processor's own registers: MSRs, control and debug registers, CPUID, hypercalls.

use plinth_guests::cpu::{self, msr};
use plinth_guests::random::Random;
use plinth_guests::{println, probe, x86};

/// Where MSRs are, the synthetic ones of hypervisors included.
const MSRS: [core::ops::Range<u32>; 6] = [
    0..0x2000,
    0x4000_0000..0x4000_0200,
    0x4b56_4d00..0x4b56_4d40,
    0xc000_0000..0xc000_2000,
    0xc001_0000..0xc001_0400,
    0xffff_ff00..0xffff_ffff,
];

/// Those that would make the guest forget itself: its APIC has a topic of its own, pages of paravirtual clocks are
/// written to wherever they are said to be.
fn is_spared(msr: u32) -> bool {
    matches!(msr, msr::IA32_APIC_BASE | 0x11 | 0x12 | 0x830)
        || (0x4b56_4d00..0x4b56_4d40).contains(&msr)
}

/// Reads and writes all of them.
pub(crate) fn msrs(random: &mut Random) {
    let efer = cpu::rdmsr(msr::IA32_EFER);
    for register in MSRS.into_iter().flatten() {
        let value = cpu::try_rdmsr(register);
        let write = |value| {
            let _ = cpu::try_wrmsr(register, value);
        };
        if is_spared(register) {
            // An address beyond all memory, and bits that are reserved.
            write(0x0000_ffff_ffff_f001);
            write(2);
            continue;
        }
        write(random.value());
        if let Ok(value) = value {
            for bit in 0..64 {
                write(value ^ 1 << bit);
            }
            write(value);
        }
    }
    let _ = cpu::try_wrmsr(msr::IA32_EFER, efer);
}

const ROUNDS: u64 = 1000;

/// MSRs by which a guest says where the hypervisor is to write: KVM's clocks, stolen time, ends of interrupts, page
/// faults.
const PARAVIRTUAL: [u32; 7] = [
    0x11,
    0x12,
    0x4b56_4d00,
    0x4b56_4d01,
    0x4b56_4d02,
    0x4b56_4d03,
    0x4b56_4d04,
];
/// The end of this guest's memory, and more.
const MEMORY_END: u64 = 16 << 20;

/// An address that this guest does not touch and the victim does, and a breakpoint on reads and writes of 8 bytes.
const FOREIGN: u64 = 0x28_0000;
const WATCHING: u64 = 0xb_0402;

/// Garbage in control and debug registers and in XCR0. What is accepted is taken back at once.
pub(crate) fn registers(random: &mut Random) {
    let (cr0, cr4) = (cpu::read_cr0(), cpu::read_cr4());
    let xcr0 = cpu::xcr0();
    let efer = cpu::rdmsr(msr::IA32_EFER);
    for _ in 0..ROUNDS {
        let value = random.value();
        let bit = 1 << random.below(64);
        let _ = cpu::try_write_cr0(value);
        let _ = cpu::try_write_cr0(cr0 ^ bit);
        cpu::write_cr0(cr0);
        let _ = cpu::try_write_cr4(value);
        let _ = cpu::try_write_cr4(cr4 ^ bit);
        cpu::write_cr4(cr4);
        let _ = cpu::try_write_cr8(value);
        cpu::write_cr2(value);
        let _ = probe(|| x86!("lmsw {:x}", in(reg) value | 1));
        cpu::write_cr0(cr0);
        let _ = cpu::try_wrmsr(msr::IA32_EFER, efer ^ bit);
        let _ = cpu::try_wrmsr(msr::IA32_EFER, efer);
        let _ = cpu::try_xsetbv(random.below(3) as u32, value);
        let _ = cpu::try_xsetbv(0, xcr0 ^ bit);
        let _ = cpu::try_xsetbv(0, xcr0);
        for write in [cpu::try_write_dr1, cpu::try_write_dr2, cpu::try_write_dr3] {
            let _ = write(random.value());
        }
        let _ = cpu::try_write_dr6(value);
        // On at once and off again: the code of this guest lies where the breakpoints may be.
        let garbage = random.bits() & 0xffff_ffff;
        let _ = probe(|| {
            x86!("mov dr7, {}", "mov dr7, {}", in(reg) garbage, in(reg) WATCHING);
        });
        cpu::write_dr0(FOREIGN);
        cpu::write_dr7(WATCHING);
        let _ = probe(|| x86!("vzeroall", "fninit"));
        let left = leave(random);
        if cpu::xcr0() != left {
            println!("hostile: XCR0 has been changed");
        }
    }
    cpu::write_dr7(0x400);
    let _ = cpu::try_xsetbv(0, xcr0);
}

/// MSRs in which any 32 bits are right.
const NUMBERS: [u32; 4] = [
    msr::IA32_SYSENTER_CS,
    msr::IA32_STAR,
    msr::IA32_FMASK,
    msr::IA32_TSC_AUX,
];

/// What this guest does not need stays in the processor while others have their turns: each of these registers is
/// another guest's, too, if it is not switched. Returns what is in XCR0.
fn leave(random: &mut Random) -> u64 {
    for register in msr::OF_ADDRESSES {
        let _ = cpu::try_wrmsr(register, random.bits() >> 17);
    }
    for register in NUMBERS {
        let _ = cpu::try_wrmsr(register, random.bits() & 0xffff_ffff);
    }
    let types = [0; 8].map(|_: u8| random.one_of(&[0u8, 1, 4, 5, 6, 7]));
    let _ = cpu::try_wrmsr(msr::IA32_PAT, u64::from_le_bytes(types));
    let _ = cpu::try_write_dr6(random.bits() & 0xe00f | 0xffff_0ff0);
    let _ = cpu::try_write_cr8(random.below(16));
    let _ = cpu::try_xsetbv(0, random.one_of(&[1, 3, 7]));
    let left = cpu::xcr0();
    // For a turn or so.
    x86!("2: dec {:e}", "jnz 2b", inout(reg) 1000u32 => _, options(nomem, nostack));
    left
}

/// CPUID of everything, and hypercalls with garbage.
pub(crate) fn calls(random: &mut Random) {
    for base in [
        0u32,
        0x2000_0000,
        0x4000_0000,
        0x4000_0100,
        0x8000_0000,
        0xc000_0000,
        0xffff_ff00,
    ] {
        for leaf in 0..0x40 {
            for subleaf in [0, 1, 2, 3, 0x3f, !0] {
                let _ = cpu::cpuid(base + leaf, subleaf);
            }
        }
    }
    for _ in 0..ROUNDS {
        // Anywhere but in its own memory.
        let address = random.value();
        if address >= MEMORY_END {
            let _ = cpu::try_wrmsr(random.one_of(&PARAVIRTUAL), address | 1);
        }
        let _ = cpu::cpuid(random.value() as u32, random.value() as u32);
        let number = if random.below(2) == 0 {
            random.below(32)
        } else {
            random.value()
        };
        let _ = probe(|| {
            x86!(
                "xchg rbx, {rbx}", "vmcall", "xchg rbx, {rbx}",
                rbx = inout(reg) random.value() => _,
                inout("rax") number => _,
                inout("rcx") random.value() => _,
                inout("rdx") random.value() => _,
                inout("rsi") random.value() => _,
                inout("rdi") random.value() => _,
            )
        });
    }
}
