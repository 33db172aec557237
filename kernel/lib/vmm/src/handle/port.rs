//! IN, OUT, INS and OUTS. The hardware has checked IOPL and the I/O permission bitmap before it exits.
//!
//! What a device does not take yet has not been done: RIP stays where it is, and the guest comes back.

use arch::walk::AccessKind;
use arch::{Dr7, Gpr, Rflags, SegmentName};
use memory::{GuestPhys, GuestVirt, PageSize};

use super::{Next, complete, finish};
use crate::breakpoint;
use crate::cpu::Cpu;
use crate::device;
use crate::exit::{Direction, PortIo, Repeat, StringIo};
use crate::fault::GuestFault;
use crate::linear::{AccessError, Linear, Pieces};
use crate::machine::{Machine, Taken};
use crate::state::VcpuState;

/// A repeated instruction does at most so many elements before the guest gets a chance to take an interrupt, and the
/// hypervisor to end its turn: exit and entry take about as long as two of them.
const ELEMENTS_PER_EXIT: u32 = 64;

/// Does one port instruction, or a bounded part of a repeated one.
#[inline(always)]
pub(super) fn access<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &mut VcpuState,
    machine: &mut M,
    access: PortIo,
) -> Result<Next, GuestFault> {
    if let Some(string) = access.string {
        return string_access(cpu, vcpu, machine, access, string);
    }
    match access.direction {
        Direction::Out => {
            let value = access.width.truncate(cpu.gpr(Gpr::Rax)) as u32;
            if machine.offer_port(access.port, access.width, value) == Taken::NotYet {
                return Ok(Next::Resume);
            }
        }
        Direction::In => {
            let value = machine.read_port(access.port, access.width);
            cpu.write_gpr(Gpr::Rax, access.width, u64::from(value));
        }
    }
    let dr7 = cpu.debug_register(7);
    if dr7 & Dr7::ANY_ENABLED.bits() != 0 {
        return complete_watched(cpu, access, dr7);
    }
    complete(cpu, Next::Resume)
}

/// Ends the instruction where breakpoints are set.
#[cold]
#[inline(never)]
fn complete_watched<C: Cpu>(cpu: &mut C, access: PortIo, dr7: u64) -> Result<Next, GuestFault> {
    let outcome = complete(cpu, Next::Resume);
    let met = breakpoint::met_by_port(cpu, dr7, access.port, access.width as u64);
    with_breakpoints(outcome, met)
}

/// Adds the breakpoints that an instruction has met to its outcome.
#[cold]
fn with_breakpoints(outcome: Result<Next, GuestFault>, met: u64) -> Result<Next, GuestFault> {
    match outcome {
        _ if met == 0 => outcome,
        Ok(_) => Err(GuestFault::Debug { dr6: met }),
        Err(GuestFault::Debug { dr6 }) => Err(GuestFault::Debug { dr6: dr6 | met }),
        Err(fault) => Err(fault),
    }
}

/// INS or OUTS.
#[inline(never)]
fn string_access<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &mut VcpuState,
    machine: &mut M,
    access: PortIo,
    string: StringIo,
) -> Result<Next, GuestFault> {
    let linear = Linear::new(cpu, &vcpu.cpuid);
    let rflags = cpu.rflags();
    let dr7 = cpu.debug_register(7);
    let watched = dr7 & Dr7::ANY_ENABLED.bits() != 0;
    let mut walker = Walker { linear, page: None };
    let mut met = 0;
    let stepping = rflags.contains(Rflags::TF) || watched;
    let limit = if stepping { 1 } else { ELEMENTS_PER_EXIT };
    let stride = match rflags.contains(Rflags::DF) {
        false => access.width.bytes() as u64,
        true => (access.width.bytes() as u64).wrapping_neg(),
    };
    let index = match access.direction {
        Direction::In => Gpr::Rdi,
        Direction::Out => Gpr::Rsi,
    };
    let address_width = string.address_width;
    let mut left = match string.repeat {
        Repeat::Once => 1,
        Repeat::ByCount => address_width.truncate(cpu.gpr(Gpr::Rcx)),
    };
    if left == 0 {
        return complete(cpu, Next::Resume);
    }
    for _ in 0..limit {
        match walker.element(cpu, vcpu, machine, access, string, index) {
            Ok((kind, gva)) => {
                if watched {
                    let bytes = access.width as u64;
                    met |= breakpoint::met_by_data(cpu, dr7, kind, gva.as_u64(), bytes)
                        | breakpoint::met_by_port(cpu, dr7, access.port, bytes);
                }
            }
            Err(AccessError::Fault(fault)) => return Err(fault),
            Err(AccessError::Retry) => return Ok(Next::Resume),
        }
        let next = cpu.gpr(index).wrapping_add(stride);
        cpu.write_gpr(index, address_width, next);
        left -= 1;
        if string.repeat == Repeat::ByCount {
            cpu.write_gpr(Gpr::Rcx, address_width, left);
        }
        if left == 0 {
            break;
        }
    }
    // Traps come between elements, with RIP still at the instruction while there are more.
    let outcome = if left == 0 {
        complete(cpu, Next::Resume)
    } else {
        finish(cpu, Next::Resume)
    };
    if met == 0 {
        outcome
    } else {
        with_breakpoints(outcome, met)
    }
}

/// Moves elements, and remembers where the last page was.
struct Walker {
    linear: Linear,
    page: Option<(GuestVirt, GuestPhys)>,
}

impl Walker {
    /// One element; returns what was done to memory, and where. For INS the memory is known to be writable before
    /// the port is read.
    fn element<C: Cpu, M: Machine>(
        &mut self,
        cpu: &mut C,
        vcpu: &mut VcpuState,
        machine: &mut M,
        access: PortIo,
        string: StringIo,
        index: Gpr,
    ) -> Result<(AccessKind, GuestVirt), AccessError> {
        let offset = string.address_width.truncate(cpu.gpr(index));
        let width = access.width;
        let (segment, kind) = match access.direction {
            Direction::In => (SegmentName::Es, AccessKind::Write),
            Direction::Out => (string.segment, AccessKind::Read),
        };
        let gva = self.linear.operand(cpu, segment, offset, width, kind)?;
        let at = self.locate(machine, gva, width.bytes(), kind)?;
        let mut value = match access.direction {
            Direction::Out => [0; 4],
            Direction::In => machine.read_port(access.port, width).to_le_bytes(),
        };
        let bytes = value.get_mut(..width.bytes()).unwrap_or(&mut []);
        let (first, second) = bytes.split_at_mut(at.first_bytes.min(width.bytes()));
        match access.direction {
            Direction::Out => {
                device::read_physical(cpu, vcpu, machine, at.first, first);
                device::read_physical(cpu, vcpu, machine, at.second, second);
                let value = u32::from_le_bytes(value);
                if machine.offer_port(access.port, width, value) == Taken::NotYet {
                    return Err(AccessError::Retry);
                }
            }
            Direction::In => {
                device::write_physical(cpu, vcpu, machine, at.first, first);
                device::write_physical(cpu, vcpu, machine, at.second, second);
            }
        }
        Ok((kind, gva))
    }

    /// Where an element lies; all elements of an instruction are accessed alike, so that a translation holds for its
    /// page.
    fn locate<M: Machine>(
        &mut self,
        machine: &M,
        gva: GuestVirt,
        bytes: usize,
        kind: AccessKind,
    ) -> Result<Pieces, AccessError> {
        let privilege = self.linear.privilege;
        let offset = gva.page_offset(PageSize::Size4K);
        let room = (PageSize::Size4K.bytes() - offset) as usize;
        if bytes > room {
            return self.linear.pieces(machine, gva, bytes, kind, privilege);
        }
        let page = gva.align_down(PageSize::Size4K);
        let frame = match self.page {
            Some((known, frame)) if known == page => frame,
            _ => {
                let gpa = self
                    .linear
                    .translate(machine.memory(), gva, kind, privilege)?;
                let frame = gpa.align_down(PageSize::Size4K);
                self.page = Some((page, frame));
                frame
            }
        };
        let first = frame.wrapping_add(offset);
        Ok(Pieces {
            first,
            first_bytes: room,
            second: first,
        })
    }
}

#[cfg(test)]
mod tests;
