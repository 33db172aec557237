//! `debug`: single steps, hardware breakpoints, and the debug registers, across instructions that a
//! hypervisor emulates too.

#![no_std]
#![no_main]

use plinth_guests::cpu::{self, cr4, msr};
use plinth_guests::descriptors::KERNEL_DATA;
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::paging::{self, PageSize, entry};
use plinth_guests::places;
use plinth_guests::single::Single;
use plinth_guests::user::{self, Start};
use plinth_guests::{Case, Report, StartInfo, Vector, fault_of, guest, probe, user_code, x86};

guest!(main);

user_code!(user_stepped, "nop", "xor eax, eax", "cpuid", "nop");

const DEBUG: u8 = Vector::Debug as u8;
/// DR6 and DR7 as they are after a reset.
const DR6_RESET: u64 = 0xffff_0ff0;
const DR7_RESET: u64 = 0x400;
const DR6_BD: u64 = 1 << 13;
const DR6_BS: u64 = 1 << 14;
const DR7_GD: u64 = 1 << 13;
const RF: u64 = 1 << 16;

/// The debug exceptions that a piece of code met.
#[derive(Clone, Copy)]
struct Log {
    count: usize,
    rip: [u64; 16],
    dr6: [u64; 16],
}

static LOG: Single<Log> = Single::new(Log {
    count: 0,
    rip: [0; 16],
    dr6: [0; 16],
});

fn clear_log() {
    // SAFETY: one CPU; the handler writes only while a case runs.
    unsafe { (*LOG.get()).count = 0 };
    cpu::write_dr6(DR6_RESET);
}

fn log() -> Log {
    // SAFETY: as above; volatile, since the handler wrote it behind the compiler's back.
    unsafe { LOG.get().read_volatile() }
}

/// Notes where and why, and continues beyond an instruction breakpoint.
fn on_debug(frame: &mut Frame) {
    let dr6 = cpu::read_dr6();
    // SAFETY: as above.
    let log = unsafe { &mut *LOG.get() };
    if log.count < log.rip.len() {
        log.rip[log.count] = frame.rip;
        log.dr6[log.count] = dr6;
    }
    log.count += 1;
    cpu::write_dr6(DR6_RESET);
    frame.rflags |= RF;
}

/// Runs code with the trap flag set; evaluates to the address after it. Three more steps follow it, those of
/// the code that clears the flag.
macro_rules! stepped {
    ($code:literal $(, $($operands:tt)*)?) => {{
        clear_log();
        let next: u64;
        x86!(
            "mov r13, rbx",
            "lea r12, [rip + 3f]",
            "pushfq",
            "or qword ptr [rsp], 0x100",
            "popfq",
            $code,
            "3:",
            "pushfq",
            "and qword ptr [rsp], -0x101",
            "popfq",
            "mov rbx, r13",
            $($($operands)*,)?
            out("r12") next,
            out("r13") _,
        );
        next
    }};
}

/// Checks that one instruction was one step.
fn one_step(case: &mut Case, name: &str, next: u64) {
    let log = log();
    case.equal(name, log.count, 4);
    case.equal(name, log.rip[0], next);
    case.equal(name, log.dr6[0] & (DR6_BS | 0xf), DR6_BS);
}

fn main(report: &mut Report, _: StartInfo) {
    set_handler(DEBUG, Some(on_debug));
    single_step(report);
    breakpoints(report);
    held_back(report);
    registers(report);
}

fn single_step(report: &mut Report) {
    report.case("step-over-plain-instructions", |case| {
        let next = stepped!("nop");
        one_step(case, "NOP", next);
        let next = stepped!("mov {0}, [rsp]", out(reg) _);
        one_step(case, "MOV", next);
    });
    report.case("step-over-cpuid", |case| {
        let next = stepped!("cpuid", inout("eax") 0 => _, out("ecx") _, out("edx") _);
        one_step(case, "CPUID", next);
    });
    report.case("step-over-port-instructions", |case| {
        let next = stepped!("in al, dx", in("dx") 0x3fdu16, out("al") _);
        one_step(case, "IN", next);
        let next = stepped!("out dx, al", in("dx") 0x3ffu16, in("al") 0u8);
        one_step(case, "OUT", next);
        let next = stepped!("in eax, dx", in("dx") 0x9990u16, out("eax") _);
        one_step(case, "IN of nobody's port", next);
    });
    report.case("step-through-rep-outsb", |case| {
        let bytes = [1u8, 2, 3];
        let next = stepped!("rep outsb", in("dx") 0x3ffu16, inout("rsi") bytes.as_ptr() => _, inout("rcx") 3u64 => _);
        let log = log();
        // Each iteration is a step; all but the last stay at the instruction.
        case.equal("the steps", log.count, 6);
        case.equal("the place of the first", log.rip[0], next - 2);
        case.equal("the place of the second", log.rip[1], next - 2);
        case.equal("the place of the third", log.rip[2], next);
    });
    report.case("step-over-msr-and-tsc", |case| {
        let next = stepped!("rdmsr", in("ecx") msr::IA32_EFER, out("eax") _, out("edx") _);
        one_step(case, "RDMSR", next);
        let pat = cpu::rdmsr(msr::IA32_PAT);
        let next = stepped!("wrmsr", in("ecx") msr::IA32_PAT, in("eax") pat as u32, in("edx") (pat >> 32) as u32);
        one_step(case, "WRMSR", next);
        let next = stepped!("rdtsc", out("eax") _, out("edx") _);
        one_step(case, "RDTSC", next);
        let next = stepped!("wbinvd");
        one_step(case, "WBINVD", next);
    });
    report.case("step-over-control-registers", |case| {
        let next = stepped!("mov {0}, cr0", out(reg) _);
        one_step(case, "MOV from CR0", next);
        let value = cpu::read_cr3();
        let next = stepped!("mov cr3, {0}", in(reg) value);
        one_step(case, "MOV to CR3", next);
        let value = cpu::read_cr4();
        let next = stepped!("mov cr4, {0}", in(reg) value);
        one_step(case, "MOV to CR4", next);
    });
    report.case("step-over-memory-that-is-not-there", |case| {
        let hole = places::NOTHING;
        let next = stepped!("mov {0:e}, [{1}]", out(reg) _, in(reg) hole);
        one_step(case, "a read", next);
        let next = stepped!("mov [{0}], {1:e}", in(reg) hole, in(reg) 0);
        one_step(case, "a write", next);
    });
    report.case("mov-ss-holds-the-step-back", |case| {
        let next = stepped!("mov ss, {0:e}; nop", in(reg) u32::from(plinth_guests::descriptors::KERNEL_DATA));
        let log = log();
        case.equal("the steps", log.count, 4);
        case.equal("the first place", log.rip[0], next);
    });
    report.case("mov-ss-and-cpuid-holds-the-step-back", |case| {
        let next = stepped!(
            "mov ss, {0:e}; cpuid",
            in(reg) u32::from(plinth_guests::descriptors::KERNEL_DATA),
            inout("eax") 0 => _, out("ecx") _, out("edx") _
        );
        let log = log();
        case.equal("the steps", log.count, 4);
        case.equal("the first place", log.rip[0], next);
    });
    report.case("int-n-clears-the-trap-flag", |case| {
        fn nothing(_: &mut Frame) {}
        set_handler(0x72, Some(nothing));
        let next = stepped!("int 0x72");
        set_handler(0x72, None);
        // No step inside the handler, nor right after the IRET that set the flag again: the next is after PUSHFQ.
        let log = log();
        case.equal("the steps", log.count, 3);
        case.equal("the first place", log.rip[0], next + 1);
    });
    report.case("step-in-ring-3", |case| {
        clear_log();
        let outcome = user::run(
            user_stepped(),
            Start {
                rflags: 0x102,
                ..Start::default()
            },
        );
        case.runs("the code", outcome);
        let log = log();
        case.equal("the steps", log.count, 4);
        case.equal("the place after NOP", log.rip[0], user::CODE + 1);
        case.equal("the place after XOR", log.rip[1], user::CODE + 3);
        case.equal("the place after CPUID", log.rip[2], user::CODE + 5);
    });
    report.case("icebp-traps", |case| {
        clear_log();
        let next: u64;
        x86!("lea {0}, [rip + 3f]", ".byte 0xf1", "3:", out(reg) next);
        let log = log();
        case.equal("the traps", log.count, 1);
        case.equal("the place", log.rip[0], next);
        case.equal("DR6.BS", log.dr6[0] & DR6_BS, 0);
    });
}

/// The bits of DR7 for breakpoint 0 and one more: kind 0 execution, 1 writes, 2 ports, 3 data; length code.
fn dr7(index: u64, kind: u64, length: u64) -> u64 {
    DR7_RESET | 2 << (index * 2) | kind << (16 + index * 4) | length << (18 + index * 4)
}

/// Clears all breakpoints and returns what was met.
fn met() -> Log {
    cpu::write_dr7(DR7_RESET);
    log()
}

fn breakpoints(report: &mut Report) {
    report.case("instruction-breakpoint", |case| {
        macro_rules! at {
            ($name:literal, $index:expr, $set:literal, $code:literal $(, $($operands:tt)*)?) => {{
                clear_log();
                let place: u64;
                x86!(
                    "mov r13, rbx",
                    "lea r12, [rip + 3f]",
                    concat!("mov ", $set, ", r12"),
                    "mov dr7, r14",
                    concat!("3: ", $code),
                    "mov rbx, r13",
                    $($($operands)*,)?
                    out("r12") place,
                    out("r13") _,
                    in("r14") dr7($index, 0, 0),
                );
                let log = met();
                case.equal($name, log.count, 1);
                case.equal($name, log.rip[0], place);
                case.equal($name, log.dr6[0] & (DR6_BS | 0xf), 1 << $index);
            }};
        }
        at!("NOP", 0, "dr0", "nop");
        at!("DR3", 3, "dr3", "nop");
        at!("CPUID", 1, "dr1", "cpuid", inout("eax") 0 => _, out("ecx") _, out("edx") _);
        at!("IN", 2, "dr2", "in al, dx", in("dx") 0x3fdu16, out("al") _);
        at!("RDMSR", 0, "dr0", "rdmsr", in("ecx") msr::IA32_EFER, out("eax") _, out("edx") _);
    });
    report.case("instruction-breakpoint-after-an-emulated-one", |case| {
        clear_log();
        let place: u64;
        x86!(
            "lea {place}, [rip + 3f]", "mov dr0, {place}", "mov dr7, {control}", "mov r13, rbx", "cpuid", "mov rbx, r13", "3: nop",
            place = out(reg) place, control = in(reg) dr7(0, 0, 0),
            inout("eax") 0 => _, out("ecx") _, out("edx") _, out("r13") _,
        );
        let log = met();
        case.equal("the breakpoints met", log.count, 1);
        case.equal("the place", log.rip[0], place);
    });
    report.case("data-breakpoints", |case| {
        let mut words = [0u64; 4];
        let address = words.as_mut_ptr() as u64;
        cpu::write_dr1(address + 8);
        clear_log();
        cpu::write_dr7(dr1_writes());
        let next: u64;
        x86!("lea {0}, [rip + 3f]", "mov qword ptr [{1}], 5", "3: nop", out(reg) next, in(reg) address + 8);
        let log = met();
        case.equal("the writes met", log.count, 1);
        case.equal("the place", log.rip[0], next);
        case.equal("DR6", log.dr6[0] & (DR6_BS | 0xf), 2);

        clear_log();
        cpu::write_dr7(dr1_writes());
        let _ = paging::peek(address + 8);
        paging::poke(address + 16, 1);
        paging::poke(address, 1);
        case.equal("a read and neighbours", met().count, 0);

        clear_log();
        cpu::write_dr7(dr7(1, 3, 2));
        let _ = paging::peek(address + 8);
        case.equal("a read of a watched word", met().count, 1);
    });
    report.case("data-breakpoint-hit-by-ins", |case| {
        let mut bytes = [0u8; 16];
        let address = bytes.as_mut_ptr() as u64;
        cpu::write_dr2(address + 2);
        clear_log();
        cpu::write_dr7(dr7(2, 1, 0));
        x86!("rep insb", in("dx") 0x3ffu16, inout("rdi") address => _, inout("rcx") 5u64 => _);
        let log = met();
        case.equal("the breakpoints met", log.count, 1);
        case.equal("DR6", log.dr6[0] & 0xf, 4);
    });
    report.case("port-breakpoint", |case| {
        let original = cpu::read_cr4();
        cpu::write_cr4(original | cr4::DE);
        cpu::write_dr0(0x3ff);
        clear_log();
        cpu::write_dr7(dr7(0, 2, 0));
        let next: u64;
        x86!("lea {0}, [rip + 3f]", "in al, dx", "3: nop", out(reg) next, in("dx") 0x3ffu16, out("al") _);
        let log = met();
        clear_log();
        cpu::write_dr7(dr7(0, 2, 0));
        x86!("in al, dx", in("dx") 0x3fdu16, out("al") _);
        let other = met();
        cpu::write_cr4(original);
        case.equal("the ports met", log.count, 1);
        case.equal("the place", log.rip[0], next);
        case.equal("DR6", log.dr6[0] & 0xf, 1);
        case.equal("another port", other.count, 0);
    });
    report.case("breakpoints-survive-exits", |case| {
        for (index, value) in [
            0x1111_0000u64,
            0x2222_0000,
            0x3333_0000,
            0xffff_8000_4444_0000,
        ]
        .into_iter()
        .enumerate()
        {
            match index {
                0 => cpu::write_dr0(value),
                1 => cpu::write_dr1(value),
                2 => cpu::write_dr2(value),
                _ => cpu::write_dr3(value),
            }
        }
        let control = dr7(0, 1, 3) | dr7(3, 1, 0);
        cpu::write_dr7(control);
        for leaf in 0..100 {
            let _ = cpu::cpuid(leaf & 1, 0);
            let _ = cpu::inb(0x3fd);
        }
        let is = [
            cpu::read_dr0(),
            cpu::read_dr1(),
            cpu::read_dr2(),
            cpu::read_dr3(),
        ];
        let control_is = cpu::read_dr7();
        cpu::write_dr7(DR7_RESET);
        case.ensure(
            is == [0x1111_0000, 0x2222_0000, 0x3333_0000, 0xffff_8000_4444_0000],
            "DR0 to DR3 changed",
        );
        case.equal("DR7", control_is, control);
    });
}

/// A data breakpoint that MOV SS meets is held back for one instruction, whatever that is (SDM vol. 3, Masking Exceptions
/// and Interrupts When Switching Stacks).
fn held_back(report: &mut Report) {
    let selector = [u64::from(KERNEL_DATA)];
    let address = selector.as_ptr() as u64;
    macro_rules! held {
        ($case:expr, $name:literal, $before:literal, $bits:expr, $code:literal $(, $($operands:tt)*)?) => {{
            cpu::write_dr0(address);
            clear_log();
            cpu::write_dr7(dr7(0, 3, 1));
            let place: u64;
            x86!(
                "mov r13, rbx",
                "lea r12, [rip + 3f]",
                $before,
                "mov ss, [r14]",
                $code,
                "3:",
                "pushfq",
                "and qword ptr [rsp], -0x101",
                "popfq",
                "mov rbx, r13",
                $($($operands)*,)?
                out("r12") place,
                out("r13") _,
                in("r14") address,
            );
            let log = met();
            $case.ensure(log.count != 0, $name);
            $case.equal($name, log.rip[0], place);
            $case.equal($name, log.dr6[0] & (DR6_BS | 0xf), $bits);
        }};
    }
    const APIC_VERSION: u64 = 0xfee0_0030;
    report.case("breakpoint-that-mov-ss-meets-waits", |case| {
        held!(case, "NOP", "", 1, "nop");
        held!(case, "CPUID", "", 1, "cpuid", inout("eax") 0 => _, out("ecx") _, out("edx") _);
        held!(case, "IN", "", 1, "in al, dx", in("dx") 0x3fdu16, out("al") _);
        held!(case, "RDMSR", "", 1, "rdmsr", in("ecx") msr::IA32_APIC_BASE, out("eax") _, out("edx") _);
        held!(case, "MOV to CR0", "", 1, "mov cr0, {0}", in(reg) cpu::read_cr0());
        held!(case, "MOV from DR7", "", 1, "mov {0}, dr7", out(reg) _);
        held!(case, "a device", "", 1, "mov {0:e}, [{1}]", out(reg) _, in(reg) APIC_VERSION);
    });
    report.case("breakpoint-that-mov-ss-meets-joins-the-step", |case| {
        let both = DR6_BS | 1;
        macro_rules! stepped_too {
            ($name:literal, $($rest:tt)*) => {
                held!(case, $name, "pushfq; or qword ptr [rsp], 0x100; popfq", both, $($rest)*)
            };
        }
        stepped_too!("NOP", "nop");
        stepped_too!("CPUID", "cpuid", inout("eax") 0 => _, out("ecx") _, out("edx") _);
        stepped_too!("IN", "in al, dx", in("dx") 0x3fdu16, out("al") _);
        stepped_too!("a device", "mov {0:e}, [{1}]", out(reg) _, in(reg) APIC_VERSION);
    });
}

/// Breakpoint 1 on writes of 8 bytes.
fn dr1_writes() -> u64 {
    dr7(1, 1, 2)
}

fn registers(report: &mut Report) {
    report.case("dr7-fixed-bits", |case| {
        cpu::write_dr7(0);
        case.equal("DR7 after 0", cpu::read_dr7(), DR7_RESET);
        case.faults(
            "an upper bit of DR7",
            cpu::try_write_dr7(1 << 32),
            Vector::GeneralProtection,
            0,
        );
        case.equal("DR7", cpu::read_dr7(), DR7_RESET);
    });
    report.case("dr6-fixed-bits", |case| {
        cpu::write_dr6(0);
        case.equal(
            "the fixed ones of DR6",
            cpu::read_dr6() & 0xfffe_07f0,
            0xfffe_07f0,
        );
        case.equal("the others of DR6", cpu::read_dr6() & 0xe00f, 0);
        case.faults(
            "an upper bit of DR6",
            cpu::try_write_dr6(1 << 40),
            Vector::GeneralProtection,
            0,
        );
        cpu::write_dr6(DR6_RESET);
    });
    report.case("dr6-is-sticky", |case| {
        cpu::write_dr6(DR6_RESET | 0x5);
        let _ = cpu::cpuid(0, 0);
        case.equal("DR6", cpu::read_dr6() & 0xf, 5);
        cpu::write_dr6(DR6_RESET);
    });
    report.case("general-detect", |case| {
        clear_log();
        set_handler(DEBUG, None);
        cpu::write_dr7(DR7_RESET | DR7_GD);
        let outcome = fault_of!("mov {0}, dr0", out(reg) _);
        // Delivery has cleared GD, so that the handler may look.
        let (control, status) = (cpu::read_dr7(), cpu::read_dr6());
        cpu::write_dr7(DR7_RESET);
        set_handler(DEBUG, Some(on_debug));
        case.faults("MOV from DR0", outcome, Vector::Debug, 0);
        case.equal("DR6.BD", status & DR6_BD, DR6_BD);
        case.equal("DR7.GD", control & DR7_GD, 0);
    });
    report.case("dr4-and-dr5", |case| {
        let original = cpu::read_cr4();
        cpu::write_cr4(original & !cr4::DE);
        let alias: u64;
        x86!(".byte 0x0f, 0x21, 0xe8", out("rax") alias);
        case.equal("DR5 without CR4.DE", alias, cpu::read_dr7());
        cpu::write_cr4(original | cr4::DE);
        let outcome = probe(|| x86!(".byte 0x0f, 0x21, 0xe0", out("rax") _));
        cpu::write_cr4(original);
        case.faults("DR4 with CR4.DE", outcome, Vector::InvalidOpcode, 0);
    });
    report.case("data-breakpoint-on-a-page-fault-stays-silent", |case| {
        let address = 0xb0_0000_0000u64;
        paging::map(address, paging::new_frame(), PageSize::Size4K, entry::P);
        cpu::write_dr0(address);
        clear_log();
        cpu::write_dr7(dr7(0, 1, 0));
        let original = cpu::read_cr0();
        cpu::write_cr0(original | cpu::cr0::WP);
        let outcome = probe(|| paging::poke(address, 1));
        cpu::write_cr0(original);
        case.faults("a write to a read-only page", outcome, Vector::PageFault, 3);
        case.equal("the breakpoints met", met().count, 0);
    });
}
