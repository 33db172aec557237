// The cases that run in real mode. Each leaves with carry clear, or with carry set and ax = what it saw.

.macro real_case routine, text
.pushsection .realmode.names, "aw"
\routine\()_name: .asciz "\text"
.popsection
.pushsection .realmode.cases, "aw"
    .short \routine\()_name, \routine
.popsection
\routine:
.endm

// Leaves the case as failed unless the 16-bit register or memory word is as wanted.
.macro expect value, wanted
    cmp \value, \wanted
    je 77f
    mov ax, \value
    stc
    near_return
77:
.endm

.macro expect_al wanted
    xor ah, ah
    expect ax, \wanted
.endm

.macro passes
    clc
    near_return
.endm

.macro set_vector number, handler
    mov word ptr [\number * 4], offset \handler
    mov word ptr [\number * 4 + 2], 0
.endm

// Before an instruction that is to fault: this exception is noted, and what comes after it begins at `resume`.
.set NO_FAULT, 0xff
.macro await_fault number, resume_at
    set_vector \number, fault_\number
    mov word ptr [fault_vector], NO_FAULT
    mov word ptr [resume], offset \resume_at
.endm

// There was this exception, at this instruction where one is given.
.macro expect_fault number, at
    expect "word ptr [fault_vector]", \number
    .ifnb \at
    expect "word ptr [fault_ip]", "offset \at"
    .endif
.endm

.macro fault_handler number
fault_\number:
    mov word ptr cs:[fault_vector], \number
    jmp fault_common
.endm

.section .text.realmode, "awx"
.code16

// Fault handlers: note the vector and the address, and continue at [resume].
fault_handler 0
fault_handler 4
fault_handler 5
fault_handler 6
fault_handler 12
fault_handler 13
fault_common:
    pop word ptr cs:[fault_ip]
    push word ptr cs:[resume]
    iret

count_interrupts:
    inc word ptr cs:[counter]
    iret

real_case segment_arithmetic, "real-segments-are-added-times-16"
    mov ax, 0x2000
    mov ds, ax
    mov byte ptr [0x0123], 0x5e
    mov ax, 0x2012
    mov es, ax
    mov al, es:[0x0003]
    xor ah, ah
    expect ax, 0x5e
    mov ax, 0x2fff
    mov gs, ax
    mov byte ptr gs:[0xf], 0x61
    mov al, [0xffff]
    expect_al 0x61
    passes

real_case offset_limit, "real-word-at-offset-ffff-faults"
    await_fault 13, offset_limit_1
offset_limit_2:  mov ax, [0xffff]
offset_limit_1:  expect_fault 13, offset_limit_2
    passes

real_case far_control, "real-far-calls-jumps-and-returns"
    mov bx, sp
    .byte 0x9a                  // call 0x0100:far_target - 0x1000
    .short far_target - 0x1000
    .short 0x0100
    mov cx, sp
    expect cx, bx
    expect ax, 0x0100
    push 0x1111                 // an argument that retf 2 drops
    push cs
    push offset far_control_1
    jmp far_target_2
far_control_1:  mov cx, sp
    expect cx, bx
    passes
far_target:
    mov ax, cs
    .byte 0xcb                  // retf
far_target_2:
    .byte 0xca, 2, 0            // retf 2

real_case stack_wraps, "real-stack-wraps-at-zero"
    mov bx, sp
    mov ax, 0x2000
    mov ss, ax
    xor sp, sp
    push 0xbeef
    mov cx, sp
    pop dx
    mov si, sp
    xor ax, ax
    mov ss, ax
    mov sp, bx
    expect cx, 0xfffe
    expect dx, 0xbeef
    expect si, 0
    passes

real_case software_interrupt, "real-int-goes-through-the-vector-table"
    set_vector 0x40, int_40
    mov bx, sp
    stc
    pushf
    pop cx
    int 0x40
    pushf
    pop dx
    mov si, sp
    expect si, bx
    expect dx, cx
    test word ptr [counter], 0x0300
    mov ax, [counter]
    jnz 1f
    passes
1:  stc
    near_return
int_40:                         // notes the flags that the handler runs with, then disturbs them
    pushf
    pop word ptr cs:[counter]
    clc
    iret

real_case breakpoint, "real-int3-and-into-trap"
    mov word ptr [counter], 0
    set_vector 3, count_interrupts
    set_vector 4, count_interrupts
    int3
    mov al, 0x7f
    add al, 1
    into
    xor al, al
    into
    expect "word ptr [counter]", 2
    passes

real_case divide_error, "real-divide-error-names-its-instruction"
    await_fault 0, divide_error_1
    mov ax, 5
    xor cl, cl
divide_error_2:  div cl
divide_error_1:  expect_fault 0, divide_error_2
    passes

real_case bound_range, "real-bound-checks-its-range"
    await_fault 5, bound_range_1
    mov dword ptr [0x600], 0x00050003
    mov ax, 4
    bound ax, [0x600]
    expect "word ptr [fault_vector]", NO_FAULT
    mov ax, 6
    bound ax, [0x600]
bound_range_1:  expect_fault 5
    passes

real_case invalid_opcode, "real-ud2-traps"
    await_fault 6, invalid_opcode_1
    ud2
invalid_opcode_1:  expect_fault 6
    passes

real_case no_protected_instructions, "real-str-and-ltr-are-invalid"
    await_fault 6, no_protected_instructions_1
    str ax
no_protected_instructions_1:  expect_fault 6
    await_fault 6, no_protected_instructions_2
    ltr ax
no_protected_instructions_2:  expect_fault 6
    passes

real_case vector_table_moves, "real-lidt-moves-the-vector-table"
    mov word ptr [counter], 0
    set_vector 0x41, int_40
    mov word ptr [0x600 + 0x41 * 4], offset count_interrupts
    mov word ptr [0x602 + 0x41 * 4], 0
    lidt [other_ivt]
    int 0x41
    lidt [ivt_pointer]
    expect "word ptr [counter]", 1
    sidt [0x5e0]
    expect "word ptr [0x5e0]", 0x3ff
    expect "word ptr [0x5e2]", 0
    passes
.pushsection .realmode.data, "aw"
other_ivt:
    .short 0x41 * 4 + 3
    .long 0x600
.popsection

real_case flags_image, "real-popf-sets-interrupt-flag"
    pushf
    pop cx
    or cx, 0x7000
    push cx
    popf
    pushf
    pop dx
    and dx, 0x7000
    expect dx, 0x7000
    xor cx, cx
    push cx
    popf
    pushf
    pop dx
    expect dx, 2
    passes

real_case port_bytes, "real-port-reads-and-writes"
    mov dx, 0x3ff               // the UART's scratch register
    mov al, 0x5a
    out dx, al
    mov eax, 0x11223344
    in al, dx
    cmp eax, 0x1122335a
    jne 1f
    mov al, 0xa5
    out dx, al
    in al, dx
    expect_al 0xa5
    passes
1:  stc
    near_return

real_case port_strings, "real-string-port-forms"
    mov ax, 0x2000
    mov ds, ax
    mov es, ax
    mov dword ptr [0x300], 0x44332211
    mov dword ptr [0x310], 0
    mov dx, 0x3ff
    mov si, 0x300
    mov cx, 4
    rep outsb
    mov bx, si
    expect bx, 0x304
    expect cx, 0
    in al, dx
    expect_al 0x44
    mov di, 0x312
    mov cx, 3
    std
    rep insb
    cld
    mov bx, di
    expect bx, 0x30f
    expect "word ptr [0x310]", 0x4444
    expect "word ptr [0x312]", 0x0044
    passes

real_case port_string_segments, "real-outs-segment-override-and-32-bit-address"
    mov ax, 0x2000
    mov fs, ax
    mov byte ptr fs:[0x400], 0x3c
    mov dx, 0x3ff
    mov esi, 0x400
    .byte 0x64, 0x6e            // outsb fs:[si]
    in al, dx
    expect_al 0x3c
    mov byte ptr fs:[0x401], 0xc3
    .byte 0x67, 0x64, 0x6e      // outsb fs:[esi]
    in al, dx
    expect_al 0xc3
    mov bx, si
    expect bx, 0x402
    passes

real_case wide_operands, "real-32-bit-operands-and-addresses"
    mov eax, 0x12345678
    mov ebx, 0x20500
    shr ebx, 4
    mov ds, bx
    xor ebx, ebx
    mov [ebx + ebx * 4 + 8], eax
    mov cx, [0xa]
    expect cx, 0x1234
    mov eax, 0x10000
    mul eax
    mov cx, dx
    expect cx, 1
    passes

real_case unreal, "real-unreal-mode-reaches-above-1-mib"
    lgdt [gdt_pointer]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    mov bx, 0x10
    mov fs, bx
    and al, 0xfe
    mov cr0, eax
    mov esi, 0x200000
    mov dword ptr fs:[esi], 0x600dcafe
    xor eax, eax
    cpuid                       // an exit must not disturb the hidden limit
    mov ax, fs:[esi + 2]
    expect ax, 0x600d
    xor ax, ax
    mov fs, ax                  // nor does a load in real mode
    mov ax, fs:[esi]
    expect ax, 0xcafe
    lgdt [gdt_pointer]          // real mode's own limit again
    mov eax, cr0
    or al, 1
    mov cr0, eax
    mov bx, 0x20
    mov fs, bx
    and al, 0xfe
    mov cr0, eax
    passes

real_case cpuid_and_tsc, "real-cpuid-rdtsc-and-rdmsr"
    xor eax, eax
    cpuid
    or ax, ax
    jz 1f
    rdtsc
    mov ebx, eax
    mov esi, edx
    rdtsc
    sub eax, ebx
    sbb edx, esi
    jc 1f
    mov ecx, 0xc0000080
    rdmsr
    and ax, 0x400               // LMA
    expect ax, 0
    passes
1:  stc
    near_return

real_case machine_status, "real-smsw-and-control-registers"
    smsw ax
    test al, 1
    jnz 1f
    mov eax, cr0
    mov ebx, eax
    or eax, 8                   // TS
    mov cr0, eax
    smsw cx
    clts
    mov eax, cr0
    mov cr0, ebx
    and cx, 8
    expect cx, 8
    and ax, 8
    expect ax, 0
    passes
1:  stc
    near_return

real_case descriptor_tables, "real-lgdt-and-sgdt"
    lgdt [gdt_pointer]
    sgdt [0x5e0]
    mov ax, [gdt_pointer]
    expect "word ptr [0x5e0]", ax
    mov ax, [gdt_pointer + 2]
    expect "word ptr [0x5e2]", ax
    passes

real_case single_step, "real-trap-flag-steps-over-cpuid-and-in"
    set_vector 1, count_interrupts
    mov word ptr [counter], 0
    pushf
    pop cx
    mov di, cx
    or cx, 0x100
    push cx
    popf                        // from the next instruction on, each traps after it
    xor eax, eax
    cpuid
    in al, 0x61
    push di
    popf
    nop
    expect "word ptr [counter]", 5
    passes

real_case string_moves, "real-string-moves-in-both-directions"
    mov ax, 0x2000
    mov ds, ax
    mov es, ax
    mov si, 0x100
    mov di, 0x101
    mov byte ptr [si], 0xee
    mov cx, 0x40
    rep movsb                   // overlapping: smears the first byte
    mov al, 0xee
    mov di, 0x100
    mov cx, 0x42
    mov byte ptr [0x141], 0
    repe scasb
    expect di, 0x142
    std
    mov di, 0x140
    mov ax, 0x1234
    mov cx, 2
    rep stosw
    cld
    expect di, 0x13c
    expect "word ptr [0x13e]", 0x1234
    passes

// FS with a limit of 4 GiB, and real mode's own limit again. Both clobber ax, bx.
.macro limit_of_fs selector
    lgdt [gdt_pointer]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    mov bx, \selector
    mov fs, bx
    and al, 0xfe
    mov cr0, eax
.endm

real_case device_memory, "real-device-memory-in-unreal-mode"
    limit_of_fs 0x10
    mov esi, 0xfee000d0         // the local APIC's LDR
    mov dword ptr fs:[esi], 0x12ffffff
    or dword ptr fs:[esi], 0x21000000
    mov edx, fs:[esi]
    mov ecx, 0x56000000
    xchg fs:[esi], ecx
    movzx edi, byte ptr fs:[esi + 3]
    mov dword ptr fs:[esi], 0
    limit_of_fs 0x20
    shr edx, 16
    expect dx, 0x3300
    shr ecx, 16
    expect cx, 0x3300
    expect di, 0x56
    passes

real_case interrupt_wakes, "real-interrupt-wakes-hlt"
    set_vector 0x40, timer_interrupt
    mov word ptr [counter], 0
    mov al, 0x11
    out 0x20, al
    mov al, 0x40
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    mov al, 0xfe
    out 0x21, al
    mov al, 0xff
    out 0xa1, al
    mov al, 0x30                // channel 0, mode 0
    out 0x43, al
    xor al, al
    out 0x40, al
    mov al, 8
    out 0x40, al
    sti
    hlt
    cli
    mov al, 0xff
    out 0x21, al
    expect "word ptr [counter]", 1
    passes
timer_interrupt:
    push ax
    inc word ptr cs:[counter]
    mov al, 0x20
    out 0x20, al
    pop ax
    iret

// Makes this processor's local APIC ready to send it NMIs, which are counted; FS reaches 4 GiB from then on.
.macro count_own_nmis
    set_vector 2, count_interrupts
    mov word ptr [counter], 0
    limit_of_fs 0x10
    mov esi, 0xfee00020
    mov eax, fs:[esi]           // to this processor's own ID
    and eax, 0xff000000
    mov dword ptr fs:[esi + 0x2f0], eax
.endm

// Sends one, and waits until it must have come.
.macro own_nmi
    mov dword ptr fs:[esi + 0x2e0], 0x4400
    mov cx, 100
78: pause
    loop 78b
.endm

real_case nmi, "real-nmi-goes-through-the-vector-table"
    count_own_nmis
    own_nmi
    own_nmi
    limit_of_fs 0x20
    expect "word ptr [counter]", 2
    passes

real_case a20_is_open, "real-a20-is-open"
    in al, 0x92
    and al, 2
    expect_al 2
    mov ax, 0xffff
    mov es, ax
    mov bx, es:[0x610]
    mov word ptr [0x600], 0x1111
    mov word ptr es:[0x610], 0x2222
    mov dx, [0x600]
    mov cx, es:[0x610]
    mov es:[0x610], bx
    xor ax, ax
    mov es, ax
    expect dx, 0x1111
    expect cx, 0x2222
    passes

// Writes the two words that a closed gate makes one, and leaves what is then read of them in dx and cx.
a20_probe:
    mov ax, 0xffff
    mov es, ax
    mov bx, es:[0x610]
    mov word ptr [0x600], 0x1111
    mov word ptr es:[0x610], 0x2222
    mov dx, [0x600]
    mov cx, es:[0x610]
    mov es:[0x610], bx
    mov [0x600], bx
    xor ax, ax
    mov es, ax
    near_return

.macro expect_closed
    near_call 16, a20_probe
    expect dx, 0x2222
    expect cx, 0x2222
    in al, 0x92
    and al, 2
    expect_al 0
.endm

.macro expect_open
    near_call 16, a20_probe
    expect dx, 0x1111
    expect cx, 0x2222
    in al, 0x92
    and al, 2
    expect_al 2
.endm

real_case a20_by_port_92, "real-a20-by-port-92"
    near_call 16, a20_close
    expect_closed
    near_call 16, a20_close     // a second time
    expect_closed
    near_call 16, a20_open
    expect_open
    passes
a20_close:
    in al, 0x92
    and al, 0xfc
    out 0x92, al
    near_return
a20_open:
    in al, 0x92
    or al, 2
    and al, 0xfe
    out 0x92, al
    near_return

// The command byte in al to the keyboard controller, once that can take it.
keyboard_command:
    mov ah, al
1:  in al, 0x64
    test al, 2
    jnz 1b
    mov al, ah
    out 0x64, al
2:  in al, 0x64
    test al, 2
    jnz 2b
    near_return

real_case a20_by_the_keyboard_controller, "real-a20-by-the-keyboard-controller"
    mov al, 0xdd
    near_call 16, keyboard_command
    expect_closed
    mov al, 0xdf
    near_call 16, keyboard_command
    expect_open
    mov al, 0xd1
    near_call 16, keyboard_command
    mov al, 0xdd
    out 0x60, al
    expect_closed
    mov al, 0xd1
    near_call 16, keyboard_command
    mov al, 0xdf
    out 0x60, al
    expect_open
    mov al, 0xdd                // closed here, opened there
    near_call 16, keyboard_command
    near_call 16, a20_open
    expect_open
    passes

real_case a20_code, "real-a20-closed-runs-code-that-wraps"
    near_call 16, a20_close
    mov ax, [0x600]
    push ax
    mov byte ptr [0x600], 0xcb  // retf
    xor ax, ax
    .byte 0x9a                  // call 0xffff:0x0610, which is 0x600 now
    .short 0x0610
    .short 0xffff
    near_call 16, a20_open
    pop ax
    mov [0x600], ax
    passes

real_case a20_strings_and_devices, "real-a20-closed-for-strings-and-port-input"
    near_call 16, a20_close
    mov ax, 0xffff
    mov es, ax
    mov dword ptr [0x600], 0x44332211
    mov si, 0x600
    mov di, 0x620               // 0x610 without the gate
    mov cx, 2
    rep movsw
    mov di, 0x624
    mov dx, 0x92
    insb                        // an exit writes here
    near_call 16, a20_open
    xor ax, ax
    mov es, ax
    expect "word ptr [0x610]", 0x2211
    expect "word ptr [0x612]", 0x4433
    mov al, [0x614]
    and al, 2
    expect_al 0
    passes

real_case a20_above, "real-a20-closed-in-every-odd-mib"
    limit_of_fs 0x10
    mov esi, 0x200000
    mov edi, 0x300000
    mov dword ptr fs:[esi], 0x11111111
    mov dword ptr fs:[edi], 0x22222222
    near_call 16, a20_close
    mov edx, fs:[edi]
    mov dword ptr fs:[edi + 4], 0x33333333
    mov ebp, fs:[esi + 4]
    near_call 16, a20_open
    mov ecx, fs:[edi]
    limit_of_fs 0x20
    expect dx, 0x1111
    expect bp, 0x3333
    expect cx, 0x2222
    passes

real_case a20_instructions, "real-a20-closed-survives-exits-and-nmis"
    near_call 16, a20_close
    count_own_nmis
    own_nmi
    xor eax, eax
    cpuid
    limit_of_fs 0x20
    near_call 16, a20_open
    expect "word ptr [counter]", 1
    passes

real_case string_io_limit, "real-string-io-faults-at-the-segment-limit"
    await_fault 13, string_io_limit_1
    mov ax, 0x2000
    mov es, ax
    mov di, 0xffff
    mov dx, 0x3fe
string_io_limit_2:  insw                        // its second byte is behind the limit
string_io_limit_1:  expect_fault 13, string_io_limit_2
    expect di, 0xffff
    await_fault 13, string_io_limit_3
    mov si, 0xffff
string_io_limit_4:  .byte 0x26, 0x6f            // outsw es:[si]
string_io_limit_3:  expect_fault 13, string_io_limit_4
    mov dx, 0x3ff
    mov al, 0x6d
    out dx, al
    mov di, 0xffff                              // bytes wrap
    mov cx, 2
    rep insb
    mov bx, di
    expect bx, 1
    mov al, es:[0]
    expect_al 0x6d
    passes

real_case nested_interrupts, "real-int-and-iret-nest"
    set_vector 0x41, nested_41
    set_vector 0x42, nested_42
    set_vector 0x43, nested_43
    mov word ptr [counter], 0
    mov bx, sp
    pushf
    pop cx
    int 0x41
    pushf
    pop dx
    mov si, sp
    expect si, bx
    expect dx, cx
    expect "word ptr [counter]", 0x0321
    passes
nested_41:
    inc word ptr cs:[counter]
    std
    int 0x42
    int 0x43
    iret
nested_42:
    add word ptr cs:[counter], 0x20
    pushf                       // a frame of its own making
    push cs
    push offset nested_42_1
    iret
nested_42_1:
    sti
    iret
nested_43:
    .byte 0x60                  // pusha
    xor eax, eax
    cpuid
    .byte 0x61                  // popa
    add word ptr cs:[counter], 0x300
    iret

// Services of the BIOS that loaders of old call; the bare machine has one as well.

real_case bios_a20, "real-bios-switches-a20"
    mov ax, 0x2400
    int 0x15
    jc 1f
    expect_closed
    mov ax, 0x2402
    int 0x15
    jc 1f
    expect ax, 0
    mov ax, 0x2401
    int 0x15
    jc 1f
    expect_open
    mov ax, 0x2402
    int 0x15
    jc 1f
    expect ax, 1
    passes
1:  mov ax, 0xbad
    stc
    near_return

real_case bios_moves, "real-bios-moves-blocks-above-1-mib"
    mov ax, 0x2000
    mov es, ax
    mov di, 0x500               // the table: 6 descriptors
    xor ax, ax
    mov cx, 24
    rep stosw
    mov word ptr es:[0x510], 0xffff
    mov word ptr es:[0x512], 0x0600             // 0x20600
    mov byte ptr es:[0x514], 0x02
    mov byte ptr es:[0x515], 0x93
    mov word ptr es:[0x518], 0xffff
    mov word ptr es:[0x51a], 0x0000             // 0x200000
    mov byte ptr es:[0x51c], 0x20
    mov byte ptr es:[0x51d], 0x93
    mov dword ptr es:[0x600], 0x600dbeef
    mov si, 0x500
    mov cx, 2
    mov ah, 0x87
    int 0x15
    jc 1f
    cli
    limit_of_fs 0x10
    mov esi, 0x200000
    mov ebp, fs:[esi]
    limit_of_fs 0x20
    expect bp, 0xbeef
    passes
1:  cli
    mov al, ah
    stc
    near_return

real_case bios_memory, "real-bios-tells-of-memory"
    mov ah, 0x88
    int 0x15
    jc 1f
    cmp ax, 1024                // 2 MiB in all, at least
    jb 1f
    int 0x12
    cmp ax, 500
    jb 1f
    passes
1:  stc
    near_return
