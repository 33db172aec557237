//! `syscalls`: SYSCALL, SYSRET, SYSENTER and SYSEXIT between the rings and modes, what they change, and when they fault
//! (SDM vol. 2, the instructions' own pages; Fast System Calls in 64-Bit Mode).

#![no_std]
#![no_main]

use core::arch::global_asm;

use plinth_guests::cpu::{self, cpuid, efer, extended, extended_edx, leaf1_edx, msr};
use plinth_guests::descriptors::{KERNEL_CODE, KERNEL_DATA, USER_CODE, USER_CODE32, USER_DATA};
use plinth_guests::exceptions::Fault;
use plinth_guests::user::{self, Start, Width};
use plinth_guests::{Case, Report, StartInfo, Vector, fault_of, guest, user_code};

guest!(main);

/// The vectors that a kernel entry and a piece of user code end with.
const ENTERED: u8 = 0xf1;
const RETURNED: u8 = 0xf0;
const TF_DF_IF: u64 = 0x700;
const STATUS: u64 = 0x8d5;

// Where the fast calls arrive: in ring 0, on whatever stack.
global_asm!(".global fast_entry", "fast_entry:", "int 0xf1");

unsafe extern "C" {
    fn fast_entry();
}

user_code!(user_nop, "nop");
user_code!(user_syscall, "syscall");
user_code!(user_syscall_32, ".code32", "syscall");
user_code!(user_sysenter, "sysenter");
user_code!(user_sysenter_32, ".code32", "sysenter");
user_code!(user_sysret, "sysret");
user_code!(user_sysret_64, "sysretq");
user_code!(user_sysexit, "sysexit");

fn main(report: &mut Report, _: StartInfo) {
    // STAR: the kernel's selectors from 8 on, the user's from 0x18 on.
    cpu::wrmsr(msr::IA32_STAR, 0x0018_0008_0000_0000);
    cpu::wrmsr(msr::IA32_LSTAR, fast_entry as *const () as u64);
    cpu::wrmsr(msr::IA32_FMASK, 0);
    cpu::wrmsr(msr::IA32_SYSENTER_CS, u64::from(KERNEL_CODE));
    cpu::wrmsr(msr::IA32_SYSENTER_EIP, fast_entry as *const () as u64);
    cpu::wrmsr(msr::IA32_SYSENTER_ESP, user::STACK + 0x800);
    if extended().edx & extended_edx::SYSCALL != 0 {
        syscalls(report);
        sysrets(report);
    }
    if cpuid(1, 0).edx & leaf1_edx::SEP != 0 {
        sysenters(report);
        sysexits(report);
    }
}

fn set_sce(enabled: bool) {
    let value = cpu::rdmsr(msr::IA32_EFER);
    let bit = if enabled { efer::SCE } else { 0 };
    cpu::wrmsr(msr::IA32_EFER, value & !efer::SCE | bit);
}

/// Runs user code; it must have come to the kernel's entry.
fn enters(case: &mut Case, code: &[u8], start: Start) -> Fault {
    match user::run(code, start) {
        Err(fault) if fault.vector() == ENTERED => {
            case.equal("CS", fault.frame.cs, u64::from(KERNEL_CODE));
            case.equal("SS", fault.frame.ss, u64::from(KERNEL_DATA));
            fault
        }
        Err(fault) => {
            case.fail(format_args!("raises {fault}"));
            Fault::default()
        }
        Ok(_) => {
            case.fail(format_args!("goes on behind the call"));
            Fault::default()
        }
    }
}

fn syscalls(report: &mut Report) {
    report.case("syscall-needs-efer-sce", |case| {
        set_sce(false);
        let here = fault_of!("syscall", out("rcx") _, out("r11") _);
        let there = user::run(user_syscall(), Start::default());
        set_sce(true);
        case.faults("SYSCALL in ring 0", here, Vector::InvalidOpcode, 0);
        case.faults("SYSCALL in ring 3", there, Vector::InvalidOpcode, 0);
    });
    report.case("syscall-saves-rip-and-rflags", |case| {
        set_sce(true);
        let start = Start {
            rflags: 2 | 0x8d5,
            ..Start::default()
        };
        let entered = enters(case, user_syscall(), start);
        case.equal("RCX", entered.frame.rcx, user::CODE + 2);
        case.equal("R11", entered.frame.r11, 2 | 0x8d5);
        case.equal("RFLAGS", entered.frame.rflags, 2 | 0x8d5);
        case.equal("RSP", entered.frame.rsp, user::STACK + 0x1000 - 16);
    });
    report.case("syscall-clears-the-flags-of-fmask", |case| {
        cpu::wrmsr(msr::IA32_FMASK, TF_DF_IF | 0x41);
        let start = Start {
            rflags: 2 | STATUS | 0x400,
            ..Start::default()
        };
        let entered = enters(case, user_syscall(), start);
        cpu::wrmsr(msr::IA32_FMASK, 0);
        case.equal("RFLAGS", entered.frame.rflags, 2 | STATUS & !0x41);
        case.equal("R11", entered.frame.r11, 2 | STATUS | 0x400);
    });
    report.case("syscall-is-invalid-in-compatibility-mode", |case| {
        let start = Start {
            width: Width::Bits32,
            ..Start::default()
        };
        if cpuid(0, 0).ebx != u32::from_le_bytes(*b"Genu") {
            return case.skip("other makers' processors have it there");
        }
        let ended = user::run(user_syscall_32(), start);
        case.faults("SYSCALL", ended, Vector::InvalidOpcode, 0);
    });
    report.case("syscall-from-ring-0-works-as-well", |case| {
        let ended = fault_of!("syscall", out("rcx") _, out("r11") _);
        match ended {
            Err(fault) if fault.vector() == ENTERED => {
                case.equal("CS", fault.frame.cs, u64::from(KERNEL_CODE));
            }
            _ => case.fail(format_args!("it does not arrive")),
        }
    });
}

/// What the user code that a return went to has seen.
fn returned(case: &mut Case, ended: Result<(), Fault>) -> Fault {
    match ended {
        Err(fault) if fault.vector() == RETURNED => fault,
        Err(fault) => {
            case.fail(format_args!("raises {fault}"));
            Fault::default()
        }
        Ok(()) => Fault::default(),
    }
}

fn sysrets(report: &mut Report) {
    // The page of user code holds a NOP and the end.
    let prepare = || {
        let _ = user::run(user_nop(), Start::default());
    };
    report.case("sysret-to-64-bit-mode", |case| {
        prepare();
        let ended = fault_of!("sysretq", in("rcx") user::CODE, in("r11") 0x8d7u64);
        let fault = returned(case, ended);
        case.equal("CS", fault.frame.cs, u64::from(USER_CODE));
        case.equal("SS", fault.frame.ss, u64::from(USER_DATA));
        case.equal("RIP", fault.frame.rip, user::CODE + 3);
        case.equal("RFLAGS", fault.frame.rflags, 0x8d7);
    });
    report.case("sysret-to-compatibility-mode", |case| {
        prepare();
        let ended =
            fault_of!("sysret", in("rcx") user::CODE32 | 0xffff_ffff_0000_0000, in("r11") 2u64);
        let fault = returned(case, ended);
        case.equal("CS", fault.frame.cs, u64::from(USER_CODE32));
        case.equal("SS", fault.frame.ss, u64::from(USER_DATA));
        case.equal("RIP", fault.frame.rip, user::CODE32 + 3);
    });
    report.case("sysret-loads-what-flags-it-may", |case| {
        prepare();
        // RF, VM and the reserved bits are dropped; bit 1 is set.
        let ended = fault_of!("sysretq", in("rcx") user::CODE, in("r11") 0xffff_ffff_ffc3_802au64 | 0x0003_0000);
        let fault = returned(case, ended);
        case.equal("RFLAGS", fault.frame.rflags & !0x1_0000, 2);
    });
    report.case("sysret-needs-efer-sce", |case| {
        set_sce(false);
        let ended = fault_of!("sysretq", in("rcx") user::CODE, in("r11") 2u64);
        set_sce(true);
        case.faults("SYSRET", ended, Vector::InvalidOpcode, 0);
    });
    report.case("sysret-refuses-a-non-canonical-rip", |case| {
        if cpuid(0, 0).ebx != u32::from_le_bytes(*b"Genu") {
            return case.skip("other makers' processors fault in ring 3");
        }
        let ended = fault_of!("sysretq", in("rcx") 0x8000_0000_0000u64, in("r11") 2u64);
        let fault = case.faults("SYSRET", ended, Vector::GeneralProtection, 0);
        case.equal("CS at the fault", fault.frame.cs, u64::from(KERNEL_CODE));
    });
    report.case("sysret-is-for-ring-0", |case| {
        for code in [user_sysret(), user_sysret_64()] {
            let ended = user::run(code, Start::default());
            case.faults("SYSRET", ended, Vector::GeneralProtection, 0);
        }
    });
    report.case("a-thousand-system-calls", |case| {
        for _ in 0..1000 {
            let _ = enters(case, user_syscall(), Start::default());
        }
    });
}

fn sysenters(report: &mut Report) {
    report.case("sysenter-from-64-bit-mode", |case| {
        let start = Start {
            rflags: 2 | STATUS,
            ..Start::default()
        };
        let entered = enters(case, user_sysenter(), start);
        case.equal("RSP", entered.frame.rsp, user::STACK + 0x800);
        case.equal("RFLAGS", entered.frame.rflags, 2 | STATUS);
    });
    report.case("sysenter-from-compatibility-mode", |case| {
        let start = Start {
            width: Width::Bits32,
            ..Start::default()
        };
        let entered = enters(case, user_sysenter_32(), start);
        case.equal("RSP", entered.frame.rsp, user::STACK + 0x800);
    });
    report.case("sysenter-clears-if", |case| {
        let start = Start {
            rflags: 2 | 0x200,
            ..Start::default()
        };
        plinth_guests::pic::init();
        let entered = enters(case, user_sysenter(), start);
        case.equal("IF", entered.frame.rflags & 0x200, 0);
    });
    report.case("sysenter-without-a-code-segment-faults", |case| {
        for selector in [0u64, 3] {
            cpu::wrmsr(msr::IA32_SYSENTER_CS, selector);
            let ended = user::run(user_sysenter(), Start::default());
            cpu::wrmsr(msr::IA32_SYSENTER_CS, u64::from(KERNEL_CODE));
            case.faults("SYSENTER", ended, Vector::GeneralProtection, 0);
        }
    });
    report.case(
        "sysenter-ignores-the-low-bits-of-its-code-segment",
        |case| {
            cpu::wrmsr(msr::IA32_SYSENTER_CS, u64::from(KERNEL_CODE) | 3);
            let _ = enters(case, user_sysenter(), Start::default());
            cpu::wrmsr(msr::IA32_SYSENTER_CS, u64::from(KERNEL_CODE));
        },
    );
}

fn sysexits(report: &mut Report) {
    let prepare = || {
        let _ = user::run(user_nop(), Start::default());
    };
    report.case("sysexit-to-64-bit-mode", |case| {
        prepare();
        let ended = fault_of!("rex64 sysexit", in("rdx") user::CODE, in("rcx") user::STACK + 0x400);
        let fault = returned(case, ended);
        case.equal("CS", fault.frame.cs, u64::from(USER_CODE));
        case.equal("SS", fault.frame.ss, u64::from(KERNEL_CODE + 40) | 3);
        case.equal("RIP", fault.frame.rip, user::CODE + 3);
        case.equal("RSP", fault.frame.rsp, user::STACK + 0x400);
    });
    report.case("sysexit-to-compatibility-mode", |case| {
        prepare();
        let ended = fault_of!("sysexit", in("rdx") user::CODE32, in("rcx") user::CODE32 + 0x1400);
        let fault = returned(case, ended);
        case.equal("CS", fault.frame.cs, u64::from(USER_CODE32));
        case.equal("SS", fault.frame.ss, u64::from(USER_DATA));
        case.equal("RIP", fault.frame.rip, user::CODE32 + 3);
        case.equal("RSP", fault.frame.rsp, user::CODE32 + 0x1400);
    });
    report.case("sysexit-without-a-code-segment-faults", |case| {
        cpu::wrmsr(msr::IA32_SYSENTER_CS, 0);
        let ended = fault_of!("rex64 sysexit", in("rdx") user::CODE, in("rcx") user::STACK);
        cpu::wrmsr(msr::IA32_SYSENTER_CS, u64::from(KERNEL_CODE));
        case.faults("SYSEXIT", ended, Vector::GeneralProtection, 0);
    });
    report.case("sysexit-refuses-a-non-canonical-rip", |case| {
        let ended =
            fault_of!("rex64 sysexit", in("rdx") 0x8000_0000_0000u64, in("rcx") user::STACK);
        case.faults("SYSEXIT", ended, Vector::GeneralProtection, 0);
    });
    report.case("sysexit-is-for-ring-0", |case| {
        let ended = user::run(user_sysexit(), Start::default());
        case.faults("SYSEXIT", ended, Vector::GeneralProtection, 0);
    });
}
