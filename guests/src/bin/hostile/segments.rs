//! Descriptor tables of garbage: segments, LDTs, gates and TSSs that nobody wrote, loaded by whatever instruction does
//! that; and 32-bit task switches between TSSs of which some fields are garbage. Those the hypervisor does itself.
//!
//! What the guest needs to come back stays whole: the first entries of its GDT, and a task that takes over where
//! exceptions find no stack.

use core::arch::global_asm;

use plinth_guests::compat::Registers32;
use plinth_guests::descriptors::kind::{AVAILABLE_TSS, BUSY_TSS};
use plinth_guests::descriptors::{
    self, KERNEL_CODE, KERNEL_CODE32, KERNEL_DATA, SCRATCH, gate_descriptor, kind,
    segment_descriptor, set_gdt_entry, task_gate,
};
use plinth_guests::paging::{self, FRAME_BYTES, FrameBytes};
use plinth_guests::places::{LOCAL_APIC, NOTHING};
use plinth_guests::protected;
use plinth_guests::random::Random;
use plinth_guests::single::Single;
use plinth_guests::tss32::{self, FIELDS, Tss32, field};
use plinth_guests::{probe, protected_code, x86};

/// Loads and transfers in 64-bit mode, and task switches.
const ROUNDS: u64 = 3000;
const SWITCHES: u64 = 600;

/// In the GDT: an LDT and two TSSs, then garbage up to the end.
const LDT: u16 = SCRATCH;
const TSS_A: u16 = SCRATCH + 0x10;
const TSS_B: u16 = SCRATCH + 0x18;
const RESCUE: u16 = SCRATCH + 0x20;
const GARBAGE: u16 = SCRATCH + 0x28;
const GDT_END: u16 = 0x100;
/// Entries of the LDT.
const LDT_ENTRIES: u64 = 64;
/// A selector's bit for the LDT.
const LOCAL: u16 = 1 << 2;

// Where transfers of control lead: a breakpoint in every mode of the processor.
global_asm!(
    ".global segments_stop",
    "segments_stop:",
    "int3",
    "jmp segments_stop",
);

unsafe extern "C" {
    fn segments_stop();
    /// The entries of 32-bit exceptions, 16 bytes each.
    static protected_stubs: u8;
}

/// The LDT, and the stacks of tasks.
static FRAMES: Single<[FrameBytes; 4]> = Single::new([const { FrameBytes([0; FRAME_BYTES]) }; 4]);

fn frame(place: usize) -> u64 {
    // SAFETY: there are so many; only the address is taken.
    unsafe { &raw const (*FRAMES.get())[place] as u64 }
}

fn stop() -> u64 {
    segments_stop as *const () as u64
}

/// Any descriptor. Code begins at 0, or the way to [`stop`] would lead anywhere.
fn garbage(random: &mut Random) -> u64 {
    let present = u64::from(random.below(4) != 0) << 47;
    match random.below(4) {
        0 => {
            let selector = random.one_of(&[KERNEL_CODE, KERNEL_CODE32, GARBAGE, 0, 0xfff8]);
            let kind =
                random.one_of(&[kind::CALL_GATE, kind::TASK_GATE, kind::INTERRUPT_GATE, 0xec]);
            gate_descriptor(kind, selector, stop())
        }
        1 => {
            let anywhere = random.bits() & 0xffff_ffff;
            let base = random.one_of(&[LOCAL_APIC, NOTHING, anywhere]);
            {
                let (limit, kind) = (random.bits(), random.below(16));
                segment_descriptor(kind, base, limit) | present
            }
        }
        _ => {
            let any = random.bits() | present;
            let is_code = any >> 43 & 3 == 3;
            if is_code {
                any & 0x00ff_ff00_0000_ffff
            } else {
                any
            }
        }
    }
}

/// New garbage in the rest of the GDT, and an LDT of it.
fn fill(random: &mut Random, ldt: u64) {
    for selector in (GARBAGE..GDT_END).step_by(8) {
        set_gdt_entry(selector, garbage(random));
    }
    for entry in 0..LDT_ENTRIES {
        paging::poke(ldt + entry * 8, garbage(random));
    }
    let limit = random.value() & 0xf_ffff;
    set_gdt_entry(LDT, segment_descriptor(kind::LDT, ldt, limit));
    set_gdt_entry(LDT + 8, 0);
}

/// A selector of something in either table, or beyond both.
fn selector(random: &mut Random) -> u16 {
    let index = match random.below(8) {
        0 => random.bits() as u16 & !7,
        1..4 => (random.below(LDT_ENTRIES) as u16 * 8) | LOCAL,
        _ => GARBAGE + random.below(u64::from(GDT_END - GARBAGE) / 8) as u16 * 8,
    };
    index | random.below(4) as u16
}

pub(crate) fn sweep(random: &mut Random) {
    let [ldt, stack] = [0, 1].map(frame);
    for round in 0..ROUNDS {
        if round.is_multiple_of(16) {
            fill(random, ldt);
        }
        let _ = probe(|| x86!("lldt {:x}", in(reg) LDT));
        let (selector, which) = (selector(random), random.below(12));
        let flags = random.bits() & 0x3f_fdff | 2;
        let far: [u64; 2] = [stop() | u64::from(selector) << 32, 0];
        let _ = probe(|| match which {
            0 => x86!("mov ds, {:x}", in(reg) selector),
            1 => x86!("mov es, {:x}", in(reg) selector),
            2 => x86!("mov fs, {:x}", in(reg) selector),
            3 => x86!("mov gs, {:x}", in(reg) selector),
            4 => x86!("mov ss, {:x}", in(reg) selector),
            5 => x86!("lldt {:x}", in(reg) selector),
            6 => x86!("ltr {:x}", in(reg) selector),
            7 => {
                x86!("lar eax, {0:e}", "lsl eax, {0:e}", in(reg) u32::from(selector), out("eax") _)
            }
            8 => x86!("verr {0:x}", "verw {0:x}", in(reg) selector),
            9 => x86!("call fword ptr [{}]", in(reg) &far),
            10 => x86!("push {}", "push {}", "retfq", in(reg) u64::from(selector), in(reg) stop()),
            _ => x86!(
                "push {ss}", "push {rsp}", "push {flags}", "push {cs}", "push {rip}", "iretq",
                ss = in(reg) u64::from(selector ^ 8), rsp = in(reg) stack + 0x800, flags = in(reg) flags,
                cs = in(reg) u64::from(selector), rip = in(reg) stop(),
            ),
        });
        descriptors::restore();
        x86!("lldt {:x}", in(reg) 0u16);
    }
    tasks(random, ldt);
}

// Task A, in 32-bit protected mode without paging: its TSS by EAX, and where it goes by the far pointer at EDI.
protected_code!(call_away, "ltr ax", "call fword ptr [edi]", "int3");
protected_code!(jump_away, "ltr ax", "jmp fword ptr [edi]", "int3");
protected_code!(raise_away, "ltr ax", "int 0x30", "int3");

static TSSS: Single<[Tss32; 3]> = Single::new([const { Tss32::ZERO }; 3]);

/// Makes a TSS with which a task runs from here on; returns its address.
fn make_tss(place: usize, eip: u64, stack: u64) -> u64 {
    // SAFETY: no task runs while Rust does, and there are three.
    let tss = unsafe { &mut (*TSSS.get())[place].0 };
    tss.fill(0);
    for segment in field::SEGMENTS {
        tss[segment] = u32::from(KERNEL_DATA);
    }
    tss[field::CS] = u32::from(KERNEL_CODE32);
    tss[field::SS0] = u32::from(KERNEL_DATA);
    tss[field::ESP0] = stack as u32 + 0x800;
    tss[field::EIP] = eip as u32;
    tss[field::EFLAGS] = 2;
    tss[field::ESP] = stack as u32 + 0x800;
    tss.as_ptr() as u64
}

/// Exceptions for which a stack may be missing: the rescuer takes them.
const RESCUED: [usize; 6] = [8, 10, 11, 12, 13, 14];

fn tasks(random: &mut Random, ldt: u64) {
    let stacks = [1, 2, 3].map(frame);
    let rescue = &raw const protected_stubs as u64 + 8 * 16;
    for round in 0..SWITCHES {
        if round.is_multiple_of(16) {
            fill(random, ldt);
        }
        let a = make_tss(0, stop(), stacks[0]);
        let b = make_tss(1, stop(), stacks[1]);
        let rescuer = make_tss(2, rescue, stacks[2]);
        for _ in 0..random.below(4) {
            spoil(random);
        }
        let base = match random.below(8) {
            0 => random.one_of(&[LOCAL_APIC, NOTHING, 0xffff_ff80, stacks[1] + 0xfc0]),
            _ => b,
        };
        let limit = random.one_of(&[0x67, 0x67, 0x67, 0x66, 0x2b, 0, 0xf_ffff]);
        let kind = random.one_of(&[
            AVAILABLE_TSS,
            AVAILABLE_TSS,
            AVAILABLE_TSS,
            BUSY_TSS,
            0x81,
            0x83,
            kind::LDT,
        ]);
        set_gdt_entry(TSS_A, segment_descriptor(AVAILABLE_TSS, a, tss32::LIMIT));
        set_gdt_entry(TSS_B, segment_descriptor(kind, base, limit));
        set_gdt_entry(
            RESCUE,
            segment_descriptor(AVAILABLE_TSS, rescuer, tss32::LIMIT),
        );
        protected::reset_gates();
        for vector in RESCUED {
            protected::set_gate(vector, task_gate(RESCUE));
        }
        let to = match random.below(4) {
            0 => selector(random),
            _ => TSS_B,
        };
        protected::set_gate(0x30, task_gate(to));
        let far: [u64; 2] = [stop() | u64::from(to) << 32, 0];
        let code = random.one_of(&[call_away as unsafe extern "C" fn(), jump_away, raise_away]);
        let registers = Registers32 {
            eax: u32::from(TSS_A),
            edi: &raw const far as u32,
            ..Registers32::default()
        };
        let _ = protected::run(code, registers);
        x86!("lldt {:x}", in(reg) 0u16);
    }
}

/// Garbage in one field of the TSS of B. Where it goes on stays as it is, or it could be anywhere.
fn spoil(random: &mut Random) {
    let field = match random.below(4) {
        0 => field::LDTR,
        1 => random.one_of(&field::SEGMENTS),
        _ => random.below(FIELDS as u64) as usize,
    };
    let value = match random.below(3) {
        0 => u32::from(LDT),
        1 => u32::from(selector(random)),
        _ => random.value() as u32,
    };
    if field != field::EIP {
        // SAFETY: no task runs while Rust does, and the field is one of 26.
        unsafe { (*TSSS.get())[1].0[field] = value };
    }
}

/// An LDT whose entries have to be read from a device.
pub(crate) fn ldt_in_device() {
    for base in [NOTHING, LOCAL_APIC] {
        set_gdt_entry(LDT, segment_descriptor(kind::LDT, base, 0xfff));
        set_gdt_entry(LDT + 8, 0);
        x86!("lldt {:x}", in(reg) LDT);
        for entry in 0..64 {
            let selector = (entry * 64) | LOCAL;
            let _ = probe(|| x86!("mov ds, {:x}", in(reg) selector));
            let _ = probe(|| x86!("lar eax, {:e}", in(reg) u32::from(selector), out("eax") _));
        }
    }
    x86!("ud2");
}

/// A GDT of garbage: nothing is left that an exception could be taken with.
pub(crate) fn gdt_of_garbage() {
    let frame = paging::new_frame();
    let mut random = Random::new(7);
    for entry in 0..512 {
        paging::poke(frame + entry * 8, random.bits());
    }
    let pointer = descriptors::TablePointer {
        limit: 0xfff,
        base: frame,
    };
    x86!("lgdt [{}]", in(reg) &pointer);
    let _ = probe(|| x86!("mov ds, {:x}", in(reg) 0x20u16));
    x86!("int3");
}
