// The 256 interrupt stubs, the common handler, and the probe's way in and out.

// Each stub is 16 bytes: error code (0 where the processor pushes none), vector, common handler.
.section .text.exceptions, "ax"
.balign 16
.global exception_stubs
exception_stubs:
.set vector, 0
.rept 256
.balign 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    push 0
    .endif
    push vector
    jmp exception_common
.set vector, vector + 1
.endr

// Builds exceptions::Frame on the stack and passes it on; whatever the handler changed in it is what is
// returned to. All general registers are kept; the runtime uses no other.
exception_common:
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    cld
    mov rdi, rsp
    call exception_dispatch
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq

// fn probe_call(saved_rsp: *mut u64, body: extern "C" fn(*mut u8), data: *mut u8) -> u64
// Calls body(data) and returns 0. A fault inside makes exception_dispatch return to probe_abandoned with
// the saved rsp, which returns 1 to the same caller. Keeps what the C calling convention says, and RFLAGS.
.global probe_call
probe_call:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    pushfq
    mov [rdi], rsp
    mov rdi, rdx
    call rsi
    xor eax, eax
    jmp 2f
.global probe_abandoned
probe_abandoned:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov eax, 1
2:  popfq
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
