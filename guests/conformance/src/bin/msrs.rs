//! `msrs`: model-specific registers read back what they should and refuse what they must.
//!
//! What depends on the processor is asked of CPUID first. "SDM vol. 4, Architectural MSRs" has the reserved bits.

#![no_std]
#![no_main]

use plinth_guests::cpu::{
    self, cpuid, efer, leaf1_ecx, leaf1_edx, leaf7_ebx, msr, rdmsr, try_rdmsr, try_wrmsr, wrmsr,
};
use plinth_guests::user::{self, Start};
use plinth_guests::{Case, Report, StartInfo, Vector, fault_of, guest, user_code};

guest!(main);

user_code!(user_rdmsr, "rdmsr");
user_code!(user_wrmsr, "wrmsr");

/// The lowest address that is not canonical with four levels of page tables, and with five.
const NON_CANONICAL: u64 = 0x0100_0000_0000_0000;

fn main(report: &mut Report, _: StartInfo) {
    report.case("unknown-msrs-fault", |case| {
        for unknown in [
            0x4141_4141,
            0x0000_1fff,
            0x8000_0000,
            0xc000_1fff,
            0xffff_ffff,
            0x4000_ffff,
        ] {
            case.faults("RDMSR", try_rdmsr(unknown), Vector::GeneralProtection, 0);
            case.faults("WRMSR", try_wrmsr(unknown, 0), Vector::GeneralProtection, 0);
        }
    });
    report.case("faulting-rdmsr-changes-no-register", |case| {
        let outcome = fault_of!("rdmsr", in("ecx") 0x4141_4141u32, in("rax") 0x1111_1111_1111_1111u64, in("rdx") !1u64);
        let fault = case.faults("RDMSR", outcome, Vector::GeneralProtection, 0);
        case.equal("RAX", fault.frame.rax, 0x1111_1111_1111_1111);
        case.equal("RDX", fault.frame.rdx, !1);
    });
    report.case("rdmsr-clears-the-upper-halves", |case| {
        let (rax, rdx): (u64, u64);
        plinth_guests::x86!("rdmsr", in("ecx") msr::IA32_EFER, inout("rax") !0u64 => rax, inout("rdx") !0u64 => rdx);
        case.equal("RAX", rax, rdmsr(msr::IA32_EFER));
        case.equal("RDX", rdx, 0);
    });
    report.case("only-ecx-selects", |case| {
        let eax: u64;
        plinth_guests::x86!(
            "rdmsr", in("rcx") 0xffff_ffff_0000_0000 | u64::from(msr::IA32_EFER), out("rax") eax, out("rdx") _,
        );
        case.equal("EFER", eax, rdmsr(msr::IA32_EFER));
    });
    report.case("ring-3-may-not", |case| {
        let start = Start {
            registers: [u64::from(msr::IA32_EFER), 0, 0],
            ..Start::default()
        };
        case.faults(
            "RDMSR",
            user::run(user_rdmsr(), start),
            Vector::GeneralProtection,
            0,
        );
        case.faults(
            "WRMSR",
            user::run(user_wrmsr(), start),
            Vector::GeneralProtection,
            0,
        );
    });
    efer_cases(report);
    bases(report);
    memory_types(report);
    time(report);
    features(report);
}

/// Writes, reads back and restores.
fn reads_back(case: &mut Case, name: &str, register: u32, values: &[u64]) {
    let saved = match case.runs(name, try_rdmsr(register)) {
        Some(saved) => saved,
        None => return,
    };
    for &value in values {
        case.runs(name, try_wrmsr(register, value));
        let is = rdmsr(register);
        wrmsr(register, saved);
        case.equal(name, is, value);
    }
}

/// Checks that a value is refused and leaves the register as it was.
fn refuses(case: &mut Case, name: &str, register: u32, value: u64) {
    let before = rdmsr(register);
    case.faults(
        name,
        try_wrmsr(register, value),
        Vector::GeneralProtection,
        0,
    );
    case.equal(name, rdmsr(register), before);
}

fn efer_cases(report: &mut Report) {
    report.case("efer-reserved-bits-fault", |case| {
        let value = rdmsr(msr::IA32_EFER);
        for bit in [1, 2, 7, 9, 16, 19, 31, 32, 40, 63] {
            refuses(case, "EFER", msr::IA32_EFER, value | 1 << bit);
        }
    });
    report.case("efer-sce-and-nxe-switch", |case| {
        let value = rdmsr(msr::IA32_EFER);
        reads_back(
            case,
            "EFER.SCE",
            msr::IA32_EFER,
            &[value | efer::SCE, value & !efer::SCE],
        );
        if cpu::extended().edx & cpu::extended_edx::NX != 0 {
            reads_back(
                case,
                "EFER.NXE",
                msr::IA32_EFER,
                &[value & !efer::NXE, value | efer::NXE],
            );
        } else {
            refuses(case, "EFER.NXE", msr::IA32_EFER, value | efer::NXE);
        }
    });
    report.case("efer-lme-cannot-change-while-paging", |case| {
        let value = rdmsr(msr::IA32_EFER);
        refuses(case, "EFER", msr::IA32_EFER, value & !efer::LME);
    });
    report.case("efer-lma-is-not-writable", |case| {
        // A write with LMA clear is ignored for that bit, it is a copy of the mode.
        let value = rdmsr(msr::IA32_EFER);
        case.runs("EFER", try_wrmsr(msr::IA32_EFER, value & !efer::LMA));
        case.equal("EFER", rdmsr(msr::IA32_EFER), value);
    });
}

fn bases(report: &mut Report) {
    report.case("syscall-registers-read-back", |case| {
        reads_back(
            case,
            "STAR",
            msr::IA32_STAR,
            &[0, 0x0013_0008_0000_0000, !0],
        );
        reads_back(
            case,
            "LSTAR",
            msr::IA32_LSTAR,
            &[0, 0x7fff_ffff_ffff, 0xffff_8000_0000_1234, !0],
        );
        reads_back(case, "CSTAR", 0xc000_0083, &[0, 0xffff_8000_0000_1234]);
        reads_back(case, "FMASK", msr::IA32_FMASK, &[0, 0x4_7700, 0xffff_ffff]);
    });
    report.case("segment-bases-read-back", |case| {
        let addresses = [0, 0x1000, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000, !0];
        reads_back(case, "FS_BASE", msr::IA32_FS_BASE, &addresses);
        reads_back(case, "GS_BASE", msr::IA32_GS_BASE, &addresses);
        reads_back(case, "KERNEL_GS_BASE", msr::IA32_KERNEL_GS_BASE, &addresses);
    });
    report.case("swapgs-exchanges-the-bases", |case| {
        let saved = [rdmsr(msr::IA32_GS_BASE), rdmsr(msr::IA32_KERNEL_GS_BASE)];
        wrmsr(msr::IA32_GS_BASE, 0x1234_5000);
        wrmsr(msr::IA32_KERNEL_GS_BASE, 0xffff_8888_0000_0000);
        plinth_guests::x86!("swapgs", options(nostack));
        let (gs, kernel) = (rdmsr(msr::IA32_GS_BASE), rdmsr(msr::IA32_KERNEL_GS_BASE));
        wrmsr(msr::IA32_GS_BASE, saved[0]);
        wrmsr(msr::IA32_KERNEL_GS_BASE, saved[1]);
        case.equal("GS_BASE", gs, 0xffff_8888_0000_0000);
        case.equal("KERNEL_GS_BASE", kernel, 0x1234_5000);
    });
    report.case("bases-survive-exits", |case| {
        wrmsr(msr::IA32_KERNEL_GS_BASE, 0xffff_9999_1234_5678);
        wrmsr(msr::IA32_LSTAR, 0xffff_aaaa_1234_5678);
        wrmsr(msr::IA32_STAR, 0x1122_3344_5566_7788);
        wrmsr(msr::IA32_FMASK, 0x0010_2030);
        wrmsr(msr::IA32_FS_BASE, 0xffff_bbbb_0000_1000);
        for leaf in 0..200 {
            let _ = cpuid(leaf & 7, 0);
            let _ = cpu::inb(0x3fd);
        }
        case.equal(
            "KERNEL_GS_BASE",
            rdmsr(msr::IA32_KERNEL_GS_BASE),
            0xffff_9999_1234_5678,
        );
        case.equal("LSTAR", rdmsr(msr::IA32_LSTAR), 0xffff_aaaa_1234_5678);
        case.equal("STAR", rdmsr(msr::IA32_STAR), 0x1122_3344_5566_7788);
        case.equal("FMASK", rdmsr(msr::IA32_FMASK), 0x0010_2030);
        case.equal("FS_BASE", rdmsr(msr::IA32_FS_BASE), 0xffff_bbbb_0000_1000);
        wrmsr(msr::IA32_FS_BASE, 0);
    });
    report.case("non-canonical-bases-fault", |case| {
        for (name, register) in [
            ("LSTAR", msr::IA32_LSTAR),
            ("CSTAR", 0xc000_0083),
            ("FS_BASE", msr::IA32_FS_BASE),
            ("GS_BASE", msr::IA32_GS_BASE),
            ("KERNEL_GS_BASE", msr::IA32_KERNEL_GS_BASE),
            ("SYSENTER_EIP", msr::IA32_SYSENTER_EIP),
            ("SYSENTER_ESP", msr::IA32_SYSENTER_ESP),
        ] {
            refuses(case, name, register, NON_CANONICAL);
            refuses(case, name, register, 0x8000_0000_0000_0000);
        }
    });
    report.case("sysenter-registers-read-back", |case| {
        if cpuid(1, 0).edx & leaf1_edx::SEP == 0 {
            return case.skip("no SYSENTER");
        }
        reads_back(
            case,
            "SYSENTER_CS",
            msr::IA32_SYSENTER_CS,
            &[0, 0x08, 0xffff],
        );
        reads_back(
            case,
            "SYSENTER_ESP",
            msr::IA32_SYSENTER_ESP,
            &[0, 0x9000, 0xffff_8000_0000_0000],
        );
        reads_back(
            case,
            "SYSENTER_EIP",
            msr::IA32_SYSENTER_EIP,
            &[0, 0x9000, 0xffff_8000_0000_0000],
        );
    });
}

fn memory_types(report: &mut Report) {
    report.case("pat-takes-valid-types-only", |case| {
        if cpuid(1, 0).edx & leaf1_edx::PAT == 0 {
            return case.skip("no PAT");
        }
        let value = rdmsr(msr::IA32_PAT);
        reads_back(
            case,
            "PAT",
            msr::IA32_PAT,
            &[
                0x0007_0406_0007_0406,
                0x0606_0606_0606_0606,
                0x0706_0504_0100_0706,
            ],
        );
        for bad in [2, 3, 8, 0x10, 0xff] {
            for byte in [0, 3, 7] {
                refuses(
                    case,
                    "PAT",
                    msr::IA32_PAT,
                    value & !(0xff << (byte * 8)) | bad << (byte * 8),
                );
            }
        }
    });
    let mtrr = cpuid(1, 0).edx & leaf1_edx::MTRR != 0;
    report.case("mtrrcap-is-read-only", |case| {
        if !mtrr {
            return case.skip("no MTRRs");
        }
        case.runs("RDMSR", try_rdmsr(msr::IA32_MTRRCAP));
        case.faults(
            "WRMSR",
            try_wrmsr(msr::IA32_MTRRCAP, 0),
            Vector::GeneralProtection,
            0,
        );
    });
    report.case("mtrr-default-type", |case| {
        if !mtrr {
            return case.skip("no MTRRs");
        }
        let value = rdmsr(msr::IA32_MTRR_DEF_TYPE);
        reads_back(
            case,
            "DEF_TYPE",
            msr::IA32_MTRR_DEF_TYPE,
            &[0x806, 0xc06, 0xc00, value],
        );
        for bad in [2, 3, 7, 0x80, 0x100, 0x1000, 1 << 40] {
            refuses(
                case,
                "DEF_TYPE",
                msr::IA32_MTRR_DEF_TYPE,
                (value & !0xff) | bad,
            );
        }
    });
    report.case("variable-mtrrs", |case| {
        if !mtrr || rdmsr(msr::IA32_MTRRCAP) & 0xff == 0 {
            return case.skip("no variable-range MTRRs");
        }
        let count = (rdmsr(msr::IA32_MTRRCAP) & 0xff) as u32;
        let last = msr::IA32_MTRR_PHYSBASE0 + 2 * (count - 1);
        reads_back(case, "the last PHYSBASE", last, &[0x8000_0000, 0x8000_0006]);
        reads_back(
            case,
            "the last PHYSMASK",
            last + 1,
            &[0xf_8000_0000, 0xf_f000_0000],
        );
        refuses(case, "PHYSBASE with type 2", last, 0x8000_0002);
        refuses(case, "PHYSBASE above the physical addresses", last, 1 << 60);
    });
    report.case("fixed-mtrrs", |case| {
        if !mtrr || rdmsr(msr::IA32_MTRRCAP) & 0x100 == 0 {
            return case.skip("no fixed-range MTRRs");
        }
        let registers = [0x250, 0x258, 0x259].into_iter().chain(0x268..=0x26f);
        for register in registers {
            reads_back(
                case,
                "a fixed-range MTRR",
                register,
                &[0x0606_0606_0606_0606, 0],
            );
            refuses(case, "a fixed-range MTRR", register, 0x0000_0200_0000_0000);
        }
    });
}

fn time(report: &mut Report) {
    report.case("tsc-moves-and-takes-a-value", |case| {
        let before = cpu::rdtsc();
        let after = rdmsr(msr::IA32_TIME_STAMP_COUNTER);
        case.ensure(
            after >= before,
            "the TSC went backwards between RDTSC and RDMSR",
        );
        let target = after + (1 << 40);
        wrmsr(msr::IA32_TIME_STAMP_COUNTER, target);
        let now = cpu::rdtsc();
        case.ensure(
            now >= target && now - target < 1 << 36,
            "the TSC does not go on from the value written",
        );
        wrmsr(msr::IA32_TIME_STAMP_COUNTER, 0x1000);
        let now = cpu::rdtsc();
        case.ensure(now < 1 << 36, "the TSC does not go on from a smaller value");
        wrmsr(msr::IA32_TIME_STAMP_COUNTER, target);
    });
    report.case("tsc-adjust-moves-the-tsc", |case| {
        if cpu::leaf7().ebx & leaf7_ebx::TSC_ADJUST == 0 {
            return case.skip("no TSC_ADJUST");
        }
        let adjust = rdmsr(msr::IA32_TSC_ADJUST);
        let before = cpu::rdtsc();
        wrmsr(msr::IA32_TSC_ADJUST, adjust.wrapping_add(1 << 42));
        let after = cpu::rdtsc();
        case.equal(
            "TSC_ADJUST",
            rdmsr(msr::IA32_TSC_ADJUST),
            adjust.wrapping_add(1 << 42),
        );
        let moved = after.wrapping_sub(before);
        case.ensure(
            moved.wrapping_sub(1 << 42) < 1 << 36,
            "the TSC did not move by the adjustment",
        );
        // A write to the TSC shows up in the adjustment.
        let now = rdmsr(msr::IA32_TIME_STAMP_COUNTER);
        wrmsr(msr::IA32_TIME_STAMP_COUNTER, now.wrapping_sub(1 << 42));
        let difference = rdmsr(msr::IA32_TSC_ADJUST).wrapping_sub(adjust) as i64;
        case.ensure(
            difference.abs() < 1 << 36,
            "TSC_ADJUST does not follow a write to the TSC",
        );
    });
    report.case("tsc-aux-reaches-rdtscp", |case| {
        if cpu::extended().edx & cpu::extended_edx::RDTSCP == 0 {
            return case.skip("no RDTSCP");
        }
        let saved = rdmsr(msr::IA32_TSC_AUX);
        wrmsr(msr::IA32_TSC_AUX, 0x5a5a_1234);
        let rcx: u64;
        plinth_guests::x86!("rdtscp", out("rcx") rcx, out("rax") _, out("rdx") _, options(nostack));
        wrmsr(msr::IA32_TSC_AUX, saved);
        case.equal("RCX", rcx, 0x5a5a_1234);
    });
}

fn features(report: &mut Report) {
    report.case("apic-base", |case| {
        if cpuid(1, 0).edx & leaf1_edx::APIC == 0 {
            return case.skip("no local APIC");
        }
        let value = rdmsr(msr::IA32_APIC_BASE);
        case.ensure(value & 1 << 11 != 0, "the APIC is off");
        case.ensure(
            value & 1 << 8 != 0,
            "the only processor is not the boot processor",
        );
        case.equal("the address", value & !0xfff, 0xfee0_0000);
        refuses(case, "a reserved bit", msr::IA32_APIC_BASE, value | 1);
        refuses(case, "bit 9", msr::IA32_APIC_BASE, value | 1 << 9);
        refuses(
            case,
            "an address beyond the physical ones",
            msr::IA32_APIC_BASE,
            value | 1 << 60,
        );
        refuses(
            case,
            "x2APIC without the APIC",
            msr::IA32_APIC_BASE,
            value & !(1 << 11) | 1 << 10,
        );
    });
    report.case("misc-enable", |case| {
        match try_rdmsr(msr::IA32_MISC_ENABLE) {
            Err(fault) => {
                case.faults::<()>("RDMSR", Err(fault), Vector::GeneralProtection, 0);
                case.skip("no MISC_ENABLE");
            }
            Ok(value) => {
                case.runs(
                    "writing the value back",
                    try_wrmsr(msr::IA32_MISC_ENABLE, value),
                );
                case.equal("MISC_ENABLE", rdmsr(msr::IA32_MISC_ENABLE), value);
            }
        }
    });
    report.case("feature-control-is-locked-or-absent", |case| {
        if cpuid(1, 0).ecx & leaf1_ecx::VMX != 0 {
            return case.skip("CPUID shows VMX: the register is the firmware's");
        }
        match try_rdmsr(msr::IA32_FEATURE_CONTROL) {
            Err(fault) => {
                case.faults::<()>("RDMSR", Err(fault), Vector::GeneralProtection, 0);
            }
            Ok(value) => {
                case.ensure(
                    value & 0x6 == 0,
                    "VMX is enabled though CPUID does not show it",
                );
                if value & 1 != 0 {
                    refuses(
                        case,
                        "the locked register",
                        msr::IA32_FEATURE_CONTROL,
                        value | 4,
                    );
                }
            }
        }
    });
    report.case("vmx-capabilities-are-absent-without-vmx", |case| {
        if cpuid(1, 0).ecx & leaf1_ecx::VMX != 0 {
            return case.skip("CPUID shows VMX");
        }
        for register in 0x480..=0x491 {
            case.faults("RDMSR", try_rdmsr(register), Vector::GeneralProtection, 0);
        }
    });
    report.case("microcode-and-platform-reads", |case| {
        // Kernels read these without asking; a processor of this vendor has them.
        if cpuid(0, 0).ebx != u32::from_le_bytes(*b"Genu") {
            return case.skip("not an Intel processor");
        }
        for (name, register) in [("BIOS_SIGN_ID", 0x8b), ("PLATFORM_ID", 0x17)] {
            let outcome = try_rdmsr(register);
            if outcome.is_err() && !cpu::is_plinth() {
                return case.skip("this processor lacks them");
            }
            case.runs(name, outcome);
        }
    });
    report.case("machine-check-banks", |case| {
        if cpuid(1, 0).edx & leaf1_edx::MCA == 0 {
            return case.skip("no machine check architecture");
        }
        let outcome = try_rdmsr(0x179);
        if outcome.is_err() && !cpu::is_plinth() {
            return case.skip("this processor shows the architecture without its registers");
        }
        let Some(capabilities) = case.runs("MCG_CAP", outcome) else {
            return;
        };
        case.runs("MCG_STATUS", try_rdmsr(0x17a));
        for bank in 0..(capabilities & 0xff) as u32 {
            case.runs("MCi_CTL", try_rdmsr(0x400 + 4 * bank));
            case.runs("MCi_STATUS", try_rdmsr(0x401 + 4 * bank));
            case.runs("MCi_STATUS cleared", try_wrmsr(0x401 + 4 * bank, 0));
        }
    });
    report.case("every-msr-of-the-first-0x1000-answers-or-faults", |case| {
        for register in (0..0x1000).chain(0xc000_0000..0xc000_0200) {
            if let Err(fault) = try_rdmsr(register) {
                case.faults::<()>("RDMSR", Err(fault), Vector::GeneralProtection, 0);
            }
        }
    });
}
