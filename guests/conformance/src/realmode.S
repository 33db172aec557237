// The flat real-mode guest: entry at 0000:7c00, its console, the driver of the real-mode cases, and the
// round trip real -> protected -> long -> compatibility -> protected -> 16-bit protected -> real.
//
// Memory: code and data from 0x7c00, the stack below; 0x10000-0x12fff page tables; 0x13000 a protected-mode
// IDT; 0x14000 a TSS; 0x20000-0x2ffff scratch for the cases; 0x200000 scratch above the first MiB.

.set SECOND_SECTOR, 0x504c5448

.macro far_jump16 selector, target
    .byte 0xea
    .short \target
    .short \selector
.endm
.macro far_jump32_from_16 selector, target
    .byte 0x66, 0xea
    .long \target
    .short \selector
.endm
.macro far_jump32 selector, target
    .byte 0xea
    .long \target
    .short \selector
.endm

// A near call and return for the mode they stand in: in 16-bit code the assembler's own are 32-bit ones.
.macro near_return
    .byte 0xc3
.endm
.macro near_call bits, target
.if \bits == 16
    .byte 0xe8
    .short \target - . - 2
.else
    call \target
.endif
.endm

// The console in one mode: put_char (al), put_text (zero-terminated at si), put_hex (ax), and the outcome
// lines pass and fail (name at si; fail also shows ax). a, b, d, s: the mode's registers. All but put_char
// and pass, fail clobber al and si; pass says nothing while [quiet] is set.
.macro console bits, a, b, d, s
put_char\bits:
    push \d
    push \a
    mov dx, 0x3fd
1:  in al, dx
    test al, 0x20               // THRE
    jz 1b
    pop \a
    mov dx, 0x3f8
    out dx, al
    pop \d
    near_return

put_text\bits:
    lodsb
    test al, al
    jz 2f
    near_call \bits, put_char\bits
    jmp put_text\bits
2:  near_return

put_hex\bits:
    push \b
    mov bx, ax
    mov ah, 4
3:  rol bx, 4
    mov al, bl
    and al, 15
    add al, 0x30
    cmp al, 0x39
    jbe 4f
    add al, 0x27
4:  near_call \bits, put_char\bits
    dec ah
    jnz 3b
    pop \b
    near_return

pass\bits:
    cmp byte ptr [quiet], 0
    jne 5f
    inc word ptr [passed]
    push \a
    push \s
    mov \s, offset text_pass
    near_call \bits, put_text\bits
    pop \s
    push \s
    near_call \bits, put_text\bits
    mov \s, offset text_newline
    near_call \bits, put_text\bits
    pop \s
    pop \a
5:  near_return

fail\bits:
    inc word ptr [failed]
    push \a
    push \s
    mov \s, offset text_fail
    near_call \bits, put_text\bits
    pop \s
    push \s
    near_call \bits, put_text\bits
    mov \s, offset text_got
    near_call \bits, put_text\bits
    pop \s
    pop \a
    push \a
    push \s
    near_call \bits, put_hex\bits
    mov \s, offset text_newline
    near_call \bits, put_text\bits
    pop \s
    pop \a
    near_return

// Reports the case whose name is at si: passed if the zero flag is set, else failed with ax.
report\bits:
    je pass\bits
    jmp fail\bits
.endm

.section .text.realmode.start, "awx"
.code16
.global realmode_start
realmode_start:
    cli
    cld
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00
    far_jump16 0, at_zero
at_zero:
    cmp dword ptr [second_sector], SECOND_SECTOR
    je loaded
    // Only the first sector is here: a BIOS booted this from a disk, and dl is its number.
    mov si, offset disk_packet
    mov ah, 0x42
    int 0x13
    cli
    jc no_disk
    cmp dword ptr [second_sector], SECOND_SECTOR
    je loaded
no_disk:
    hlt
    jmp no_disk
loaded:
    jmp main

.balign 4
disk_packet:
    .byte 16, 0
    .short realmode_more_sectors
    .short 0x7e00, 0
    .quad 1

.org 510
    .short 0xaa55
second_sector:
    .long SECOND_SECTOR

.section .text.realmode, "awx"
.code16
console 16, ax, bx, dx, si
.code32
console 32, eax, ebx, edx, esi
.code64
console 64, rax, rbx, rdx, rsi

.code16
main:
    mov dx, 0x3f9               // UART: no interrupts, 115200 8N1, FIFO on
    xor al, al
    out dx, al
    mov dx, 0x3fb
    mov al, 0x80
    out dx, al
    mov dx, 0x3f8
    mov al, 1
    out dx, al
    inc dx
    xor al, al
    out dx, al
    mov dx, 0x3fb
    mov al, 3
    out dx, al
    dec dx
    mov al, 7
    out dx, al
    in al, 0x92                 // open the A20 gate where a BIOS has left it shut
    or al, 2
    and al, 0xfe
    out 0x92, al
    mov si, offset text_hello
    near_call 16, put_text16
    near_call 16, run_cases

    // The way through the modes; aloud the first time, then fifty times in silence.
    mov word ptr [rounds], 51
round_trip:
    lgdt [gdt_pointer]
    lidt [idt32_pointer]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    far_jump32_from_16 0x08, in_protected

.code32
in_protected:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, 0x7c00
    mov ax, cs
    cmp ax, 0x08
    mov esi, offset name_protected
    call report32
    call protected_cases

    // Long mode: identity map of the first 2 MiB.
    mov edi, 0x10000
    xor eax, eax
    mov ecx, 0x3000 / 4
    rep stosd
    mov dword ptr [0x10000], 0x11003
    mov dword ptr [0x11000], 0x12003
    mov dword ptr [0x12000], 0x83
    mov eax, 0x10000
    mov cr3, eax
    mov eax, cr4
    or eax, 1 << 5
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 1 << 8
    wrmsr
    mov eax, cr0
    or eax, 1 << 31
    mov cr0, eax
    far_jump32 0x28, in_long

.code64
in_long:
    mov ecx, 0xc0000080
    rdmsr
    and eax, 0x500
    cmp eax, 0x500              // LMA and LME
    mov rsi, offset name_long
    call report64
    mov rax, 0x123456789
    mov r15, rax
    imul r15, r15, 0x10
    mov rax, 0x1234567890
    cmp r15, rax
    mov rsi, offset name_long_registers
    call report64
    push 0x08
    mov rax, offset in_compatibility
    push rax
    retfq

.code32
in_compatibility:
    // inc eax and not a REX prefix: only 32-bit code counts this
    xor eax, eax
    .byte 0x40
    nop
    cmp eax, 1
    mov esi, offset name_compatibility
    call report32
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov ecx, 0xc0000080
    rdmsr
    mov ebx, eax
    and eax, 0xfffffeff
    wrmsr
    and ebx, 0x500
    mov ax, bx
    cmp ebx, 0x100              // LMA went with paging, LME did not
    mov esi, offset name_protected_again
    call report32
    mov eax, cr4
    and eax, 0xffffffdf
    mov cr4, eax
    far_jump32 0x18, in_protected16

.code16
in_protected16:
    mov ax, 0x20
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov fs, ax
    mov gs, ax
    xor eax, eax
    mov ax, -1
    .byte 0x40                  // inc ax: wraps at 16 bits
    test eax, eax
    mov si, offset name_protected16
    near_call 16, report16
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    far_jump16 0, in_real_again
in_real_again:
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov fs, ax
    mov gs, ax
    lidt [ivt_pointer]
    smsw ax
    test al, 1
    mov si, offset name_real_again
    near_call 16, report16
    mov byte ptr [quiet], 1
    dec word ptr [rounds]
    jnz round_trip

    mov ax, [failed]
    push ax
    near_call 16, run_cases
    pop bx
    mov byte ptr [quiet], 0
    mov ax, [failed]
    cmp ax, bx
    mov si, offset name_cases_again
    near_call 16, report16

    mov si, offset text_done
    near_call 16, put_text16
    mov ax, [passed]
    near_call 16, put_decimal
    mov si, offset text_passed
    near_call 16, put_text16
    mov ax, [failed]
    near_call 16, put_decimal
    mov si, offset text_failed
    near_call 16, put_text16
    mov ax, 0x2000              // ACPI S5: QEMU's board and Plinth's, then Bochs's
    mov dx, 0x604
    out dx, ax
    mov dx, 0xb004
    out dx, ax
stop:
    cli
    hlt
    jmp stop

// ax in decimal. Clobbers ax, bx, cx, dx.
put_decimal:
    mov bx, 10
    xor cx, cx
1:  xor dx, dx
    div bx
    push dx
    inc cx
    test ax, ax
    jnz 1b
2:  pop ax
    add al, 0x30
    near_call 16, put_char16
    loop 2b
    near_return

// Runs each case of the table: name and routine. A routine leaves with carry clear, or with carry set and
// ax = what it saw instead; it may change every register but ss:sp.
run_cases:
    mov bp, offset case_table
1:  push bp
    call word ptr cs:[bp + 2]
    mov bx, 0
    mov ds, bx
    mov es, bx
    mov fs, bx
    mov gs, bx
    cld
    pop bp
    mov si, cs:[bp]
    jc 2f
    near_call 16, pass16
    jmp 3f
2:  near_call 16, fail16
3:  add bp, 4
    cmp bp, offset case_table_end
    jb 1b
    near_return

// The cases of 32-bit protected mode without paging. Clobbers everything but ss:esp.
.code32
protected_cases:
    // Gates for #GP and for the way out of virtual-8086 mode, and a TSS for the stack it needs.
    mov eax, offset general_protection32
    mov edi, 0x13000 + 13 * 8
    mov edx, 0x8e00
    call put_gate
    mov eax, offset leave_v86
    mov edi, 0x13000 + 0x41 * 8
    mov edx, 0xee00
    call put_gate

    // A segment with a base and a limit.
    mov word ptr [0x2ffff], 0xa55a
    mov eax, 0x30
    mov gs, eax
    movzx eax, byte ptr gs:[0xffff]
    cmp eax, 0x5a
    mov esi, offset name_segment_base
    call report32
    mov word ptr [fault_error], 0xffff
    mov dword ptr [resume], offset after_limit
    mov al, gs:[0x10000]
    mov word ptr [fault_error], 0xfffe
after_limit:
    mov ax, [fault_error]
    test ax, ax
    mov esi, offset name_segment_limit
    call report32
    // A selector that is no segment: the error code is the selector.
    mov dword ptr [resume], offset after_selector
    mov eax, 0x80
    mov gs, eax
    mov word ptr [fault_error], 0xfffe
after_selector:
    mov ax, [fault_error]
    cmp ax, 0x80
    mov esi, offset name_bad_selector
    call report32
    xor eax, eax
    mov gs, eax

    // Virtual-8086 mode with IOPL 3: segments as in real mode, a port, CPUID, and out through the gate.
    mov byte ptr [gdt_tss + 5], 0x89
    mov dword ptr [0x14004], 0x7a00
    mov dword ptr [0x14008], 0x10
    mov dword ptr [0x14064], 0x680000
    mov edi, 0x14068
    xor eax, eax
    mov ecx, 0x400 / 4          // a bitmap that allows ports up to 0x1fff
    rep stosd
    mov byte ptr [0x14468], 0xff
    mov eax, 0x38
    ltr ax
    mov [saved_esp], esp
    mov byte ptr [0x20123], 0x77
    push 0                      // gs, fs, ds, es
    push 0
    push 0
    push 0
    push 0                      // ss:sp
    push 0x7800
    push 0x23002                // VM, IOPL 3
    push 0
    mov eax, offset in_v86
    push eax
    iretd
after_v86:
    mov ax, bx
    cmp ebx, 0x77
    mov esi, offset name_v86
    call report32
    ret

// eax = handler, edi = gate, edx = type in the second word of the high half.
put_gate:
    mov [edi], ax
    mov word ptr [edi + 2], 0x08
    mov [edi + 4], dx
    shr eax, 16
    mov [edi + 6], ax
    ret

// Notes the error code and continues at [resume].
general_protection32:
    push eax
    mov eax, [esp + 4]
    mov [fault_error], ax
    mov eax, [resume]
    mov [esp + 8], eax
    pop eax
    add esp, 4
    iretd

.code16
in_v86:
    mov ax, 0x2012
    mov ds, ax
    xor eax, eax
    cpuid
    mov dx, 0x3fd
    in al, dx
    xor ebx, ebx
    mov bl, [3]
    int 0x41

.code32
leave_v86:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov esp, [saved_esp]
    jmp after_v86

.section .realmode.cases, "aw"
case_table:
.section .realmode.cases_end, "aw"
case_table_end:
.section .realmode.data, "aw"
.balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff    // 0x08: 32-bit code
    .quad 0x00cf93000000ffff    // 0x10: data
    .quad 0x00009b000000ffff    // 0x18: 16-bit code, base 0
    .quad 0x000093000000ffff    // 0x20: 16-bit data, base 0
    .quad 0x00af9b000000ffff    // 0x28: 64-bit code
    .quad 0x000093020000ffff    // 0x30: data from 0x20000 to 0x2ffff
gdt_tss:
    .quad 0x0000890140000fff    // 0x38: 32-bit TSS at 0x14000
gdt_end:
gdt_pointer:
    .short gdt_end - gdt - 1
    .long gdt
idt32_pointer:
    .short 0x41 * 8 + 7
    .long 0x13000
ivt_pointer:
    .short 0x3ff
    .long 0
passed: .short 0
failed: .short 0
rounds: .short 0
quiet: .byte 0, 0
resume: .long 0
saved_esp: .long 0
fault_error: .short 0
counter: .short 0
fault_vector: .short 0
fault_ip: .short 0
text_hello: .asciz "Hello from real mode.\r\n"
text_pass: .asciz "PASS "
text_fail: .asciz "FAIL "
text_got: .asciz ": got 0x"
text_newline: .asciz "\r\n"
text_done: .asciz "DONE "
text_passed: .asciz " passed, "
text_failed: .asciz " failed\r\n"
name_protected: .asciz "real-to-protected-mode"
name_segment_base: .asciz "protected-segment-base-is-added"
name_segment_limit: .asciz "protected-segment-limit-is-checked"
name_bad_selector: .asciz "protected-selector-beyond-the-gdt-faults"
name_v86: .asciz "virtual-8086-mode"
name_long: .asciz "protected-to-long-mode"
name_long_registers: .asciz "long-mode-has-64-bit-registers"
name_compatibility: .asciz "long-to-compatibility-mode"
name_protected_again: .asciz "leaving-long-mode-clears-lma"
name_protected16: .asciz "protected-to-16-bit-protected-mode"
name_real_again: .asciz "back-to-real-mode"
name_cases_again: .asciz "real-mode-cases-hold-after-fifty-round-trips"

