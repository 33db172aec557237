//! The leaves themselves: how many there are, what is beyond them, and what every processor says.

use plinth_guests::compat::{self, Registers32};
use plinth_guests::cpu::{Cpuid, cpuid, extended, extended_edx, leaf7, leaf7_ecx};
use plinth_guests::descriptors::KERNEL_CODE32;
use plinth_guests::user::{self, Start};
use plinth_guests::{Report, compat_code, user_code, x86};

user_code!(user_cpuid, "mov eax, 1", "cpuid", "mov eax, edx");
compat_code!(cpuid_32, "cpuid");

pub(crate) fn check(report: &mut Report) {
    let basic = cpuid(0, 0).eax;
    let top = cpuid(0x8000_0000, 0).eax;
    report.case("highest-leaves-are-plausible", |case| {
        case.ensure(
            (0xd..0x100).contains(&basic),
            "the highest basic leaf is not between 0dH and ffH",
        );
        case.ensure(
            (0x8000_0008..0x8000_0100).contains(&top),
            "the highest extended leaf is not 8000_0008H or more",
        );
    });
    report.case("every-leaf-repeats-itself", |case| {
        for leaf in (0..=basic).chain(0x8000_0000..=top) {
            for subleaf in 0..4 {
                let (one, two) = (cpuid(leaf, subleaf), cpuid(leaf, subleaf));
                if one != two {
                    case.fail(format_args!(
                        "leaf {leaf:#x}.{subleaf} is {one:x?}, then {two:x?}"
                    ));
                }
            }
        }
    });
    report.case("leaves-beyond-the-highest", |case| {
        // Intel's processors repeat the highest basic leaf, AMD's give zeroes.
        let highest = cpuid(basic, 0);
        for leaf in [basic + 1, basic + 0x33, 0x2000_0000, 0x3fff_ffff] {
            let beyond = cpuid(leaf, 0);
            case.ensure(
                beyond == highest || beyond == Cpuid::default(),
                "a basic leaf beyond the highest has own data",
            );
        }
        for leaf in [top + 1, 0x8fff_ffff] {
            let beyond = cpuid(leaf, 0);
            case.ensure(
                beyond == highest || beyond == Cpuid::default(),
                "an extended leaf beyond has own data",
            );
        }
    });
    report.case("subleaf-is-ignored-where-there-is-none", |case| {
        for leaf in [0, 1, 2, 6, 0x8000_0000, 0x8000_0001, 0x8000_0008] {
            case.ensure(
                cpuid(leaf, 0) == cpuid(leaf, 0x1234_5678),
                "ECX changes a leaf without subleaves",
            );
        }
    });
    report.case("reserved-subleaves-are-zero", |case| {
        let last = cpuid(7, 0).eax;
        for subleaf in [last + 1, last + 7, 0xffff] {
            case.ensure(
                cpuid(7, subleaf) == Cpuid::default(),
                "leaf 7 has data beyond its last subleaf",
            );
        }
        case.ensure(
            cpuid(0xd, 63) == Cpuid::default(),
            "leaf 0dH describes state component 63",
        );
    });
    report.case("cpuid-clears-the-upper-halves", |case| {
        let (rax, rbx, rcx, rdx): (u64, u64, u64, u64);
        x86!(
            "mov {keep}, rbx", "mov rbx, -1", "cpuid", "xchg {keep}, rbx",
            keep = out(reg) rbx,
            inout("rax") 0xffff_ffff_0000_0001u64 => rax,
            inout("rcx") 0xffff_ffff_0000_0000u64 => rcx,
            inout("rdx") !0u64 => rdx,
            options(nostack),
        );
        case.equal("the upper halves", (rax | rbx | rcx | rdx) >> 32, 0);
    });
    report.case("the-same-in-ring-3-and-in-32-bit-code", |case| {
        let outcome = user::run(user_cpuid(), Start::default());
        if let Some(edx) = case.runs("CPUID in ring 3", outcome) {
            case.equal("leaf 1 EDX in ring 3", edx as u32, cpuid(1, 0).edx);
        }
        let registers = Registers32 {
            eax: 1,
            ..Registers32::default()
        };
        if let Some(after) = case.runs(
            "CPUID in 32-bit code",
            compat::run(KERNEL_CODE32, cpuid_32, registers),
        ) {
            let here = cpuid(1, 0);
            case.equal("EAX", after.eax, here.eax);
            case.equal("EBX", after.ebx, here.ebx);
            case.equal("ECX", after.ecx, here.ecx);
            case.equal("EDX", after.edx, here.edx);
        }
    });
    report.case("names-are-printable", |case| {
        let vendor = cpuid(0, 0);
        let printable = |register: u32| {
            register
                .to_le_bytes()
                .iter()
                .all(|byte| (0x20..0x7f).contains(byte))
        };
        case.ensure(
            [vendor.ebx, vendor.ecx, vendor.edx]
                .into_iter()
                .all(printable),
            "the vendor's name is not text",
        );
        for leaf in 0x8000_0002..=0x8000_0004 {
            let part = cpuid(leaf, 0);
            let text = [part.eax, part.ebx, part.ecx, part.edx].map(u32::to_le_bytes);
            let ok = text
                .as_flattened()
                .iter()
                .all(|byte| *byte == 0 || (0x20..0x7f).contains(byte));
            case.ensure(ok, "the brand string is not text");
        }
    });
    report.case("address-widths", |case| {
        let widths = cpuid(0x8000_0008, 0).eax;
        let linear = if leaf7().ecx & leaf7_ecx::LA57 != 0 {
            57
        } else {
            48
        };
        case.equal("the linear address bits", widths >> 8 & 0xff, linear);
        case.ensure(
            (36..=52).contains(&(widths & 0xff)),
            "the physical address bits are not between 36 and 52",
        );
    });
    report.case("what-every-64-bit-processor-has", |case| {
        case.ensure(
            extended().edx & extended_edx::LONG_MODE != 0,
            "this kernel runs in the long mode that is not shown",
        );
        case.ensure(
            cpuid(1, 0).edx & 0x0700_8161 == 0x0700_8161,
            "FXSR, SSE, SSE2, CMOV, CX8, PAE, MSR or FPU is missing",
        );
    });
}
