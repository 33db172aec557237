//! IN, OUT, INS and OUTS. The hardware has checked IOPL and the I/O permission bitmap before it exits.

use arch::Gpr;

use super::{Next, complete};
use crate::cpu::Cpu;
use crate::exit::{Direction, PortIo};
use crate::fault::{GuestFault, VmError};
use crate::machine::Machine;
use crate::state::VcpuState;

/// Does one port instruction, or a bounded part of a repeated one.
#[inline]
pub(super) fn access<C: Cpu, M: Machine>(
    cpu: &mut C,
    _vcpu: &mut VcpuState,
    machine: &mut M,
    access: PortIo,
) -> Result<Next, GuestFault> {
    if access.string.is_some() {
        return Ok(Next::Stop(VmError::Unsupported("string port I/O")));
    }
    match access.direction {
        Direction::Out => {
            let value = access.width.truncate(cpu.gpr(Gpr::Rax)) as u32;
            machine.write_port(access.port, access.width, value);
        }
        Direction::In => {
            let value = machine.read_port(access.port, access.width);
            cpu.write_gpr(Gpr::Rax, access.width, u64::from(value));
        }
    }
    complete(cpu, Next::Resume)
}
