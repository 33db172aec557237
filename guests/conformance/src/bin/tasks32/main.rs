//! `tasks32`: the 32-bit hardware task switch in all its forms, in protected mode without paging and with it.
//!
//! Task A is the code that a case runs (its TSS only takes the state that is saved); task B is `task_b`, which
//! notes what it finds in `seen` and ends with IRET or a jump back. "SDM vol. 3, Task Management" has the rules.

#![no_std]
#![no_main]

mod tasks;

use plinth_guests::compat::Registers32;
use plinth_guests::descriptors::kind::{AVAILABLE_TSS, BUSY_TSS};
use plinth_guests::descriptors::{
    KERNEL_CODE32, KERNEL_DATA, gdt_entry, kind, segment_descriptor, set_gdt_entry, task_gate,
};
use plinth_guests::paging::{new_frame, peek_32, poke_32};
use plinth_guests::protected::{self, Fault32};
use plinth_guests::tss32::{self, field};
use plinth_guests::{Case, Report, StartInfo, Vector, cpu, guest};

use tasks::*;

guest!(main);

/// EFLAGS.NT.
const NT: u32 = 1 << 14;

/// The type byte of a descriptor's upper half.
fn kind_of(upper_half: u32) -> u64 {
    u64::from(upper_half >> 8 & 0xff)
}

/// Checks what holds for every switch to B and back: registers on both sides, TS, and the task register.
fn switched(case: &mut Case, outcome: Result<Registers32, Fault32>) -> Seen {
    match outcome {
        Err(fault) => case.fail(format_args!(
            "unexpected exception in protected mode: {fault:x?}"
        )),
        Ok(after) => {
            case.equal("A's TR afterwards", after.eax, u32::from(TSS_A));
            case.equal("A's EBX afterwards", after.ebx, 0xa0a0_0001);
            case.equal("A's ESI afterwards", after.esi, 0xa0a0_0002);
            case.equal("A's EBP afterwards", after.edi, 0x5b5b_5b5b);
            case.equal("A's NT afterwards", after.ecx & NT, 0);
            case.equal("CR0.TS afterwards", after.edx & 8, 8);
        }
    }
    let b = noted();
    case.equal("B's TR", b.tr, u32::from(TSS_B));
    case.equal("CR0.TS in B", b.cr0 & 8, 8);
    case.equal("B's EBX", b.ebx, 0xb0b0_0004);
    case.equal("B's ECX", b.ecx, 0xb0b0_0002);
    case.equal("B's EDX", b.edx, 0xb0b0_0003);
    case.equal("B's EBP", b.ebp, 0xb0b0_0006);
    case.equal("B's ESI", b.esi, 0xb0b0_0007);
    case.equal("B's EDI", b.edi, 0xb0b0_0008);
    case.equal("B's FS", b.fs, u32::from(KERNEL_DATA));
    b
}

/// Checks the types of both TSSs, of which A's is this while B runs.
fn types(case: &mut Case, b: Seen, of_a: u64) {
    case.equal("A's type while B runs", kind_of(b.tss_a), of_a);
    case.equal("B's type while B runs", kind_of(b.tss_b), BUSY_TSS);
    case.equal(
        "A's type afterwards",
        gdt_entry(TSS_A) >> 40 & 0xff,
        BUSY_TSS,
    );
    case.equal(
        "B's type afterwards",
        gdt_entry(TSS_B) >> 40 & 0xff,
        AVAILABLE_TSS,
    );
}

/// Checks what a nested switch (CALL, INT or exception) adds: the link, NT and the busy bits.
fn nested(case: &mut Case, b: Seen) {
    case.equal("NT in B", b.eflags & NT, NT);
    case.equal(
        "B's link",
        field_of(B.get(), field::LINK) & 0xffff,
        u32::from(TSS_A),
    );
    types(case, b, BUSY_TSS);
}

fn main(report: &mut Report, _: StartInfo) {
    switches(report);
    interrupts(report);
    refusals(report);
    with_paging(report);
}

fn switches(report: &mut Report) {
    report.case("call-of-a-tss-and-iret", |case| {
        prepare(task_b);
        let outcome = run(call_task);
        let b = switched(case, outcome);
        case.equal("the times that B ran", b.count, 1);
        case.equal("B's EAX", b.eax, 0xb0b0_0001);
        case.equal("B's ESP", b.esp, STACK_B.get() as u32 + 1024);
        nested(case, b);
        case.equal("A's saved EBX", field_of(A.get(), field::EBX), 0xa0a0_0001);
        case.equal(
            "A's saved CS",
            field_of(A.get(), field::CS),
            u32::from(KERNEL_CODE32),
        );
        case.equal(
            "NT in B's saved flags",
            field_of(B.get(), field::EFLAGS) & NT,
            0,
        );
    });
    report.case("jump-to-a-tss-and-back", |case| {
        prepare(task_b_jump);
        let outcome = run(jump_task);
        let b = switched(case, outcome);
        case.equal("NT in B", b.eflags & NT, 0);
        case.equal("B's link", field_of(B.get(), field::LINK), 0);
        types(case, b, AVAILABLE_TSS);
    });
    report.case("call-through-a-task-gate", |case| {
        prepare(task_b);
        let outcome = run(call_gate);
        let b = switched(case, outcome);
        nested(case, b);
    });
    report.case("jump-through-a-task-gate", |case| {
        prepare(task_b_jump);
        let outcome = run(jump_gate);
        let b = switched(case, outcome);
        case.equal("NT in B", b.eflags & NT, 0);
    });
    report.case("second-call-continues-the-task", |case| {
        prepare(task_b);
        let outcome = run(call_twice);
        // What B's registers are the second time is what it left the first time.
        case.ensure(outcome.is_ok(), "an exception ended the code");
        case.equal("the times that B ran", noted().count, 2);
        case.ensure(
            field_of(B.get(), field::EIP) > task_b as *const () as u32,
            "B's saved EIP is not behind its IRET",
        );
    });
    report.case("a-thousand-switches", |case| {
        for _ in 0..1000 {
            prepare(task_b);
            let outcome = run(call_task);
            switched(case, outcome);
        }
    });
    report.case("task-switch-loads-the-ldt", |case| {
        prepare(task_b);
        let mut table = [0u64, 0x00cf_9300_0000_ffff];
        let base = table.as_mut_ptr() as u64;
        set_gdt_entry(LDT, segment_descriptor(kind::LDT, base, 15));
        set_field(B.get(), field::LDTR, u32::from(LDT));
        set_field(B.get(), field::FS, 0xc);
        let outcome = run(call_task);
        case.ensure(outcome.is_ok(), "an exception ended the code");
        case.equal("B's LDTR", noted().ldtr, u32::from(LDT));
        case.equal("B's FS", noted().fs, 0xc);
    });
    report.case("trap-bit-of-the-tss", |case| {
        prepare(task_b);
        set_field(B.get(), field::TRAP, 1);
        cpu::write_dr6(0xffff_0ff0);
        let outcome = run(call_task);
        fault_is(case, outcome, Vector::Debug, 0);
        let dr6 = cpu::read_dr6();
        cpu::write_dr6(0xffff_0ff0);
        case.equal("DR6.BT", dr6 & 1 << 15, 1 << 15);
        case.equal("the times that B ran", noted().count, 0);
    });
}

fn interrupts(report: &mut Report) {
    report.case("int-through-a-task-gate", |case| {
        prepare(task_b);
        protected::set_gate(0x30, task_gate(TSS_B));
        let outcome = run(interrupt);
        let b = switched(case, outcome);
        nested(case, b);
    });
    report.case("exception-through-a-task-gate-pushes-its-code", |case| {
        prepare(task_b_error);
        protected::set_gate(13, task_gate(TSS_B));
        let outcome = run(raise_fault);
        let b = switched(case, outcome);
        nested(case, b);
        case.equal("the times that B ran", b.count, 1);
        case.equal("the error code on B's stack", b.word, 0x7f8);
        case.equal("B's ESP", b.esp, STACK_B.get() as u32 + 1024 - 4);
    });
}

/// Checks that code in protected mode ended in this exception.
fn fault_is(
    case: &mut Case,
    outcome: Result<Registers32, Fault32>,
    vector: Vector,
    error_code: u32,
) {
    match outcome {
        Ok(_) => case.fail(format_args!("nothing was raised, not {vector:?}")),
        Err(fault) => {
            case.equal("the vector", fault.vector, vector as u32);
            case.equal("the error code", fault.error_code, error_code);
        }
    }
}

fn refusals(report: &mut Report) {
    let broken = u32::from(BROKEN);
    report.case("busy-tss-is-refused", |case| {
        prepare(task_b);
        set_gdt_entry(BROKEN, tss_descriptor(B.get(), BUSY_TSS, tss32::LIMIT));
        fault_is(case, run(call_broken), Vector::GeneralProtection, broken);
        prepare(task_b);
        fault_is(case, run(jump_broken), Vector::GeneralProtection, broken);
        prepare(task_b);
        fault_is(
            case,
            run(call_self),
            Vector::GeneralProtection,
            u32::from(TSS_A),
        );
    });
    report.case("absent-tss-is-refused", |case| {
        prepare(task_b);
        set_gdt_entry(
            BROKEN,
            tss_descriptor(B.get(), AVAILABLE_TSS & !0x80, tss32::LIMIT),
        );
        fault_is(case, run(call_broken), Vector::SegmentNotPresent, broken);
    });
    report.case("short-tss-is-refused", |case| {
        prepare(task_b);
        set_gdt_entry(
            BROKEN,
            tss_descriptor(B.get(), AVAILABLE_TSS, tss32::LIMIT - 1),
        );
        fault_is(case, run(call_broken), Vector::InvalidTss, broken);
    });
    report.case("gate-to-no-tss-is-refused", |case| {
        prepare(task_b);
        set_gdt_entry(BROKEN, task_gate(KERNEL_DATA));
        fault_is(
            case,
            run(call_broken),
            Vector::GeneralProtection,
            u32::from(KERNEL_DATA),
        );
        set_gdt_entry(BROKEN, task_gate(TSS_B) & !(0x80 << 40));
        prepare(task_b);
        fault_is(case, run(call_broken), Vector::SegmentNotPresent, broken);
    });
    report.case("iret-with-nt-and-no-link-is-refused", |case| {
        prepare(task_b);
        fault_is(case, run(return_nested), Vector::InvalidTss, 0);
        prepare(task_b);
        set_field(A.get(), field::LINK, u32::from(TSS_B));
        // B is not busy, so it cannot be what A was called from.
        fault_is(
            case,
            run(return_nested),
            Vector::InvalidTss,
            u32::from(TSS_B),
        );
    });
    report.case("bad-code-segment-faults-in-the-new-task", |case| {
        // Of the segments only CS is checked once there is a stack that takes the exception.
        prepare(task_b);
        set_field(B.get(), field::CS, u32::from(KERNEL_DATA));
        fault_is(
            case,
            run(call_task),
            Vector::InvalidTss,
            u32::from(KERNEL_DATA),
        );
        case.equal("the times that B ran", noted().count, 0);
    });
}

fn with_paging(report: &mut Report) {
    report.case("task-switch-loads-cr3", |case| {
        prepare(task_b);
        // A sees its second 4 MiB at 1 GiB, B the first.
        let spaces = [0x40_0000u32, 0].map(|target| {
            let directory = new_frame();
            for index in 0..2u64 {
                poke_32(directory + index * 4, (index << 22 | 0x83) as u32);
            }
            poke_32(directory + 0x100 * 4, target | 0x83);
            directory
        });
        poke_32(0x40_0000, 0x5b5b_5b5b);
        let at_zero = peek_32(0);
        set_field(A.get(), field::CR3, spaces[0] as u32);
        set_field(B.get(), field::CR3, spaces[1] as u32);
        // SAFETY: no task runs while Rust does.
        unsafe { seen_pointer = 0x4000_0000 };
        let registers = Registers32 {
            eax: u32::from(TSS_A),
            ebx: 0xa0a0_0001,
            esi: 0xa0a0_0002,
            edi: spaces[0] as u32,
            ..Registers32::default()
        };
        let outcome = protected::run(call_paged, registers);
        let b = switched(case, outcome);
        case.equal("B's CR3", u64::from(b.cr3), spaces[1]);
        case.equal("the word in B's space", b.word, at_zero);
        case.equal(
            "B's link",
            field_of(B.get(), field::LINK) & 0xffff,
            u32::from(TSS_A),
        );
    });
}
