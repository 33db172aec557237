//! MOV to and from the debug registers (SDM vol. 3, Debug Registers).

use arch::{Cr4, Width};

use super::{Next, complete, in_64_bit_mode};
use crate::cpu::Cpu;
use crate::exit::{DebugRegisterAccess, Direction};
use crate::fault::GuestFault;

/// DR7: any access to a debug register is a #DB.
const DR7_GENERAL_DETECT: u64 = 1 << 13;
/// DR6: it was such an access.
const DR6_BD: u64 = 1 << 13;

const DR6_WRITABLE: u64 = 0xe00f;
const DR6_ONES: u64 = 0xffff_0ff0;
const DR7_WRITABLE: u64 = 0xffff_23ff;
const DR7_ONES: u64 = 0x400;

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
    if cpu.debug_register(7) & DR7_GENERAL_DETECT != 0 {
        return Err(GuestFault::Debug { dr6: DR6_BD });
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
                6 => value & DR6_WRITABLE | DR6_ONES,
                7 => value & DR7_WRITABLE | DR7_ONES,
                _ => value,
            };
            cpu.set_debug_register(register, kept);
        }
    }
    complete(cpu, Next::Resume)
}

#[cfg(test)]
mod tests;
