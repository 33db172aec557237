//! MOV to and from the debug registers (SDM vol. 3, Debug Registers).

use arch::{Cr4, Dr6, Dr7, Width};

use super::{Next, complete, in_64_bit_mode};
use crate::cpu::Cpu;
use crate::exit::{DebugRegisterAccess, Direction};
use crate::fault::GuestFault;

/// Does one access.
pub(super) fn access<C: Cpu>(cpu: &mut C, access: DebugRegisterAccess) -> Result<Next, GuestFault> {
    let register = match access.register & 7 {
        4 | 5 if cpu.cr4().contains(Cr4::DE) => return Err(GuestFault::InvalidOpcode),
        4 => 6,
        5 => 7,
        register => register,
    };
    if cpu.cpl() != 0 {
        return Err(GuestFault::GP0);
    }
    if cpu.debug_register(7) & Dr7::GD.bits() != 0 {
        return Err(GuestFault::Debug {
            dr6: Dr6::BD.bits(),
        });
    }
    let width = if in_64_bit_mode(cpu) {
        Width::Qword
    } else {
        Width::Dword
    };
    match access.direction {
        Direction::In => {
            let value = cpu.debug_register(register);
            cpu.write_gpr(access.gpr, width, value);
        }
        Direction::Out => {
            let value = width.truncate(cpu.gpr(access.gpr));
            let kept = match register {
                6 | 7 if value >> 32 != 0 => return Err(GuestFault::GP0),
                6 => value & Dr6::all().bits() | Dr6::ONES,
                7 => value & Dr7::all().bits() | Dr7::ONES,
                _ => value,
            };
            cpu.set_debug_register(register, kept);
        }
    }
    complete(cpu, Next::Resume)
}

#[cfg(test)]
mod tests;
