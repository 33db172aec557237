//! Bugs on demand: what the hypervisor does about its own, shown to the operator who asks for it (`crash` in the
//! monitor). Each ends in the epitaph of `panic.rs`, by the guard that is to catch such a bug: the page below a stack,
//! text that cannot be written, data that cannot be executed, stacks for what comes when no other can be relied on.

use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering};

use vmm::monitor::command::Bug;

use crate::cpu::this;

/// The opcode of RET.
const RET: u8 = 0xc3;

/// An instruction among the data.
static INSTRUCTION: AtomicU8 = AtomicU8::new(0);

/// Ends the hypervisor by this bug.
pub(crate) fn crash(bug: Bug) -> ! {
    match bug {
        Bug::Panic => panic!("the operator wanted to see a panic"),
        Bug::Stack => overflow(),
        Bug::Text => write_text(),
        Bug::Data => execute_data(),
        Bug::Nmi => {
            without_stack::<2>();
            panic!("an NMI has come and gone while there was no room on the stack");
        }
        Bug::MachineCheck => {
            without_stack::<18>();
            panic!("the hypervisor goes on after a machine check");
        }
    }
}

/// Pushes until the stack is used up. The page fault that follows has no room for its own frame, so what comes is a
/// double fault, which has a stack for itself.
fn overflow() -> ! {
    // SAFETY: what lies below the stack pointer is nobody's until the end of the stack, behind which a page is not
    // mapped. Nothing returns from here.
    unsafe { asm!("2:", "push rax", "jmp 2b", options(noreturn)) }
}

/// Calls the handler of a vector, as the processor does for it, while the stack is used up to its last byte.
fn without_stack<const VECTOR: u8>() {
    let Some(stacks) = this().stacks() else {
        panic!("this CPU has no stacks of its own yet");
    };
    let bottom = stacks.main.bottom().as_u64();
    // SAFETY: interrupts are off at the desk. The handler has a stack of its own and changes no register; did it not
    // have one, its frame would meet the page that is not mapped. The stack pointer is back before anything is pushed.
    unsafe {
        asm!(
            "mov {saved}, rsp",
            "mov rsp, {bottom}",
            "int {vector}",
            "mov rsp, {saved}",
            saved = out(reg) _,
            bottom = in(reg) bottom,
            vector = const VECTOR,
        );
    }
}

/// Writes over an instruction of its own.
fn write_text() -> ! {
    let instruction = crash as fn(Bug) -> ! as *mut u8;
    // SAFETY: text is mapped without the right to write, so this faults. Were it not, this function would go on with
    // the same instruction that was there.
    unsafe {
        asm!(
            "mov {byte}, [{at}]",
            "mov [{at}], {byte}",
            at = in(reg) instruction,
            byte = out(reg_byte) _,
            options(nostack, preserves_flags)
        );
    }
    panic!("the hypervisor's text can be written");
}

/// Calls an instruction that lies among the data.
fn execute_data() -> ! {
    INSTRUCTION.store(RET, Ordering::Relaxed);
    // SAFETY: data is mapped without the right to execute, so this faults. Were it not, the instruction would return
    // at once.
    unsafe { asm!("call {}", in(reg) INSTRUCTION.as_ptr()) };
    panic!("the hypervisor's data can be executed");
}
