//! `fpu`: x87, SSE, AVX and AVX-512 registers survive exits of every kind, and XSAVE and XCR0 do what they say.
//!
//! The runtime is compiled without floating point, so whatever changes here was changed behind the guest's back.

#![no_std]
#![no_main]

use plinth_guests::cpu::{self, cpuid, cr0, cr4, leaf1_ecx, msr};
use plinth_guests::paging::{self, PageSize, entry};
use plinth_guests::places;
use plinth_guests::{Case, Report, StartInfo, Vector, fault_of, guest, probe, x86};

guest!(main);

const ROUNDS: usize = 100;
const AREA_BYTES: usize = 8192;

#[repr(C, align(64))]
struct Area([u8; AREA_BYTES]);

impl Area {
    const fn zeroed() -> Self {
        Self([0; AREA_BYTES])
    }

    fn address(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
}

/// The kinds of exit that the cases force.
const EXITS: [(&str, fn()); 12] = [
    ("CPUID", || {
        let _ = cpuid(1, 0);
    }),
    ("IN and OUT", || cpu::outb(0x3ff, cpu::inb(0x3fd))),
    ("REP OUTSB", || {
        let bytes = [1u8, 2, 3, 4];
        x86!("rep outsb", in("dx") 0x3ffu16, inout("rsi") bytes.as_ptr() => _, inout("rcx") 4u64 => _);
    }),
    ("RDMSR", || {
        let _ = cpu::rdmsr(msr::IA32_APIC_BASE);
    }),
    ("WRMSR", || {
        cpu::wrmsr(msr::IA32_PAT, cpu::rdmsr(msr::IA32_PAT))
    }),
    ("a fault", || {
        let _ = cpu::try_rdmsr(0x4141_4141);
    }),
    ("memory that is not there", || {
        let _ = paging::peek(places::NOTHING);
    }),
    ("CR0", || {
        let value = cpu::read_cr0();
        cpu::write_cr0(value ^ cr0::WP);
        cpu::write_cr0(value);
    }),
    ("CR3", || cpu::write_cr3(cpu::read_cr3())),
    ("CR4", || {
        let value = cpu::read_cr4();
        cpu::write_cr4(value ^ cr4::TSD);
        cpu::write_cr4(value);
    }),
    ("WBINVD", || x86!("wbinvd")),
    ("VMCALL", || {
        let _ = probe(|| x86!("vmcall", inout("rax") 0x7fff_fff0u64 => _));
    }),
];

fn has(bits: u64) -> bool {
    cpuid(1, 0).ecx & leaf1_ecx::XSAVE != 0 && cpu::xcr0() & bits == bits
}

/// Bytes that differ in every place.
fn pattern(area: &mut [u8], seed: u8) {
    for (index, byte) in area.iter_mut().enumerate() {
        *byte = (index as u8).wrapping_mul(37).wrapping_add(seed) ^ (index >> 8) as u8;
    }
}

fn main(report: &mut Report, _: StartInfo) {
    across_exits(report);
    control(report);
    xsave(report);
    task_switched(report);
}

/// Loads registers, forces each kind of exit a hundred times, and compares.
fn survives(case: &mut Case, bytes: usize, load: fn(*const u8), store: fn(*mut u8)) {
    for (kind, (name, exit)) in EXITS.into_iter().enumerate() {
        let mut before = Area::zeroed();
        pattern(&mut before.0[..bytes], kind as u8);
        let mut after = Area::zeroed();
        load(before.address());
        for _ in 0..ROUNDS {
            exit();
        }
        store(after.address());
        if before.0[..bytes] != after.0[..bytes] {
            return case.fail(format_args!("registers changed across {name}"));
        }
    }
}

fn across_exits(report: &mut Report) {
    report.case("sse-registers-survive-exits", |case| {
        survives(
            case,
            256,
            |from| {
                x86!(
                    "movups xmm0, [{0}]", "movups xmm1, [{0}+16]", "movups xmm2, [{0}+32]", "movups xmm3, [{0}+48]",
                    "movups xmm4, [{0}+64]", "movups xmm5, [{0}+80]", "movups xmm6, [{0}+96]", "movups xmm7, [{0}+112]",
                    "movups xmm8, [{0}+128]", "movups xmm9, [{0}+144]", "movups xmm10, [{0}+160]",
                    "movups xmm11, [{0}+176]", "movups xmm12, [{0}+192]", "movups xmm13, [{0}+208]",
                    "movups xmm14, [{0}+224]", "movups xmm15, [{0}+240]",
                    in(reg) from,
                );
            },
            |to| {
                x86!(
                    "movups [{0}], xmm0", "movups [{0}+16], xmm1", "movups [{0}+32], xmm2", "movups [{0}+48], xmm3",
                    "movups [{0}+64], xmm4", "movups [{0}+80], xmm5", "movups [{0}+96], xmm6", "movups [{0}+112], xmm7",
                    "movups [{0}+128], xmm8", "movups [{0}+144], xmm9", "movups [{0}+160], xmm10",
                    "movups [{0}+176], xmm11", "movups [{0}+192], xmm12", "movups [{0}+208], xmm13",
                    "movups [{0}+224], xmm14", "movups [{0}+240], xmm15",
                    in(reg) to,
                );
            },
        );
    });
    report.case("avx-registers-survive-exits", |case| {
        if !has(7) {
            return case.skip("no AVX");
        }
        survives(
            case,
            256,
            |from| {
                x86!(
                    "vmovups ymm0, [{0}]", "vmovups ymm3, [{0}+32]", "vmovups ymm6, [{0}+64]", "vmovups ymm7, [{0}+96]",
                    "vmovups ymm8, [{0}+128]", "vmovups ymm11, [{0}+160]", "vmovups ymm14, [{0}+192]",
                    "vmovups ymm15, [{0}+224]",
                    in(reg) from,
                );
            },
            |to| {
                x86!(
                    "vmovups [{0}], ymm0", "vmovups [{0}+32], ymm3", "vmovups [{0}+64], ymm6", "vmovups [{0}+96], ymm7",
                    "vmovups [{0}+128], ymm8", "vmovups [{0}+160], ymm11", "vmovups [{0}+192], ymm14",
                    "vmovups [{0}+224], ymm15",
                    in(reg) to,
                );
            },
        );
    });
    report.case("avx-512-registers-survive-exits", |case| {
        if !has(0xe7) {
            return case.skip("no AVX-512");
        }
        survives(
            case,
            336,
            |from| {
                x86!(
                    "vmovups zmm0, [{0}]", "vmovups zmm15, [{0}+64]", "vmovups zmm16, [{0}+128]",
                    "vmovups zmm23, [{0}+192]", "vmovups zmm31, [{0}+256]",
                    "kmovw k1, [{0}+320]", "kmovw k2, [{0}+322]", "kmovw k7, [{0}+324]",
                    "kmovw k3, [{0}+326]", "kmovw k4, [{0}+328]", "kmovw k5, [{0}+330]", "kmovw k6, [{0}+332]",
                    "kmovw k0, [{0}+334]",
                    in(reg) from,
                );
            },
            |to| {
                x86!(
                    "vmovups [{0}], zmm0", "vmovups [{0}+64], zmm15", "vmovups [{0}+128], zmm16",
                    "vmovups [{0}+192], zmm23", "vmovups [{0}+256], zmm31",
                    "kmovw [{0}+320], k1", "kmovw [{0}+322], k2", "kmovw [{0}+324], k7",
                    "kmovw [{0}+326], k3", "kmovw [{0}+328], k4", "kmovw [{0}+330], k5", "kmovw [{0}+332], k6",
                    "kmovw [{0}+334], k0",
                    in(reg) to,
                );
            },
        );
    });
    report.case("x87-registers-survive-exits", |case| {
        survives(
            case,
            64,
            |from| {
                // As MMX registers: eight bytes each, and every pattern is a value.
                x86!(
                    "movq mm0, [{0}]", "movq mm1, [{0}+8]", "movq mm2, [{0}+16]", "movq mm3, [{0}+24]",
                    "movq mm4, [{0}+32]", "movq mm5, [{0}+40]", "movq mm6, [{0}+48]", "movq mm7, [{0}+56]",
                    in(reg) from,
                );
            },
            |to| {
                x86!(
                    "movq [{0}], mm0", "movq [{0}+8], mm1", "movq [{0}+16], mm2", "movq [{0}+24], mm3",
                    "movq [{0}+32], mm4", "movq [{0}+40], mm5", "movq [{0}+48], mm6", "movq [{0}+56], mm7",
                    "emms",
                    in(reg) to,
                );
            },
        );
    });
    report.case("x87-stack-computes-across-exits", |case| {
        for (name, exit) in EXITS {
            let (mut whole, start) = (0u64, 1000u64);
            x86!("fninit", "fild qword ptr [{0}]", "fldpi", in(reg) &raw const start);
            for _ in 0..ROUNDS {
                x86!("fld1", "faddp st(2), st");
                exit();
            }
            x86!("fstp st(0)", "fistp qword ptr [{0}]", in(reg) &raw mut whole);
            if whole != start + ROUNDS as u64 {
                return case.fail(format_args!("the sum across {name} is {whole}"));
            }
        }
    });
}

fn control(report: &mut Report) {
    report.case("control-words-survive-exits", |case| {
        for (name, exit) in EXITS {
            let (mxcsr, x87) = (0x7fa5u32, 0x0e7fu16);
            let (mut mxcsr_after, mut x87_after) = (0u32, 0u16);
            x86!("ldmxcsr [{0}]", "fninit", "fldcw [{1}]", in(reg) &raw const mxcsr, in(reg) &raw const x87);
            for _ in 0..ROUNDS {
                exit();
            }
            x86!("stmxcsr [{0}]", "fnstcw [{1}]", in(reg) &raw mut mxcsr_after, in(reg) &raw mut x87_after);
            let reset = 0x1f80u32;
            x86!("ldmxcsr [{0}]", "fninit", in(reg) &raw const reset);
            if mxcsr_after != mxcsr || x87_after != x87 {
                return case.fail(format_args!("MXCSR {mxcsr_after:#x}, FCW {x87_after:#x} after {name}"));
            }
        }
    });
    report.case("mxcsr-reserved-bits-fault", |case| {
        let bad = 0x1_1f80u32;
        let outcome = fault_of!("ldmxcsr [{0}]", in(reg) &raw const bad);
        case.faults("LDMXCSR", outcome, Vector::GeneralProtection, 0);
    });
    report.case("fxsave-round-trip", |case| {
        let (mut one, mut two) = (Area::zeroed(), Area::zeroed());
        let mut vectors = Area::zeroed();
        pattern(&mut vectors.0[..256], 9);
        x86!("fninit", "fldpi", "fld1", "movups xmm5, [{0}]", "fxsave64 [{1}]", in(reg) vectors.address(), in(reg) one.address());
        x86!("fninit", "xorps xmm5, xmm5", "fxrstor64 [{0}]", "fxsave64 [{1}]", "fninit", in(reg) one.address(), in(reg) two.address());
        case.ensure(one.0[..416] == two.0[..416], "FXRSTOR did not bring back what FXSAVE wrote");
        case.ensure(one.0[160 + 80..160 + 96] == vectors.0[..16], "FXSAVE has another XMM5");
    });
}

fn xsave(report: &mut Report) {
    let present = cpuid(1, 0).ecx & leaf1_ecx::XSAVE != 0;
    report.case("xsetbv-refuses-invalid-values", |case| {
        if !present {
            return case.skip("no XSAVE");
        }
        let original = cpu::xcr0();
        for value in [0, 2, 4, 5, 0xe3, 0x23, 0x63, 1 << 63 | 3] {
            case.faults(
                "XSETBV",
                cpu::try_xsetbv(0, value),
                Vector::GeneralProtection,
                0,
            );
            case.equal("XCR0", cpu::xcr0(), original);
        }
        case.faults(
            "XSETBV of XCR1",
            cpu::try_xsetbv(1, original),
            Vector::GeneralProtection,
            0,
        );
        case.faults(
            "XGETBV of XCR7",
            fault_of!("xgetbv", in("ecx") 7, out("eax") _, out("edx") _),
            Vector::GeneralProtection,
            0,
        );
    });
    report.case("xcr0-decides-what-runs", |case| {
        if !has(7) {
            return case.skip("no AVX");
        }
        let original = cpu::xcr0();
        let avx = || fault_of!("vaddps ymm0, ymm0, ymm0");
        case.runs("XSETBV", cpu::try_xsetbv(0, 3));
        let without = avx();
        case.runs("XSETBV", cpu::try_xsetbv(0, 7));
        let with = avx();
        case.runs("XSETBV", cpu::try_xsetbv(0, original));
        case.faults("AVX without its state", without, Vector::InvalidOpcode, 0);
        case.runs("AVX with its state", with);
    });
    report.case("xcr0-survives-exits", |case| {
        if !present {
            return case.skip("no XSAVE");
        }
        let original = cpu::xcr0();
        for value in [1, 3, original] {
            case.runs("XSETBV", cpu::try_xsetbv(0, value));
            for (name, exit) in EXITS {
                exit();
                case.equal(name, cpu::xcr0(), value);
            }
        }
    });
    report.case("xsave-round-trip", |case| {
        if !has(7) {
            return case.skip("no AVX");
        }
        let (mut one, mut two, mut vectors) = (Area::zeroed(), Area::zeroed(), Area::zeroed());
        pattern(&mut vectors.0[..64], 77);
        x86!("vmovups ymm9, [{0}]", "xsave64 [{1}]", in(reg) vectors.address(), in(reg) one.address(), in("eax") !0, in("edx") !0);
        x86!("vzeroall");
        for (_, exit) in EXITS {
            exit();
        }
        x86!("xrstor64 [{0}]", "xsave64 [{1}]", in(reg) one.address(), in(reg) two.address(), in("eax") !0, in("edx") !0);
        case.ensure(one.0[160..416] == two.0[160..416], "XRSTOR did not bring back the SSE registers");
        case.ensure(one.0[576 + 9 * 16..576 + 10 * 16] == vectors.0[16..32], "XSAVE has another upper half of YMM9");
        case.ensure(one.0[576..832] == two.0[576..832], "XRSTOR did not bring back the AVX registers");
    });
    report.case("xrstor-of-nothing-resets", |case| {
        if !has(7) {
            return case.skip("no AVX");
        }
        let (mut empty, mut after) = (Area::zeroed(), Area::zeroed());
        // XRSTOR loads MXCSR whenever SSE or AVX is asked for.
        empty.0[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        x86!("vpcmpeqd xmm3, xmm3, xmm3", "xrstor64 [{0}]", "vmovups [{1}], ymm3", in(reg) empty.address(), in(reg) after.address(), in("eax") !0, in("edx") !0);
        case.ensure(after.0[..32] == [0; 32], "YMM3 is not in its initial state");
    });
    report.case("xrstor-checks-its-header", |case| {
        if !present {
            return case.skip("no XSAVE");
        }
        let mut bad = Area::zeroed();
        bad.0[512 + 7] = 0x40;
        let outcome =
            fault_of!("xrstor64 [{0}]", in(reg) bad.address(), in("eax") !0, in("edx") !0);
        case.faults(
            "an unknown state in XSTATE_BV",
            outcome,
            Vector::GeneralProtection,
            0,
        );
        let outcome =
            fault_of!("xsave [{0}]", in(reg) bad.address() as u64 + 8, in("eax") 3, in("edx") 0);
        case.faults("an unaligned area", outcome, Vector::GeneralProtection, 0);
    });
}

fn task_switched(report: &mut Report) {
    report.case("ts-survives-exits-and-clts-clears-it", |case| {
        let original = cpu::read_cr0();
        for (name, exit) in EXITS {
            cpu::write_cr0(original | cr0::TS);
            exit();
            let is = cpu::read_cr0();
            let outcome = fault_of!("movaps xmm0, xmm0");
            x86!("clts");
            let cleared = cpu::read_cr0();
            cpu::write_cr0(original);
            case.equal(name, is, original | cr0::TS);
            case.faults(name, outcome, Vector::DeviceNotAvailable, 0);
            case.equal("CR0 after CLTS", cleared, original & !cr0::TS);
        }
    });
    report.case("first-touch-of-memory-keeps-registers", |case| {
        let mut vectors = Area::zeroed();
        let mut after = Area::zeroed();
        pattern(&mut vectors.0[..16], 3);
        x86!("movups xmm7, [{0}]", in(reg) vectors.address());
        for page in 0..16u64 {
            let address = 0x90_0000_0000 + page * 0x20_0000;
            paging::map(
                address,
                0x40_0000 + (page & 1) * 0x20_0000,
                PageSize::Size2M,
                entry::P | entry::RW,
            );
            paging::poke(address + page * 4096, page);
        }
        x86!("movups [{0}], xmm7", in(reg) after.address());
        case.ensure(vectors.0[..16] == after.0[..16], "XMM7 changed");
    });
}
