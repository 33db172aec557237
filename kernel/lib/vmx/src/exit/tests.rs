//! The exit table, row by row.

use super::*;
use core::cell::Cell;
use std::vec::Vec;

/// The fields of one exit; `reads` counts what the decoder asked for.
#[derive(Default)]
struct Fields {
    qualification: u64,
    guest_linear: u64,
    guest_physical: u64,
    interruption_info: u32,
    interruption_error_code: u32,
    idt_vectoring_info: u32,
    idt_vectoring_error_code: u32,
    instruction_length: u32,
    instruction_info: u32,
    reads: Cell<u32>,
}

macro_rules! getters {
    ($($name:ident: $type:ty),*) => {
        $(fn $name(&self) -> $type {
            self.reads.set(self.reads.get() + 1);
            self.$name
        })*
    };
}

impl ExitFields for Fields {
    getters! {
        qualification: u64, guest_linear: u64, guest_physical: u64, interruption_info: u32,
        interruption_error_code: u32, idt_vectoring_info: u32, idt_vectoring_error_code: u32,
        instruction_length: u32, instruction_info: u32
    }
}

fn qualified(qualification: u64) -> Fields {
    Fields {
        qualification,
        ..Fields::default()
    }
}

fn decode_qualified(reason: u32, qualification: u64) -> VmExit {
    decode(reason, &qualified(qualification))
}

#[test]
fn reasons_that_say_it_all_need_no_other_field() {
    for (reason, exit) in [
        (2, VmExit::TripleFault),
        (3, VmExit::HostInit),
        (5, VmExit::HostSmi),
        (6, VmExit::HostSmi),
        (7, VmExit::InterruptWindow),
        (8, VmExit::NmiWindow),
        (10, VmExit::Cpuid),
        (12, VmExit::Hlt),
        (13, VmExit::Invd),
        (15, VmExit::Rdpmc),
        (16, VmExit::Rdtsc),
        (18, VmExit::Hypercall),
        (31, VmExit::ReadMsr),
        (32, VmExit::WriteMsr),
        (36, VmExit::Mwait),
        (37, VmExit::SingleStep),
        (39, VmExit::Monitor),
        (40, VmExit::Pause),
        (43, VmExit::TprBelowThreshold),
        (51, VmExit::Rdtscp),
        (52, VmExit::HostTimer),
        (54, VmExit::Wbinvd),
        (55, VmExit::Xsetbv),
        (57, VmExit::Random),
        (61, VmExit::Random),
        (62, VmExit::DirtyLogFull),
        (74, VmExit::HostTimer),
    ] {
        let fields = Fields::default();
        assert_eq!(decode(reason, &fields), exit, "reason {reason}");
        assert_eq!(fields.reads.get(), 0, "reason {reason}");
    }
}

#[test]
fn instructions_that_guests_do_not_have_are_named_as_such() {
    let vmx = [11, 19, 20, 21, 22, 23, 24, 25, 26, 27, 50, 53, 59];
    let others = [60, 65, 67, 68, 69, 70, 76, 77, 78, 79, 80, 81, 84, 85];
    for reason in vmx.into_iter().chain(others) {
        assert_eq!(
            decode_qualified(reason, 0),
            VmExit::NoSuchInstruction,
            "reason {reason}"
        );
    }
}

#[test]
fn what_was_never_asked_for_is_unexpected_and_keeps_its_code() {
    for reason in [
        4,
        17,
        35,
        38,
        42,
        58,
        63,
        64,
        66,
        71,
        72,
        73,
        82,
        83,
        86,
        0xffff,
        0x0800_0004,
    ] {
        assert_eq!(
            decode_qualified(reason, 0),
            VmExit::Unexpected { code: reason }
        );
    }
}

#[test]
fn every_reason_of_the_manual_is_decided() {
    let decided: Vec<u16> = ExitReason::ALL
        .iter()
        .map(|&reason| reason as u16)
        .filter(|&number| {
            !matches!(
                decode_qualified(number.into(), 0),
                VmExit::Unexpected { .. }
            )
        })
        .collect();
    assert_eq!(decided.len(), ExitReason::ALL.len() - 8);
}

#[test]
fn flags_beside_the_basic_reason_do_not_hide_it() {
    assert_eq!(decode_qualified(0x0400_000a, 0), VmExit::Cpuid);
    assert_eq!(decode_qualified(0x0800_000c, 0), VmExit::Hlt);
}

#[test]
fn a_failed_entry_says_which_group_of_rules_was_broken() {
    assert_eq!(
        decode_qualified(0x8000_0021, 0),
        VmExit::EntryRefused { code: 33 }
    );
    assert_eq!(
        decode_qualified(0x8000_0022, 3),
        VmExit::EntryRefused { code: 34 }
    );
    assert_eq!(decode_qualified(0x8000_0029, 0), VmExit::EntryMachineCheck);
}

#[test]
fn control_register_accesses_are_told_apart() {
    use ControlRegisterAccess::{Clts, Lmsw, Read, Write};
    for (qualification, access) in [
        (
            0x0000,
            Write {
                register: ControlRegister::Cr0,
                source: Gpr::Rax,
            },
        ),
        (
            0x0203,
            Write {
                register: ControlRegister::Cr3,
                source: Gpr::Rdx,
            },
        ),
        (
            0x0f04,
            Write {
                register: ControlRegister::Cr4,
                source: Gpr::R15,
            },
        ),
        (
            0x0408,
            Write {
                register: ControlRegister::Cr8,
                source: Gpr::Rsp,
            },
        ),
        (
            0x0713,
            Read {
                register: ControlRegister::Cr3,
                target: Gpr::Rdi,
            },
        ),
        (
            0x0918,
            Read {
                register: ControlRegister::Cr8,
                target: Gpr::R9,
            },
        ),
        (0x0020, Clts),
        (0xfff1_0030, Lmsw(0xfff1)),
        (0x000d_0070, Lmsw(0x000d)),
    ] {
        assert_eq!(
            decode_qualified(28, qualification),
            VmExit::ControlRegister(access),
            "{qualification:#x}"
        );
    }
    assert_eq!(
        decode_qualified(28, 0x0002),
        VmExit::Unexpected { code: 28 }
    );
}

#[test]
fn debug_register_moves_have_register_direction_and_operand() {
    let access = |register, direction, gpr| {
        VmExit::DebugRegister(DebugRegisterAccess {
            register,
            direction,
            gpr,
        })
    };
    assert_eq!(
        decode_qualified(29, 0x0007),
        access(7, Direction::Out, Gpr::Rax)
    );
    assert_eq!(
        decode_qualified(29, 0x0b16),
        access(6, Direction::In, Gpr::R11)
    );
}

#[test]
fn port_accesses_have_port_width_and_direction() {
    for (qualification, port, width, direction) in [
        (0x03f8_0000, 0x3f8, Width::Byte, Direction::Out),
        (0x03fd_0048, 0x3fd, Width::Byte, Direction::In),
        (0xffff_0001, 0xffff, Width::Word, Direction::Out),
        (0x0cf8_000b, 0xcf8, Width::Dword, Direction::In),
    ] {
        let fields = qualified(qualification);
        assert_eq!(
            decode(30, &fields),
            VmExit::PortIo(PortIo {
                port,
                width,
                direction,
                string: None
            })
        );
        assert_eq!(fields.reads.get(), 1, "a plain port access costs one read");
    }
    assert_eq!(decode_qualified(30, 2), VmExit::Unexpected { code: 30 });
}

#[test]
fn string_port_accesses_have_repeat_address_width_and_segment() {
    for (qualification, info, direction, repeat, address_width, segment) in [
        (
            0x0060_0010,
            0,
            Direction::Out,
            Repeat::Once,
            Width::Word,
            SegmentName::Es,
        ),
        (
            0x0060_0030,
            3 << 15 | 1 << 7,
            Direction::Out,
            Repeat::ByCount,
            Width::Dword,
            SegmentName::Ds,
        ),
        (
            0x0060_0030,
            5 << 15 | 2 << 7,
            Direction::Out,
            Repeat::ByCount,
            Width::Qword,
            SegmentName::Gs,
        ),
        (
            0x0060_0010,
            4 << 15 | 2 << 7,
            Direction::Out,
            Repeat::Once,
            Width::Qword,
            SegmentName::Fs,
        ),
        (
            0x0060_0010,
            1 << 15,
            Direction::Out,
            Repeat::Once,
            Width::Word,
            SegmentName::Cs,
        ),
        (
            0x0060_0010,
            2 << 15,
            Direction::Out,
            Repeat::Once,
            Width::Word,
            SegmentName::Ss,
        ),
        // The segment field of INS is undefined.
        (
            0x0060_0018,
            5 << 15 | 1 << 7,
            Direction::In,
            Repeat::Once,
            Width::Dword,
            SegmentName::Es,
        ),
    ] {
        let fields = Fields {
            qualification,
            instruction_info: info,
            ..Fields::default()
        };
        let string = Some(StringIo {
            repeat,
            address_width,
            segment,
        });
        assert_eq!(
            decode(30, &fields),
            VmExit::PortIo(PortIo {
                port: 0x60,
                width: Width::Byte,
                direction,
                string
            }),
            "{qualification:#x} {info:#x}"
        );
    }
}

#[test]
fn an_ept_violation_has_addresses_and_what_was_tried() {
    for (qualification, kind, gva, during_page_walk) in [
        (0x181, AccessKind::Read, Some(0x7000), false),
        (0x182, AccessKind::Write, Some(0x7000), false),
        (0x183, AccessKind::Write, Some(0x7000), false),
        (0x184, AccessKind::Execute, Some(0x7000), false),
        (0x081, AccessKind::Read, Some(0x7000), true),
        (0x083, AccessKind::Write, Some(0x7000), true),
        // A load of the PDPTEs has no linear address.
        (0x001, AccessKind::Read, None, false),
    ] {
        let fields = Fields {
            qualification,
            guest_linear: 0x7000,
            guest_physical: 0xfee0_0020,
            ..Fields::default()
        };
        assert_eq!(
            decode(48, &fields),
            VmExit::Memory(MemoryAccess {
                gpa: GuestPhys::new(0xfee0_0020),
                gva: gva.map(GuestVirt::new),
                kind,
                during_page_walk,
            }),
            "{qualification:#x}"
        );
    }
}

#[test]
fn a_misconfigured_entry_has_its_address() {
    let fields = Fields {
        guest_physical: 0x1234_5000,
        ..Fields::default()
    };
    assert_eq!(
        decode(49, &fields),
        VmExit::MemoryMisconfigured(GuestPhys::new(0x1234_5000))
    );
}

#[test]
fn invlpg_has_its_linear_address() {
    assert_eq!(
        decode_qualified(14, 0xffff_8000_0000_1234),
        VmExit::Invlpg(GuestVirt::new(0xffff_8000_0000_1234))
    );
}

#[test]
fn task_switches_have_selector_and_cause() {
    for (qualification, cause) in [
        (0x0000_0028, TaskSwitchCause::Call),
        (0x4000_0028, TaskSwitchCause::Iret),
        (0x8000_0028, TaskSwitchCause::Jump),
        (0xc000_0028, TaskSwitchCause::Gate),
    ] {
        assert_eq!(
            decode_qualified(9, qualification),
            VmExit::TaskSwitch(TaskSwitch {
                selector: 0x28,
                cause
            })
        );
    }
}

#[test]
fn descriptor_table_instructions_have_their_operand() {
    let decoded = |reason, instruction_info, qualification| {
        let fields = Fields {
            qualification,
            instruction_info,
            ..Fields::default()
        };
        match decode(reason, &fields) {
            VmExit::DescriptorTable(access) => access,
            exit => panic!("{exit:?}"),
        }
    };
    // LIDT GS:[RBX + R9*4 - 8]
    let access = decoded(46, 0x31a6_8902, (-8i64).cast_unsigned());
    assert_eq!(access.instruction, DescriptorTableInstruction::Lidt);
    assert_eq!(access.operand_width, Width::Dword);
    let DescriptorOperand::Memory(memory) = access.operand else {
        panic!("{access:?}")
    };
    assert_eq!(memory.segment, SegmentName::Gs);
    assert_eq!(memory.base, Some(Gpr::Rbx));
    assert_eq!((memory.index, memory.scale), (Some(Gpr::R9), 2));
    assert_eq!(memory.displacement, 0xffff_ffff_ffff_fff8);
    assert_eq!(memory.address_width, Width::Qword);
    // 16-bit SGDT ES:[0x1234]
    let access = decoded(46, 0x0840_0000, 0x1234);
    assert_eq!(access.instruction, DescriptorTableInstruction::Sgdt);
    assert_eq!(access.operand_width, Width::Word);
    let DescriptorOperand::Memory(memory) = access.operand else {
        panic!("{access:?}")
    };
    assert_eq!((memory.base, memory.index), (None, None));
    assert_eq!(memory.segment, SegmentName::Es);
    assert_eq!(memory.address_width, Width::Word);
    // STR EDX
    let access = decoded(47, 0x1000_0410, 0);
    assert_eq!(access.instruction, DescriptorTableInstruction::Str);
    assert_eq!(access.operand, DescriptorOperand::Register(Gpr::Rdx));
}

#[test]
fn apic_accesses_have_offset_and_kind() {
    for (qualification, offset, kind) in [
        (0x0_0020, 0x20, AccessKind::Read),
        (0x0_1300, 0x300, AccessKind::Write),
        (0x0_2000, 0, AccessKind::Execute),
        (0x0_3ff0, 0xff0, AccessKind::Write),
        (0x0_a080, 0x80, AccessKind::Write),
        (0x1_f080, 0x80, AccessKind::Read),
    ] {
        assert_eq!(
            decode_qualified(44, qualification),
            VmExit::ApicAccess { offset, kind }
        );
    }
    assert_eq!(
        decode_qualified(56, 0x3_0300),
        VmExit::ApicWrite { offset: 0x300 }
    );
    assert_eq!(decode_qualified(45, 0xf1), VmExit::ApicEoi(Vector(0xf1)));
}

#[test]
fn a_host_interrupt_has_its_vector_where_the_exit_acknowledged_it() {
    let fields = Fields {
        interruption_info: 0x8000_00ec,
        ..Fields::default()
    };
    assert_eq!(
        decode(1, &fields),
        VmExit::HostInterrupt(Some(Vector(0xec)))
    );
    assert_eq!(decode(1, &Fields::default()), VmExit::HostInterrupt(None));
}

#[test]
fn nmis_and_machine_checks_belong_to_the_host() {
    let fields = Fields {
        interruption_info: 0x8000_0202,
        ..Fields::default()
    };
    assert_eq!(decode(0, &fields), VmExit::HostNmi);
    let fields = Fields {
        interruption_info: 0x8000_0312,
        ..Fields::default()
    };
    assert_eq!(decode(0, &fields), VmExit::HostMachineCheck);
}

#[test]
fn guest_exceptions_have_error_code_and_detail() {
    for (info, exception, error_code, detail) in [
        (0x8000_0b0e, Exception::PageFault, Some(7), 0xdead_b000),
        (0x8000_0301, Exception::Debug, None, 0xdead_b000),
        (0x8000_0501, Exception::Debug, None, 0xdead_b000),
        (0x8000_0603, Exception::Breakpoint, None, 0),
        (0x8000_0b0d, Exception::GeneralProtection, Some(7), 0),
        (0x8000_0306, Exception::InvalidOpcode, None, 0),
    ] {
        let fields = Fields {
            qualification: 0xdead_b000,
            interruption_info: info,
            interruption_error_code: 7,
            ..Fields::default()
        };
        assert_eq!(
            decode(0, &fields),
            VmExit::Exception(ExceptionInfo {
                exception,
                error_code,
                detail
            }),
            "{info:#x}"
        );
    }
    let reserved = Fields {
        interruption_info: 0x8000_030f,
        ..Fields::default()
    };
    assert_eq!(decode(0, &reserved), VmExit::Unexpected { code: 0 });
}

#[test]
fn an_event_that_was_kept_from_the_guest_can_be_passed_on() {
    let fields = Fields {
        interruption_info: 0x8000_0501,
        instruction_length: 1,
        ..Fields::default()
    };
    assert_eq!(
        exiting_event(&fields),
        Some(Event::PrivilegedSoftwareException { length: 1 })
    );
}

#[test]
fn a_delivery_cut_short_is_found_again() {
    let fields = Fields {
        idt_vectoring_info: 0x8000_0b0e,
        idt_vectoring_error_code: 2,
        interruption_info: 0x8000_0202,
        ..Fields::default()
    };
    assert_eq!(
        interrupted_event(&fields),
        Some(Event::Exception {
            exception: Exception::PageFault,
            error_code: Some(2)
        })
    );
    let int80 = Fields {
        idt_vectoring_info: 0x8000_0480,
        instruction_length: 2,
        ..Fields::default()
    };
    assert_eq!(
        interrupted_event(&int80),
        Some(Event::SoftwareInterrupt {
            vector: Vector(0x80),
            length: 2
        })
    );
    let fields = Fields::default();
    assert_eq!(interrupted_event(&fields), None);
    assert_eq!(fields.reads.get(), 1, "without an event, one read");
}

#[test]
fn an_iret_that_faults_after_unblocking_nmis_is_noticed() {
    assert!(iret_unblocked_nmis(48, &qualified(1 << 12)));
    assert!(iret_unblocked_nmis(62, &qualified(1 << 12)));
    assert!(!iret_unblocked_nmis(48, &qualified(0)));
    assert!(!iret_unblocked_nmis(30, &qualified(1 << 12)));
    let exception = |interruption_info, idt_vectoring_info| {
        let fields = Fields {
            interruption_info,
            idt_vectoring_info,
            ..Fields::default()
        };
        iret_unblocked_nmis(0, &fields)
    };
    assert!(exception(0x8000_1b0e, 0));
    assert!(!exception(0x8000_1b08, 0), "undefined for #DF");
    assert!(
        !exception(0x8000_1b0e, 0x8000_0020),
        "undefined during event delivery"
    );
    assert!(!exception(0x8000_0b0e, 0));
}

#[test]
fn a_guest_that_opens_no_window_is_interrupted_or_lost() {
    assert_eq!(decode_qualified(75, 0), VmExit::HostTimer);
    assert_eq!(decode_qualified(75, 1), VmExit::Unexpected { code: 75 });
}
