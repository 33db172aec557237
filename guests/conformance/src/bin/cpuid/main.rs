//! `cpuid`: the processor that CPUID shows agrees with itself and with what executes.

#![no_std]
#![no_main]

mod instructions;
mod leaves;

use plinth_guests::cpu::{
    self, cpuid, cr4, extended, extended_edx, leaf1_ecx, leaf1_edx, leaf7, leaf7_ebx, leaf7_ecx,
    msr,
};
use plinth_guests::{Report, StartInfo, Vector, fault_of, guest, print, println, x86};

guest!(main);

fn main(report: &mut Report, _: StartInfo) {
    leaves::check(report);
    hypervisor(report);
    instructions::check(report);
    control_bits(report);
    model_registers(report);
    extended_state(report);
    topology(report);
}

fn hypervisor(report: &mut Report) {
    report.case("hypervisor-leaf", |case| {
        let Some(signature) = cpu::hypervisor() else {
            return case.skip("no hypervisor is shown");
        };
        print!("hypervisor signature \"");
        for byte in signature {
            print!(
                "{}",
                if (0x20..0x7f).contains(&byte) {
                    char::from(byte)
                } else {
                    '.'
                }
            );
        }
        println!("\"");
        let highest = cpuid(0x4000_0000, 0).eax;
        case.ensure(
            (0x4000_0000..0x4001_0000).contains(&highest),
            "the highest hypervisor leaf is not in its range",
        );
        case.ensure(signature != [0; 12], "the hypervisor has no signature");
    });
    report.case("vmx-and-smx-are-not-shown-by-plinth", |case| {
        if !cpu::is_plinth() {
            return case.skip("not under Plinth");
        }
        case.equal(
            "VMX and SMX",
            cpuid(1, 0).ecx & (leaf1_ecx::VMX | 1 << 6),
            0,
        );
        case.equal("SVM", extended().ecx & 1 << 2, 0);
    });
    report.case("hypervisor-leaves-do-not-fault", |_| {
        for leaf in (0x4000_0000..0x4000_0300u32)
            .chain(0xc000_0000..0xc000_0008)
            .chain([u32::MAX])
        {
            let _ = cpuid(leaf, 0);
        }
    });
}

/// Shadow stacks or indirect branch tracking.
fn shows_cet() -> bool {
    let seven = leaf7();
    seven.ecx & 1 << 7 != 0 || seven.edx & 1 << 20 != 0
}

fn control_bits(report: &mut Report) {
    let one = cpuid(1, 0);
    let seven = leaf7();
    report.case("cr4-bits-can-be-set-exactly-if-shown", |case| {
        let original = cpu::read_cr4();
        for (name, bit, shown) in [
            ("CR4.SMEP", cr4::SMEP, seven.ebx & leaf7_ebx::SMEP != 0),
            ("CR4.SMAP", cr4::SMAP, seven.ebx & leaf7_ebx::SMAP != 0),
            ("CR4.UMIP", cr4::UMIP, seven.ecx & leaf7_ecx::UMIP != 0),
            ("CR4.PKE", 1 << 22, seven.ecx & leaf7_ecx::PKU != 0),
            (
                "CR4.FSGSBASE",
                cr4::FSGSBASE,
                seven.ebx & leaf7_ebx::FSGSBASE != 0,
            ),
            ("CR4.PCIDE", cr4::PCIDE, one.ecx & leaf1_ecx::PCID != 0),
            ("CR4.OSXSAVE", cr4::OSXSAVE, one.ecx & leaf1_ecx::XSAVE != 0),
            ("CR4.PGE", cr4::PGE, one.edx & leaf1_edx::PGE != 0),
            ("CR4.DE", cr4::DE, one.edx & leaf1_edx::DE != 0),
            ("CR4.SMXE", 1 << 14, one.ecx & 1 << 6 != 0),
            ("CR4.CET", 1 << 23, shows_cet()),
            ("CR4.PKS", 1 << 24, seven.ecx & 1 << 31 != 0),
        ] {
            let outcome = cpu::try_write_cr4(original | bit);
            let after = cpu::read_cr4();
            cpu::write_cr4(original);
            if shown {
                case.runs(name, outcome);
                case.equal(name, after, original | bit);
            } else {
                case.faults(name, outcome, Vector::GeneralProtection, 0);
                case.equal(name, after, original);
            }
        }
    });
    report.case("msrs-of-features-not-shown-fault", |case| {
        for (name, register, shown) in [
            ("U_CET", 0x6a0, shows_cet()),
            ("S_CET", 0x6a2, shows_cet()),
            ("PL0_SSP", 0x6a4, seven.ecx & 1 << 7 != 0),
            ("PL3_SSP", 0x6a7, seven.ecx & 1 << 7 != 0),
            ("PKRS", 0x6e1, seven.ecx & 1 << 31 != 0),
            ("XFD", 0x1c4, cpuid(0xd, 1).eax & 1 << 4 != 0),
        ] {
            let outcome = cpu::try_rdmsr(register);
            if shown {
                case.runs(name, outcome.map(|_| ()));
            } else {
                case.faults(name, outcome.map(|_| ()), Vector::GeneralProtection, 0);
            }
        }
    });
    report.case("osxsave-mirrors-cr4", |case| {
        if one.ecx & leaf1_ecx::XSAVE == 0 {
            return case.skip("no XSAVE");
        }
        let original = cpu::read_cr4();
        let xcr0 = cpu::xcr0();
        cpu::write_cr4(original & !cr4::OSXSAVE);
        let without = cpuid(1, 0).ecx;
        let outcome = fault_of!("xgetbv", in("ecx") 0, out("eax") _, out("edx") _);
        cpu::write_cr4(original | cr4::OSXSAVE);
        let with = cpuid(1, 0).ecx;
        case.equal(
            "OSXSAVE while CR4.OSXSAVE is clear",
            without & leaf1_ecx::OSXSAVE,
            0,
        );
        case.equal(
            "OSXSAVE while CR4.OSXSAVE is set",
            with & leaf1_ecx::OSXSAVE,
            leaf1_ecx::OSXSAVE,
        );
        case.faults(
            "XGETBV while CR4.OSXSAVE is clear",
            outcome,
            Vector::InvalidOpcode,
            0,
        );
        case.equal("XCR0 afterwards", cpu::xcr0(), xcr0);
    });
    report.case("ospke-mirrors-cr4", |case| {
        if seven.ecx & leaf7_ecx::PKU == 0 {
            return case.equal("OSPKE", seven.ecx & 1 << 4, 0);
        }
        let original = cpu::read_cr4();
        cpu::write_cr4(original | 1 << 22);
        let with = cpuid(7, 0).ecx;
        let outcome = fault_of!("rdpkru", in("ecx") 0, out("eax") _, out("edx") _);
        cpu::write_cr4(original);
        case.equal("OSPKE while CR4.PKE is set", with & 1 << 4, 1 << 4);
        case.runs("RDPKRU", outcome);
        case.equal("OSPKE while CR4.PKE is clear", cpuid(7, 0).ecx & 1 << 4, 0);
    });
}

fn model_registers(report: &mut Report) {
    report.case("features-shown-have-their-msrs", |case| {
        let one = cpuid(1, 0);
        let seven = leaf7();
        for (name, register, shown) in [
            ("MTRRCAP", msr::IA32_MTRRCAP, one.edx & leaf1_edx::MTRR != 0),
            ("PAT", msr::IA32_PAT, one.edx & leaf1_edx::PAT != 0),
            ("MCG_CAP", 0x179, one.edx & leaf1_edx::MCA != 0),
            (
                "APIC_BASE",
                msr::IA32_APIC_BASE,
                one.edx & leaf1_edx::APIC != 0,
            ),
            (
                "SYSENTER_CS",
                msr::IA32_SYSENTER_CS,
                one.edx & leaf1_edx::SEP != 0,
            ),
            (
                "TSC_DEADLINE",
                0x6e0,
                one.ecx & leaf1_ecx::TSC_DEADLINE != 0,
            ),
            (
                "TSC_ADJUST",
                msr::IA32_TSC_ADJUST,
                seven.ebx & leaf7_ebx::TSC_ADJUST != 0,
            ),
            ("SPEC_CTRL", 0x48, seven.edx & 1 << 26 != 0),
            ("ARCH_CAPABILITIES", 0x10a, seven.edx & 1 << 29 != 0),
            (
                "TSC_AUX",
                msr::IA32_TSC_AUX,
                extended().edx & extended_edx::RDTSCP != 0,
            ),
            (
                "LSTAR",
                msr::IA32_LSTAR,
                extended().edx & extended_edx::SYSCALL != 0,
            ),
            ("DEBUGCTL", 0x1d9, true),
            (
                "XSS",
                0xda0,
                one.ecx & leaf1_ecx::XSAVE != 0 && cpuid(0xd, 1).eax & 8 != 0,
            ),
            ("PERF_CAPABILITIES", 0x345, one.ecx & 1 << 15 != 0),
        ] {
            let outcome = cpu::try_rdmsr(register);
            if shown && outcome.is_err() && !cpu::is_plinth() {
                return case.skip("this processor shows a feature without its register");
            }
            if shown {
                case.runs(name, outcome);
            }
        }
    });
    report.case("performance-counters-shown-are-there", |case| {
        if cpuid(0, 0).eax < 0xa || cpuid(0xa, 0).eax & 0xff == 0 {
            return case.skip("no architectural performance monitoring");
        }
        let leaf = cpuid(0xa, 0);
        if cpu::try_rdmsr(0xc1).is_err() && !cpu::is_plinth() {
            return case.skip("this processor shows counters without their registers");
        }
        for counter in 0..leaf.eax >> 8 & 0xff {
            case.runs("PMC", cpu::try_rdmsr(0xc1 + counter));
            case.runs("PERFEVTSEL", cpu::try_rdmsr(0x186 + counter));
        }
        if leaf.eax & 0xff >= 2 {
            case.runs("PERF_GLOBAL_CTRL", cpu::try_rdmsr(0x38f));
        }
    });
}

fn extended_state(report: &mut Report) {
    let present = cpuid(1, 0).ecx & leaf1_ecx::XSAVE != 0;
    report.case("xsave-sizes-follow-xcr0", |case| {
        if !present {
            return case.skip("no XSAVE");
        }
        let original = cpu::xcr0();
        let shown = cpuid(0xd, 0);
        let supported = u64::from(shown.edx) << 32 | u64::from(shown.eax);
        case.equal("x87 and SSE among the states", supported & 3, 3);
        case.equal(
            "states of XCR0 that are not shown",
            original & !supported,
            0,
        );
        for wanted in [1, 3, 7, 0xe7] {
            if wanted & !supported == 0 {
                case.runs("XSETBV", cpu::try_xsetbv(0, wanted));
                case.equal(
                    "the size for XCR0",
                    cpuid(0xd, 0).ebx,
                    standard_size(wanted),
                );
            }
        }
        case.runs("XSETBV", cpu::try_xsetbv(0, original));
        case.ensure(
            shown.ecx >= standard_size(supported),
            "the size for all states is less than what they take",
        );
    });
    report.case("xsave-writes-no-more-than-shown", |case| {
        if !present {
            return case.skip("no XSAVE");
        }
        #[repr(align(64))]
        struct Area([u8; 8192]);
        let mut area = Area([0xa5; 8192]);
        let size = cpuid(0xd, 0).ebx as usize;
        x86!("xsave [{}]", in(reg) area.0.as_mut_ptr(), in("eax") !0, in("edx") !0, options(nostack));
        case.ensure(size < 8192 && area.0[size..].iter().all(|byte| *byte == 0xa5), "XSAVE wrote beyond its size");
        case.ensure(area.0[512] != 0xa5, "XSAVE wrote no header");
    });
    report.case("states-not-shown-cannot-be-enabled", |case| {
        if !present {
            return case.skip("no XSAVE");
        }
        let shown = cpuid(0xd, 0);
        let supported = u64::from(shown.edx) << 32 | u64::from(shown.eax);
        for bit in 0..63 {
            if supported & 1 << bit == 0 {
                case.faults(
                    "XSETBV",
                    cpu::try_xsetbv(0, 3 | 1 << bit),
                    Vector::GeneralProtection,
                    0,
                );
            }
        }
    });
}

/// The size of a standard-format XSAVE area for these states, from the subleaves of leaf 0dH.
fn standard_size(states: u64) -> u32 {
    (2..63)
        .filter(|bit| states & 1 << bit != 0)
        .map(|bit| cpuid(0xd, bit))
        .map(|state| state.ebx + state.eax)
        .max()
        .map_or(576, |end| end.max(576))
}

fn topology(report: &mut Report) {
    report.case("apic-ids-agree", |case| {
        let initial = cpuid(1, 0).ebx >> 24;
        if cpuid(0, 0).eax < 0xb || cpuid(0xb, 0).ebx == 0 {
            return case.skip("no extended topology leaf");
        }
        let own = cpuid(0xb, 0).edx;
        case.equal("the initial APIC id", initial, own & 0xff);
        for level in 1..4 {
            case.equal("the x2APIC id at another level", cpuid(0xb, level).edx, own);
        }
    });
    report.case("topology-levels-end-in-zero", |case| {
        if cpuid(0, 0).eax < 0xb || cpuid(0xb, 0).ebx == 0 {
            return case.skip("no extended topology leaf");
        }
        let mut previous_shift = 0;
        for level in 0..8 {
            let leaf = cpuid(0xb, level);
            case.equal("the level's own number", leaf.ecx & 0xff, level);
            if leaf.ecx >> 8 & 0xff == 0 {
                // Bochs 2.7 leaves the last level's numbers there.
                if cpu::hypervisor().is_some() {
                    case.equal("the shift of the end marker", leaf.eax & 0x1f, 0);
                    case.equal("the processors of the end marker", leaf.ebx & 0xffff, 0);
                }
                return;
            }
            case.ensure(leaf.ebx & 0xffff != 0, "a level has no processors");
            case.ensure(
                leaf.eax & 0x1f >= previous_shift,
                "the shifts of the levels do not grow",
            );
            case.ensure(
                leaf.ebx & 0xffff <= 1 << (leaf.eax & 0x1f),
                "a level has more processors than its shift allows",
            );
            previous_shift = leaf.eax & 0x1f;
        }
        case.fail(format_args!("the levels do not end"));
    });
    report.case("cache-levels-end", |case| {
        if cpuid(0, 0).ebx != u32::from_le_bytes(*b"Genu") {
            return case.skip("leaf 4 is Intel's");
        }
        case.ensure(
            (0..16).any(|index| cpuid(4, index).eax & 0x1f == 0),
            "leaf 4 does not end",
        );
    });
    report.case("frequencies-are-consistent", |case| {
        if cpuid(0, 0).eax < 0x15 || cpuid(0x15, 0).ebx == 0 {
            return case.skip("no TSC frequency leaf");
        }
        let ratio = cpuid(0x15, 0);
        case.ensure(ratio.eax != 0, "the TSC ratio has a denominator of zero");
        if ratio.ecx != 0 && cpuid(0, 0).eax >= 0x16 && cpuid(0x16, 0).eax & 0xffff != 0 {
            let tsc_mhz =
                u64::from(ratio.ecx) * u64::from(ratio.ebx) / u64::from(ratio.eax) / 1_000_000;
            let base_mhz = u64::from(cpuid(0x16, 0).eax & 0xffff);
            case.ensure(
                tsc_mhz.abs_diff(base_mhz) * 10 <= base_mhz,
                "the TSC and base frequencies differ by a tenth",
            );
        }
    });
}
