//! Data breakpoints: the debug registers against the accesses of an emulated instruction, which the hardware
//! does not see (SDM vol. 3, Debug Address Registers; Data-Breakpoint Exception Condition).

use arch::AccessKind::{Read, Write};

use super::space::Touch;
use crate::cpu::Cpu;

/// DR7: some breakpoint is enabled.
pub(super) const DR7_ANY_ENABLED: u64 = 0xff;

/// The bits of DR6 for breakpoints on data that these accesses meet.
#[cold]
pub(super) fn met<C: Cpu>(cpu: &C, dr7: u64, touches: impl Iterator<Item = Touch>) -> u64 {
    let mut met = 0;
    for touch in touches {
        for number in 0..4u8 {
            let enabled = dr7 >> (2 * number) & 3 != 0;
            let condition_met = match dr7 >> (16 + 4 * number) & 3 {
                0b01 => touch.kind == Write,
                0b11 => matches!(touch.kind, Read | Write),
                _ => false,
            };
            // 1, 2, 8 and 4 bytes are encoded as 0 to 3.
            let length = match dr7 >> (18 + 4 * number) & 3 {
                0 => 1,
                1 => 2,
                2 => 8,
                _ => 4,
            };
            let start = cpu.debug_register(number) & !(length - 1);
            let first = touch.gva.as_u64();
            let overlap =
                first.wrapping_sub(start) < length || start.wrapping_sub(first) < touch.bytes;
            if enabled && condition_met && overlap {
                met |= 1 << number;
            }
        }
    }
    met
}
