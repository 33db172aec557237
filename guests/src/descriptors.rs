//! The guest's GDT, TSS and IDT.
//!
//! The selectors are public, since cases load them; entries from [`SCRATCH`] on are free for a case's own use, made by
//! [`segment_descriptor`] and [`gate_descriptor`].

use core::mem::{offset_of, size_of};

use crate::exceptions;
use crate::single::Single;
use crate::x86;

/// 64-bit code of ring 0.
pub const KERNEL_CODE: u16 = 0x08;
/// Flat data of ring 0.
pub const KERNEL_DATA: u16 = 0x10;
/// 32-bit code of ring 3 (SYSRET's first, hence the order).
pub const USER_CODE32: u16 = 0x1b;
/// Flat data of ring 3.
pub const USER_DATA: u16 = 0x23;
/// 64-bit code of ring 3.
pub const USER_CODE: u16 = 0x2b;
/// Flat 32-bit code of ring 0: compatibility mode while long mode is active.
pub const KERNEL_CODE32: u16 = 0x30;
/// 16-bit code of ring 0 with base 0 and limit 0xffff.
pub const KERNEL_CODE16: u16 = 0x38;
/// 16-bit data of ring 0 with base 0 and limit 0xffff.
pub const KERNEL_DATA16: u16 = 0x40;
/// The TSS (two entries).
pub const TSS: u16 = 0x48;
/// The first entry that is left to the cases.
pub const SCRATCH: u16 = 0x58;

/// Types of descriptors, present and of ring 0, as their byte 5 has them (SDM vol. 3, System Descriptor Types).
pub mod kind {
    /// An LDT.
    pub const LDT: u64 = 0x82;
    /// A task gate.
    pub const TASK_GATE: u64 = 0x85;
    /// A TSS that is available: a 32-bit one, or, in 64-bit mode, a 64-bit one.
    pub const AVAILABLE_TSS: u64 = 0x89;
    /// A TSS that is busy.
    pub const BUSY_TSS: u64 = 0x8b;
    /// A call gate.
    pub const CALL_GATE: u64 = 0x8c;
    /// An interrupt gate.
    pub const INTERRUPT_GATE: u64 = 0x8e;
}

/// The descriptor of a segment with this type, its size in bytes; of a system segment in 64-bit mode the lower half.
pub const fn segment_descriptor(kind: u64, base: u64, limit: u64) -> u64 {
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | kind << 40
        | (limit >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56
}

/// A gate of this type; of one of the 64-bit IDT the lower half.
pub const fn gate_descriptor(kind: u64, selector: u16, offset: u64) -> u64 {
    offset & 0xffff | (selector as u64) << 16 | kind << 40 | (offset >> 16 & 0xffff) << 48
}

/// A task gate.
pub const fn task_gate(tss: u16) -> u64 {
    gate_descriptor(kind::TASK_GATE, tss, 0)
}

/// Entries in the GDT.
const GDT_ENTRIES: usize = 32;
/// Bytes in each stack that the TSS names.
const STACK_BYTES: usize = 16 * 1024;

/// The interrupt stacks, by their number in the IDT.
#[derive(Clone, Copy)]
enum Ist {
    None = 0,
    DoubleFault = 1,
    Nmi = 2,
    MachineCheck = 3,
    StackFault = 4,
}

#[repr(C, align(16))]
struct Stack([u8; STACK_BYTES]);

#[repr(C, packed(4))]
struct Tss64 {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map_base: u16,
    /// The bitmap of the ports that ring 3 may touch, and the byte of ones behind it: none.
    io_map: [u8; 4],
}

const _: () = assert!(offset_of!(Tss64, io_map_base) == 102);

/// A descriptor-table register's memory image.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TablePointer {
    /// The offset of the last byte.
    pub limit: u16,
    /// The linear address.
    pub base: u64,
}

#[repr(C, align(16))]
struct Gdt([u64; GDT_ENTRIES]);

static GDT: Single<Gdt> = Single::new(Gdt({
    let mut gdt = [0; GDT_ENTRIES];
    gdt[KERNEL_CODE as usize / 8] = 0x00af_9b00_0000_ffff;
    gdt[KERNEL_DATA as usize / 8] = 0x00cf_9300_0000_ffff;
    gdt[USER_CODE32 as usize / 8] = 0x00cf_fb00_0000_ffff;
    gdt[USER_DATA as usize / 8] = 0x00cf_f300_0000_ffff;
    gdt[USER_CODE as usize / 8] = 0x00af_fb00_0000_ffff;
    gdt[KERNEL_CODE32 as usize / 8] = 0x00cf_9b00_0000_ffff;
    gdt[KERNEL_CODE16 as usize / 8] = 0x0000_9b00_0000_ffff;
    gdt[KERNEL_DATA16 as usize / 8] = 0x0000_9300_0000_ffff;
    gdt
}));

static TSS64: Single<Tss64> = Single::new(Tss64 {
    reserved0: 0,
    rsp: [0; 3],
    reserved1: 0,
    ist: [0; 7],
    reserved2: 0,
    reserved3: 0,
    io_map_base: offset_of!(Tss64, io_map) as u16,
    io_map: [0xff; 4],
});

static STACKS: Single<[Stack; 5]> = Single::new([const { Stack([0; STACK_BYTES]) }; 5]);

/// An interrupt gate of the 64-bit IDT.
#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    low: u64,
    high: u64,
}

static IDT: Single<[Gate; 256]> = Single::new([Gate { low: 0, high: 0 }; 256]);

/// Sets an entry of the GDT and returns the selector.
pub fn set_gdt_entry(selector: u16, descriptor: u64) {
    let index = usize::from(selector >> 3);
    assert!(index < GDT_ENTRIES);
    // SAFETY: the index is inside the table; the processor reads it at the next load of the selector only.
    unsafe { (*GDT.get()).0[index] = descriptor };
}

/// An entry of the GDT, as it is in memory now.
pub fn gdt_entry(selector: u16) -> u64 {
    let index = usize::from(selector >> 3);
    assert!(index < GDT_ENTRIES);
    // SAFETY: the index is inside the table. Volatile, since the processor writes accessed and busy bits.
    unsafe { (&raw const (*GDT.get()).0[index]).read_volatile() }
}

/// The low half of the 64-bit IDT gate of a vector: bits 40-44 type, 45-46 DPL, 47 present.
pub fn gate(vector: u8) -> u64 {
    // SAFETY: the table has 256 entries.
    unsafe { (*IDT.get())[usize::from(vector)].low }
}

/// Replaces the low half of a gate.
pub fn set_gate(vector: u8, low: u64) {
    // SAFETY: the table has 256 entries; a broken gate is what a case asked for.
    unsafe { (&raw mut (*IDT.get())[usize::from(vector)].low).write_volatile(low) };
}

/// Lets ring 3 raise a vector by INT n.
pub fn allow_from_user(vector: u8) {
    set_gate(vector, gate(vector) | 3 << 45);
}

/// Where the GDT is.
pub fn gdt_pointer() -> TablePointer {
    TablePointer {
        limit: (size_of::<Gdt>() - 1) as u16,
        base: GDT.get() as u64,
    }
}

/// Where the IDT is.
pub fn idt_pointer() -> TablePointer {
    TablePointer {
        limit: (size_of::<[Gate; 256]>() - 1) as u16,
        base: IDT.get() as u64,
    }
}

/// Has the handler of a vector stay on the stack that it interrupts: other CPUs than the first have no TSS, and so no
/// stacks of its own for it.
pub fn stay_on_stack(vector: u8) {
    const IST: u64 = 7 << 32;
    // SAFETY: the table has 256 entries, and none of that vector comes meanwhile.
    unsafe { (*IDT.get())[usize::from(vector)].low &= !IST };
}

/// Loads the GDT, the segment registers, the TSS and the IDT.
pub fn init() {
    let tss_address = TSS64.get() as u64;
    let stack_top = |index: usize| {
        // SAFETY: the index is inside the array; one past its end is a valid address to compute.
        unsafe { (STACKS.get() as *mut Stack).add(index + 1) as u64 }
    };
    // SAFETY: nothing uses the TSS before it is loaded below.
    unsafe {
        (*TSS64.get()).rsp = [stack_top(0), 0, 0];
        (*TSS64.get()).ist = [
            stack_top(1),
            stack_top(2),
            stack_top(3),
            stack_top(4),
            0,
            0,
            0,
        ];
    }
    for vector in 0..=255u8 {
        let ist = match vector {
            2 => Ist::Nmi,
            8 => Ist::DoubleFault,
            12 => Ist::StackFault,
            18 => Ist::MachineCheck,
            _ => Ist::None,
        };
        let handler = exceptions::stub(vector);
        let gate = gate_descriptor(kind::INTERRUPT_GATE, KERNEL_CODE, handler);
        // SAFETY: the table has 256 entries and is not loaded yet.
        unsafe {
            (*IDT.get())[usize::from(vector)] = Gate {
                low: gate | (ist as u64) << 32,
                high: handler >> 32,
            }
        };
    }
    let gdtr = gdt_pointer();
    x86!("lgdt [{}]", in(reg) &gdtr);
    load_flat_segments();
    load_tss(tss_address);
    let idtr = idt_pointer();
    x86!("lidt [{}]", in(reg) &idtr);
}

/// Writes an available TSS descriptor and loads the task register from it.
fn load_tss(base: u64) {
    let limit = size_of::<Tss64>() as u64 - 1;
    set_gdt_entry(TSS, segment_descriptor(kind::AVAILABLE_TSS, base, limit));
    set_gdt_entry(TSS + 8, base >> 32);
    x86!("ltr {:x}", in(reg) TSS);
}

/// Loads CS with the 64-bit kernel code, SS, DS and ES with flat data, FS and GS with null.
pub fn load_flat_segments() {
    x86!(
        "push {code}",
        "lea {scratch}, [rip + 2f]",
        "push {scratch}",
        "retfq",
        "2:",
        "mov ss, {data:e}",
        "mov ds, {data:e}",
        "mov es, {data:e}",
        "mov fs, {zero:e}",
        "mov gs, {zero:e}",
        code = in(reg) u64::from(KERNEL_CODE),
        scratch = out(reg) _,
        data = in(reg) u32::from(KERNEL_DATA),
        zero = in(reg) 0u32,
    );
}

/// Puts this runtime's GDT, TSS and IDT back after a case that loaded others.
pub fn restore() {
    let gdtr = gdt_pointer();
    x86!("lgdt [{}]", in(reg) &gdtr);
    load_flat_segments();
    load_tss(TSS64.get() as u64);
    let idtr = idt_pointer();
    x86!("lidt [{}]", in(reg) &idtr);
}
