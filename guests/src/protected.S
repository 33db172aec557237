// Long mode -> 32-bit protected mode without paging, and back, around a piece of 32-bit code.
//
// protected_call(body, registers, idt) -> 0, or 1 if an exception ended the body
// Steps: save CR0, CR3, CR4 and EFER; compatibility mode; CR0.PG off; EFER.LME off; CR4.PAE off; the IDT given;
// registers; call the body, which ends with a near return; and the same way back. The body may turn on paging of
// its own, load other segments, and switch tasks: whatever it leaves is dropped. TR, IDTR, GDTR and the segment
// registers are the caller's to restore. Keeps what the C calling convention says.

.section .text.protected, "ax"
.code64
.global protected_call
protected_call:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    pushfq
    cli
    mov [protected_rsp], rsp
    mov [protected_body], edi
    mov [protected_registers], esi
    mov [protected_idt], rdx
    mov rax, cr0
    mov [protected_cr0], rax
    mov rax, cr3
    mov [protected_cr3], rax
    mov rax, cr4
    mov [protected_cr4], rax
    mov ecx, 0xc0000080
    rdmsr
    mov [protected_efer], eax
    push 0x30
    mov rax, offset protected_enter
    push rax
    retfq

.code32
protected_enter:
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov ecx, 0xc0000080
    rdmsr
    and eax, 0xfffffeff
    wrmsr
    mov eax, cr4
    and eax, 0xffffffdf
    mov cr4, eax
    mov eax, [protected_idt]
    lidt [eax]
    mov ebp, [protected_registers]
    mov eax, [ebp]
    mov ebx, [ebp + 4]
    mov ecx, [ebp + 8]
    mov edx, [ebp + 12]
    mov esi, [ebp + 16]
    mov edi, [ebp + 20]
    call dword ptr [protected_body]
    mov ebp, [protected_registers]
    mov [ebp], eax
    mov [ebp + 4], ebx
    mov [ebp + 8], ecx
    mov [ebp + 12], edx
    mov [ebp + 16], esi
    mov [ebp + 20], edi
    xor ebp, ebp
    jmp protected_leave

// What every 32-bit stub comes to: the vector and the error code are on the stack.
protected_fault_common:
    mov ebp, offset protected_fault
    pop dword ptr [ebp]
    pop dword ptr [ebp + 4]
    pop dword ptr [ebp + 8]
    pop dword ptr [ebp + 12]
    pop dword ptr [ebp + 16]
    mov eax, cr2
    mov [ebp + 20], eax
    mov eax, esp
    mov [ebp + 24], eax
    mov ebp, 1

// ebp = result. Needs flat data segments at 0x10 in the GDT and nothing else.
protected_leave:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, [protected_rsp]
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov eax, [protected_cr4]
    mov cr4, eax
    mov eax, [protected_cr3]
    mov cr3, eax
    mov ecx, 0xc0000080
    mov eax, [protected_efer]
    and eax, 0xfffffbff
    xor edx, edx
    wrmsr
    mov eax, [protected_cr0]
    mov cr0, eax
    push 0x08
    mov eax, offset protected_back
    push eax
    retf

.code64
protected_back:
    mov eax, ebp
    mov rsp, [protected_rsp]
    popfq
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

.code32
.balign 16
.global protected_stubs
protected_stubs:
.set protected_vector, 0
.rept 64
.balign 16
    .if (protected_vector == 8) || ((protected_vector >= 10) && (protected_vector <= 14)) || (protected_vector == 17) || (protected_vector == 21)
    .else
    push 0
    .endif
    push protected_vector
    jmp protected_fault_common
.set protected_vector, protected_vector + 1
.endr
.code64

.section .bss.protected, "aw", @nobits
.balign 8
protected_rsp: .skip 8
protected_cr0: .skip 8
protected_cr3: .skip 8
protected_cr4: .skip 8
protected_idt: .skip 8
protected_efer: .skip 4
protected_body: .skip 4
protected_registers: .skip 4
.global protected_fault
protected_fault: .skip 28
