//! Data breakpoints against the accesses of an emulated instruction, which the hardware does not see.

use super::space::Touch;
use crate::breakpoint::met_by_data;
use crate::cpu::Cpu;

/// The bits of DR6 for breakpoints on data that these accesses meet.
#[cold]
pub(super) fn met<C: Cpu>(cpu: &C, dr7: u64, touches: impl Iterator<Item = Touch>) -> u64 {
    touches.fold(0, |met, touch| {
        met | met_by_data(cpu, dr7, touch.kind, touch.gva.as_u64(), touch.bytes)
    })
}
