//! Breakpoints that only software can see, since software does the access (SDM vol. 3, Debug Address Registers;
//! Data-Breakpoint Exception Condition; I/O-Breakpoint Exception Condition).

use arch::{AccessKind, Cr4};

use crate::cpu::Cpu;

/// The bits of DR6 for the breakpoints that an access to data at a linear address meets.
#[cold]
pub(crate) fn met_by_data<C: Cpu>(
    cpu: &C,
    dr7: u64,
    kind: AccessKind,
    first: u64,
    bytes: u64,
) -> u64 {
    met(cpu, dr7, first, bytes, |condition| match condition {
        0b01 => kind == AccessKind::Write,
        0b11 => matches!(kind, AccessKind::Read | AccessKind::Write),
        _ => false,
    })
}

/// The bits of DR6 for the breakpoints that an access to ports meets.
#[cold]
pub(crate) fn met_by_port<C: Cpu>(cpu: &C, dr7: u64, first: u16, bytes: u64) -> u64 {
    if !cpu.cr4().contains(Cr4::DE) {
        return 0;
    }
    met(cpu, dr7, first.into(), bytes, |condition| condition == 0b10)
}

fn met<C: Cpu>(cpu: &C, dr7: u64, first: u64, bytes: u64, wanted: impl Fn(u64) -> bool) -> u64 {
    let mut met = 0;
    for number in 0..4u8 {
        let enabled = dr7 >> (2 * number) & 3 != 0;
        let condition = dr7 >> (16 + 4 * number) & 3;
        // 1, 2, 8 and 4 bytes are encoded as 0 to 3.
        let length = match dr7 >> (18 + 4 * number) & 3 {
            0 => 1,
            1 => 2,
            2 => 8,
            _ => 4,
        };
        let start = cpu.debug_register(number) & !(length - 1);
        let overlap = first.wrapping_sub(start) < length || start.wrapping_sub(first) < bytes;
        if enabled && overlap && wanted(condition) {
            met |= 1 << number;
        }
    }
    met
}
