// The boot sector that starts a guest on the bare machine.
//
// Steps: copy itself out of the way, since a guest's memory may be anywhere below; fetch the second sector, which
// says where the emulator has put the hand-over; 32-bit protected mode; carry out the hand-over's records; load
// the registers that it gives, tell the time, and jump. xtask/src/bare.rs writes the hand-over; its layout is below.
//
// It keeps the last page below the BIOS data area for itself, and no guest may be loaded there.

.set AWAY, 0x9e000
.set AWAY_SEGMENT, AWAY >> 4
.set STACK, AWAY + 0x1000
.set POINTER_ADDRESS, AWAY + 0x200 + 16

// The hand-over: 32-bit words, and a record of three words for each piece of memory: where it goes, how many
// bytes it has, and where they are from the start of the hand-over on; 0 there stands for zeroes.
.set MODE, 0                    // 32 or 64
.set ENTRY, 4
.set GDT_LIMIT, 10              // 16 bits, and 32 of the address
.set TABLES, 16                 // CR3 of 64-bit mode
.set REGISTERS, 20              // EAX, ECX, EDX, EBX, (ESP), EBP, ESI, EDI
.set RECORDS, 52
.set RECORD, 56

.set CODE, 0x10                 // the selectors of the guest's GDT
.set DATA, 0x18

.section .text.starter, "awx"
.code16
.global starter
starter:
    cli
    cld
    xor ax, ax
    mov ds, ax
    mov ss, ax
    mov sp, 0x7c00
    mov ax, AWAY_SEGMENT
    mov es, ax
    mov si, 0x7c00
    xor di, di
    mov cx, 256
    rep movsw
    mov si, offset disk_packet
    mov ah, 0x42
    int 0x13
    cli
    jc no_pointer
    in al, 0x92                 // open the A20 gate
    or al, 2
    and al, 0xfe
    out 0x92, al
    mov al, 0xff                // no interrupt of the BIOS's time reaches the guest
    out 0x21, al
    out 0xa1, al
    lgdt [gdt_pointer]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long AWAY + protected - starter
    .short CODE
no_pointer:
    hlt
    jmp no_pointer

.balign 4
disk_packet:
    .byte 16, 0
    .short 1
    .short 0x200, AWAY_SEGMENT
    .quad 1

.balign 8
gdt:
    .quad 0, 0
    .quad 0x00cf9b000000ffff    // CODE
    .quad 0x00cf93000000ffff    // DATA
gdt_pointer:
    .short gdt_pointer - gdt - 1
    .long AWAY + gdt - starter

.code32
protected:
    mov eax, DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov esp, STACK
    mov ebx, [POINTER_ADDRESS]
    mov ebp, [ebx + RECORDS]
    lea edx, [ebx + RECORD]
    jmp 4f
1:  mov edi, [edx]
    mov ecx, [edx + 4]
    mov esi, [edx + 8]
    add edx, 12
    mov eax, ecx
    shr ecx, 2
    and eax, 3
    test esi, esi
    jz 2f
    add esi, ebx
    rep movsd
    mov ecx, eax
    rep movsb
    jmp 3f
2:  push eax
    xor eax, eax
    rep stosd
    pop ecx
    rep stosb
3:  dec ebp
4:  test ebp, ebp
    jnz 1b

    mov al, '@'                 // when the guest starts: the TSC in 16 digits, on the emulators' debug port
    out 0xe9, al
    rdtsc
    mov esi, eax
    mov edi, edx
    mov ecx, 16
6:  mov eax, edi
    shr eax, 28
    add al, 0x90                // 0-9 and A-F from 0 to 15
    daa
    adc al, 0x40
    daa
    out 0xe9, al
    shld edi, esi, 4
    shl esi, 4
    loop 6b
    mov al, 10
    out 0xe9, al

    lgdt [ebx + GDT_LIMIT]
    cmp dword ptr [ebx + MODE], 64
    mov edi, [ebx + ENTRY]
    jne 5f
    mov [entry_64 + 0x96400], edi       // AWAY - 0x7c00: the assembler takes one symbol
    mov edi, offset long_mode + 0x96400
    mov eax, cr4
    or eax, 1 << 5              // PAE
    mov cr4, eax
    mov eax, [ebx + TABLES]
    mov cr3, eax
    mov ecx, 0xc0000080         // IA32_EFER
    rdmsr
    or eax, 1 << 8              // LME
    wrmsr
    mov eax, cr0
    or eax, 0x80000020          // PG, NE
    mov cr0, eax
5:  mov eax, DATA               // from the guest's table now
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    push CODE
    push edi
    push 2
    popfd
    mov eax, [ebx + REGISTERS]
    mov ecx, [ebx + REGISTERS + 4]
    mov edx, [ebx + REGISTERS + 8]
    mov ebp, [ebx + REGISTERS + 20]
    mov esi, [ebx + REGISTERS + 24]
    mov edi, [ebx + REGISTERS + 28]
    mov ebx, [ebx + REGISTERS + 12]
    retf

.code64
long_mode:
    jmp qword ptr [rip + entry_64]
.balign 8
entry_64:
    .quad 0

.org 510
    .short 0xaa55
