//! The common case in a straight line: an instruction that the cache knows moves a value between a register,
//! or a constant, and the one device register that the hardware has reported.
//!
//! What is done is what the other files do, without their generality: no operand in two pages, no walk for
//! the operand (the hardware has done it), no breakpoints. Where anything is not as simple as that, nothing
//! has been done yet, and [`super::emulate`] takes the long way.

use arch::decode::{Extension, Instruction, Operand, Operation, Register};
use arch::{AccessKind, Dr7, SegmentName, Width};
use memory::{GuestPhys, PageSize};

use crate::cpu::Cpu;
use crate::device;
use crate::exit::MemoryAccess;
use crate::fault::GuestFault;
use crate::handle::{Next, complete_with_length};
use crate::machine::Machine;
use crate::state::VcpuState;

/// A move that is as simple as that.
pub(super) struct Move {
    transfer: Transfer,
    /// Bytes of the instruction.
    length: u8,
}

enum Transfer {
    /// From the device: so many bytes, extended to a register's width.
    Load {
        from: Width,
        extension: Extension,
        to: Register,
        width: Width,
    },
    /// To the device.
    Store { width: Width, value: u64 },
}

impl Move {
    /// The move that has made this access, where it was one and is simple.
    #[inline]
    pub(super) fn of<C: Cpu>(
        cpu: &C,
        vcpu: &VcpuState,
        instruction: &Instruction,
        access: &MemoryAccess,
    ) -> Option<Self> {
        if access.during_page_walk || cpu.debug_register(7) & Dr7::ANY_ENABLED.bits() != 0 {
            return None;
        }
        let width = instruction.width;
        let (from, extension) = match instruction.operation {
            Operation::Move => (width, Extension::Zero),
            Operation::MoveExtended(from, extension) => (from, extension),
            _ => return None,
        };
        let memory = &instruction.memory;
        let base = memory.base.map_or(0, |base| cpu.gpr(base));
        let index = memory
            .index
            .map_or(0, |index| cpu.gpr(index) << (memory.scale & 3));
        let mut address = memory.displacement.wrapping_add(base).wrapping_add(index);
        if matches!(memory.segment, SegmentName::Fs | SegmentName::Gs) {
            address = address.wrapping_add(cpu.segment(memory.segment).base);
        }
        // An aligned operand lies in one page, and whole at the address that the hardware has translated.
        if !is_at(address, vcpu, access) || address & (from.bytes() as u64 - 1) != 0 {
            return None;
        }
        let transfer = match (instruction.destination, instruction.source, access.kind) {
            (Operand::Register(to), Operand::Memory, AccessKind::Read) => Transfer::Load {
                from,
                extension,
                to,
                width,
            },
            (Operand::Memory, source, AccessKind::Write) => {
                let value = match source {
                    Operand::Register(Register::Low(register)) => cpu.gpr(register),
                    Operand::Register(Register::High(register)) => cpu.gpr(register) >> 8,
                    Operand::Immediate(value) => value,
                    _ => return None,
                };
                Transfer::Store {
                    width,
                    value: width.truncate(value),
                }
            }
            _ => return None,
        };
        Some(Self {
            transfer,
            length: instruction.length,
        })
    }

    /// Does it, to or from the device at this address.
    #[inline]
    pub(super) fn carry_out<C: Cpu, M: Machine>(
        self,
        cpu: &mut C,
        vcpu: &mut VcpuState,
        machine: &mut M,
        gpa: GuestPhys,
    ) -> Result<Next, GuestFault> {
        match self.transfer {
            Transfer::Load {
                from,
                extension,
                to,
                width,
            } => {
                let value = device::read_device(cpu, vcpu, machine, gpa, from);
                let value = match extension {
                    Extension::Zero => value,
                    Extension::Sign => from.sign_extend(value),
                };
                match to {
                    Register::Low(register) => cpu.write_gpr(register, width, value),
                    Register::High(register) => {
                        let old = cpu.gpr(register);
                        cpu.set_gpr(register, old & !0xff00 | (value & 0xff) << 8);
                    }
                }
            }
            Transfer::Store { width, value } => {
                device::write_device(cpu, vcpu, machine, gpa, width, value);
            }
        }
        complete_with_length(cpu, self.length, Next::Resume)
    }
}

/// Whether the access that was stopped went to this linear address. Of one to the local APIC that the hardware
/// virtualises only in part it tells the offset alone, which is enough: a move has one operand in memory.
#[inline]
fn is_at(address: u64, vcpu: &VcpuState, access: &MemoryAccess) -> bool {
    match access.gva {
        Some(gva) => gva.as_u64() == address,
        None => {
            (address ^ access.gpa.as_u64()) & (PageSize::Size4K.bytes() - 1) == 0
                && device::apic_page_offset(vcpu, access.gpa).is_some()
        }
    }
}
