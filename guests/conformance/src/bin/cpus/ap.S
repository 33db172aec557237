// The second processor: what it runs in real mode, copied to the page that the start-up IPI names, and in 64-bit mode.

// The page's variables, at these offsets. The state that was found comes first, in the order of `Found`.
.set FOUND, 0x800
.set STARTS, 0x880
.set COMMAND, 0x884
.set HEARTBEAT, 0x888
.set SPACE, 0x88c
.set ENTRY, 0x890
.set GDT_POINTER, 0x898
.set GDT, 0x8a0
.set STACK, 0xff0

.section .rodata.ap, "a"
.code16
.global ap_page
ap_page:
    mov cs:[FOUND], eax
    mov cs:[FOUND + 4], ebx
    mov cs:[FOUND + 8], ecx
    mov cs:[FOUND + 12], edx
    mov cs:[FOUND + 16], esi
    mov cs:[FOUND + 20], edi
    mov cs:[FOUND + 24], ebp
    mov cs:[FOUND + 28], esp
    mov ax, ds
    mov cs:[FOUND + 64], ax
    mov ax, es
    mov cs:[FOUND + 68], ax
    mov ax, fs
    mov cs:[FOUND + 72], ax
    mov ax, gs
    mov cs:[FOUND + 76], ax
    mov ax, ss
    mov cs:[FOUND + 80], ax
    mov ax, cs
    mov cs:[FOUND + 60], ax
    mov ds, ax
    mov ss, ax
    mov esp, STACK
    pushfd
    pop eax
    mov [FOUND + 32], eax
    mov eax, cr0
    mov [FOUND + 36], eax
    mov eax, cr2
    mov [FOUND + 40], eax
    mov eax, cr3
    mov [FOUND + 44], eax
    mov eax, cr4
    mov [FOUND + 48], eax
    mov eax, dr6
    mov [FOUND + 52], eax
    mov eax, dr7
    mov [FOUND + 56], eax
    mov ecx, 0xc0000080         // IA32_EFER
    rdmsr
    mov [FOUND + 84], eax
    mov ecx, 0x1b               // IA32_APIC_BASE
    rdmsr
    mov [FOUND + 88], eax
    sgdt [FOUND + 96]
    sidt [FOUND + 104]
    inc dword ptr [STARTS]
1:  inc dword ptr [HEARTBEAT]
    mov eax, [COMMAND]
    cmp eax, 1
    je 2f
    cmp eax, 2
    je 3f
    cmp eax, 3
    je 4f
    pause
    jmp 1b
2:  cli                         // command 1: sleep
    hlt
    jmp 2b
3:  jmp 3b                      // command 2: a loop that touches nothing
4:  lgdt [GDT_POINTER]          // command 3: 64-bit mode
    mov eax, cr4
    or eax, 1 << 5
    mov cr4, eax
    mov eax, [SPACE]
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 1 << 8 | 1 << 11    // LME, NXE
    wrmsr
    mov eax, cr0
    and eax, 0x9fffffff
    or eax, 0x80000001
    mov cr0, eax
    mov eax, [ENTRY]
    push 0
    push 8
    push eax
    .byte 0x66, 0xcb            // RETF with a 32-bit offset
.global ap_page_end
ap_page_end:

.section .text.ap, "ax"
.code64
.global ap_long
ap_long:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    lea rsp, [rip + ap_stack_top]
    lidt [rip + ap_idt_pointer]
    mov ebx, 0xfee00000
    mov dword ptr [rbx + 0xf0], 0x1ff
    mov dword ptr [rbx + 0x80], 0
    mov dword ptr [rbx + 0xd0], 0x02000000      // LDR: bit 1
    lock inc dword ptr [rip + ap_ready]
1:  lock inc dword ptr [rip + ap_heartbeat]
    mov eax, [rip + ap_command]
    cmp eax, 1
    je 2f
    cmp eax, 2
    je 3f
    cmp eax, 3
    je 4f
    cmp eax, 4
    je 5f
    cli
    pause
    jmp 1b
2:  sti                         // command 1: sleep, open to interrupts
    hlt
    jmp 1b
3:  sti                         // command 2: a loop, open to interrupts
    pause
    jmp 1b
4:  cli                         // command 3: sleep, closed
    hlt
    jmp 1b
5:  rdtsc                       // command 4: tell the time
    mov [rip + ap_time], eax
    mov [rip + ap_time + 4], edx
    lock inc dword ptr [rip + ap_times]
6:  mov eax, [rip + ap_command]
    cmp eax, 4
    jne 1b
    mov eax, [rip + ap_times]
    cmp eax, [rip + ap_times_wanted]
    je 6b
    jmp 5b

.balign 16
.global ap_stubs
ap_stubs:
.set ap_vector, 0
.rept 256
.balign 16
    push ap_vector
    jmp ap_common
.set ap_vector, ap_vector + 1
.endr

// Counts, and ends what is not an exception. An NMI stays here for ever if it is told to.
ap_common:
    push rax
    push rbx
    mov rax, [rsp + 16]
    and eax, 0xff
    lea rbx, [rip + ap_counts]
    lock inc dword ptr [rbx + rax * 4]
    cmp eax, 0x20
    jae 7f
    cmp dword ptr [rip + ap_nmi_stays], 0
    je 8f
6:  pause
    jmp 6b
7:  mov ebx, 0xfee00000
    mov dword ptr [rbx + 0xb0], 0
8:  pop rbx
    pop rax
    add rsp, 8
    iretq

.section .bss.ap, "aw", @nobits
.balign 16
.skip 4096
ap_stack_top:
.global ap_idt_pointer
ap_idt_pointer: .skip 16
.global ap_counts
ap_counts: .skip 1024
.global ap_time
ap_time: .skip 8
.global ap_ready
ap_ready: .skip 4
.global ap_heartbeat
ap_heartbeat: .skip 4
.global ap_command
ap_command: .skip 4
.global ap_times
ap_times: .skip 4
.global ap_times_wanted
ap_times_wanted: .skip 4
.global ap_nmi_stays
ap_nmi_stays: .skip 4
