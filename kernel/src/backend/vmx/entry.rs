//! The world switch: guest registers in, VM entry, VM exit, guest registers out.
//!
//! To its caller, [`enter`] is a function that returns when the guest has exited. The hardware switches what
//! the VMCS holds (RSP, RIP, RFLAGS, control registers, segments, some MSRs); the assembly switches the other
//! fifteen general-purpose registers. Everything else a guest has (x87, SSE and AVX state, debug registers, CR2,
//! the SYSCALL MSRs) the hypervisor does not use, so it stays in the CPU from exit to entry and is switched only
//! when another vCPU takes over (see `switch`).

use core::arch::naked_asm;
use core::mem::offset_of;

use arch::{Gpr, Gprs};
use vmx::fields;

/// The registers that the assembly saves and loads, and the stack that the VMCS returns to.
#[repr(C)]
pub(super) struct Frame {
    /// The guest's registers; the slot of RSP is not used, the VMCS has it.
    pub(super) gprs: Gprs,
    /// What the VMCS's host RSP was last set to; 0 before the first entry.
    host_rsp: u64,
}

impl Frame {
    pub(super) const fn new() -> Self {
        Self {
            gprs: Gprs::new(),
            host_rsp: 0,
        }
    }

    /// Forgets the host stack, after a VMCLEAR or when the vCPU moves to another CPU.
    pub(super) const fn forget_host_stack(&mut self) {
        self.host_rsp = 0;
    }
}

const fn slot(register: Gpr) -> usize {
    offset_of!(Frame, gprs) + 8 * register as usize
}

/// Which instruction enters the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(super) enum Entry {
    /// VMLAUNCH: the VMCS is clear.
    Launch = 0,
    /// VMRESUME: the VMCS has been launched since it was last cleared.
    Resume = 1,
}

/// How [`enter`] came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
#[expect(dead_code, reason = "the failures are made by the assembly")]
pub(super) enum Outcome {
    /// The guest ran (or the entry failed late) and the exit fields are valid.
    Exited = 0,
    /// The instruction failed with CF: there is no current VMCS.
    FailInvalid = 1,
    /// The instruction failed with ZF: the VM-instruction error field says why.
    FailValid = 2,
}

/// Runs the guest of the current VMCS until its next exit.
///
/// Clobbers what the System V calling convention allows; saves RBX, RBP and R12 to R15 on the stack. Leaves
/// alone the x87, SSE and debug registers and all MSRs that the VMCS does not switch. Registers that hold guest
/// values on exit are cleared, so that nothing of the guest's is left for the hypervisor to speculate with.
///
/// # Safety
/// The VMCS current on this CPU is complete, its host state describes this CPU with [`exit_address`] as RIP, no
/// other CPU uses `frame`, and interrupts are off.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn enter(frame: *mut Frame, entry: Entry) -> Outcome {
    naked_asm!(
        // 1. Save the host's registers, and the frame's address where the exit finds it.
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        // 2. Tell the VMCS of the stack, if it is another one than last time.
        "cmp rsp, [rdi + {host_rsp}]",
        "je 2f",
        "mov edx, {HOST_RSP}",
        "vmwrite rdx, rsp",
        "mov [rdi + {host_rsp}], rsp",
        "2:",
        // 3. Load the guest's registers, RDI last.
        "test esi, esi",
        "mov rax, [rdi + {rax}]",
        "mov rcx, [rdi + {rcx}]",
        "mov rdx, [rdi + {rdx}]",
        "mov rbx, [rdi + {rbx}]",
        "mov rbp, [rdi + {rbp}]",
        "mov rsi, [rdi + {rsi}]",
        "mov r8, [rdi + {r8}]",
        "mov r9, [rdi + {r9}]",
        "mov r10, [rdi + {r10}]",
        "mov r11, [rdi + {r11}]",
        "mov r12, [rdi + {r12}]",
        "mov r13, [rdi + {r13}]",
        "mov r14, [rdi + {r14}]",
        "mov r15, [rdi + {r15}]",
        "mov rdi, [rdi + {rdi}]",
        // 4. Enter. MOV leaves the flags of the test alone.
        "jz 3f",
        "vmresume",
        "jmp 4f",
        "3:",
        "vmlaunch",
        // 5. Only a failed entry comes here. CF and ZF say how; registers are the guest's, which nobody needs back.
        "4:",
        "mov eax, 1",
        "mov ecx, 2",
        "cmovnc eax, ecx",
        "pop rdi",
        "jmp 5f",
        // 6. The exit: the host's RIP in the VMCS. The stack is as step 1 left it.
        ".global plinth_vmx_exit",
        "plinth_vmx_exit:",
        "push rdi",
        "mov rdi, [rsp + 8]",
        "mov [rdi + {rax}], rax",
        "mov [rdi + {rcx}], rcx",
        "mov [rdi + {rdx}], rdx",
        "mov [rdi + {rbx}], rbx",
        "mov [rdi + {rbp}], rbp",
        "mov [rdi + {rsi}], rsi",
        "mov [rdi + {r8}], r8",
        "mov [rdi + {r9}], r9",
        "mov [rdi + {r10}], r10",
        "mov [rdi + {r11}], r11",
        "mov [rdi + {r12}], r12",
        "mov [rdi + {r13}], r13",
        "mov [rdi + {r14}], r14",
        "mov [rdi + {r15}], r15",
        "pop rax",
        "mov [rdi + {rdi}], rax",
        "add rsp, 8",
        // 7. Clear what still holds guest values and is not restored below.
        "xor eax, eax",
        "xor ecx, ecx",
        "xor edx, edx",
        "xor esi, esi",
        "xor edi, edi",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "xor r10d, r10d",
        "xor r11d, r11d",
        // 8. Restore the host's registers and return.
        "5:",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        host_rsp = const offset_of!(Frame, host_rsp),
        HOST_RSP = const fields::HOST_RSP.encoding().as_u32(),
        rax = const slot(Gpr::Rax),
        rcx = const slot(Gpr::Rcx),
        rdx = const slot(Gpr::Rdx),
        rbx = const slot(Gpr::Rbx),
        rbp = const slot(Gpr::Rbp),
        rsi = const slot(Gpr::Rsi),
        rdi = const slot(Gpr::Rdi),
        r8 = const slot(Gpr::R8),
        r9 = const slot(Gpr::R9),
        r10 = const slot(Gpr::R10),
        r11 = const slot(Gpr::R11),
        r12 = const slot(Gpr::R12),
        r13 = const slot(Gpr::R13),
        r14 = const slot(Gpr::R14),
        r15 = const slot(Gpr::R15),
    )
}

unsafe extern "C" {
    fn plinth_vmx_exit();
}

/// What the VMCS's host RIP is to be.
pub(super) fn exit_address() -> u64 {
    plinth_vmx_exit as *const () as u64
}
