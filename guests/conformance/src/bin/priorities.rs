//! `priorities`: which exception an instruction raises where more than one is due, and that those which a hypervisor
//! may stop check everything that the manuals say before they do anything (SDM vol. 2, the instructions' own pages; vol. 3,
//! Priority Among Concurrent Events).

#![no_std]
#![no_main]

use plinth_guests::apic;
use plinth_guests::cpu::{self, cpuid, cr0, cr4, leaf1_ecx, leaf7, leaf7_ebx, msr};
use plinth_guests::exceptions::Fault;
use plinth_guests::paging::{self, PageSize, entry};
use plinth_guests::user::{self, Start};
use plinth_guests::{Report, StartInfo, Vector, fault_of, guest, user_code};

guest!(main);

const GP: Vector = Vector::GeneralProtection;
const UD: Vector = Vector::InvalidOpcode;
const NON_CANONICAL: u64 = 0x8000_0000_0000;
/// A page that is not mapped, and one that is read only.
const HOLE: u64 = 0xa0_0000_0000;
const READ_ONLY: u64 = HOLE + 0x1000;
const DR7_RESET: u64 = 0x400;
const DR7_GD: u64 = 1 << 13;

user_code!(user_hlt, "hlt");
user_code!(user_cli, "cli");
user_code!(user_sti, "sti");
user_code!(user_in, "mov dx, 0x3ff", "in al, dx");
user_code!(user_out, "mov dx, 0x3ff", "out dx, al");
user_code!(user_insb_hole, "mov dx, 0x3ff", "mov rdi, rcx", "insb");
user_code!(user_outsb_hole, "mov dx, 0x3ff", "mov rsi, rcx", "outsb");
user_code!(user_mov_to_cr0, "mov cr0, rax");
user_code!(user_mov_from_cr0, "mov rax, cr0");
user_code!(user_mov_from_cr3, "mov rax, cr3");
user_code!(user_mov_to_cr8, "mov cr8, rax");
user_code!(user_mov_from_cr1, ".byte 0x0f, 0x20, 0xc8");
user_code!(user_mov_from_dr0, "mov rax, dr0");
user_code!(user_mov_to_dr7, "mov dr7, rax");
user_code!(user_rdmsr, "mov ecx, 0x4fff0000", "rdmsr");
user_code!(user_wrmsr, "mov ecx, 0x4fff0000", "wrmsr");
user_code!(user_swapgs, "swapgs");
user_code!(user_lldt, "xor eax, eax", "lldt ax");
user_code!(user_ltr, "xor eax, eax", "ltr ax");
user_code!(user_lgdt_hole, "lgdt [rcx]");
user_code!(user_lmsw_hole, "lmsw [rcx]");
user_code!(user_invlpg_hole, "invlpg [rcx]");
user_code!(
    user_invpcid,
    "xor eax, eax",
    ".byte 0x66, 0x0f, 0x38, 0x82, 0x01"
);
user_code!(user_monitor, "mov rax, rcx", "monitor");
user_code!(user_mwait, "mwait");
user_code!(user_nop, "nop");
user_code!(user_xsetbv_bad, "mov ecx, 7", "xsetbv");
user_code!(
    user_iret_to_kernel,
    "xor eax, eax",
    "push rax",
    "push rsp",
    "pushfq",
    "push 8",
    "push rax",
    "iretq"
);
user_code!(user_int_80, "int 0x80");
user_code!(
    user_popf_if,
    "pushfq",
    "or qword ptr [rsp], 0x3200",
    "popfq",
    "pushfq",
    "pop rax"
);

fn main(report: &mut Report, _: StartInfo) {
    let frame = paging::new_frame();
    paging::map(READ_ONLY, frame, PageSize::Size4K, entry::P | entry::US);
    paging::entry_address(HOLE, PageSize::Size4K);
    privilege(report);
    encodings(report);
    strings(report);
    registers(report);
    invalidation(report);
}

/// Runs user code with RCX pointing into the hole.
fn in_ring_3(code: &[u8]) -> Result<u64, Fault> {
    user::run(
        code,
        Start {
            registers: [HOLE, 0, 0],
            ..Start::default()
        },
    )
}

fn privilege(report: &mut Report) {
    report.case("ring-3-gets-general-protection-from-each", |case| {
        for (what, code) in [
            ("HLT", user_hlt()),
            ("CLI", user_cli()),
            ("STI", user_sti()),
            ("IN", user_in()),
            ("OUT", user_out()),
            ("MOV to CR0", user_mov_to_cr0()),
            ("MOV from CR0", user_mov_from_cr0()),
            ("MOV from CR3", user_mov_from_cr3()),
            ("MOV to CR8", user_mov_to_cr8()),
            ("MOV from DR0", user_mov_from_dr0()),
            ("MOV to DR7", user_mov_to_dr7()),
            ("RDMSR", user_rdmsr()),
            ("WRMSR", user_wrmsr()),
            ("SWAPGS", user_swapgs()),
            ("LLDT", user_lldt()),
            ("LTR", user_ltr()),
            ("XSETBV", user_xsetbv_bad()),
        ] {
            case.faults(what, in_ring_3(code), GP, 0);
        }
    });
    report.case("privilege-comes-before-the-operand", |case| {
        // Each has a memory operand that is not mapped.
        for (what, code) in [
            ("LGDT", user_lgdt_hole()),
            ("LMSW", user_lmsw_hole()),
            ("INVLPG", user_invlpg_hole()),
        ] {
            case.faults(what, in_ring_3(code), GP, 0);
        }
        if leaf7().ebx & leaf7_ebx::INVPCID != 0 {
            case.faults("INVPCID", in_ring_3(user_invpcid()), GP, 0);
        }
    });
    report.case("invalid-opcodes-come-before-privilege", |case| {
        case.faults("MOV from CR1", in_ring_3(user_mov_from_cr1()), UD, 0);
        for (what, code) in [("MONITOR", user_monitor()), ("MWAIT", user_mwait())] {
            case.faults(what, in_ring_3(code), UD, 0);
        }
    });
    report.case("xsetbv-without-osxsave-is-invalid-in-any-ring", |case| {
        if cpuid(1, 0).ecx & leaf1_ecx::XSAVE == 0 {
            return case.skip("no XSAVE");
        }
        let original = cpu::read_cr4();
        cpu::write_cr4(original & !cr4::OSXSAVE);
        let there = in_ring_3(user_xsetbv_bad());
        let here = cpu::try_xsetbv(7, 0);
        cpu::write_cr4(original);
        case.faults("ring 3", there, UD, 0);
        case.faults("ring 0", here, UD, 0);
    });
    report.case("iret-to-a-higher-privilege-faults", |case| {
        case.faults("IRET", in_ring_3(user_iret_to_kernel()), GP, 8);
    });
    report.case("int-n-through-a-kernel's-gate-faults", |case| {
        // The vector, as a selector of the IDT.
        case.faults("INT 80h", in_ring_3(user_int_80()), GP, 0x80 << 3 | 2);
    });
    report.case("popf-in-ring-3-cannot-set-if-and-iopl", |case| {
        if let Some(flags) = case.runs("POPF", in_ring_3(user_popf_if())) {
            case.equal("IF and IOPL", flags & 0x3200, 0);
        }
    });
    report.case("ring-3-runs-what-it-may", |case| {
        case.runs("NOP", in_ring_3(user_nop()));
    });
}

fn encodings(report: &mut Report) {
    report.case("control-registers-that-are-not-there", |case| {
        for (what, outcome) in [
            (
                "MOV from CR1",
                fault_of!(".byte 0x0f, 0x20, 0xc8", out("rax") _),
            ),
            (
                "MOV to CR1",
                fault_of!(".byte 0x0f, 0x22, 0xc8", in("rax") 0),
            ),
            (
                "MOV to CR5",
                fault_of!(".byte 0x0f, 0x22, 0xe8", in("rax") 0),
            ),
            (
                "MOV from CR6",
                fault_of!(".byte 0x0f, 0x20, 0xf0", out("rax") _),
            ),
            (
                "MOV to CR7",
                fault_of!(".byte 0x0f, 0x22, 0xf8", in("rax") 0),
            ),
            (
                "MOV to CR9",
                fault_of!(".byte 0x44, 0x0f, 0x22, 0xc8", in("rax") 0),
            ),
            (
                "MOV from CR15",
                fault_of!(".byte 0x44, 0x0f, 0x20, 0xf8", out("rax") _),
            ),
            (
                "MOV from DR8",
                fault_of!(".byte 0x44, 0x0f, 0x21, 0xc0", out("rax") _),
            ),
            (
                "MOV to DR15",
                fault_of!(".byte 0x44, 0x0f, 0x23, 0xf8", in("rax") 0),
            ),
        ] {
            case.faults(what, outcome, UD, 0);
        }
    });
    report.case("lock-makes-them-invalid", |case| {
        for (what, outcome) in [
            ("LOCK CPUID", fault_of!(".byte 0xf0, 0x0f, 0xa2", options(nostack))),
            ("LOCK RDMSR", fault_of!(".byte 0xf0, 0x0f, 0x32", in("ecx") msr::IA32_EFER, out("eax") _, out("edx") _)),
            ("LOCK WRMSR", fault_of!(".byte 0xf0, 0x0f, 0x30", in("ecx") msr::IA32_EFER, in("eax") 0, in("edx") 0)),
            ("LOCK IN", fault_of!(".byte 0xf0, 0xec", in("dx") 0x3ff, out("al") _)),
            ("LOCK OUTSB", fault_of!(".byte 0xf0, 0x6e", in("dx") 0x3ff, in("rsi") HOLE)),
            ("LOCK HLT", fault_of!(".byte 0xf0, 0xf4")),
            ("LOCK RDTSC", fault_of!(".byte 0xf0, 0x0f, 0x31", out("eax") _, out("edx") _)),
            ("LOCK INVLPG", fault_of!(".byte 0xf0, 0x0f, 0x01, 0x38", in("rax") 0)),
            ("LOCK MOV from CR3", fault_of!(".byte 0xf0, 0x0f, 0x20, 0xd8", out("rax") _)),
            ("LOCK MOV to memory", fault_of!(".byte 0xf0, 0x89, 0x10", in("rax") apic::BASE + 0x80, in("edx") 0)),
            ("LOCK CMP with memory", fault_of!(".byte 0xf0, 0x39, 0x10", in("rax") apic::BASE + 0x80, in("edx") 0)),
            ("LOCK ADD from memory", fault_of!(".byte 0xf0, 0x03, 0x10", in("rax") apic::BASE + 0x80, inout("edx") 0 => _)),
        ] {
            case.faults(what, outcome, UD, 0);
        }
    });
    report.case("memory-operands-that-must-be", |case| {
        for (what, outcome) in [
            ("INVLPG of a register", fault_of!(".byte 0x0f, 0x01, 0xff")),
            ("LGDT of a register", fault_of!(".byte 0x0f, 0x01, 0xd6")),
            ("LEA of a register", fault_of!(".byte 0x8d, 0xc0")),
            ("MOVNTI to a register", fault_of!(".byte 0x0f, 0xc3, 0xc0")),
            ("CMPXCHG8B of RAX", fault_of!(".byte 0x0f, 0xc7, 0xc8")),
        ] {
            case.faults(what, outcome, UD, 0);
        }
    });
    report.case("mod-bits-of-control-register-moves-do-not-count", |case| {
        // As if it named memory; it is CR0 into RAX all the same.
        let value: u64;
        plinth_guests::x86!(".byte 0x0f, 0x20, 0x00", out("rax") value, options(nostack));
        case.equal("CR0", value, cpu::read_cr0());
    });
}

fn strings(report: &mut Report) {
    let kernel_insb =
        |address: u64| fault_of!("insb", in("dx") 0x3ffu16, inout("rdi") address => _);
    report.case(
        "port-permission-comes-before-the-memory-of-ins-and-outs",
        |case| {
            case.faults("INSB", in_ring_3(user_insb_hole()), GP, 0);
            case.faults("OUTSB", in_ring_3(user_outsb_hole()), GP, 0);
        },
    );
    report.case("ins-and-outs-fault-on-their-memory", |case| {
        let fault = case.faults(
            "INSB into nothing",
            kernel_insb(HOLE + 7),
            Vector::PageFault,
            2,
        );
        case.equal("CR2", fault.cr2, HOLE + 7);
        case.faults(
            "INSB into non-canonical memory",
            kernel_insb(NON_CANONICAL),
            GP,
            0,
        );
        let outcome = fault_of!("outsb", in("dx") 0x3ffu16, inout("rsi") HOLE => _);
        case.faults("OUTSB out of nothing", outcome, Vector::PageFault, 0);
        let original = cpu::read_cr0();
        cpu::write_cr0(original | cr0::WP);
        let outcome = kernel_insb(READ_ONLY);
        cpu::write_cr0(original);
        case.faults("INSB into a read-only page", outcome, Vector::PageFault, 3);
    });
    report.case("a-count-of-zero-touches-nothing", |case| {
        for outcome in [
            fault_of!("rep insb", in("dx") 0x3ffu16, in("rdi") HOLE, in("rcx") 0),
            fault_of!("rep outsb", in("dx") 0x3ffu16, in("rsi") HOLE, in("rcx") 0),
            fault_of!("rep movsb", in("rsi") HOLE, in("rdi") NON_CANONICAL, in("rcx") 0),
            fault_of!("rep stosb", in("rdi") HOLE, in("rcx") 0, in("al") 0u8),
        ] {
            case.runs("a string instruction", outcome);
        }
    });
}

fn registers(report: &mut Report) {
    report.case("general-detect-comes-before-all-of-mov-dr", |case| {
        for body in [
            || cpu::write_dr0(1),
            || cpu::write_dr7(1 << 40),
            || cpu::write_dr6(1 << 40),
        ] {
            cpu::write_dr7(DR7_RESET | DR7_GD);
            let outcome = plinth_guests::probe(body);
            cpu::write_dr7(DR7_RESET);
            cpu::write_dr6(0xffff_0ff0);
            case.faults("MOV to a debug register", outcome, Vector::Debug, 0);
        }
    });
    report.case("dr4-with-de-is-invalid-before-general-detect", |case| {
        let original = cpu::read_cr4();
        cpu::write_cr4(original | cr4::DE);
        cpu::write_dr7(DR7_RESET | DR7_GD);
        let outcome = fault_of!("mov {0}, dr4", out(reg) _);
        // GD is still set: the first write raises #DB and clears it.
        let detected = cpu::try_write_dr7(DR7_RESET);
        cpu::write_dr7(DR7_RESET);
        cpu::write_dr6(0xffff_0ff0);
        cpu::write_cr4(original);
        case.faults("MOV from DR4", outcome, UD, 0);
        case.faults("MOV to DR7 behind it", detected, Vector::Debug, 0);
    });
    report.case("refused-writes-change-nothing", |case| {
        let before = (cpu::read_cr0(), cpu::read_cr4(), cpu::rdmsr(msr::IA32_EFER));
        for (what, outcome) in [
            ("CR0 without PE", cpu::try_write_cr0(before.0 & !cr0::PE)),
            ("CR0's upper half", cpu::try_write_cr0(before.0 | 1 << 32)),
            ("CR4's upper half", cpu::try_write_cr4(before.1 | 1 << 32)),
            ("CR4 without PAE", cpu::try_write_cr4(before.1 & !cr4::PAE)),
            ("CR8 of 16", cpu::try_write_cr8(16)),
            (
                "EFER without LME",
                cpu::try_wrmsr(msr::IA32_EFER, before.2 & !cpu::efer::LME),
            ),
            (
                "a reserved bit of EFER",
                cpu::try_wrmsr(msr::IA32_EFER, before.2 | 1 << 20),
            ),
            ("an MSR that is not there", cpu::try_wrmsr(0x4fff_0000, 0)),
            ("a read-only MSR", cpu::try_wrmsr(msr::IA32_MTRRCAP, 0)),
            ("LSTAR", cpu::try_wrmsr(msr::IA32_LSTAR, NON_CANONICAL)),
            ("PAT", cpu::try_wrmsr(msr::IA32_PAT, 2)),
        ] {
            let fault = case.faults(what, outcome, GP, 0);
            case.equal("RFLAGS.RF at the fault", fault.frame.rflags >> 16 & 1, 1);
        }
        case.equal("CR0", cpu::read_cr0(), before.0);
        case.equal("CR4", cpu::read_cr4(), before.1);
        case.equal("EFER", cpu::rdmsr(msr::IA32_EFER), before.2);
    });
}

/// INVPCID's descriptor: the PCID, and the address.
#[repr(C, align(16))]
struct InvpcidDescriptor([u64; 2]);

fn invpcid(kind: u64, pcid: u64, address: u64) -> Result<(), Fault> {
    let descriptor = InvpcidDescriptor([pcid, address]);
    fault_of!("invpcid {0}, [{1}]", in(reg) kind, in(reg) &raw const descriptor)
}

fn invalidation(report: &mut Report) {
    let shown = leaf7().ebx & leaf7_ebx::INVPCID != 0;
    let pcids = cpuid(1, 0).ecx & leaf1_ecx::PCID != 0;
    report.case("invpcid-checks-its-operands", |case| {
        if !shown {
            case.faults("INVPCID", invpcid(2, 0, 0), UD, 0);
            return;
        }
        for kind in 0..4 {
            case.runs("a type that there is", invpcid(kind, 0, 0x10_0000));
        }
        case.faults("type 4", invpcid(4, 0, 0), GP, 0);
        case.faults("a reserved bit", invpcid(2, 1 << 12, 0), GP, 0);
        case.faults(
            "a non-canonical address",
            invpcid(0, 0, NON_CANONICAL),
            GP,
            0,
        );
        case.faults("a PCID without CR4.PCIDE, type 0", invpcid(0, 1, 0), GP, 0);
        case.faults("a PCID without CR4.PCIDE, type 1", invpcid(1, 1, 0), GP, 0);
        let outcome = fault_of!("invpcid {0}, [{1}]", in(reg) 2u64, in(reg) HOLE);
        case.faults(
            "a descriptor that is not mapped",
            outcome,
            Vector::PageFault,
            0,
        );
    });
    report.case("pcide-needs-a-cr3-without-one", |case| {
        if !pcids {
            return case.skip("no PCIDs");
        }
        let (root, control) = (cpu::read_cr3(), cpu::read_cr4());
        cpu::write_cr3(root | 0x18);
        let outcome = cpu::try_write_cr4(control | cr4::PCIDE);
        cpu::write_cr3(root);
        case.faults("CR4.PCIDE", outcome, GP, 0);
        case.equal("CR4", cpu::read_cr4(), control);
    });
    report.case("paging-cannot-be-turned-off-with-pcide", |case| {
        if !pcids {
            return case.skip("no PCIDs");
        }
        let control = cpu::read_cr4();
        cpu::write_cr4(control | cr4::PCIDE);
        let outcome = cpu::try_write_cr0(cpu::read_cr0() & !cr0::PG);
        cpu::write_cr4(control);
        case.faults("CR0.PG", outcome, GP, 0);
    });
    report.case("cr3-bit-63-needs-pcide", |case| {
        let root = cpu::read_cr3();
        case.faults("CR3", cpu::try_write_cr3(root | 1 << 63), GP, 0);
        if pcids {
            let control = cpu::read_cr4();
            cpu::write_cr4(control | cr4::PCIDE);
            let outcome = cpu::try_write_cr3(root | 1 << 63 | 5);
            let read = cpu::read_cr3();
            cpu::write_cr3(root);
            cpu::write_cr4(control);
            case.runs("CR3 with PCIDE", outcome);
            case.equal("CR3, which drops bit 63", read, root | 5);
        }
    });
}
