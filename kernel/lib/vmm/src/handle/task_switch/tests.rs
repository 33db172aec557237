//! Task switches of every kind, and the faults on their way.

use super::*;
use crate::exit::VmExit;
use crate::handle::handle;
use crate::testing::{FakeCpu, FakeMachine, vcpu};
use arch::Vector;

const GDT: u64 = 0x1000;
const OLD_TSS: u64 = 0x2000;
const NEW_TSS: u64 = 0x3000;
const LDT: u64 = 0x5000;

const CODE: u16 = 0x08;
const DATA: u16 = 0x10;
const OLD: u16 = 0x18;
const NEW: u16 = 0x20;
const LDT_SELECTOR: u16 = 0x28;
const USER_CODE: u16 = 0x33;
const USER_DATA: u16 = 0x3b;

struct Bench {
    cpu: FakeCpu,
    vcpu: VcpuState,
    machine: FakeMachine,
}

impl Bench {
    /// A 32-bit task in ring 0, and a new one that runs at 0x9000 with its stack at 0x8000.
    fn new() -> Self {
        let machine = FakeMachine::new(0x10_0000);
        let gdt = [
            0,
            0x00cf_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x0000_8b00_2000_0067,
            0x0000_8900_3000_0067,
            0x0000_8200_5000_000f,
            0x00cf_fb00_0000_ffff,
            0x00cf_f200_0000_ffff,
        ];
        for (i, entry) in gdt.into_iter().enumerate() {
            machine.memory.put_u64(GDT + 8 * i as u64, entry);
        }
        let mut cpu = FakeCpu::protected_mode();
        cpu.gdtr = arch::DescriptorTable {
            base: GDT,
            limit: 0x3f,
        };
        cpu.segments[SegmentName::Tr as usize] = Segment {
            selector: OLD,
            base: OLD_TSS,
            limit: 0x67,
            access: AccessRights::from_bits_retain(0x8b),
        };
        for (i, register) in Gpr::ALL.into_iter().take(8).enumerate() {
            cpu.gprs.set(register, 0x1000_0000 + i as u64);
        }
        cpu.instruction_length = 7;
        let mut bench = Self {
            cpu,
            vcpu: vcpu(),
            machine,
        };
        bench.new_tss(0x20, 0x9000);
        bench.new_tss(0x24, 0x202);
        for i in 0..8 {
            bench.new_tss(0x28 + 4 * i, 0x2000_0000 + i as u32);
        }
        bench.new_tss(0x38, 0x8000);
        for offset in [0x48, 0x50, 0x54, 0x58, 0x5c] {
            bench.new_tss(offset, DATA.into());
        }
        bench.new_tss(0x4c, CODE.into());
        bench
    }

    fn new_tss(&mut self, offset: u64, value: u32) {
        self.machine.memory.put_u32(NEW_TSS + offset, value);
    }

    fn switch(&mut self, cause: TaskSwitchCause) -> Result<Next, GuestFault> {
        let switch = TaskSwitch {
            selector: NEW,
            cause,
        };
        handle(
            &mut self.cpu,
            &mut self.vcpu,
            &mut self.machine,
            VmExit::TaskSwitch(switch),
        )
    }

    fn deliver(&mut self, event: Event) -> Result<Next, GuestFault> {
        self.vcpu.pending.interrupted(Some(event));
        self.switch(TaskSwitchCause::Gate)
    }

    fn descriptor(&self, selector: u16) -> u64 {
        u64::from_le_bytes(self.machine.memory.get(GDT + u64::from(selector)))
    }

    fn is_busy(&self, selector: u16) -> bool {
        self.descriptor(selector) >> 41 & 1 != 0
    }

    fn set_type(&mut self, selector: u16, kind: u64) {
        let at = GDT + u64::from(selector);
        let descriptor = self.descriptor(selector) & !(0xf << 40) | kind << 40;
        self.machine.memory.put_u64(at, descriptor);
    }

    fn segment(&self, name: SegmentName) -> Segment {
        self.cpu.segments[name as usize]
    }
}

fn page_fault(error_code: u32) -> Event {
    Event::Exception {
        exception: Exception::PageFault,
        error_code: Some(error_code),
    }
}

#[test]
fn a_jump_saves_the_old_task_and_loads_the_new_one() {
    let mut bench = Bench::new();
    bench.cpu.rflags = Rflags::ONE | Rflags::CF | Rflags::NT;
    assert_eq!(bench.switch(TaskSwitchCause::Jump), Ok(Next::Resume));
    let old = |offset| bench.machine.memory.get_u32(OLD_TSS + offset);
    // The instruction behind the jump, and NT as it was.
    assert_eq!((old(0x20), old(0x24)), (0x1007, 0x4003));
    for i in 0..8 {
        assert_eq!(old(0x28 + 4 * i), 0x1000_0000 + i as u32);
    }
    assert_eq!((old(0x4c), old(0x50), old(0x5c)), (8, 0x10, 0x10));
    assert_eq!((bench.cpu.rip, bench.cpu.rflags.bits()), (0x9000, 0x202));
    assert_eq!(bench.cpu.gprs.get(Gpr::Rdi), 0x2000_0007);
    assert_eq!(bench.cpu.gprs.get(Gpr::Rsp), 0x8000);
    assert!(bench.cpu.cr0.contains(Cr0::TS));
    let tr = bench.segment(SegmentName::Tr);
    assert_eq!(
        (tr.selector, tr.base, tr.limit, tr.access.kind()),
        (NEW, NEW_TSS, 0x67, 11)
    );
    assert!(!bench.is_busy(OLD) && bench.is_busy(NEW));
    // A jump leaves no link.
    assert_eq!(bench.machine.memory.get_u32(NEW_TSS), 0);
    let code = bench.segment(SegmentName::Cs);
    assert_eq!((code.selector, code.limit), (CODE, 0xffff_ffff));
}

#[test]
fn a_call_links_back_and_nests() {
    let mut bench = Bench::new();
    assert_eq!(bench.switch(TaskSwitchCause::Call), Ok(Next::Resume));
    assert_eq!(bench.machine.memory.get_u16(NEW_TSS), OLD);
    assert!(bench.is_busy(OLD) && bench.is_busy(NEW));
    assert!(bench.cpu.rflags.contains(Rflags::NT));
}

#[test]
fn an_iret_returns_and_clears_nt_in_what_it_saves() {
    let mut bench = Bench::new();
    bench.set_type(NEW, 11);
    bench.cpu.rflags |= Rflags::NT;
    bench.cpu.blocking = Blocking::NMI | Blocking::STI;
    assert_eq!(bench.switch(TaskSwitchCause::Iret), Ok(Next::Resume));
    assert_eq!(bench.machine.memory.get_u32(OLD_TSS + 0x24) & 0x4000, 0);
    assert!(!bench.is_busy(OLD) && bench.is_busy(NEW));
    assert!(!bench.cpu.rflags.contains(Rflags::NT));
    assert_eq!(bench.cpu.blocking, Blocking::empty());
}

#[test]
fn an_exception_through_a_gate_pushes_its_error_code() {
    let mut bench = Bench::new();
    assert_eq!(bench.deliver(page_fault(0x17)), Ok(Next::Resume));
    assert_eq!(bench.cpu.gprs.get(Gpr::Rsp), 0x7ffc);
    assert_eq!(bench.machine.memory.get_u32(0x7ffc), 0x17);
    // The faulting instruction itself is saved, to be executed again with RF.
    assert_eq!(bench.machine.memory.get_u32(OLD_TSS + 0x20), 0x1000);
    assert_eq!(bench.machine.memory.get_u32(OLD_TSS + 0x24), 0x1_0002);
    assert_eq!(bench.vcpu.pending.first(), None);
    assert!(bench.cpu.rflags.contains(Rflags::NT));
}

#[test]
fn a_software_interrupt_returns_behind_its_instruction() {
    let mut bench = Bench::new();
    let event = Event::SoftwareInterrupt {
        vector: Vector(0x80),
        length: 2,
    };
    assert_eq!(bench.deliver(event), Ok(Next::Resume));
    assert_eq!(bench.machine.memory.get_u32(OLD_TSS + 0x20), 0x1002);
    assert_eq!(bench.cpu.gprs.get(Gpr::Rsp), 0x8000);
}

#[test]
fn an_nmi_through_a_gate_blocks_nmis() {
    let mut bench = Bench::new();
    assert_eq!(bench.deliver(Event::Nmi), Ok(Next::Resume));
    assert_eq!(bench.cpu.blocking, Blocking::NMI);
    assert_eq!(bench.machine.memory.get_u32(OLD_TSS + 0x20), 0x1000);
}

#[test]
fn a_wrong_tss_faults_in_the_old_task() {
    let refused = |change: &dyn Fn(&mut Bench), cause| {
        let mut bench = Bench::new();
        change(&mut bench);
        let result = bench.switch(cause);
        assert_eq!(
            (bench.cpu.rip, bench.machine.memory.get_u32(OLD_TSS + 0x20)),
            (0x1000, 0)
        );
        result
    };
    let busy = |bench: &mut Bench| bench.set_type(NEW, 11);
    let general_protection = Err(GuestFault::GeneralProtection(0x20));
    let invalid_tss = Err(GuestFault::InvalidTss(0x20));
    assert_eq!(refused(&busy, TaskSwitchCause::Call), general_protection);
    assert_eq!(refused(&|_| {}, TaskSwitchCause::Iret), invalid_tss);
    let data = |bench: &mut Bench| bench.set_type(NEW, 2);
    assert_eq!(refused(&data, TaskSwitchCause::Jump), general_protection);
    let short_gdt = |bench: &mut Bench| bench.cpu.gdtr.limit = 0x26;
    assert_eq!(
        refused(&short_gdt, TaskSwitchCause::Jump),
        general_protection
    );
    let absent = |bench: &mut Bench| {
        let descriptor = bench.descriptor(NEW) & !(1 << 47);
        bench.machine.memory.put_u64(GDT + 0x20, descriptor);
    };
    assert_eq!(
        refused(&absent, TaskSwitchCause::Jump),
        Err(GuestFault::SegmentNotPresent(0x20))
    );
    let short = |bench: &mut Bench| {
        let descriptor = bench.descriptor(NEW) - 1;
        bench.machine.memory.put_u64(GDT + 0x20, descriptor);
    };
    assert_eq!(refused(&short, TaskSwitchCause::Jump), invalid_tss);
}

#[test]
fn a_fault_on_behalf_of_an_event_says_external() {
    let mut bench = Bench::new();
    bench.set_type(NEW, 11);
    let result = bench.deliver(Event::Interrupt(Vector(0x20)));
    assert_eq!(result, Err(GuestFault::GeneralProtection(0x21)));
    // The event is still there, for the double-fault rules.
    assert_eq!(
        bench.vcpu.pending.first(),
        Some(Event::Interrupt(Vector(0x20)))
    );
    let event = Event::SoftwareInterrupt {
        vector: Vector(0x80),
        length: 2,
    };
    assert_eq!(
        bench.deliver(event),
        Err(GuestFault::GeneralProtection(0x20))
    );
}

#[test]
fn a_wrong_segment_faults_in_the_new_task() {
    let attempt = |offset: u64, selector: u16| {
        let mut bench = Bench::new();
        bench.new_tss(offset, selector.into());
        let result = bench.switch(TaskSwitchCause::Jump);
        assert_eq!(
            (bench.cpu.rip, bench.segment(SegmentName::Tr).selector),
            (0x9000, NEW)
        );
        result.unwrap_err()
    };
    let invalid = GuestFault::InvalidTss;
    // CS: null, data, outside the table.
    assert_eq!(attempt(0x4c, 0), invalid(0));
    assert_eq!(attempt(0x4c, DATA), invalid(0x10));
    assert_eq!(attempt(0x4c, 0x40), invalid(0x40));
    // SS: null, code, another ring.
    assert_eq!(attempt(0x50, 0), invalid(0));
    assert_eq!(attempt(0x50, CODE), invalid(8));
    assert_eq!(attempt(0x50, USER_DATA), invalid(0x38));
    // DS: a system segment.
    assert_eq!(attempt(0x54, LDT_SELECTOR), invalid(0x28));
    // LDT: not an LDT, in the LDT itself.
    assert_eq!(attempt(0x60, DATA), invalid(0x10));
    assert_eq!(attempt(0x60, LDT_SELECTOR | 4), invalid(0x2c));
}

#[test]
fn a_wrong_code_segment_leaves_a_stack_to_deliver_the_fault_on() {
    let mut bench = Bench::new();
    bench.new_tss(0x4c, DATA.into());
    assert_eq!(
        bench.switch(TaskSwitchCause::Jump),
        Err(GuestFault::InvalidTss(0x10))
    );
    let stack = bench.segment(SegmentName::Ss);
    assert!(stack.is_usable());
    assert_eq!(
        (stack.selector, stack.limit, bench.cpu.cpl()),
        (DATA, 0xffff_ffff, 0)
    );
}

#[test]
fn a_code_segment_of_another_ring_than_its_selector_is_refused() {
    let mut bench = Bench::new();
    for offset in [0x48, 0x50, 0x54, 0x58, 0x5c] {
        bench.new_tss(offset, USER_DATA.into());
    }
    bench.new_tss(0x4c, u32::from(CODE) | 3);
    assert_eq!(
        bench.switch(TaskSwitchCause::Jump),
        Err(GuestFault::InvalidTss(8))
    );
}

#[test]
fn absent_segments_fault_by_their_kind() {
    let attempt = |offset: u64, selector: u16| {
        let mut bench = Bench::new();
        let at = u64::from(0x38u16);
        let absent = bench.descriptor(selector) & !(1 << 47);
        bench.machine.memory.put_u64(GDT + at, absent);
        bench.new_tss(offset, 0x38);
        bench.switch(TaskSwitchCause::Jump).unwrap_err()
    };
    assert_eq!(attempt(0x4c, CODE), GuestFault::SegmentNotPresent(0x38));
    assert_eq!(attempt(0x50, DATA), GuestFault::StackFault(0x38));
    assert_eq!(attempt(0x54, DATA), GuestFault::SegmentNotPresent(0x38));
    assert_eq!(attempt(0x60, LDT_SELECTOR), GuestFault::InvalidTss(0x38));
}

#[test]
fn segments_can_come_from_the_ldt_of_the_new_task() {
    let mut bench = Bench::new();
    bench.machine.memory.put_u64(LDT + 8, 0x00cf_9200_0000_ffff);
    bench.new_tss(0x60, LDT_SELECTOR.into());
    bench.new_tss(0x54, 0x0c);
    assert_eq!(bench.switch(TaskSwitchCause::Jump), Ok(Next::Resume));
    assert_eq!(bench.segment(SegmentName::Ds).selector, 0x0c);
    assert_eq!(bench.segment(SegmentName::Ldtr).base, LDT);
    // Loading has marked the descriptor accessed.
    assert_eq!(bench.machine.memory.get_u32(LDT + 12) >> 8 & 1, 1);
}

#[test]
fn a_user_task_runs_in_ring_3() {
    let mut bench = Bench::new();
    bench.new_tss(0x4c, USER_CODE.into());
    for offset in [0x48, 0x50, 0x54] {
        bench.new_tss(offset, USER_DATA.into());
    }
    bench.new_tss(0x58, 0);
    // A ring 0 segment is out of its reach.
    assert_eq!(
        bench.switch(TaskSwitchCause::Jump),
        Err(GuestFault::InvalidTss(0x10))
    );
    let mut bench = Bench {
        machine: bench.machine,
        ..Bench::new()
    };
    bench.set_type(OLD, 11);
    bench.set_type(NEW, 9);
    bench.new_tss(0x5c, 1);
    assert_eq!(bench.switch(TaskSwitchCause::Jump), Ok(Next::Resume));
    assert_eq!(bench.cpu.cpl(), 3);
    assert!(!bench.segment(SegmentName::Gs).is_usable());
}

#[test]
fn a_virtual_8086_task_gets_real_mode_segments() {
    let mut bench = Bench::new();
    bench.new_tss(0x24, 0x2_0202);
    bench.new_tss(0x20, 0x100);
    bench.new_tss(0x4c, 0x1234);
    bench.new_tss(0x54, 0x4321);
    assert_eq!(bench.switch(TaskSwitchCause::Jump), Ok(Next::Resume));
    let (code, data) = (
        bench.segment(SegmentName::Cs),
        bench.segment(SegmentName::Ds),
    );
    assert_eq!(
        (code.base, code.limit, code.access.bits()),
        (0x1_2340, 0xffff, 0xf3)
    );
    assert_eq!((data.base, bench.cpu.cpl()), (0x4_3210, 3));
}

#[test]
fn a_16_bit_task_is_switched_to_and_from() {
    let mut bench = Bench::new();
    bench.set_type(NEW, 1);
    let image: [(u64, u16); 12] = [
        (0x0e, 0x9000),
        (0x10, 0x0202),
        (0x12, 0xaaaa),
        (0x14, 0xcccc),
        (0x16, 0xdddd),
        (0x18, 0xbbbb),
        (0x1a, 0x7000),
        (0x22, DATA),
        (0x24, CODE),
        (0x26, DATA),
        (0x28, DATA),
        (0x2a, 0),
    ];
    for (offset, value) in image {
        bench
            .machine
            .memory
            .put(NEW_TSS + offset, &value.to_le_bytes());
    }
    assert_eq!(bench.deliver(page_fault(2)), Ok(Next::Resume));
    assert_eq!(bench.cpu.gprs.get(Gpr::Rax), 0xffff_aaaa);
    assert_eq!(bench.cpu.rip, 0x9000);
    assert_eq!(bench.segment(SegmentName::Tr).access.kind(), 3);
    assert!(!bench.segment(SegmentName::Fs).is_usable());
    // The error code is a word.
    assert_eq!(bench.cpu.gprs.get(Gpr::Rsp), 0xffff_6ffe);
    // Back again: the old task is 32-bit and busy.
    let back = TaskSwitch {
        selector: OLD,
        cause: TaskSwitchCause::Iret,
    };
    bench.cpu.gprs.set(Gpr::Rbx, 0x1234_5678);
    let exit = VmExit::TaskSwitch(back);
    let result = handle(&mut bench.cpu, &mut bench.vcpu, &mut bench.machine, exit);
    assert_eq!(result, Ok(Next::Resume));
    assert_eq!(bench.machine.memory.get_u16(NEW_TSS + 0x18), 0x5678);
    assert_eq!(
        (bench.cpu.rip, bench.cpu.gprs.get(Gpr::Rax)),
        (0x1000, 0x1000_0000)
    );
}

#[test]
fn the_debug_trap_flag_traps_in_the_new_task() {
    let mut bench = Bench::new();
    bench.new_tss(0x64, 1);
    bench.cpu.debug_registers[7] = 0x7ff;
    assert_eq!(
        bench.switch(TaskSwitchCause::Jump),
        Err(GuestFault::Debug { dr6: 0x8000 })
    );
    assert_eq!(bench.cpu.rip, 0x9000);
    // Local breakpoints are off.
    assert_eq!(bench.cpu.debug_registers[7], 0x6aa);
}

#[test]
fn paging_follows_the_new_task() {
    let mut bench = Bench::new();
    // Identity mapping by 4 MiB pages in two directories.
    for directory in [0x6_0000, 0x7_0000] {
        bench.machine.memory.put_u32(directory, 0x83);
    }
    bench.cpu.cr0 |= Cr0::PG;
    bench.cpu.cr4 |= arch::Cr4::PSE;
    bench.cpu.cr3 = 0x6_0000;
    bench.new_tss(0x1c, 0x7_0000);
    assert_eq!(bench.switch(TaskSwitchCause::Jump), Ok(Next::Resume));
    assert_eq!((bench.cpu.cr3, bench.cpu.full_flushes), (0x7_0000, 1));
}

#[test]
fn an_unmapped_new_tss_faults_before_anything_changes() {
    let mut bench = Bench::new();
    bench.machine.memory.put_u32(0x6_0000, 0x83);
    bench.cpu.cr0 |= Cr0::PG;
    bench.cpu.cr4 |= arch::Cr4::PSE;
    bench.cpu.cr3 = 0x6_0000;
    // The new TSS moves to 4 MiB, where nothing is mapped.
    bench
        .machine
        .memory
        .put_u64(GDT + u64::from(NEW), 0x0000_8940_0000_0067);
    let fault = GuestFault::PageFault {
        address: GuestVirt::new(0x40_0000),
        error_code: 0,
    };
    assert_eq!(bench.switch(TaskSwitchCause::Jump), Err(fault));
    assert_eq!(bench.machine.memory.get_u32(OLD_TSS + 0x20), 0);
    assert!(bench.is_busy(OLD) && !bench.is_busy(NEW));
}

#[test]
fn an_entry_point_past_the_code_segment_is_refused() {
    let mut bench = Bench::new();
    bench
        .machine
        .memory
        .put_u64(GDT + u64::from(CODE), 0x0040_9b00_0000_8fff);
    assert_eq!(bench.switch(TaskSwitchCause::Jump), Err(GuestFault::GP0));
    assert_eq!(bench.segment(SegmentName::Tr).selector, NEW);
}
