// A boot sector that makes the last CPU of a machine one that never answers, and goes on with the disk's own.
//
// Steps: copy itself out of the way of that; segments of 4 GiB in real mode; find the firmware's ACPI tables (ACPI
// specification, Finding the RSDP on IA-PC Systems); in the last enabled Local APIC Structure of the MADT, another APIC
// ID, and as much less in the processor's UID, so that the table's checksum stays right; read the boot sector that was
// here, from the place that is written at offset 432, and jump. DL, the drive, is kept.

.set HERE, 0x600
.set THERE, 0x7c00
// What an APIC ID is made larger by: more than any emulated machine here has CPUs.
.set BEYOND, 0x40

.section .text.phantom, "awx"
.code16
.global phantom
phantom:
    cli
    cld
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, THERE
    mov si, THERE
    mov di, HERE
    mov cx, 256
    rep movsw
    .byte 0xea                  // a far jump
    .short moved, 0
moved:
    in al, 0x92                 // open the A20 gate
    or al, 2
    and al, 0xfe
    out 0x92, al
    lgdt [gdt_pointer]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    mov bx, 8
    mov fs, bx
    and al, 0xfe
    mov cr0, eax

    mov esi, 0xe0000            // the RSDP
1:  cmp dword ptr fs:[esi], 0x20445352
    jne 2f
    cmp dword ptr fs:[esi + 4], 0x20525450
    je 3f
2:  add esi, 16
    cmp esi, 0x100000
    jb 1b
    jmp go_on
3:  mov esi, fs:[esi + 16]      // the RSDT, and the MADT among what it names
    mov ecx, fs:[esi + 4]
    add ecx, esi
    add esi, 36
4:  cmp esi, ecx
    jae go_on
    mov ebx, fs:[esi]
    add esi, 4
    cmp dword ptr fs:[ebx], 0x43495041
    jne 4b
    mov ecx, fs:[ebx + 4]
    add ecx, ebx
    add ebx, 44
    xor edi, edi
5:  cmp ebx, ecx
    jae 7f
    cmp byte ptr fs:[ebx], 0    // a Local APIC Structure,
    jne 6f
    test byte ptr fs:[ebx + 4], 1       // enabled
    jz 6f
    mov edi, ebx
6:  movzx eax, byte ptr fs:[ebx + 1]
    add ebx, eax
    jmp 5b
7:  test edi, edi
    jz go_on
    sub byte ptr fs:[edi + 2], BEYOND
    add byte ptr fs:[edi + 3], BEYOND

go_on:
    mov si, offset packet
    mov ah, 0x42
    int 0x13
    jc stop
    .byte 0xea
    .short THERE, 0
stop:
    hlt
    jmp stop

.balign 8
gdt:
    .quad 0
    .quad 0x00cf93000000ffff    // flat data
gdt_pointer:
    .short gdt_pointer - gdt - 1
    .long gdt

.org 424
packet:
    .byte 16, 0
    .short 1
    .short THERE, 0
    .quad 0                     // the place, at offset 432
.org 510
    .short 0xaa55
