//! Instructions that touch memory which is not RAM, done in software.
//!
//! The hardware says where the access went ([`MemoryAccess`]), but not what the instruction is. [`emulate`]
//! fetches it through the guest's own tables ([`fetch`]), decodes it ([`arch::decode`]), carries it out
//! ([`execute`], [`string`]) on RAM and devices ([`space`]), and ends it like every other instruction. An
//! instruction that is not known here raises #UD in the guest, with a line in the log that shows its bytes.
//! The common moves take a short cut through all that ([`simple`], [`cache`]).

mod arithmetic;
mod breakpoint;
mod cache;
mod execute;
mod execute_integer;
mod execute_stack;
mod execute_system;
mod execute_vector;
mod fetch;
mod integer;
mod simple;
mod space;
mod string;
#[cfg(test)]
mod tests;

use arch::decode::Instruction;
use arch::{CpuMode, Dr7, Rflags};

use self::cache::Cache;
use self::fetch::{FetchError, Unknown};
use self::simple::Move;
use self::space::Space;
use crate::cpu::{Blocking, Cpu};
use crate::exit::MemoryAccess;
use crate::fault::{GuestFault, VmError};
use crate::handle::{Next, complete_with_length, finish};
use crate::linear::{AccessError, Linear};
use crate::machine::Machine;
use crate::state::VcpuState;

/// A repeated string instruction does at most so many elements before the guest gets a chance to take an
/// interrupt, and the hypervisor to end its turn: each is some hundred instructions of ours, and exit, decoding and
/// entry together about two of them.
const ELEMENTS_PER_EXIT: u32 = 24;

/// Unknown instructions of one vCPU that are logged; a guest must not fill the log.
const LOGGED_FAILURES: u32 = 16;

/// What the emulator keeps of a vCPU from one instruction to the next. None of it is the guest's to see.
#[derive(Clone, Debug)]
pub struct Emulator {
    cache: Cache,
    /// Instructions that were not known.
    failures: u32,
}

impl Emulator {
    /// Nothing emulated so far.
    pub const fn new() -> Self {
        Self {
            cache: Cache::new(),
            failures: 0,
        }
    }
}

impl Default for Emulator {
    fn default() -> Self {
        Self::new()
    }
}

/// How an instruction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// The next one follows.
    Next,
    /// The next one follows, and nothing comes between, as behind MOV SS.
    NextInShadow,
    /// The next one follows, with these flags: a trap is taken or not by those before.
    NextWithFlags(Rflags),
    /// It went to this RIP.
    Branch(u64),
    /// A repeated string instruction has elements left: it goes on at the next entry.
    Continue,
    /// Its operands are such as the emulator does not do.
    Unknown,
}

/// Emulates the instruction at RIP, which has made this access.
///
/// An access by the delivery of an event is no instruction's: a guest whose stack or descriptor tables lie
/// outside its RAM cannot take events, and is stopped.
///
/// # Errors
/// The exception that the instruction raises.
pub fn emulate<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &mut VcpuState,
    machine: &mut M,
    access: MemoryAccess,
) -> Result<Next, GuestFault> {
    if vcpu.pending.first().is_some() {
        return Ok(Next::Stop(VmError::Unbacked(access.gpa)));
    }
    let known = cache::known(cpu, vcpu, machine.memory());
    match known.and_then(|instruction| Move::of(cpu, vcpu, instruction, &access)) {
        Some(simple) => simple.carry_out(cpu, vcpu, machine, access.gpa),
        None => emulate_any(cpu, vcpu, machine, access, known.copied()),
    }
}

/// Emulates whatever instruction there is; the cache may have known it.
#[inline(never)]
fn emulate_any<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &mut VcpuState,
    machine: &mut M,
    access: MemoryAccess,
    known: Option<Instruction>,
) -> Result<Next, GuestFault> {
    let mut space = Space::new(Linear::new(cpu, &vcpu.cpuid), &access);
    let known = known.or_else(|| cache::fetch(cpu, vcpu, machine.memory()));
    let fetched = match known {
        Some(instruction) => Ok(instruction),
        None => fetch::fetch(cpu, vcpu, machine, &space).map(|fetched| fetched.instruction),
    };
    let instruction = match fetched {
        Ok(instruction) => instruction,
        Err(FetchError::Access(AccessError::Fault(fault))) => return Err(fault),
        Err(FetchError::Access(AccessError::Retry)) => return Ok(Next::Resume),
        Err(FetchError::Unknown(unknown)) => return Err(refuse(cpu, vcpu, machine, &unknown)),
    };
    let dr7 = cpu.debug_register(7);
    let outcome = {
        let mut executor = execute::Executor {
            cpu: &mut *cpu,
            vcpu: &mut *vcpu,
            machine,
            space: &mut space,
        };
        executor.execute(&instruction, limit(dr7, executor.cpu.rflags()))
    };
    let ended = match outcome {
        Ok(Outcome::Next) => complete_with_length(cpu, instruction.length, Next::Resume),
        Ok(Outcome::NextInShadow) => {
            // A single-step trap waits as well.
            let rflags = cpu.rflags();
            cpu.set_rflags(rflags - Rflags::TF);
            let ended = complete_with_length(cpu, instruction.length, Next::Resume);
            cpu.set_rflags(rflags - Rflags::RF);
            // With TF the next instruction is trapped behind all the same. A shadow would need a pending single step
            // beside it, or the entry fails (SDM vol. 3, Checks on Guest Non-Register State).
            if !rflags.contains(Rflags::TF) {
                cpu.set_blocking(cpu.blocking() | Blocking::MOV_SS);
            }
            return ended;
        }
        Ok(Outcome::NextWithFlags(rflags)) => {
            let ended = complete_with_length(cpu, instruction.length, Next::Resume);
            cpu.set_rflags(rflags);
            ended
        }
        Ok(Outcome::Branch(rip)) => {
            cpu.set_rip(rip);
            finish(cpu, Next::Resume)
        }
        Ok(Outcome::Continue) => {
            let ended = finish(cpu, Next::Resume);
            // Instruction breakpoints were taken when it began.
            cpu.set_rflags(cpu.rflags() | Rflags::RF);
            ended
        }
        Ok(Outcome::Unknown) => {
            let bytes = match fetch::fetch(cpu, vcpu, machine, &space) {
                Ok(fetched) => fetched.bytes,
                Err(_) => [0; 16],
            };
            let unknown = Unknown {
                bytes,
                fetched: usize::from(instruction.length),
            };
            return Err(refuse(cpu, vcpu, machine, &unknown));
        }
        Err(AccessError::Fault(fault)) => return Err(fault),
        Err(AccessError::Retry) => return Ok(Next::Resume),
    };
    if dr7 & Dr7::ANY_ENABLED.bits() == 0 {
        return ended;
    }
    trap(ended, breakpoint::met(cpu, dr7, space.touches()))
}

/// Elements of a string instruction that may be done at once: each is followed by a trap where there may be
/// one.
const fn limit(dr7: u64, rflags: Rflags) -> u32 {
    if dr7 & Dr7::ANY_ENABLED.bits() != 0 || rflags.contains(Rflags::TF) {
        1
    } else {
        ELEMENTS_PER_EXIT
    }
}

/// Adds the data breakpoints that were met to the outcome of the instruction.
#[cold]
fn trap(ended: Result<Next, GuestFault>, met: u64) -> Result<Next, GuestFault> {
    match ended {
        _ if met == 0 => ended,
        Ok(_) => Err(GuestFault::Debug { dr6: met }),
        Err(GuestFault::Debug { dr6 }) => Err(GuestFault::Debug { dr6: dr6 | met }),
        Err(fault) => Err(fault),
    }
}

/// #UD for an instruction that the emulator cannot do.
#[cold]
fn refuse<C: Cpu, M: Machine>(
    cpu: &C,
    vcpu: &mut VcpuState,
    machine: &M,
    unknown: &Unknown,
) -> GuestFault {
    if vcpu.emulator.failures < LOGGED_FAILURES {
        let mode = Linear::new(cpu, &vcpu.cpuid).mode();
        let bytes = unknown.bytes.get(..unknown.fetched).unwrap_or_default();
        let more = if vcpu.emulator.failures + 1 < LOGGED_FAILURES {
            ""
        } else {
            "; what else this CPU gets it for is not shown"
        };
        machine.warn(format_args!(
            "no emulation of the instruction at {:#x} ({}): {bytes:02x?}; the guest gets #UD{more}",
            cpu.rip(),
            mode_name(mode),
        ));
    }
    vcpu.emulator.failures = vcpu.emulator.failures.saturating_add(1);
    GuestFault::InvalidOpcode
}

const fn mode_name(mode: CpuMode) -> &'static str {
    match mode {
        CpuMode::Real => "real mode",
        CpuMode::Virtual8086 => "virtual-8086 mode",
        CpuMode::Protected => "protected mode",
        CpuMode::Compatibility => "compatibility mode",
        CpuMode::Long => "64-bit mode",
    }
}
