//! `tasks32`: the 32-bit hardware task switch in all its forms, in protected mode without paging and with it.
//!
//! Task A is the code that a case runs (its TSS only takes the state that is saved); task B is `task_b`, which
//! notes what it finds in `seen` and ends with IRET or a jump back. "SDM vol. 3, Task Management" has the rules.

#![no_std]
#![no_main]

use core::arch::global_asm;

use plinth_guests::compat::Registers32;
use plinth_guests::descriptors::{KERNEL_CODE32, KERNEL_DATA, SCRATCH, gdt_entry, set_gdt_entry};
use plinth_guests::paging::new_frame;
use plinth_guests::protected::{self, Fault32};
use plinth_guests::single::Single;
use plinth_guests::{Case, Report, StartInfo, Vector, guest, protected_code, x86};

guest!(main);

/// The selectors of the two TSSs, a task gate for B, an LDT, and what a case wants to break.
const TSS_A: u16 = SCRATCH + 0x10;
const TSS_B: u16 = SCRATCH + 0x18;
const GATE_B: u16 = SCRATCH + 0x20;
const LDT: u16 = SCRATCH + 0x28;
const BROKEN: u16 = SCRATCH + 0x30;

/// The types of a TSS descriptor.
const AVAILABLE: u64 = 0x89;
const BUSY: u64 = 0x8b;
/// EFLAGS.NT.
const NT: u32 = 1 << 14;

/// A 32-bit TSS as its 26 double words.
#[repr(C, align(128))]
struct Tss32([u32; 32]);

static A: Single<Tss32> = Single::new(Tss32([0; 32]));
static B: Single<Tss32> = Single::new(Tss32([0; 32]));
static STACK_B: Single<[u32; 256]> = Single::new([0; 256]);

/// The fields of a TSS, as indexes of its double words.
mod field {
    pub(crate) const LINK: usize = 0;
    pub(crate) const CR3: usize = 7;
    pub(crate) const EIP: usize = 8;
    pub(crate) const EFLAGS: usize = 9;
    pub(crate) const EAX: usize = 10;
    pub(crate) const ECX: usize = 11;
    pub(crate) const EDX: usize = 12;
    pub(crate) const EBX: usize = 13;
    pub(crate) const ESP: usize = 14;
    pub(crate) const EBP: usize = 15;
    pub(crate) const ESI: usize = 16;
    pub(crate) const EDI: usize = 17;
    pub(crate) const ES: usize = 18;
    pub(crate) const CS: usize = 19;
    pub(crate) const SS: usize = 20;
    pub(crate) const DS: usize = 21;
    pub(crate) const FS: usize = 22;
    pub(crate) const GS: usize = 23;
    pub(crate) const LDTR: usize = 24;
    pub(crate) const TRAP: usize = 25;
}

/// What task B notes: in the order of the stores in `task_b`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    count: u32,
    eax: u32,
    ebx: u32,
    ecx: u32,
    edx: u32,
    esi: u32,
    edi: u32,
    ebp: u32,
    esp: u32,
    eflags: u32,
    tr: u32,
    ldtr: u32,
    cr0: u32,
    cr3: u32,
    fs: u32,
    word: u32,
    tss_a: u32,
    tss_b: u32,
}

// Task B. `task_b` ends with IRET, `task_b_jump` with a jump to A, `task_b_error` takes an error code off its
// stack first. Each goes on where it stopped when it is entered again.
global_asm!(
    ".macro note",
    "mov [seen + 4], eax",
    "mov [seen + 8], ebx",
    "mov [seen + 12], ecx",
    "mov [seen + 16], edx",
    "mov [seen + 20], esi",
    "mov [seen + 24], edi",
    "mov [seen + 28], ebp",
    "mov [seen + 32], esp",
    "pushfd",
    "pop dword ptr [seen + 36]",
    "str eax",
    "mov [seen + 40], eax",
    "sldt eax",
    "mov [seen + 44], eax",
    "mov eax, cr0",
    "mov [seen + 48], eax",
    "mov eax, cr3",
    "mov [seen + 52], eax",
    "xor eax, eax",
    "mov ax, fs",
    "mov [seen + 56], eax",
    "mov eax, [seen_pointer]",
    "mov eax, [eax]",
    "mov [seen + 60], eax",
    "mov eax, [gdt_of_a]",
    "mov ecx, [eax + 4]",
    "mov [seen + 64], ecx",
    "mov ecx, [eax + 12]",
    "mov [seen + 68], ecx",
    "inc dword ptr [seen]",
    ".endm",
    ".pushsection .text.tasks, \"ax\"",
    ".code32",
    ".global task_b",
    "task_b:",
    "note",
    "iretd",
    "jmp task_b",
    ".global task_b_jump",
    "task_b_jump:",
    "note",
    ".byte 0xea",
    ".long 0",
    ".short {tss_a}",
    "jmp task_b_jump",
    ".global task_b_error",
    "task_b_error:",
    "note",
    "pop dword ptr [seen + 60]",
    "mov eax, [saved_edi_of_a]",
    "mov dword ptr [eax], 0",
    "iretd",
    "jmp task_b_error",
    ".code64",
    ".popsection",
    ".pushsection .bss.tasks, \"aw\", @nobits",
    ".balign 8",
    ".global seen",
    "seen: .skip 72",
    ".global seen_pointer",
    "seen_pointer: .skip 4",
    ".global gdt_of_a",
    "gdt_of_a: .skip 4",
    ".global saved_edi_of_a",
    "saved_edi_of_a: .skip 4",
    ".popsection",
    tss_a = const TSS_A,
);

unsafe extern "C" {
    fn task_b();
    fn task_b_jump();
    fn task_b_error();
    static mut seen: Seen;
    static mut seen_pointer: u32;
    static mut gdt_of_a: u32;
    static mut saved_edi_of_a: u32;
}

// The A side: each takes the selector of A in EAX, loads TR with it, clears CR0.TS, and switches. EBX and ESI are
// values that must come back; ECX returns the flags after the switch and EDX the CR0.
macro_rules! side_a {
    ($name:ident, $($switch:literal),+) => {
        protected_code!(
            $name,
            "ltr ax", "clts", "mov ebp, 0x5b5b5b5b", $($switch,)+
            "pushfd", "pop ecx", "mov edx, cr0", "xor eax, eax", "str ax", "mov edi, ebp",
            "pushfd", "and dword ptr [esp], 0xffffbfff", "popfd"
        );
    };
}
side_a!(call_task, ".byte 0x9a", ".long 0xdeadbeef", ".short 0x70");
side_a!(jump_task, ".byte 0xea", ".long 0xdeadbeef", ".short 0x70");
side_a!(call_gate, ".byte 0x9a", ".long 0xdeadbeef", ".short 0x78");
side_a!(jump_gate, ".byte 0xea", ".long 0xdeadbeef", ".short 0x78");
side_a!(call_broken, ".byte 0x9a", ".long 0xdeadbeef", ".short 0x88");
side_a!(jump_broken, ".byte 0xea", ".long 0xdeadbeef", ".short 0x88");
side_a!(call_self, ".byte 0x9a", ".long 0xdeadbeef", ".short 0x68");
side_a!(interrupt, "int 0x30");
side_a!(
    call_twice,
    ".byte 0x9a",
    ".long 0",
    ".short 0x70",
    ".byte 0x9a",
    ".long 0",
    ".short 0x70"
);
// A #GP by a selector beyond the GDT. The task that takes it puts a null selector into A's saved EDI, with which the
// instruction then succeeds.
side_a!(raise_fault, "mov edi, 0x7f8", "mov gs, edi");
side_a!(
    return_nested,
    "pushfd",
    "or dword ptr [esp], 0x4000",
    "popfd",
    "iretd"
);
// With 32-bit paging: EDI is the page directory. EBP comes back from a page that the two tasks see differently.
side_a!(
    call_paged,
    "mov cr3, edi",
    "mov edx, cr4",
    "or edx, 0x10",
    "mov cr4, edx",
    "mov edx, cr0",
    "or edx, 0x80000000",
    "mov cr0, edx",
    ".byte 0x9a",
    ".long 0",
    ".short 0x70",
    "mov ebp, [0x40000000]"
);

const _: () = assert!(TSS_A == 0x68 && TSS_B == 0x70 && GATE_B == 0x78 && BROKEN == 0x88);

fn tss_descriptor(tss: *mut Tss32, kind: u64, limit: u64) -> u64 {
    let base = tss as u64;
    limit | (base & 0xff_ffff) << 16 | kind << 40 | (base >> 24 & 0xff) << 56
}

fn task_gate(selector: u16) -> u64 {
    u64::from(selector) << 16 | 0x85 << 40
}

fn field_of(tss: *mut Tss32, index: usize) -> u32 {
    // SAFETY: both TSSs have 32 double words; volatile, since the processor writes them.
    unsafe { (&raw const (*tss).0[index]).read_volatile() }
}

fn set_field(tss: *mut Tss32, index: usize, value: u32) {
    // SAFETY: as above; no task runs while Rust does.
    unsafe { (&raw mut (*tss).0[index]).write_volatile(value) };
}

/// Makes both TSSs, their descriptors and gates anew, with B starting at `entry`.
fn prepare(entry: unsafe extern "C" fn()) {
    for index in 0..32 {
        set_field(A.get(), index, 0);
        set_field(B.get(), index, 0);
    }
    for (index, value) in [
        (field::EIP, entry as usize as u32),
        (field::EFLAGS, 0x2),
        (field::EAX, 0xb0b0_0001),
        (field::ECX, 0xb0b0_0002),
        (field::EDX, 0xb0b0_0003),
        (field::EBX, 0xb0b0_0004),
        (field::ESP, STACK_B.get() as u32 + 1024),
        (field::EBP, 0xb0b0_0006),
        (field::ESI, 0xb0b0_0007),
        (field::EDI, 0xb0b0_0008),
        (field::CS, u32::from(KERNEL_CODE32)),
    ] {
        set_field(B.get(), index, value);
    }
    for index in [field::ES, field::SS, field::DS, field::FS, field::GS] {
        set_field(B.get(), index, u32::from(KERNEL_DATA));
    }
    set_gdt_entry(TSS_A, tss_descriptor(A.get(), AVAILABLE, 0x67));
    set_gdt_entry(TSS_B, tss_descriptor(B.get(), AVAILABLE, 0x67));
    set_gdt_entry(GATE_B, task_gate(TSS_B));
    protected::reset_gates();
    // SAFETY: no task runs while Rust does.
    unsafe {
        seen = Seen::default();
        seen_pointer = &raw const seen as u32;
        gdt_of_a = plinth_guests::descriptors::gdt_pointer().base as u32 + u32::from(TSS_A);
        saved_edi_of_a = &raw const (*A.get()).0[field::EDI] as u32;
    }
}

fn noted() -> Seen {
    // SAFETY: no task runs while Rust does; volatile, since the tasks wrote it.
    unsafe { (&raw const seen).read_volatile() }
}

/// The type byte of a descriptor's upper half.
fn kind_of(upper_half: u32) -> u64 {
    u64::from(upper_half >> 8 & 0xff)
}

fn run(code: unsafe extern "C" fn()) -> Result<Registers32, Fault32> {
    let registers = Registers32 {
        eax: u32::from(TSS_A),
        ebx: 0xa0a0_0001,
        esi: 0xa0a0_0002,
        edi: 0,
        ..Registers32::default()
    };
    protected::run(code, registers)
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

/// Checks what a nested switch (CALL, INT or exception) adds: the link, NT and the busy bits.
fn nested(case: &mut Case, b: Seen) {
    case.equal("NT in B", b.eflags & NT, NT);
    case.equal(
        "B's link",
        field_of(B.get(), field::LINK) & 0xffff,
        u32::from(TSS_A),
    );
    case.equal("A's type while B runs", kind_of(b.tss_a), BUSY);
    case.equal("B's type while B runs", kind_of(b.tss_b), BUSY);
    case.equal("A's type afterwards", gdt_entry(TSS_A) >> 40 & 0xff, BUSY);
    case.equal(
        "B's type afterwards",
        gdt_entry(TSS_B) >> 40 & 0xff,
        AVAILABLE,
    );
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
        case.equal("A's type while B runs", kind_of(b.tss_a), AVAILABLE);
        case.equal("B's type while B runs", kind_of(b.tss_b), BUSY);
        case.equal("A's type afterwards", gdt_entry(TSS_A) >> 40 & 0xff, BUSY);
        case.equal(
            "B's type afterwards",
            gdt_entry(TSS_B) >> 40 & 0xff,
            AVAILABLE,
        );
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
        set_gdt_entry(
            LDT,
            15 | (base & 0xff_ffff) << 16 | 0x82 << 40 | (base >> 24 & 0xff) << 56,
        );
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
        plinth_guests::cpu::write_dr6(0xffff_0ff0);
        let outcome = run(call_task);
        fault_is(case, outcome, Vector::Debug, 0);
        let dr6 = plinth_guests::cpu::read_dr6();
        plinth_guests::cpu::write_dr6(0xffff_0ff0);
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
        set_gdt_entry(BROKEN, tss_descriptor(B.get(), BUSY, 0x67));
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
        set_gdt_entry(BROKEN, tss_descriptor(B.get(), AVAILABLE & !0x80, 0x67));
        fault_is(case, run(call_broken), Vector::SegmentNotPresent, broken);
    });
    report.case("short-tss-is-refused", |case| {
        prepare(task_b);
        set_gdt_entry(BROKEN, tss_descriptor(B.get(), AVAILABLE, 0x66));
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
                write_32(directory + index * 4, (index << 22 | 0x83) as u32);
            }
            write_32(directory + 0x100 * 4, target | 0x83);
            directory
        });
        write_32(0x40_0000, 0x5b5b_5b5b);
        let at_zero = read_32(0);
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

fn write_32(address: u64, value: u32) {
    x86!("mov [{}], {:e}", in(reg) address, in(reg) value);
}

fn read_32(address: u64) -> u32 {
    let value;
    x86!("mov {:e}, [{}]", out(reg) value, in(reg) address);
    value
}
