//! Instructions run where CPUID shows their feature, and those that a control can forbid only there.

use plinth_guests::cpu::{
    self, cpuid, cr4, extended, extended_edx, leaf1_ecx, leaf7, leaf7_ebx, leaf7_ecx,
};
use plinth_guests::{Case, Fault, Report, Vector, fault_of, x86};

/// Checks that an instruction runs if its feature is shown.
fn shown_runs(case: &mut Case, name: &str, shown: bool, outcome: Result<(), Fault>) {
    if shown {
        case.runs(name, outcome);
    }
}

pub(crate) fn check(report: &mut Report) {
    let one = cpuid(1, 0);
    let seven = leaf7();
    let far = extended();
    report.case("integer-instructions-that-are-shown-run", |case| {
        let mut memory = [0u64; 4];
        let buffer = memory.as_mut_ptr();
        shown_runs(
            case,
            "POPCNT",
            one.ecx & 1 << 23 != 0,
            fault_of!("popcnt eax, eax", out("eax") _),
        );
        shown_runs(
            case,
            "MOVBE",
            one.ecx & 1 << 22 != 0,
            fault_of!("movbe eax, [{}]", in(reg) buffer, out("eax") _),
        );
        shown_runs(
            case,
            "RDRAND",
            one.ecx & leaf1_ecx::RDRAND != 0,
            fault_of!("rdrand rax", out("rax") _),
        );
        shown_runs(
            case,
            "RDSEED",
            seven.ebx & leaf7_ebx::RDSEED != 0,
            fault_of!("rdseed rax", out("rax") _),
        );
        shown_runs(
            case,
            "ADCX",
            seven.ebx & 1 << 19 != 0,
            fault_of!("adcx eax, eax", out("eax") _),
        );
        shown_runs(
            case,
            "ANDN",
            seven.ebx & 1 << 3 != 0,
            fault_of!("andn eax, eax, eax", out("eax") _),
        );
        shown_runs(
            case,
            "PEXT",
            seven.ebx & 1 << 8 != 0,
            fault_of!("pext eax, eax, eax", out("eax") _),
        );
        shown_runs(
            case,
            "LZCNT",
            far.ecx & 1 << 5 != 0,
            fault_of!("lzcnt eax, eax", out("eax") _),
        );
        shown_runs(
            case,
            "LAHF",
            far.ecx & 1 != 0,
            fault_of!("lahf", out("rax") _),
        );
        shown_runs(
            case,
            "PREFETCHW",
            far.ecx & 1 << 8 != 0,
            fault_of!("prefetchw [{}]", in(reg) buffer),
        );
        shown_runs(
            case,
            "CLFLUSH",
            one.edx & 1 << 19 != 0,
            fault_of!("clflush [{}]", in(reg) buffer),
        );
        shown_runs(
            case,
            "CLFLUSHOPT",
            seven.ebx & 1 << 23 != 0,
            fault_of!("clflushopt [{}]", in(reg) buffer),
        );
        shown_runs(
            case,
            "CLWB",
            seven.ebx & 1 << 24 != 0,
            fault_of!("clwb [{}]", in(reg) buffer),
        );
        shown_runs(
            case,
            "RDPID",
            seven.ecx & leaf7_ecx::RDPID != 0,
            fault_of!("rdpid rax", out("rax") _),
        );
    });
    report.case("vector-instructions-that-are-shown-run", |case| {
        let avx = cpu::read_cr4() & cr4::OSXSAVE != 0 && cpu::xcr0() & 6 == 6;
        shown_runs(
            case,
            "SSE3",
            one.ecx & 1 != 0,
            fault_of!("addsubps xmm0, xmm0"),
        );
        shown_runs(
            case,
            "SSSE3",
            one.ecx & 1 << 9 != 0,
            fault_of!("pabsb xmm0, xmm0"),
        );
        shown_runs(
            case,
            "SSE4.1",
            one.ecx & 1 << 19 != 0,
            fault_of!("pmulld xmm0, xmm0"),
        );
        shown_runs(
            case,
            "SSE4.2",
            one.ecx & 1 << 20 != 0,
            fault_of!("pcmpgtq xmm0, xmm0"),
        );
        shown_runs(
            case,
            "PCLMULQDQ",
            one.ecx & 1 << 1 != 0,
            fault_of!("pclmulqdq xmm0, xmm0, 0"),
        );
        shown_runs(
            case,
            "AESENC",
            one.ecx & 1 << 25 != 0,
            fault_of!("aesenc xmm0, xmm0"),
        );
        shown_runs(
            case,
            "SHA",
            seven.ebx & 1 << 29 != 0,
            fault_of!("sha1nexte xmm0, xmm0"),
        );
        shown_runs(
            case,
            "AVX",
            avx && one.ecx & leaf1_ecx::AVX != 0,
            fault_of!("vaddps ymm0, ymm0, ymm0"),
        );
        shown_runs(
            case,
            "FMA",
            avx && one.ecx & 1 << 12 != 0,
            fault_of!("vfmadd213ps ymm0, ymm0, ymm0"),
        );
        shown_runs(
            case,
            "F16C",
            avx && one.ecx & 1 << 29 != 0,
            fault_of!("vcvtph2ps ymm0, xmm0"),
        );
        shown_runs(
            case,
            "AVX2",
            avx && seven.ebx & 1 << 5 != 0,
            fault_of!("vpaddd ymm0, ymm0, ymm0"),
        );
        let avx512 = avx && cpu::xcr0() & 0xe0 == 0xe0;
        shown_runs(
            case,
            "AVX512F",
            avx512 && seven.ebx & leaf7_ebx::AVX512F != 0,
            fault_of!("vpaddd zmm0, zmm0, zmm0"),
        );
    });
    report.case("controlled-instructions-run-only-if-shown", |case| {
        let mut descriptor = [0u64; 2];
        let operand = descriptor.as_mut_ptr();
        let exactly = |case: &mut Case, name: &str, shown: bool, outcome: Result<(), Fault>| {
            if shown {
                case.runs(name, outcome);
            } else {
                case.faults(name, outcome, Vector::InvalidOpcode, 0);
            }
        };
        let rdtscp = fault_of!("rdtscp", out("eax") _, out("ecx") _, out("edx") _);
        exactly(case, "RDTSCP", far.edx & extended_edx::RDTSCP != 0, rdtscp);
        let invpcid = fault_of!("invpcid {}, [{}]", in(reg) 2u64, in(reg) operand);
        exactly(
            case,
            "INVPCID",
            seven.ebx & leaf7_ebx::INVPCID != 0,
            invpcid,
        );
        exactly(
            case,
            "XGETBV",
            one.ecx & leaf1_ecx::XSAVE != 0,
            fault_of!("xgetbv", in("ecx") 0, out("eax") _, out("edx") _),
        );
        exactly(
            case,
            "TPAUSE",
            seven.ecx & 1 << 5 != 0,
            fault_of!("tpause {:e}", in(reg) 0, in("eax") 0, in("edx") 0),
        );
    });
    report.case("shadow-stacks-that-are-off-change-nothing", |case| {
        // Without CR4.CET these are what their opcodes were before, shown or not.
        let value: u64;
        x86!("mov rax, 0x1234", ".byte 0xf3, 0x48, 0x0f, 0x1e, 0xc8", out("rax") value);
        case.equal("RAX after RDSSPQ", value, 0x1234);
        case.runs("ENDBR64", fault_of!(".byte 0xf3, 0x0f, 0x1e, 0xfa"));
        for (name, outcome) in [
            (
                "INCSSPQ",
                fault_of!(".byte 0xf3, 0x48, 0x0f, 0xae, 0xe8", in("rax") 1u64),
            ),
            ("SETSSBSY", fault_of!(".byte 0xf3, 0x0f, 0x01, 0xe8")),
        ] {
            case.faults(name, outcome, Vector::InvalidOpcode, 0);
        }
    });
    report.case("xsaves-runs-only-if-shown", |case| {
        if one.ecx & leaf1_ecx::XSAVE == 0 {
            return case.skip("no XSAVE");
        }
        #[repr(align(64))]
        struct Area([u8; 4096]);
        let mut area = Area([0; 4096]);
        let area = area.0.as_mut_ptr();
        let features = cpuid(0xd, 1).eax;
        let outcome = fault_of!("xsaves [{}]", in(reg) area, in("eax") 3, in("edx") 0);
        if features & 1 << 3 != 0 {
            case.runs("XSAVES", outcome);
        } else {
            case.faults("XSAVES", outcome, Vector::InvalidOpcode, 0);
        }
        shown_runs(
            case,
            "XSAVEOPT",
            features & 1 != 0,
            fault_of!("xsaveopt [{}]", in(reg) area, in("eax") 3, in("edx") 0),
        );
        shown_runs(
            case,
            "XSAVEC",
            features & 2 != 0,
            fault_of!("xsavec [{}]", in(reg) area, in("eax") 3, in("edx") 0),
        );
        shown_runs(
            case,
            "XGETBV(1)",
            features & 4 != 0,
            fault_of!("xgetbv", in("ecx") 1, out("eax") _, out("edx") _),
        );
    });
}
