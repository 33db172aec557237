// The two entry points of a guest, and the way to 64-bit Rust.
//
// pvh_start    32-bit protected mode, paging off, ebx = address of the hvm_start_info (the PVH direct
//              boot protocol; named by the ELF note below).
// elf64_start  64-bit mode, paging on and this image identity-mapped; nothing else is taken for granted.
//
// Steps: own stack; page tables that map the first 4 GiB to themselves with 2 MiB pages; long mode;
// own GDT; guest_main(start_info). No register survives, and no caller is returned to.

.section .note.pvh, "a", @note
.balign 4
.long 4                         // size of the name
.long 8                         // size of the descriptor
.long 18                        // XEN_ELFNOTE_PHYS32_ENTRY
.asciz "Xen"
.quad pvh_start

// Fills boot_pml4, boot_pdpt and boot_pd. The same source serves both modes: addresses are below 2 GiB
// and the tables start out zero. Clobbers eax, ecx, edi.
.macro build_tables
    mov edi, offset boot_pd
    mov eax, 0x83               // present, writable, 2 MiB page
    mov ecx, 2048
1:  mov [edi], eax
    add eax, 0x200000
    add edi, 8
    dec ecx
    jnz 1b
    mov edi, offset boot_pdpt
    mov eax, offset boot_pd
    or eax, 3
    mov ecx, 4
2:  mov [edi], eax
    add eax, 0x1000
    add edi, 8
    dec ecx
    jnz 2b
    mov eax, offset boot_pdpt
    or eax, 3
    mov edi, offset boot_pml4
    mov [edi], eax
.endm

.section .text.boot, "ax"
.code32
.global pvh_start
pvh_start:
    cli
    cld
    mov esp, offset boot_stack_top
    mov ebp, ebx
    build_tables
    mov eax, cr4
    or eax, 1 << 5              // CR4.PAE
    mov cr4, eax
    mov eax, offset boot_pml4
    mov cr3, eax
    mov ecx, 0xc0000080         // IA32_EFER
    rdmsr
    or eax, 1 << 8              // LME
    wrmsr
    mov eax, 0x80010033         // PG, WP, NE, ET, MP, PE
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    push 8
    mov eax, offset long_start
    push eax
    retf

.code64
.global elf64_start
elf64_start:
    cli
    cld
    mov rsp, offset boot_stack_top
    xor ebp, ebp                // no start info
    build_tables
    mov rax, offset boot_pml4
    mov cr3, rax
    mov eax, 0x80010033
    mov cr0, rax
    lgdt [boot_gdt_pointer]
    push 8
    mov rax, offset long_start
    push rax
    retfq

long_start:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov edi, ebp
    xor ebp, ebp
    call guest_main
3:  cli
    hlt
    jmp 3b

.section .rodata.boot, "a"
.balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    // 0x08: 64-bit code
    .quad 0x00cf93000000ffff    // 0x10: data
boot_gdt_end:
boot_gdt_pointer:
    .short boot_gdt_end - boot_gdt - 1
    .quad boot_gdt

.section .bss.boot, "aw", @nobits
.balign 4096
.global boot_pml4
boot_pml4: .skip 4096
.global boot_pdpt
boot_pdpt: .skip 4096
.global boot_pd
boot_pd: .skip 16384
boot_stack: .skip 65536
boot_stack_top:

// What other assembly puts nowhere in particular goes where it belongs.
.text
