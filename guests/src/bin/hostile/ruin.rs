//! The guest ruins what its own processor needs to go on: it may end, and nobody else may.

use plinth_guests::descriptors::{self, TablePointer};
use plinth_guests::paging::{self, FRAME_BYTES, PageSize, entry};
use plinth_guests::places::{IO_APIC, LOCAL_APIC, NOTHING};
use plinth_guests::random::Random;
use plinth_guests::{cpu, probe, x86};

/// A slot of the top page table that nobody uses.
const SLOT: u64 = 0x1_0000_0000_0000 >> 1;

fn load_idt(base: u64) {
    let pointer = TablePointer { limit: 0xfff, base };
    x86!("lidt [{}]", in(reg) &pointer);
}

fn fill(frame: u64, random: &mut Random) {
    for offset in (0..FRAME_BYTES as u64).step_by(8) {
        paging::poke(frame + offset, random.bits());
    }
}

pub(crate) fn idt_in_device() {
    load_idt(LOCAL_APIC);
    x86!("int3");
}

pub(crate) fn idt_in_nothing() {
    load_idt(NOTHING);
    x86!("ud2");
}

/// Gates that are present and of the right kind, with random selectors, stacks and addresses.
pub(crate) fn idt_of_garbage() {
    let frame = paging::new_frame();
    let mut random = Random::new(3);
    fill(frame, &mut random);
    for gate in 0..256 {
        let low = paging::peek(frame + gate * 16);
        let selector = random.one_of(&[8u64, 0x10, 0x30, 0x38, 0x48, 0xfff8]);
        let kind = random.one_of(&[0x8eu64, 0x8f, 0x85, 0x8c]);
        let low = low & 0xffff_0007_0000_ffff | selector << 16 | kind << 40;
        paging::poke(frame + gate * 16, low);
    }
    load_idt(frame);
    x86!("int3", "int 0x80", "ud2");
}

/// The handlers' code segment then has to be read from a device.
pub(crate) fn gdt_in_device() {
    let pointer = TablePointer {
        limit: 0xffff,
        base: LOCAL_APIC,
    };
    x86!("lgdt [{}]", in(reg) &pointer);
    let _ = probe(|| x86!("mov ds, {:x}", in(reg) 0x20u16));
    x86!("int3");
}

/// The stack of a double fault then has to be read from a device.
pub(crate) fn tss_in_device() {
    let base = IO_APIC;
    let low = descriptors::segment_descriptor(descriptors::kind::AVAILABLE_TSS, base, 0x67);
    descriptors::set_gdt_entry(descriptors::SCRATCH, low);
    descriptors::set_gdt_entry(descriptors::SCRATCH + 8, base >> 32);
    x86!("ltr {:x}", in(reg) descriptors::SCRATCH);
    descriptors::set_gate(3, descriptors::gate(3) | 1 << 32);
    x86!("int3");
}

pub(crate) fn stack_in_device() {
    x86!(
        "mov rsp, {}",
        "push rax",
        "pop rax",
        "call 2f",
        "2: pushfq",
        "popfq",
        "enter 16, 1",
        "leave",
        "int3",
        "ud2",
        in(reg) LOCAL_APIC + 0x400,
        options(noreturn),
    );
}

pub(crate) fn code_in_device() {
    for address in [LOCAL_APIC, IO_APIC, NOTHING, 0xffff_fff0] {
        let _ = probe(|| x86!("call {}", in(reg) address, clobber_abi("C")));
    }
    x86!("jmp {}", in(reg) LOCAL_APIC + 0xff0, options(noreturn));
}

/// Page walks through devices, at every level, and at last all of them.
pub(crate) fn tables_in_device() {
    for table in [LOCAL_APIC, IO_APIC, NOTHING, 0x40_0000_0000] {
        let lower = paging::new_frame();
        for slot in 0..512 {
            paging::poke(lower + slot * 8, table | 7);
        }
        for target in [table, lower] {
            paging::poke(paging::root() + 256 * 8 - 8, target | 7);
            paging::reload_cr3();
            for offset in [0, 0x1000, 0x8000_0000, 0x7f_ffff_f000] {
                let address = SLOT - (1 << 39) + offset;
                let _ = probe(|| paging::poke(address, paging::peek(address)));
            }
        }
    }
    cpu::write_cr3(LOCAL_APIC);
}

pub(crate) fn tables_in_nothing() {
    cpu::write_cr3(NOTHING);
}

/// Random entries below one slot, looked at many times, and at last for everything.
pub(crate) fn tables_of_garbage() {
    let mut random = Random::new(5);
    let frames = [(); 3].map(|()| paging::new_frame());
    for _ in 0..500 {
        for frame in frames {
            fill(frame, &mut random);
            for slot in 0..16 {
                // Some lead on, to each other or to where no RAM is.
                let target = random.one_of(&[frames[0], frames[1], frames[2], LOCAL_APIC, NOTHING]);
                paging::poke(frame + slot * 8, target | random.bits() & 0xfff | 1);
            }
        }
        paging::poke(paging::root() + 255 * 8, frames[0] | 7);
        paging::reload_cr3();
        for _ in 0..8 {
            let address = (255 << 39)
                | random.below(16) << 30
                | random.below(16) << 21
                | random.below(16) << 12
                | random.bits() & 0xff8;
            let _ = probe(|| {
                let _ = paging::peek(address);
            });
        }
    }
    cpu::write_cr3(frames[0]);
}

/// Tables that are pages of themselves, so that accessed and dirty bits are written into what is being walked, and
/// a device as the last table.
pub(crate) fn tables_of_themselves() {
    let root = paging::root();
    paging::poke(root + 255 * 8, root | 7);
    paging::reload_cr3();
    let window = 255u64 << 39;
    for index in [0, 255, 0x1fe] {
        let address = window | 255 << 30 | 255 << 21 | 255 << 12 | index << 3;
        let _ = probe(|| {
            let _ = paging::peek(address);
        });
    }
    let slot = paging::entry_address(0x190_0000_0000, PageSize::Size2M);
    paging::poke(slot, IO_APIC | entry::P | entry::RW);
    for offset in (0..0x20_0000).step_by(0x1000) {
        let _ = probe(|| {
            let _ = paging::peek(0x190_0000_0000 + offset);
        });
    }
    // The image itself disappears from under the guest.
    paging::poke(root, root | 7);
    paging::reload_cr3();
}

/// An INIT at itself: the bootstrap processor begins at the reset vector, where nothing is.
pub(crate) fn init_to_itself() {
    x86!("mov dword ptr [{}], 0", in(reg) LOCAL_APIC + 0x310);
    x86!("mov dword ptr [{}], 0x4500", in(reg) LOCAL_APIC + 0x300);
    x86!("nop", "nop");
}
