//! Fetching and decoding the instruction at RIP.

use arch::decode::{self, DecodeError, Instruction, InstructionBytes, MAX_LENGTH};
use arch::{AccessKind, CpuMode, SegmentName, Width};
use memory::{GuestMemory, GuestPhys, GuestVirt, PageSize};

use super::space::Space;
use crate::cpu::Cpu;
use crate::device::read_physical;
use crate::fault::GuestFault;
use crate::linear::AccessError;
use crate::machine::Machine;
use crate::state::VcpuState;

/// The instruction and its bytes.
pub(super) struct Fetched {
    pub(super) instruction: Instruction,
    pub(super) bytes: InstructionBytes,
}

/// The bytes of an instruction that the emulator does not know, and how many of them were fetched.
pub(super) struct Unknown {
    pub(super) bytes: InstructionBytes,
    pub(super) fetched: usize,
}

/// Why there is no instruction to emulate.
pub(super) enum FetchError {
    Access(AccessError),
    /// The guest's CPU knows it, the emulator does not.
    Unknown(Unknown),
}

impl From<AccessError> for FetchError {
    fn from(error: AccessError) -> Self {
        Self::Access(error)
    }
}

/// The instruction at RIP. The second page of one that crosses a page is fetched only if it gets there.
#[inline]
pub(super) fn fetch<C: Cpu, M: Machine>(
    cpu: &C,
    vcpu: &mut VcpuState,
    machine: &mut M,
    space: &Space,
) -> Result<Fetched, FetchError> {
    let linear = space.linear();
    let rip = cpu.rip();
    let code_width = match linear.mode() {
        CpuMode::Long => Width::Qword,
        mode => mode.code_width(cpu.segment(SegmentName::Cs).access),
    };
    let gva = linear
        .operand(cpu, SegmentName::Cs, rip, Width::Byte, AccessKind::Execute)
        .map_err(AccessError::Fault)?;
    let gpa = linear.translate(machine.memory(), gva, AccessKind::Execute, linear.privilege)?;
    let room = (PageSize::Size4K.bytes() - gva.page_offset(PageSize::Size4K)) as usize;
    let mut bytes: InstructionBytes = [0; MAX_LENGTH + 1];
    let fetched = room.min(MAX_LENGTH);
    if room > MAX_LENGTH
        && let Some(all) = sixteen_bytes(machine.memory(), gpa)
    {
        bytes = all;
    } else {
        let buffer = bytes.get_mut(..fetched).unwrap_or_default();
        read_physical(cpu, vcpu, machine, gpa, buffer);
    }
    match decode::decode(&bytes, fetched, rip, code_width) {
        Ok(instruction) => Ok(Fetched { instruction, bytes }),
        Err(DecodeError::Invalid) => Err(invalid()),
        Err(DecodeError::Unsupported) => Err(FetchError::Unknown(Unknown { bytes, fetched })),
        Err(DecodeError::Incomplete) => {
            let at = Start {
                gva,
                rip,
                code_width,
            };
            fetch_rest(cpu, vcpu, machine, space, bytes, fetched, at)
        }
    }
}

/// The bytes at `gpa`, where they are RAM, by aligned reads, which are the cheap ones. All of them have to
/// lie in one page.
#[inline]
fn sixteen_bytes<G: GuestMemory>(memory: &G, gpa: GuestPhys) -> Option<InstructionBytes> {
    let skipped = (gpa.as_u64() & 7) as u32;
    let aligned = GuestPhys::new(gpa.as_u64() & !7);
    let low = memory.read_u64(aligned).ok()?;
    let middle = memory.read_u64(aligned.wrapping_add(8)).ok()?;
    let mut word = (u128::from(middle) << 64 | u128::from(low)) >> (8 * skipped);
    if skipped != 0 {
        let high = memory.read_u64(aligned.wrapping_add(16)).ok()?;
        word |= u128::from(high) << (128 - 8 * skipped);
    }
    Some(word.to_le_bytes())
}

/// Where an instruction starts.
struct Start {
    gva: GuestVirt,
    rip: u64,
    code_width: Width,
}

#[cold]
fn fetch_rest<C: Cpu, M: Machine>(
    cpu: &C,
    vcpu: &mut VcpuState,
    machine: &mut M,
    space: &Space,
    mut bytes: InstructionBytes,
    fetched: usize,
    start: Start,
) -> Result<Fetched, FetchError> {
    let linear = space.linear();
    // The code segment may end with the page.
    let second = start.rip.wrapping_add(fetched as u64);
    linear
        .operand(
            cpu,
            SegmentName::Cs,
            second,
            Width::Byte,
            AccessKind::Execute,
        )
        .map_err(AccessError::Fault)?;
    let gva = linear.next_page(start.gva);
    let gpa = linear.translate(machine.memory(), gva, AccessKind::Execute, linear.privilege)?;
    let buffer = bytes.get_mut(fetched..MAX_LENGTH).unwrap_or_default();
    read_physical(cpu, vcpu, machine, gpa, buffer);
    match decode::decode(&bytes, MAX_LENGTH, start.rip, start.code_width) {
        Ok(instruction) => Ok(Fetched { instruction, bytes }),
        Err(DecodeError::Invalid | DecodeError::Incomplete) => Err(invalid()),
        Err(DecodeError::Unsupported) => Err(FetchError::Unknown(Unknown {
            bytes,
            fetched: MAX_LENGTH,
        })),
    }
}

fn invalid() -> FetchError {
    FetchError::Access(AccessError::Fault(GuestFault::InvalidOpcode))
}
