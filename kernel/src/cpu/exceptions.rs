//! Exceptions, NMIs and interrupts that arrive while the hypervisor itself runs.
//!
//! One stub for each vector pushes what the processor did not, saves the general-purpose registers and
//! calls [`trap`]. No other register needs saving: the hypervisor is compiled without x87 and SIMD. An
//! exception is a bug of ours (a machine check: an error of the hardware) and ends in the epitaph, unless the
//! instruction is listed in the fix-up table (`.fixups`), which holds pairs of addresses: an instruction that may fault,
//! and where to go on if it does. NMIs have a file of their own, `nmi.rs`.

use core::arch::naked_asm;
use core::fmt;
use core::mem::offset_of;

use arch::machine_check::{Interrupted, Verdict};
use arch::{Exception, Vector};
use memory::HostVirt;
use x86_64::registers::control::{Cr2, Cr3};

use super::descriptors::InterruptStack;
use super::{interrupts, machine_check, nmi, this};
use crate::panic;

/// The state of the interrupted code, in the order in which the stubs push it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct TrapFrame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rbp: u64,
    rdi: u64,
    rsi: u64,
    rdx: u64,
    rcx: u64,
    rbx: u64,
    rax: u64,
    vector: u64,
    error_code: u64,
    /// Where the code was interrupted.
    pub rip: u64,
    cs: u64,
    rflags: u64,
    /// Its stack pointer.
    pub rsp: u64,
    ss: u64,
}

impl fmt::Display for TrapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  rip {:016x}  rsp {:016x}  rflags {:08x}  cs {:x}  ss {:x}",
            self.rip, self.rsp, self.rflags, self.cs, self.ss
        )?;
        writeln!(
            f,
            "  rax {:016x}  rbx {:016x}  rcx {:016x}  rdx {:016x}",
            self.rax, self.rbx, self.rcx, self.rdx
        )?;
        writeln!(
            f,
            "  rsi {:016x}  rdi {:016x}  rbp {:016x}  r8  {:016x}",
            self.rsi, self.rdi, self.rbp, self.r8
        )?;
        writeln!(
            f,
            "  r9  {:016x}  r10 {:016x}  r11 {:016x}  r12 {:016x}",
            self.r9, self.r10, self.r11, self.r12
        )?;
        write!(
            f,
            "  r13 {:016x}  r14 {:016x}  r15 {:016x}  cr2 {:016x}  cr3 {:x}",
            self.r13,
            self.r14,
            self.r15,
            Cr2::read_raw(),
            Cr3::read_raw().0.start_address()
        )
    }
}

/// Bytes between the stubs of two vectors.
const STUB_BYTES: u64 = 16;

/// The address of the stub of a vector.
pub(super) fn vector_stub(vector: u8) -> u64 {
    vector_stubs as *const () as u64 + u64::from(vector) * STUB_BYTES
}

/// 256 stubs of 16 bytes. Each leaves an error code (0 where the processor pushes none) and the vector on
/// the stack.
#[unsafe(naked)]
unsafe extern "C" fn vector_stubs() {
    naked_asm!(
        ".set .Lvector, 0",
        ".rept 256",
        ".balign 16",
        // The exceptions with an error code (SDM vol. 3, Exception and Interrupt Vectors): 8, 10 to 14, 17,
        // 21.
        ".if .Lvector >= 32",
        "push 0",
        ".elseif ((0x00227d00 >> .Lvector) & 1) == 0",
        "push 0",
        ".endif",
        "push .Lvector",
        "jmp {save}",
        ".set .Lvector, .Lvector + 1",
        ".endr",
        save = sym save_and_call,
    )
}

/// The interrupted code's registers, from a [`TrapFrame`] that RSP points to.
macro_rules! restore_registers {
    () => {
        concat!(
            "pop r15\npop r14\npop r13\npop r12\npop r11\npop r10\npop r9\npop r8\n",
            "pop rbp\npop rdi\npop rsi\npop rdx\npop rcx\npop rbx\npop rax\n",
        )
    };
}

/// Completes the [`TrapFrame`], calls [`trap`], and returns to the interrupted code.
///
/// Entered with vector and error code on the stack; changes no register of the interrupted code.
#[unsafe(naked)]
unsafe extern "C" fn save_and_call() {
    naked_asm!(
        "push rax", "push rbx", "push rcx", "push rdx", "push rsi", "push rdi", "push rbp",
        "push r8", "push r9", "push r10", "push r11", "push r12", "push r13", "push r14", "push r15",
        // The argument; the direction flag that the ABI wants; the alignment that the ABI wants.
        "mov rdi, rsp",
        "cld",
        "mov rbx, rsp",
        "and rsp, -16",
        "call {trap}",
        "mov rsp, rbx",
        restore_registers!(),
        // Vector and error code.
        "add rsp, 16",
        "iretq",
        trap = sym trap,
    )
}

/// Where every vector ends up.
extern "C" fn trap(frame: &mut TrapFrame) {
    let vector = Vector(frame.vector as u8);
    if vector == Vector::NMI {
        nmi::taken(frame);
        return;
    }
    if vector.0 >= 32 {
        interrupts::acknowledged(vector);
        return;
    }
    // It has nothing to do with the instruction that it has interrupted.
    if vector == Exception::MachineCheck.vector() {
        match machine_check::take(Interrupted::Hypervisor) {
            Ok(Verdict::GoOn) if has_interrupted_nmi(frame) => {
                // SAFETY: the state is that of the handler of NMIs, whose stack has room.
                unsafe { return_without_iret(frame) }
            }
            Ok(Verdict::GoOn) => return,
            Ok(Verdict::GuestEnds | Verdict::Fatal) => unreachable!("no guest was interrupted"),
            Err(registers) => panic::by_machine_check(&registers, Some(frame)),
        }
    }
    if let Some(target) = fixup(frame.rip) {
        frame.rip = target;
        return;
    }
    let name = Exception::from_vector(vector).map_or("a reserved vector", Exception::mnemonic);
    panic::by_exception(name, frame.error_code, frame);
}

/// Whether it is the handler of NMIs that was interrupted.
fn has_interrupted_nmi(frame: &TrapFrame) -> bool {
    this().stacks().is_some_and(|stacks| {
        stacks
            .interrupt(InterruptStack::Nmi)
            .contains(HostVirt::new(frame.rsp))
    })
}

/// Returns to the interrupted code as IRET does, except that NMIs stay blocked if they are: an IRET would let the next
/// one in (SDM vol. 3, Handling Multiple NMIs). All registers are the interrupted code's then.
///
/// # Safety
/// The state is that of code of the hypervisor with interrupts off, with eight bytes free on its stack.
#[unsafe(naked)]
unsafe extern "C" fn return_without_iret(frame: &mut TrapFrame) -> ! {
    naked_asm!(
        "mov rsp, rdi",
        // The return address goes onto the interrupted code's own stack.
        "mov rax, [rsp + {rsp}]",
        "sub rax, 8",
        "mov rcx, [rsp + {rip}]",
        "mov [rax], rcx",
        "mov [rsp + {rsp}], rax",
        restore_registers!(),
        // Vector, error code, RIP and CS.
        "add rsp, 32",
        "popfq",
        "pop rsp",
        "ret",
        rip = const offset_of!(TrapFrame, rip),
        rsp = const offset_of!(TrapFrame, rsp),
    )
}

/// An entry of the fix-up table.
#[repr(C)]
struct Fixup {
    instruction: u64,
    target: u64,
}

unsafe extern "C" {
    static fixups_start: Fixup;
    static fixups_end: Fixup;
}

/// Where to go on after a fault of the instruction at `rip`, if that is foreseen.
fn fixup(rip: u64) -> Option<u64> {
    let start = &raw const fixups_start;
    let count = (&raw const fixups_end as usize - start as usize) / size_of::<Fixup>();
    // SAFETY: the linker script sets the two symbols around the table, whose entries are pairs of
    // addresses.
    let table = unsafe { core::slice::from_raw_parts(start, count) };
    table
        .iter()
        .find(|entry| entry.instruction == rip)
        .map(|entry| entry.target)
}
