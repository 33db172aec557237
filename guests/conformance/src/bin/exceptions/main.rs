//! `exceptions`: every exception that software can raise, with its vector, error code and place.
//!
//! The debug exception has a guest of its own, `debug`; task gates and #TS are in `tasks32`.

#![no_std]
#![no_main]

mod gates;

use plinth_guests::compat::{self, Registers32};
use plinth_guests::cpu::{self, cr0, efer, msr};
use plinth_guests::descriptors::{
    self, KERNEL_CODE, KERNEL_CODE32, KERNEL_DATA, SCRATCH, USER_CODE, USER_DATA, set_gdt_entry,
};
use plinth_guests::paging::{self, PageSize, entry};
use plinth_guests::user::{self, Start};
use plinth_guests::{
    Report, StartInfo, Vector, compat_code, fault_of, guest, probe, user_code, x86,
};

guest!(main);

const NON_CANONICAL: u64 = 0x8000_0000_0000_0000;
/// An address that nothing is mapped at.
const HOLE: u64 = 0xa0_0000_0000;
/// RFLAGS.RF, which a fault sets in the image it pushes.
const RF: u64 = 1 << 16;

compat_code!(into_32, "mov al, 0x7f", "add al, 1", "into");
compat_code!(bound_32, "bound eax, [esi]");
compat_code!(bcd_32, "mov eax, 0x0f", "aaa");
compat_code!(aam_32, ".byte 0xd4, 0x00");
user_code!(user_unaligned, "mov eax, [rsp + 1]");
user_code!(user_int, "int 0x60");
user_code!(user_hlt, "hlt");
user_code!(user_cr, "mov rax, cr0");
user_code!(user_cli, "cli");
user_code!(user_kernel_page, "mov rax, [0x100000]");
user_code!(user_syscall, "mov rax, 0x1234", "syscall", "inc rax");
user_code!(user_divide, "xor ecx, ecx", "div ecx");

fn main(report: &mut Report, _: StartInfo) {
    arithmetic(report);
    opcodes(report);
    floating_point(report);
    segments(report);
    page_faults(report);
    gates::all(report);
    gates::double_faults(report);
    ring_3(report);
}

/// Checks that a fault points at the instruction between two labels and carries RF.
macro_rules! faults_in_place {
    ($case:expr, $name:literal, $vector:expr, $code:literal $(, $($operands:tt)*)?) => {{
        let mut place = 0u64;
        let outcome = probe(|| {
            x86!(
                "lea {scratch}, [rip + 3f]",
                "mov [{place}], {scratch}",
                concat!("3: ", $code),
                place = in(reg) &raw mut place,
                scratch = out(reg) _,
                $($($operands)*)?
            )
        });
        let fault = $case.faults($name, outcome, $vector, 0);
        $case.equal($name, fault.frame.rip, place);
        $case.equal(concat!("RF for ", $name), fault.frame.rflags & RF, RF);
    }};
}

fn arithmetic(report: &mut Report) {
    report.case("divide-error", |case| {
        faults_in_place!(case, "DIV by zero", Vector::DivideError, "div ecx", in("ecx") 0, inout("eax") 1 => _, inout("edx") 0 => _);
        faults_in_place!(case, "IDIV overflow", Vector::DivideError, "idiv rcx", in("rcx") -1i64, inout("rax") 0u64 => _, inout("rdx") 1u64 << 63 => _);
        faults_in_place!(case, "DIV overflow", Vector::DivideError, "div cl", in("cl") 1u8, inout("ax") 0x100u16 => _);
    });
    report.case("breakpoint", |case| {
        for (name, outcome, length) in [
            ("INT3", fault_of!("int3"), 1),
            ("INT 3", fault_of!(".byte 0xcd, 3"), 2),
        ] {
            let fault = case.faults(name, outcome, Vector::Breakpoint, 0);
            // The address is that after the instruction: what stands before it is the instruction.
            let before = paging::peek(fault.frame.rip - 8);
            let bytes = before >> (64 - 8 * length);
            case.equal(name, bytes, if length == 1 { 0xcc } else { 0x03cd });
        }
    });
    report.case("overflow-and-bound-in-32-bit-code", |case| {
        let registers = Registers32::default();
        case.faults(
            "INTO",
            compat::run(KERNEL_CODE32, into_32, registers),
            Vector::Overflow,
            0,
        );
        let bounds = [3u32, 5];
        let at = |index| Registers32 {
            eax: index,
            esi: &raw const bounds as u32,
            ..registers
        };
        case.runs("BOUND inside", compat::run(KERNEL_CODE32, bound_32, at(4)));
        case.faults(
            "BOUND below",
            compat::run(KERNEL_CODE32, bound_32, at(2)),
            Vector::BoundRange,
            0,
        );
        case.faults(
            "BOUND above",
            compat::run(KERNEL_CODE32, bound_32, at(6)),
            Vector::BoundRange,
            0,
        );
        case.runs("AAA", compat::run(KERNEL_CODE32, bcd_32, registers));
        case.faults(
            "AAM 0",
            compat::run(KERNEL_CODE32, aam_32, registers),
            Vector::DivideError,
            0,
        );
    });
}

fn opcodes(report: &mut Report) {
    report.case("invalid-opcode", |case| {
        faults_in_place!(case, "UD2", Vector::InvalidOpcode, "ud2");
        faults_in_place!(case, "UD1", Vector::InvalidOpcode, ".byte 0x0f, 0xb9, 0xc0");
        faults_in_place!(case, "PUSH CS", Vector::InvalidOpcode, ".byte 0x0e");
        faults_in_place!(case, "INTO", Vector::InvalidOpcode, ".byte 0xce");
        faults_in_place!(case, "AAM", Vector::InvalidOpcode, ".byte 0xd4, 0x0a");
        faults_in_place!(case, "LOCK NOP", Vector::InvalidOpcode, ".byte 0xf0, 0x90");
        faults_in_place!(case, "LOCK MOV", Vector::InvalidOpcode, ".byte 0xf0, 0x89, 0x04, 0x24");
        faults_in_place!(case, "MOV CR1", Vector::InvalidOpcode, ".byte 0x0f, 0x22, 0xc8");
        faults_in_place!(case, "MOV CR5", Vector::InvalidOpcode, ".byte 0x0f, 0x20, 0xe8", out("rax") _);
        faults_in_place!(case, "MOV to CS", Vector::InvalidOpcode, ".byte 0x8e, 0xc8");
    });
    report.case("instruction-of-16-bytes", |case| {
        let long = fault_of!(".fill 15, 1, 0x66", "nop");
        case.faults("15 prefixes and NOP", long, Vector::GeneralProtection, 0);
        case.runs("14 prefixes and NOP", fault_of!(".fill 14, 1, 0x66", "nop"));
    });
    report.case("hlt-and-friends-run-in-ring-0", |case| {
        case.runs("CLI", fault_of!("cli"));
        case.runs("CLTS", fault_of!("clts"));
        case.runs("INVLPG", fault_of!("invlpg [{}]", in(reg) 0x10_0000u64));
        case.runs("WBINVD", fault_of!("wbinvd"));
    });
}

fn floating_point(report: &mut Report) {
    report.case("device-not-available", |case| {
        let original = cpu::read_cr0();
        cpu::write_cr0(original | cr0::TS);
        let x87 = fault_of!("fld1");
        let sse = fault_of!("xorps xmm0, xmm0");
        let wait = fault_of!("fwait");
        cpu::write_cr0((original | cr0::TS) & !cr0::MP);
        let wait_without_mp = fault_of!("fwait");
        cpu::write_cr0(original | cr0::EM);
        let emulated = fault_of!("fld1");
        let sse_emulated = fault_of!("xorps xmm0, xmm0");
        cpu::write_cr0(original);
        case.faults("FLD1 with TS", x87, Vector::DeviceNotAvailable, 0);
        case.faults("XORPS with TS", sse, Vector::DeviceNotAvailable, 0);
        case.faults("FWAIT with TS and MP", wait, Vector::DeviceNotAvailable, 0);
        case.runs("FWAIT with TS without MP", wait_without_mp);
        case.faults("FLD1 with EM", emulated, Vector::DeviceNotAvailable, 0);
        case.faults("XORPS with EM", sse_emulated, Vector::InvalidOpcode, 0);
        case.runs("FLD1", fault_of!("fld1", "fstp st(0)"));
    });
    report.case("x87-error", |case| {
        let control = 0x037bu16; // the zero-divide exception is not masked
        let outcome = probe(|| {
            x86!("fninit", "fldcw [{}]", "fld1", "fldz", "fdivp st(1), st", "fwait", "fninit", in(reg) &raw const control)
        });
        x86!("fninit");
        case.faults("an unmasked division by zero", outcome, Vector::X87, 0);
    });
    report.case("simd-error", |case| {
        let (unmasked, normal) = (0x1d80u32, 0x1f80u32);
        let outcome = probe(|| {
            x86!(
                "ldmxcsr [{}]",
                "pcmpeqd xmm0, xmm0",
                "psrld xmm0, 25",
                "pslld xmm0, 23",
                "xorps xmm1, xmm1",
                "divps xmm0, xmm1",
                in(reg) &raw const unmasked,
            )
        });
        x86!("ldmxcsr [{}]", in(reg) &raw const normal);
        case.faults("an unmasked division by zero", outcome, Vector::Simd, 0);
    });
}

fn segments(report: &mut Report) {
    report.case("segment-not-present", |case| {
        set_gdt_entry(SCRATCH, 0x00cf_1300_0000_ffff);
        for (name, outcome) in [
            ("DS", fault_of!("mov ds, {:e}", in(reg) u32::from(SCRATCH))),
            ("ES", fault_of!("mov es, {:e}", in(reg) u32::from(SCRATCH))),
            ("FS", fault_of!("mov fs, {:e}", in(reg) u32::from(SCRATCH))),
            ("GS", fault_of!("mov gs, {:e}", in(reg) u32::from(SCRATCH))),
        ] {
            case.faults(name, outcome, Vector::SegmentNotPresent, u32::from(SCRATCH));
        }
        let outcome = fault_of!("mov ss, {:e}", in(reg) u32::from(SCRATCH));
        case.faults("SS", outcome, Vector::StackFault, u32::from(SCRATCH));
    });
    report.case("general-protection-by-selector", |case| {
        let beyond = 0x7f8;
        case.faults(
            "DS beyond the GDT",
            fault_of!("mov ds, {:e}", in(reg) beyond),
            Vector::GeneralProtection,
            beyond,
        );
        let local = SCRATCH | 4;
        let outcome = fault_of!("mov ds, {:e}", in(reg) u32::from(local));
        case.faults(
            "DS from no LDT",
            outcome,
            Vector::GeneralProtection,
            u32::from(local),
        );
        let outcome = fault_of!("mov ss, {:e}", in(reg) u32::from(KERNEL_CODE));
        case.faults(
            "SS from code",
            outcome,
            Vector::GeneralProtection,
            u32::from(KERNEL_CODE),
        );
        let outcome = fault_of!("mov ss, {:e}", in(reg) u32::from(USER_DATA));
        case.faults(
            "SS of ring 3",
            outcome,
            Vector::GeneralProtection,
            u32::from(USER_DATA & !3),
        );
        let outcome = fault_of!("ltr {:x}", in(reg) descriptors::TSS);
        case.faults(
            "a busy TSS",
            outcome,
            Vector::GeneralProtection,
            u32::from(descriptors::TSS),
        );
        case.runs(
            "DS null",
            fault_of!("mov ds, {:e}", "mov ds, {:e}", in(reg) 0, in(reg) u32::from(KERNEL_DATA)),
        );
    });
    report.case("non-canonical-addresses", |case| {
        case.faults("a read", fault_of!("mov rax, [{}]", in(reg) NON_CANONICAL, out("rax") _), Vector::GeneralProtection, 0);
        case.faults("a write", fault_of!("mov [{}], rax", in(reg) NON_CANONICAL), Vector::GeneralProtection, 0);
        case.faults("a jump", fault_of!("jmp {}", in(reg) NON_CANONICAL), Vector::GeneralProtection, 0);
        let outcome = fault_of!("mov r8, rbp", "mov rbp, {}", "mov rax, [rbp]", in(reg) NON_CANONICAL, out("rax") _, out("r8") _);
        case.faults("through RBP", outcome, Vector::StackFault, 0);
        let outcome = fault_of!("mov rsp, {}", "push rax", in(reg) NON_CANONICAL);
        case.faults("PUSH", outcome, Vector::StackFault, 0);
        let outcome = fault_of!("mov rsp, {}", "call rax", in(reg) NON_CANONICAL, in("rax") 0x10_0000u64);
        case.faults("CALL", outcome, Vector::StackFault, 0);
    });
    report.case("iret-checks-what-it-pops", |case| {
        let to = |cs: u64, ss: u64, rip: u64| {
            probe(|| {
                x86!(
                    "mov rcx, rsp", "push {ss}", "push rcx", "push 2", "push {cs}", "push {rip}", "iretq",
                    ss = in(reg) ss, cs = in(reg) cs, rip = in(reg) rip, out("rcx") _,
                )
            })
        };
        let (code, data) = (u64::from(KERNEL_CODE), u64::from(KERNEL_DATA));
        case.faults("null CS", to(0, data, 0), Vector::GeneralProtection, 0);
        case.faults("data as CS", to(data, data, 0), Vector::GeneralProtection, u32::from(KERNEL_DATA));
        case.faults("CS beyond the GDT", to(0x7f8, data, 0), Vector::GeneralProtection, 0x7f8);
        case.faults("a non-canonical RIP", to(code, data, NON_CANONICAL), Vector::GeneralProtection, 0);
        case.faults("ring 3 with SS of ring 0", to(u64::from(USER_CODE), data, 0), Vector::GeneralProtection, u32::from(KERNEL_DATA));
        let nested = probe(|| x86!("pushfq", "or qword ptr [rsp], 0x4000", "popfq", "iretq"));
        case.faults("IRETQ with NT", nested, Vector::GeneralProtection, 0);
    });
}

fn page_faults(report: &mut Report) {
    report.case("page-fault-error-codes", |case| {
        for (name, outcome, code) in [
            (
                "a read",
                fault_of!("mov rax, [{}]", in(reg) HOLE + 0x123, out("rax") _),
                0,
            ),
            (
                "a write",
                fault_of!("mov [{}], rax", in(reg) HOLE + 0x123),
                2,
            ),
            (
                "a read and write",
                fault_of!("lock inc qword ptr [{}]", in(reg) HOLE + 0x123),
                2,
            ),
        ] {
            let fault = case.faults(name, outcome, Vector::PageFault, code);
            case.equal("CR2", fault.cr2, HOLE + 0x123);
        }
        let fetch = if cpu::rdmsr(msr::IA32_EFER) & efer::NXE != 0 {
            0x10
        } else {
            0
        };
        let fault = case.faults(
            "a jump",
            fault_of!("jmp {}", in(reg) HOLE),
            Vector::PageFault,
            fetch,
        );
        case.equal("CR2", fault.cr2, HOLE);
        case.equal("RIP", fault.frame.rip, HOLE);
    });
    report.case("page-fault-across-a-boundary", |case| {
        let frame = paging::new_frame();
        paging::map(
            HOLE + 0x10_0000,
            frame,
            PageSize::Size4K,
            entry::P | entry::RW,
        );
        let outcome = fault_of!("mov [{}], rax", in(reg) HOLE + 0x10_0ffcu64, in("rax") !0u64);
        let fault = case.faults("a write of 8 bytes", outcome, Vector::PageFault, 2);
        case.equal("CR2", fault.cr2, HOLE + 0x10_1000);
        case.equal(
            "the part before the boundary",
            paging::peek(frame + 0xff8),
            0,
        );
    });
}

fn ring_3(report: &mut Report) {
    report.case("alignment-check", |case| {
        let original = cpu::read_cr0();
        cpu::write_cr0(original | cr0::AM);
        let checked = user::run(
            user_unaligned(),
            Start {
                rflags: 0x4_0002,
                ..Start::default()
            },
        );
        let unchecked = user::run(user_unaligned(), Start::default());
        cpu::write_cr0(original & !cr0::AM);
        let unmasked = user::run(
            user_unaligned(),
            Start {
                rflags: 0x4_0002,
                ..Start::default()
            },
        );
        cpu::write_cr0(original);
        case.faults(
            "an unaligned read with AM and AC",
            checked,
            Vector::AlignmentCheck,
            0,
        );
        case.runs("an unaligned read without AC", unchecked);
        case.runs("an unaligned read without AM", unmasked);
    });
    report.case("ring-3-faults", |case| {
        let run = |code| user::run(code, Start::default());
        case.faults(
            "INT 60H",
            run(user_int()),
            Vector::GeneralProtection,
            0x60 << 3 | 2,
        );
        case.faults("HLT", run(user_hlt()), Vector::GeneralProtection, 0);
        case.faults("MOV from CR0", run(user_cr()), Vector::GeneralProtection, 0);
        case.faults("CLI", run(user_cli()), Vector::GeneralProtection, 0);
        let fault = case.faults(
            "a page of ring 0",
            run(user_kernel_page()),
            Vector::PageFault,
            5,
        );
        case.equal("CR2", fault.cr2, 0x10_0000);
        let fault = case.faults("DIV", run(user_divide()), Vector::DivideError, 0);
        case.equal("CS", fault.frame.cs, u64::from(USER_CODE));
        case.equal("SS", fault.frame.ss, u64::from(USER_DATA));
    });
    report.case("syscall-and-sysret", |case| {
        if cpu::extended().edx & cpu::extended_edx::SYSCALL == 0 {
            return case.skip("no SYSCALL");
        }
        unsafe extern "C" {
            fn syscall_entry();
        }
        let entry = syscall_entry as *const () as u64;
        let saved = cpu::rdmsr(msr::IA32_EFER);
        let disabled = user::run(user_syscall(), Start::default());
        cpu::wrmsr(msr::IA32_EFER, saved | efer::SCE);
        cpu::wrmsr(
            msr::IA32_STAR,
            u64::from(descriptors::USER_CODE32) << 48 | u64::from(KERNEL_CODE) << 32,
        );
        cpu::wrmsr(msr::IA32_LSTAR, entry);
        cpu::wrmsr(msr::IA32_FMASK, 0x4_7700);
        let enabled = user::run(
            user_syscall(),
            Start {
                rflags: 0x8d7,
                ..Start::default()
            },
        );
        cpu::wrmsr(msr::IA32_EFER, saved & !efer::SCE);
        case.faults("SYSCALL without SCE", disabled, Vector::InvalidOpcode, 0);
        if let Some(rax) = case.runs("SYSCALL", enabled) {
            // The kernel added RFLAGS (R11) and a mark; the instruction after SYSCALL ran once.
            case.equal("RAX", rax, 0x1234 + 0x10_0000 + 0x8d7 + 1);
        }
    });
}

// Adds the flags that SYSCALL saved and a mark to RAX, and returns to ring 3.
core::arch::global_asm!(
    ".global syscall_entry",
    "syscall_entry:",
    "add rax, 0x100000",
    "add rax, r11",
    "sysretq"
);
