//! `hypercall`: VMCALL answers and never crashes; the other virtualisation instructions are not there.
//!
//! Numbers and errors follow KVM's convention: the number in RAX, the result in RAX, -1000 for a number that
//! nobody knows. On a machine without a hypervisor VMCALL is #UD, and that is what the cases then expect.

#![no_std]
#![no_main]

use plinth_guests::user::{self, Start, Width};
use plinth_guests::{
    Case, Fault, Report, StartInfo, Vector, cpu, fault_of, guest, probe, user_code, x86,
};

guest!(main);

/// -KVM_ENOSYS: no such hypercall.
const NO_SUCH_CALL: u64 = (-1000i64) as u64;
/// -KVM_EPERM: not from this privilege level.
const NOT_PERMITTED: u64 = (-1i64) as u64;

user_code!(vmcall_64, "vmcall");
user_code!(vmcall_32, ".code32", "vmcall");

/// VMCALL with a number, and the other registers set to a pattern that must survive.
fn vmcall(number: u64, patterns: &mut [u64; 5]) -> Result<u64, Fault> {
    let mut result = 0;
    probe(|| {
        let (rcx, rdx, rsi, r8, r15): (u64, u64, u64, u64, u64);
        x86!(
            "vmcall",
            inout("rax") number => result,
            inout("rcx") patterns[0] => rcx,
            inout("rdx") patterns[1] => rdx,
            inout("rsi") patterns[2] => rsi,
            inout("r8") patterns[3] => r8,
            inout("r15") patterns[4] => r15,
        );
        *patterns = [rcx, rdx, rsi, r8, r15];
    })?;
    Ok(result)
}

const PATTERNS: [u64; 5] = [
    0x1111_2222_3333_4444,
    0x5555_6666_7777_8888,
    0x9999_aaaa_bbbb_cccc,
    0xdddd_eeee_ffff_0123,
    !0,
];

/// Checks that a number is unknown, or where there is no hypervisor that VMCALL is not there.
fn is_unknown(case: &mut Case, number: u64) {
    let mut patterns = PATTERNS;
    let outcome = vmcall(number, &mut patterns);
    if !cpu::is_plinth() {
        case.faults("VMCALL", outcome, Vector::InvalidOpcode, 0);
        return;
    }
    if let Some(result) = case.runs("VMCALL", outcome) {
        case.equal("RAX", result, NO_SUCH_CALL);
        for (is, should) in patterns.into_iter().zip(PATTERNS) {
            case.equal("a register across VMCALL", is, should);
        }
    }
}

fn main(report: &mut Report, _: StartInfo) {
    report.case("unknown-number-returns-an-error", |case| {
        is_unknown(case, 0x7fff_fff0)
    });
    report.case("largest-number-returns-an-error", |case| {
        is_unknown(case, u64::MAX)
    });
    report.case("number-with-high-bits-returns-an-error", |case| {
        is_unknown(case, 1 << 63 | 0x4141)
    });
    report.case("a-thousand-unknown-numbers", |case| {
        for number in 0..1000u64 {
            is_unknown(case, 0x1_0000 + number * 0x0101_0101);
        }
    });
    report.case("instruction-after-vmcall-runs-once", |case| {
        if !cpu::is_plinth() {
            return case.skip("no hypervisor to call");
        }
        let count: u64;
        x86!(
            "2: mov rax, 0x7ffffff0",
            "vmcall",
            "inc {count}",
            "dec {left}",
            "jnz 2b",
            count = inout(reg) 0u64 => count,
            left = inout(reg) 100u64 => _,
            out("rax") _,
        );
        case.equal("the count", count, 100);
    });
    report.case("vmcall-from-ring-3", |case| {
        let start = Start {
            registers: [1, 2, 0x7fff_fff0],
            ..Start::default()
        };
        from_ring_3(case, user::run(vmcall_64(), start));
    });
    report.case("vmcall-from-32-bit-ring-3", |case| {
        let start = Start {
            width: Width::Bits32,
            registers: [1, 2, 0x7fff_fff0],
            ..Start::default()
        };
        from_ring_3(case, user::run(vmcall_32(), start));
    });

    let mut memory = [0u64; 2];
    let operand = memory.as_mut_ptr();
    report.case("vmx-instructions-are-invalid", |case| {
        let invalid = [
            ("VMXON", fault_of!("vmxon [{}]", in(reg) operand)),
            ("VMXOFF", fault_of!("vmxoff")),
            ("VMCLEAR", fault_of!("vmclear [{}]", in(reg) operand)),
            ("VMPTRLD", fault_of!("vmptrld [{}]", in(reg) operand)),
            ("VMPTRST", fault_of!("vmptrst [{}]", in(reg) operand)),
            ("VMREAD", fault_of!("vmread {0}, {0}", inout(reg) 0u64 => _)),
            (
                "VMWRITE",
                fault_of!("vmwrite {0}, {0}", inout(reg) 0u64 => _),
            ),
            ("VMLAUNCH", fault_of!("vmlaunch")),
            ("VMRESUME", fault_of!("vmresume")),
            (
                "INVEPT",
                fault_of!("invept {}, [{}]", in(reg) 2u64, in(reg) operand),
            ),
            (
                "INVVPID",
                fault_of!("invvpid {}, [{}]", in(reg) 2u64, in(reg) operand),
            ),
            ("VMFUNC", fault_of!("vmfunc", in("eax") 0, in("ecx") 0)),
        ];
        for (name, outcome) in invalid {
            case.faults(name, outcome, Vector::InvalidOpcode, 0);
        }
    });
    report.case("cr4-vmxe-cannot-be-set", |case| {
        if cpu::cpuid(1, 0).ecx & cpu::leaf1_ecx::VMX != 0 {
            return case.skip("CPUID shows VMX");
        }
        let cr4 = cpu::read_cr4();
        case.faults(
            "setting CR4.VMXE",
            cpu::try_write_cr4(cr4 | cpu::cr4::VMXE),
            Vector::GeneralProtection,
            0,
        );
        case.equal("CR4 afterwards", cpu::read_cr4(), cr4);
    });
    report.case("svm-instructions-are-invalid", |case| {
        if cpu::extended().ecx & 1 << 2 != 0 {
            return case.skip("CPUID shows SVM");
        }
        let invalid = [
            ("VMMCALL", fault_of!("vmmcall")),
            ("VMRUN", fault_of!("vmrun rax", in("rax") 0)),
            ("VMLOAD", fault_of!("vmload rax", in("rax") 0)),
            ("VMSAVE", fault_of!("vmsave rax", in("rax") 0)),
            ("CLGI", fault_of!("clgi")),
            ("STGI", fault_of!("stgi")),
        ];
        for (name, outcome) in invalid {
            case.faults(name, outcome, Vector::InvalidOpcode, 0);
        }
    });
    report.case("hypercall-after-all-that-still-answers", |case| {
        is_unknown(case, 0x7fff_fff0)
    });
}

/// A call from ring 3 answers with one of the two errors, or is #UD where nobody takes calls.
fn from_ring_3(case: &mut Case, outcome: Result<u64, Fault>) {
    if !cpu::is_plinth() {
        case.faults("VMCALL", outcome, Vector::InvalidOpcode, 0);
    } else if let Some(result) = case.runs("VMCALL", outcome) {
        let result = result as u32;
        case.ensure(
            result == NO_SUCH_CALL as u32 || result == NOT_PERMITTED as u32,
            "RAX is neither \"no such call\" nor \"not permitted\"",
        );
    }
}
