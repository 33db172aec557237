//! Descriptor-table instructions against a fake CPU: what is stored and loaded, and every refusal.

use arch::Gpr;

use super::*;
use crate::exit::{DescriptorTableInstruction as I, MemoryOperand, VmExit};
use crate::handle::handle;
use crate::testing::{FakeCpu, FakeMachine, vcpu};

const ROOT: u64 = 0x10_0000;
const GDT: u64 = 0x5000;
const OPERAND: u64 = 0x6000;
const CODE: u64 = 0x1000;

struct Bench {
    cpu: FakeCpu,
    machine: FakeMachine,
}

fn long_mode() -> Bench {
    let machine = FakeMachine::new(0x40_0000);
    machine.memory.identity_map_long_mode(ROOT);
    let mut cpu = FakeCpu::long_mode(ROOT);
    cpu.gdtr = DescriptorTable {
        base: GDT,
        limit: 0x3f,
    };
    Bench { cpu, machine }
}

const MEMORY: DescriptorOperand = DescriptorOperand::Memory(MemoryOperand {
    segment: SegmentName::Ds,
    base: Some(Gpr::Rbx),
    index: Some(Gpr::Rsi),
    scale: 3,
    displacement: 0x10,
    address_width: Width::Qword,
});
const REGISTER: DescriptorOperand = DescriptorOperand::Register(Gpr::Rdx);

impl Bench {
    /// The memory operand lies at [`OPERAND`].
    fn run(&mut self, instruction: I, operand: DescriptorOperand) -> Result<Next, GuestFault> {
        self.cpu.gprs.set(Gpr::Rbx, OPERAND - 0x90);
        self.cpu.gprs.set(Gpr::Rsi, 0x10);
        let access = DescriptorTableAccess {
            instruction,
            operand,
            operand_width: Width::Dword,
        };
        let exit = VmExit::DescriptorTable(access);
        handle(&mut self.cpu, &mut vcpu(), &mut self.machine, exit)
    }

    fn load(&mut self, instruction: I, selector: u16) -> Result<Next, GuestFault> {
        self.cpu.gprs.set(Gpr::Rdx, selector.into());
        self.run(instruction, REGISTER)
    }

    fn put_descriptor(&self, selector: u16, descriptor: u64, upper: u64) {
        let at = GDT + u64::from(selector & !7);
        self.machine.memory.put_u64(at, descriptor);
        self.machine.memory.put_u64(at + 8, upper);
    }
}

const DONE: Result<Next, GuestFault> = Ok(Next::Resume);

fn refused(selector: u32) -> Result<Next, GuestFault> {
    Err(GuestFault::GeneralProtection(selector))
}

#[test]
fn sgdt_and_sidt_store_limit_and_base() {
    let mut bench = long_mode();
    bench.cpu.idtr = DescriptorTable {
        base: 0xffff_8000_1234_5678,
        limit: 0xfff,
    };
    assert_eq!(bench.run(I::Sidt, MEMORY), DONE);
    assert_eq!(bench.machine.memory.get_u16(OPERAND), 0xfff);
    let base = u64::from_le_bytes(bench.machine.memory.get(OPERAND + 2));
    assert_eq!(base, 0xffff_8000_1234_5678);
    assert_eq!(bench.run(I::Sgdt, MEMORY), DONE);
    assert_eq!(bench.machine.memory.get_u16(OPERAND), 0x3f);
    assert_eq!(bench.cpu.rip, CODE + 4, "both are behind it");
}

#[test]
fn lgdt_and_lidt_load_what_is_canonical() {
    let mut bench = long_mode();
    bench.machine.memory.put(OPERAND, &[0x7f, 0]);
    bench
        .machine
        .memory
        .put_u64(OPERAND + 2, 0xffff_8000_0000_1000);
    assert_eq!(bench.run(I::Lgdt, MEMORY), DONE);
    assert_eq!(bench.cpu.gdtr.base, 0xffff_8000_0000_1000);
    assert_eq!(bench.cpu.gdtr.limit, 0x7f);
    assert_eq!(bench.run(I::Lidt, MEMORY), DONE);
    assert_eq!(bench.cpu.idtr.base, 0xffff_8000_0000_1000);
    bench
        .machine
        .memory
        .put_u64(OPERAND + 2, 0x0000_8000_0000_0000);
    assert_eq!(bench.run(I::Lgdt, MEMORY), refused(0));
    assert_eq!(bench.cpu.gdtr.base, 0xffff_8000_0000_1000);
}

#[test]
fn a_32_bit_table_has_six_bytes_and_a_16_bit_one_a_base_of_three() {
    let machine = FakeMachine::new(0x40_0000);
    let cpu = FakeCpu::protected_mode();
    let mut bench = Bench { cpu, machine };
    bench.machine.memory.put_u64(OPERAND, 0xffff_1234_5678_003f);
    let access = |width| DescriptorTableAccess {
        instruction: I::Lgdt,
        operand: DescriptorOperand::Memory(MemoryOperand {
            segment: SegmentName::Ds,
            base: None,
            index: None,
            scale: 0,
            displacement: OPERAND,
            address_width: Width::Dword,
        }),
        operand_width: width,
    };
    for (width, base) in [(Width::Dword, 0x1234_5678), (Width::Word, 0x34_5678)] {
        let exit = VmExit::DescriptorTable(access(width));
        let ended = handle(&mut bench.cpu, &mut vcpu(), &mut bench.machine, exit);
        assert_eq!(ended, DONE);
        assert_eq!(bench.cpu.gdtr.base, base);
        assert_eq!(bench.cpu.gdtr.limit, 0x3f);
    }
}

#[test]
fn a_stored_selector_has_the_width_that_the_prefixes_say() {
    for (code, expected) in [
        (&[0x0f, 0x00, 0xca][..], 0x18),
        (&[0x66, 0x0f, 0x00, 0xca], 0xaaaa_aaaa_aaaa_0018),
        (&[0x48, 0x0f, 0x00, 0xca], 0x18),
    ] {
        let mut bench = long_mode();
        bench.machine.memory.put(CODE, code);
        bench.cpu.instruction_length = code.len() as u8;
        bench.cpu.gprs.set(Gpr::Rdx, 0xaaaa_aaaa_aaaa_aaaa);
        assert_eq!(bench.run(I::Str, REGISTER), DONE);
        assert_eq!(bench.cpu.gprs.get(Gpr::Rdx), expected, "{code:02x?}");
    }
    let mut bench = long_mode();
    bench.machine.memory.put_u64(OPERAND, u64::MAX);
    assert_eq!(bench.run(I::Sldt, MEMORY), DONE);
    let stored = bench.machine.memory.get_u32(OPERAND);
    assert_eq!(stored & 0xffff_0000, 0xffff_0000, "16 bits are written");
}

#[test]
fn ltr_takes_an_available_tss_and_marks_it_busy() {
    let mut bench = long_mode();
    bench.put_descriptor(0x20, 0x0000_8900_2000_0067, 0xffff_8000);
    assert_eq!(bench.load(I::Ltr, 0x20), DONE);
    let tr = bench.cpu.segment(SegmentName::Tr);
    assert_eq!((tr.selector, tr.base), (0x20, 0xffff_8000_0000_2000));
    assert_eq!((tr.limit, tr.access.kind()), (0x67, 11));
    assert_eq!(bench.machine.memory.get_u32(GDT + 0x24), 0x0000_8b00);
    assert_eq!(bench.load(I::Ltr, 0x20), refused(0x20), "it is busy");
}

#[test]
fn lldt_takes_an_ldt_or_null() {
    let mut bench = long_mode();
    bench.put_descriptor(0x20, 0x0000_8200_3000_000f, 0);
    assert_eq!(bench.load(I::Lldt, 0x20), DONE);
    let ldt = bench.cpu.segment(SegmentName::Ldtr);
    assert_eq!((ldt.selector, ldt.base, ldt.limit), (0x20, 0x3000, 0xf));
    assert_eq!(bench.load(I::Lldt, 0), DONE);
    assert!(!bench.cpu.segment(SegmentName::Ldtr).is_usable());
}

#[test]
fn selectors_that_do_not_fit_are_refused() {
    let mut bench = long_mode();
    bench.put_descriptor(0x20, 0x0000_8200_3000_000f, 0);
    assert_eq!(bench.load(I::Ltr, 0), refused(0));
    assert_eq!(bench.load(I::Ltr, 0x20), refused(0x20), "an LDT");
    assert_eq!(bench.load(I::Lldt, 0x24), refused(0x24), "in the LDT");
    assert_eq!(bench.load(I::Lldt, 0x38), refused(0x38), "half outside");
    bench.put_descriptor(0x20, 0x0000_0200_3000_000f, 0);
    let absent = Err(GuestFault::SegmentNotPresent(0x20));
    assert_eq!(bench.load(I::Lldt, 0x20), absent);
    bench.put_descriptor(0x20, 0x0000_8200_3000_000f, 0x8000);
    assert_eq!(bench.load(I::Lldt, 0x20), refused(0x20), "not canonical");
}

#[test]
fn user_mode_stores_unless_umip_prevents_it_and_never_loads() {
    let mut bench = long_mode();
    bench.cpu = bench.cpu.clone().in_ring_3();
    // The pages are a supervisor's: without UMIP it gets as far as that.
    assert!(matches!(
        bench.run(I::Sgdt, MEMORY),
        Err(GuestFault::PageFault { .. })
    ));
    bench.cpu.cr4 |= Cr4::UMIP;
    assert_eq!(bench.run(I::Sgdt, MEMORY), refused(0));
    assert_eq!(bench.run(I::Lidt, MEMORY), refused(0));
}
