//! The two tasks: their TSSs, what each runs, and what task B notes.

use core::arch::global_asm;

use plinth_guests::compat::Registers32;
use plinth_guests::descriptors::kind::AVAILABLE_TSS;
use plinth_guests::descriptors::{
    KERNEL_CODE32, KERNEL_DATA, SCRATCH, gdt_pointer, segment_descriptor, set_gdt_entry, task_gate,
};
use plinth_guests::protected::{self, Fault32};
use plinth_guests::protected_code;
use plinth_guests::single::Single;
use plinth_guests::tss32::{self, Tss32, field};

/// The selectors of the two TSSs, a task gate for B, an LDT, and what a case wants to break.
pub(super) const TSS_A: u16 = SCRATCH + 0x10;
pub(super) const TSS_B: u16 = SCRATCH + 0x18;
pub(super) const GATE_B: u16 = SCRATCH + 0x20;
pub(super) const LDT: u16 = SCRATCH + 0x28;
pub(super) const BROKEN: u16 = SCRATCH + 0x30;

pub(super) static A: Single<Tss32> = Single::new(Tss32::ZERO);
pub(super) static B: Single<Tss32> = Single::new(Tss32::ZERO);
pub(super) static STACK_B: Single<[u32; 256]> = Single::new([0; 256]);

/// What task B notes: in the order of the stores in `task_b`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) count: u32,
    pub(super) eax: u32,
    pub(super) ebx: u32,
    pub(super) ecx: u32,
    pub(super) edx: u32,
    pub(super) esi: u32,
    pub(super) edi: u32,
    pub(super) ebp: u32,
    pub(super) esp: u32,
    pub(super) eflags: u32,
    pub(super) tr: u32,
    pub(super) ldtr: u32,
    pub(super) cr0: u32,
    pub(super) cr3: u32,
    pub(super) fs: u32,
    pub(super) word: u32,
    pub(super) tss_a: u32,
    pub(super) tss_b: u32,
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
    pub(super) fn task_b();
    pub(super) fn task_b_jump();
    pub(super) fn task_b_error();
    static mut seen: Seen;
    pub(super) static mut seen_pointer: u32;
    static mut gdt_of_a: u32;
    static mut saved_edi_of_a: u32;
}

// The A side: each takes the selector of A in EAX, loads TR with it, clears CR0.TS, and switches. EBX and ESI are
// values that must come back; ECX returns the flags after the switch and EDX the CR0.
macro_rules! side_a {
    ($name:ident, $($switch:literal),+) => {
        protected_code!(
            pub(super) $name,
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

/// The descriptor of a TSS of this type.
pub(super) fn tss_descriptor(tss: *mut Tss32, kind: u64, limit: u64) -> u64 {
    segment_descriptor(kind, tss as u64, limit)
}

pub(super) fn field_of(tss: *mut Tss32, index: usize) -> u32 {
    // SAFETY: both TSSs have 32 double words; volatile, since the processor writes them.
    unsafe { (&raw const (*tss).0[index]).read_volatile() }
}

pub(super) fn set_field(tss: *mut Tss32, index: usize, value: u32) {
    // SAFETY: as above; no task runs while Rust does.
    unsafe { (&raw mut (*tss).0[index]).write_volatile(value) };
}

/// Makes both TSSs, their descriptors and gates anew, with B starting at `entry`.
pub(super) fn prepare(entry: unsafe extern "C" fn()) {
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
    set_gdt_entry(TSS_A, tss_descriptor(A.get(), AVAILABLE_TSS, tss32::LIMIT));
    set_gdt_entry(TSS_B, tss_descriptor(B.get(), AVAILABLE_TSS, tss32::LIMIT));
    set_gdt_entry(GATE_B, task_gate(TSS_B));
    protected::reset_gates();
    // SAFETY: no task runs while Rust does.
    unsafe {
        seen = Seen::default();
        seen_pointer = &raw const seen as u32;
        gdt_of_a = gdt_pointer().base as u32 + u32::from(TSS_A);
        saved_edi_of_a = &raw const (*A.get()).0[field::EDI] as u32;
    }
}

pub(super) fn noted() -> Seen {
    // SAFETY: no task runs while Rust does; volatile, since the tasks wrote it.
    unsafe { (&raw const seen).read_volatile() }
}

pub(super) fn run(code: unsafe extern "C" fn()) -> Result<Registers32, Fault32> {
    let registers = Registers32 {
        eax: u32::from(TSS_A),
        ebx: 0xa0a0_0001,
        esi: 0xa0a0_0002,
        edi: 0,
        ..Registers32::default()
    };
    protected::run(code, registers)
}
