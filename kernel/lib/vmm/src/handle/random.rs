//! Random exits of a random CPU, one after another: whatever a guest does, the handlers come back with an answer.

use alloc::vec::Vec;

use arch::{
    AccessKind, AccessRights, Cr0, Cr4, DescriptorTable, Exception, Gpr, Rflags, SegmentName,
    Vector, Width,
};
use memory::{GuestPhys, GuestVirt};
use proptest::prelude::*;
use proptest::sample::select;

use super::{Next, handle};
use crate::VmError;
use crate::cpu::Blocking;
use crate::exit::{
    ControlRegister, ControlRegisterAccess, DebugRegisterAccess, Direction, ExceptionInfo,
    MemoryAccess, PortIo, Repeat, StringIo, TaskSwitch, TaskSwitchCause, VmExit,
};
use crate::testing::{FakeCpu, FakeMachine, vcpu};

const MEMORY_BYTES: usize = 0x4_0000;
/// Where the page tables of 64-bit mode begin.
const ROOT: u64 = 0x3_0000;

const EDGES: [u64; 8] = [
    0,
    u64::MAX,
    0x8000_0000,
    0xffff_ffff,
    0x8000_0000_0000,
    0x7fff_ffff_ffff,
    0xffff_8000_0000_0000,
    0xffff_ffff_ffff_fff8,
];

/// Numbers of the kinds that find mistakes: small ones, addresses of memory and devices, edges, anything.
fn values() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..0x100,
        0u64..MEMORY_BYTES as u64 + 0x20,
        select(&EDGES[..]),
        0xfee0_0000u64..0xfee0_1000,
        0xfec0_0000u64..0xfec0_0020,
        (0u32..64).prop_map(|bit| 1 << bit),
        any::<u64>(),
    ]
}

/// Numbers of MSRs: those that there are, and others.
fn msrs() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..0x400,
        0x480u64..0x4a0,
        0x6e0u64..0x6f0,
        0x800u64..0x840,
        0xda0u64..0xda1,
        0x4000_0000u64..0x4000_0100,
        0x4b56_4d00u64..0x4b56_4d08,
        0xc000_0080u64..0xc000_0104,
        0xc001_0000u64..0xc001_0020,
        any::<u64>(),
    ]
}

fn gprs() -> impl Strategy<Value = Gpr> {
    select(&Gpr::ALL[..])
}

fn widths() -> impl Strategy<Value = Width> {
    select(&[Width::Byte, Width::Word, Width::Dword][..])
}

fn directions() -> impl Strategy<Value = Direction> {
    select(&[Direction::In, Direction::Out][..])
}

fn kinds() -> impl Strategy<Value = AccessKind> {
    select(&[AccessKind::Read, AccessKind::Write, AccessKind::Execute][..])
}

fn plain_exits() -> impl Strategy<Value = VmExit> {
    select(
        &[
            VmExit::Cpuid,
            VmExit::Hlt,
            VmExit::Pause,
            VmExit::Invd,
            VmExit::Wbinvd,
            VmExit::Xsetbv,
            VmExit::Rdtsc,
            VmExit::Rdtscp,
            VmExit::Rdpmc,
            VmExit::Monitor,
            VmExit::Mwait,
            VmExit::Random,
            VmExit::Hypercall,
            VmExit::NoSuchInstruction,
            VmExit::TprBelowThreshold,
            VmExit::InterruptWindow,
            VmExit::NmiWindow,
        ][..],
    )
}

fn port_exits() -> impl Strategy<Value = VmExit> {
    let strings = (
        any::<bool>(),
        select(&[Width::Word, Width::Dword, Width::Qword][..]),
        select(&SegmentName::ALL[..6]),
    );
    (
        any::<u16>(),
        widths(),
        directions(),
        proptest::option::of(strings),
    )
        .prop_map(|(port, width, direction, string)| {
            VmExit::PortIo(PortIo {
                port,
                width,
                direction,
                string: string.map(|(is_repeated, address_width, segment)| StringIo {
                    repeat: if is_repeated {
                        Repeat::ByCount
                    } else {
                        Repeat::Once
                    },
                    address_width,
                    segment,
                }),
            })
        })
}

fn register_exits() -> impl Strategy<Value = VmExit> {
    let control = select(
        &[
            ControlRegister::Cr0,
            ControlRegister::Cr3,
            ControlRegister::Cr4,
            ControlRegister::Cr8,
        ][..],
    );
    prop_oneof![
        (control.clone(), gprs()).prop_map(|(register, source)| {
            VmExit::ControlRegister(ControlRegisterAccess::Write { register, source })
        }),
        (control, gprs()).prop_map(|(register, target)| {
            VmExit::ControlRegister(ControlRegisterAccess::Read { register, target })
        }),
        Just(VmExit::ControlRegister(ControlRegisterAccess::Clts)),
        any::<u16>().prop_map(|value| VmExit::ControlRegister(ControlRegisterAccess::Lmsw(value))),
        (0u8..8, directions(), gprs()).prop_map(|(register, direction, gpr)| {
            VmExit::DebugRegister(DebugRegisterAccess {
                register,
                direction,
                gpr,
            })
        }),
        values().prop_map(|gva| VmExit::Invlpg(GuestVirt::new(gva))),
        Just(VmExit::ReadMsr),
        Just(VmExit::WriteMsr),
    ]
}

fn memory_exits() -> impl Strategy<Value = VmExit> {
    (
        values(),
        proptest::option::of(values()),
        kinds(),
        any::<bool>(),
    )
        .prop_map(|(gpa, gva, kind, during_page_walk)| {
            VmExit::Memory(MemoryAccess {
                gpa: GuestPhys::new(gpa),
                gva: gva.map(GuestVirt::new),
                kind,
                during_page_walk,
            })
        })
}

fn other_exits() -> impl Strategy<Value = VmExit> {
    let exceptions = select(
        &[
            Exception::DivideError,
            Exception::Debug,
            Exception::Breakpoint,
            Exception::InvalidOpcode,
            Exception::GeneralProtection,
            Exception::PageFault,
            Exception::AlignmentCheck,
        ][..],
    );
    let causes = select(
        &[
            TaskSwitchCause::Call,
            TaskSwitchCause::Iret,
            TaskSwitchCause::Jump,
            TaskSwitchCause::Gate,
        ][..],
    );
    prop_oneof![
        (exceptions, any::<u32>(), values()).prop_map(|(exception, code, detail)| {
            VmExit::Exception(ExceptionInfo {
                exception,
                error_code: exception.has_error_code().then_some(code),
                detail,
            })
        }),
        (0u16..0x1000, kinds()).prop_map(|(offset, kind)| VmExit::ApicAccess { offset, kind }),
        (0u16..0x1000).prop_map(|offset| VmExit::ApicWrite {
            offset: offset & !0xf
        }),
        any::<u8>().prop_map(|vector| VmExit::ApicEoi(Vector(vector))),
        (any::<u16>(), causes)
            .prop_map(|(selector, cause)| VmExit::TaskSwitch(TaskSwitch { selector, cause })),
    ]
}

fn exits() -> impl Strategy<Value = VmExit> {
    prop_oneof![
        2 => plain_exits(),
        2 => port_exits(),
        4 => register_exits(),
        3 => memory_exits(),
        2 => other_exits(),
    ]
}

/// What a guest does before an exit: some registers, what is in its memory, where it executes.
#[derive(Clone, Debug)]
struct Before {
    registers: Vec<(Gpr, u64)>,
    msr: Option<u64>,
    memory: Vec<(u64, [u8; 16])>,
    rip: Option<u64>,
    length: u8,
    rflags: u64,
}

fn before() -> impl Strategy<Value = Before> {
    (
        proptest::collection::vec((gprs(), values()), 0..6),
        proptest::option::of(msrs()),
        proptest::collection::vec((0..MEMORY_BYTES as u64 - 16, any::<[u8; 16]>()), 0..3),
        proptest::option::weighted(0.1, values()),
        1u8..16,
        any::<u64>(),
    )
        .prop_map(|(registers, msr, memory, rip, length, rflags)| Before {
            registers,
            msr,
            memory,
            rip,
            length,
            rflags,
        })
}

/// A CPU in one of the modes, with all that a guest can set to anything set to something.
fn cpus() -> impl Strategy<Value = FakeCpu> {
    (
        0..4,
        any::<bool>(),
        any::<[u64; 3]>(),
        any::<[u16; 6]>(),
        any::<[u32; 6]>(),
        values(),
        (values(), any::<u16>()),
        0u8..8,
        any::<[u64; 8]>(),
    )
        .prop_map(
            |(mode, in_ring_3, bits, selectors, limits, base, (table, limit), blocking, debug)| {
                let mut cpu = match mode {
                    0 => FakeCpu::real_mode(),
                    1 => FakeCpu::protected_mode(),
                    _ => FakeCpu::long_mode(ROOT),
                };
                if in_ring_3 && mode != 0 {
                    cpu = cpu.in_ring_3();
                }
                let [cr0, cr4, access] = bits;
                let free = Cr0::MP | Cr0::EM | Cr0::TS | Cr0::WP | Cr0::AM;
                cpu.cr0 = (cpu.cr0 - free) | (Cr0::from_bits_truncate(cr0) & free);
                let free = Cr4::all() - Cr4::PAE - Cr4::VMXE;
                cpu.cr4 |= Cr4::from_bits_truncate(cr4) & free;
                for (index, name) in SegmentName::ALL.into_iter().take(6).enumerate() {
                    let segment = &mut cpu.segments[name as usize];
                    segment.selector = selectors[index];
                    if access >> index & 1 != 0 {
                        segment.limit = limits[index];
                        segment.base = base & 0xffff_ffff;
                        segment.access ^= AccessRights::WRITABLE;
                    }
                }
                let table = DescriptorTable { base: table, limit };
                (cpu.gdtr, cpu.idtr) = (table, table);
                cpu.blocking = Blocking::from_bits_truncate(blocking);
                cpu.debug_registers = debug;
                cpu
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Of what an instruction of a guest can ask for, nothing is beyond the handlers: it is done, or raises an
    /// exception. Only memory without RAM where an event is to be delivered, and a machine check, end the VM.
    #[test]
    fn no_exit_is_beyond_the_handlers(
        cpu in cpus(),
        steps in proptest::collection::vec((before(), exits()), 1..24),
    ) {
        let mut cpu = cpu;
        let mut vcpu = vcpu();
        let mut machine = FakeMachine::new(MEMORY_BYTES);
        machine.memory.identity_map_long_mode(ROOT);
        for (before, exit) in steps {
            for (register, value) in before.registers {
                cpu.gprs.set(register, value);
            }
            if let Some(msr) = before.msr {
                cpu.gprs.set(Gpr::Rcx, msr);
            }
            for (address, bytes) in before.memory {
                machine.memory.put(address, &bytes);
            }
            if let Some(rip) = before.rip {
                cpu.rip = rip;
            }
            cpu.instruction_length = before.length;
            cpu.rflags = (Rflags::from_bits_truncate(before.rflags) - Rflags::VM) | Rflags::ONE;
            machine.now_ns += before.rflags & 0xfff_ffff;
            machine.memory.put(cpu.rip & 0x1_ffff, &before.rflags.to_le_bytes());
            let answer = handle(&mut cpu, &mut vcpu, &mut machine, exit);
            let is_legal = !matches!(answer, Ok(Next::Stop(error)) if error != VmError::TripleFault);
            prop_assert!(is_legal, "{exit:?} ends with {answer:?}");
        }
    }
}
