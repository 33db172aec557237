//! The world switch: guest registers in, VM entry, VM exit, guest registers out.
//!
//! To its caller, [`enter`] is a function that returns when the guest has exited. The hardware switches what
//! the VMCS holds (RSP, RIP, RFLAGS, control registers, segments, some MSRs); the assembly switches the other
//! fifteen general-purpose registers. Everything else a guest has (x87, SSE and AVX state, debug registers, CR2,
//! the SYSCALL MSRs) the hypervisor does not use, so it stays in the CPU from exit to entry and is switched only
//! when another vCPU takes over (see `switch`).
//!
//! What an entry takes stands in the CPU's [`Gate`], where it also finds whether to turn back because an NMI has come
//! since the run loop last looked at what others have left.

use core::arch::{asm, naked_asm};
use core::mem::offset_of;

use arch::{Gpr, Gprs, msr};
use vmx::fields;

use super::guard::Guard;
use crate::cpu::gate::Gate;
use crate::cpu::this;

/// The registers that the assembly saves and loads, and the stack that the VMCS returns to.
#[repr(C)]
pub(super) struct Frame {
    /// The guest's registers; the slot of RSP is not used, the VMCS has it.
    pub(super) gprs: Gprs,
    /// The host's TSC before which an entry with [`Entry::HOLD`] does not happen, and what it was when such an entry
    /// was ready to happen.
    not_before_tsc: u64,
    ready_tsc: u64,
    /// What the VMCS's host RSP was last set to; 0 before the first entry.
    host_rsp: u64,
    /// The guest's IA32_SPEC_CTRL and the hypervisor's, where `guard` switches it.
    pub(super) guest_spec_ctrl: u64,
    host_spec_ctrl: u64,
    /// A data segment of the hypervisor, for VERW.
    data_selector: u16,
    /// Pairs of return predictions that are overwritten at a guarded exit.
    return_fills: u16,
}

impl Frame {
    pub(super) fn new(guard: &Guard) -> Self {
        Self {
            gprs: Gprs::new(),
            not_before_tsc: 0,
            ready_tsc: 0,
            host_rsp: 0,
            guest_spec_ctrl: 0,
            host_spec_ctrl: guard.host_spec_ctrl(),
            data_selector: guard.data_selector(),
            return_fills: guard.return_fills(),
        }
    }

    /// It comes to this CPU, with its VMCS clear: the next entry is a launch.
    pub(super) fn come_here(&mut self, guard: &Guard) {
        self.host_rsp = 0;
        guard.entry().be_next();
    }

    /// The entry has failed: if it was a launch, so will be the next.
    pub(super) fn was_refused(&mut self) {
        Entry::next().difference(Entry::RESUME).be_next();
    }

    /// The next entry waits until the host's TSC reads this.
    #[inline]
    pub(super) fn hold_until(&mut self, tsc: u64) {
        self.not_before_tsc = tsc;
        // One instruction, as this is done just before the moment.
        // SAFETY: changes the flags of this CPU's gate, as `set_flags` does.
        unsafe {
            asm!(
                "or dword ptr gs:[{gate}], {HOLD}",
                gate = const Gate::OFFSET,
                HOLD = const Entry::HOLD.bits(),
                options(nostack),
            );
        }
    }

    /// The host's TSC when the last entry that was held was ready.
    pub(super) const fn ready_tsc(&self) -> u64 {
        self.ready_tsc
    }
}

const fn slot(register: Gpr) -> usize {
    offset_of!(Frame, gprs) + 8 * register as usize
}

bitflags::bitflags! {
    /// What an entry of the vCPU takes that is loaded on a CPU. Most are [`RESUME`](Self::RESUME) and nothing else, which
    /// is the quick way.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    #[repr(transparent)]
    pub(super) struct Entry: u32 {
        /// VMRESUME: the VMCS has been launched since it was last cleared. Else VMLAUNCH, before which this is set for the
        /// entries after it.
        const RESUME = 1 << 0;
        /// Load the guest's IA32_SPEC_CTRL.
        const SPEC_CTRL = 1 << 1;
        /// Flush the L1 data cache.
        const FLUSH_L1 = 1 << 2;
        /// Clear the processor's buffers.
        const VERW = 1 << 3;
        /// Wait, this once.
        const HOLD = 1 << 4;
    }
}

impl Entry {
    /// What the next entry on this CPU takes.
    #[inline]
    fn next() -> Self {
        Self::from_bits_retain(this().gate.flags())
    }

    /// Makes it what the next entry on this CPU takes.
    #[inline]
    fn be_next(self) {
        this().gate.set_flags(self.bits());
    }
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
    /// An NMI has come: nothing was tried.
    TurnedBack = 3,
}

/// Part of step 3 of [`enter`]: the guest's registers from the frame, whose address is in RDI, which comes last. Leaves
/// the flags alone.
macro_rules! load_guest_registers {
    () => {
        concat!(
            "mov rax, [rdi + {rax}]\n",
            "mov rcx, [rdi + {rcx}]\n",
            "mov rdx, [rdi + {rdx}]\n",
            "mov rbx, [rdi + {rbx}]\n",
            "mov rbp, [rdi + {rbp}]\n",
            "mov rsi, [rdi + {rsi}]\n",
            "mov r8, [rdi + {r8}]\n",
            "mov r9, [rdi + {r9}]\n",
            "mov r10, [rdi + {r10}]\n",
            "mov r11, [rdi + {r11}]\n",
            "mov r12, [rdi + {r12}]\n",
            "mov r13, [rdi + {r13}]\n",
            "mov r14, [rdi + {r14}]\n",
            "mov r15, [rdi + {r15}]\n",
            "mov rdi, [rdi + {rdi}]\n",
        )
    };
}

/// Step 6 of [`enter`]: the guest's registers to the frame, whose address becomes RDI. The stack is then as step 1
/// left it, but for that address.
macro_rules! save_guest_registers {
    () => {
        concat!(
            "push rdi\n",
            "mov rdi, [rsp + 8]\n",
            "mov [rdi + {rax}], rax\n",
            "mov [rdi + {rcx}], rcx\n",
            "mov [rdi + {rdx}], rdx\n",
            "mov [rdi + {rbx}], rbx\n",
            "mov [rdi + {rbp}], rbp\n",
            "mov [rdi + {rsi}], rsi\n",
            "mov [rdi + {r8}], r8\n",
            "mov [rdi + {r9}], r9\n",
            "mov [rdi + {r10}], r10\n",
            "mov [rdi + {r11}], r11\n",
            "mov [rdi + {r12}], r12\n",
            "mov [rdi + {r13}], r13\n",
            "mov [rdi + {r14}], r14\n",
            "mov [rdi + {r15}], r15\n",
            "pop qword ptr [rdi + {rdi}]\n",
            "add rsp, 8\n",
        )
    };
}

/// Step 7 of [`enter`]: nothing of the guest's is left in registers that step 8 does not restore.
macro_rules! clear_guest_registers {
    () => {
        concat!(
            "xor eax, eax\n",
            "xor ecx, ecx\n",
            "xor edx, edx\n",
            "xor esi, esi\n",
            "xor edi, edi\n",
            "xor r8d, r8d\n",
            "xor r9d, r9d\n",
            "xor r10d, r10d\n",
            "xor r11d, r11d\n",
        )
    };
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
pub(super) unsafe extern "sysv64" fn enter(frame: *mut Frame) -> Outcome {
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
        // 3. The last look: VMRESUME and nothing else, and the gate is open. From here on, which is a window of the gate,
        // whoever closes it has this turn back.
        "cmp qword ptr gs:[{gate}], {RESUME}",
        "30:",
        "jne 7f",
        // 4. Load the guest's registers and enter.
        "6:",
        load_guest_registers!(),
        "vmresume",
        "jmp 4f",
        // 3a. Entries that take more, the flush last. The upper half of RSI says whether the gate was closed.
        "7:",
        "mov rsi, gs:[{gate}]",
        "test esi, {HOLD}",
        "jnz 17f",
        "18:",
        "mov rax, rsi",
        "shr rax, 32",
        "jnz 24f",
        "test esi, {SPEC_CTRL}",
        "jz 8f",
        "mov ecx, {IA32_SPEC_CTRL}",
        "mov eax, [rdi + {guest_spec_ctrl}]",
        "mov edx, [rdi + {guest_spec_ctrl} + 4]",
        "wrmsr",
        "8:",
        "test esi, {VERW}",
        "jz 9f",
        "verw word ptr [rdi + {data_selector}]",
        "9:",
        "test esi, {FLUSH_L1}",
        "jz 10f",
        "mov ecx, {IA32_FLUSH_CMD}",
        "mov eax, 1",
        "xor edx, edx",
        "wrmsr",
        "10:",
        "test esi, {RESUME}",
        "jnz 6b",
        "jmp 21f",
        // 3b. The wait, for this entry only: who turns back before its end waits again. Mostly nothing else is to be done.
        "17:",
        "and rsi, {NO_HOLD}",
        "mov rcx, [rdi + {not_before_tsc}]",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov [rdi + {ready_tsc}], rax",
        "cmp rax, rcx",
        "jae 20f",
        "19:",
        "pause",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "cmp rax, rcx",
        "jb 19b",
        "20:",
        "mov gs:[{gate}], esi",
        "cmp rsi, {RESUME}",
        "je 6b",
        "jmp 18b",
        // 4a. Launch. It counts as launched before it is: who turns back in here says that it is not.
        "21:",
        "or dword ptr gs:[{gate}], {RESUME}",
        load_guest_registers!(),
        "vmlaunch",
        "22:",
        // 5. Only a failed entry comes here. CF and ZF say how; registers are the guest's, which nobody needs back.
        "4:",
        "mov eax, 1",
        "mov ecx, 2",
        "cmovnc eax, ecx",
        "pop rdi",
        "jmp 5f",
        // 5a. An NMI has come, and its handler has closed the gate, or returned here. Registers are the guest's or the
        // hypervisor's own. All that others have left is looked at after this: the gate is opened for the entry behind it.
        "23:",
        "and dword ptr gs:[{gate}], {NO_RESUME}",
        "24:",
        "mov dword ptr gs:[{closed}], 0",
        "pop rdi",
        clear_guest_registers!(),
        "mov eax, {TURNED_BACK}",
        "jmp 5f",
        // 6. The exit: the host's RIP in the VMCS. The stack is as step 1 left it.
        ".global plinth_vmx_exit",
        "plinth_vmx_exit:",
        save_guest_registers!(),
        // 7. Clear what still holds guest values and is not restored below.
        clear_guest_registers!(),
        // 8. Restore the host's registers and return.
        "5:",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        // 6a. The exit where a guest may have trained the predictors: no return and no indirect branch comes before
        // the end of this.
        ".global plinth_vmx_guarded_exit",
        "plinth_vmx_guarded_exit:",
        save_guest_registers!(),
        "mov ecx, {IA32_SPEC_CTRL}",
        "rdmsr",
        "mov [rdi + {guest_spec_ctrl}], eax",
        "mov [rdi + {guest_spec_ctrl} + 4], edx",
        "mov eax, [rdi + {host_spec_ctrl}]",
        "mov edx, [rdi + {host_spec_ctrl} + 4]",
        "wrmsr",
        // Each call leaves a prediction that leads to a trap, for as many returns as any processor remembers.
        "movzx eax, word ptr [rdi + {return_fills}]",
        "test eax, eax",
        "jz 16f",
        "11:",
        "call 13f",
        "12:",
        "pause",
        "lfence",
        "jmp 12b",
        "13:",
        "call 15f",
        "14:",
        "pause",
        "lfence",
        "jmp 14b",
        "15:",
        "add rsp, 16",
        "dec eax",
        "jnz 11b",
        "lfence",
        "16:",
        clear_guest_registers!(),
        "jmp 5b",
        // The windows of the gate.
        ".pushsection .windows, \"a\"",
        ".quad 30b, 21b, 24b",
        ".quad 21b, 22b, 23b",
        ".popsection",
        RESUME = const Entry::RESUME.bits(),
        SPEC_CTRL = const Entry::SPEC_CTRL.bits(),
        FLUSH_L1 = const Entry::FLUSH_L1.bits(),
        VERW = const Entry::VERW.bits(),
        HOLD = const Entry::HOLD.bits(),
        NO_HOLD = const !(Entry::HOLD.bits() as i32),
        NO_RESUME = const !(Entry::RESUME.bits() as i32),
        TURNED_BACK = const Outcome::TurnedBack as u32,
        gate = const Gate::OFFSET,
        closed = const Gate::CLOSED_OFFSET,
        not_before_tsc = const offset_of!(Frame, not_before_tsc),
        ready_tsc = const offset_of!(Frame, ready_tsc),
        IA32_SPEC_CTRL = const msr::IA32_SPEC_CTRL,
        IA32_FLUSH_CMD = const msr::IA32_FLUSH_CMD,
        guest_spec_ctrl = const offset_of!(Frame, guest_spec_ctrl),
        host_spec_ctrl = const offset_of!(Frame, host_spec_ctrl),
        data_selector = const offset_of!(Frame, data_selector),
        return_fills = const offset_of!(Frame, return_fills),
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
    fn plinth_vmx_guarded_exit();
}

/// Whether the exit has to be guarded against what a guest has taught the branch predictors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Exit {
    /// It has not.
    Plain,
    /// It has, and IA32_SPEC_CTRL is there.
    Guarded,
}

/// What the VMCS's host RIP is to be.
pub(super) fn exit_address(exit: Exit) -> u64 {
    let address = match exit {
        Exit::Plain => plinth_vmx_exit as *const (),
        Exit::Guarded => plinth_vmx_guarded_exit as *const (),
    };
    address as u64
}
