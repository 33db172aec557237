// Multiboot headers of both versions, and the entry point for both: 32-bit protected mode, paging off, eax = magic
// number, ebx = address of the information. Goes on as from a PVH loader, once both are kept.

.section .multiboot, "a"
.balign 8
    .long 0xe85250d6            // version 2: magic
    .long 0                     // 32-bit protected mode of i386
    .long multiboot2_end - . + 8
    .long -(0xe85250d6 + multiboot2_end - . + 12)
    .short 1                    // information that is insisted on
    .short 0
    .long 8 + 4 * 7
    .long 1, 2, 3, 4, 6, 9, 15  // command line, loader, modules, memory sizes, memory map, sections, RSDP
    .long 0                     // padding
    .short 4                    // consoles: text would do
    .short 1
    .long 12
    .long 3
    .long 0                     // padding
    .short 5                    // a mode that nobody has
    .short 1
    .long 20
    .long 1024, 768, 32
    .long 0                     // padding
    .short 6                    // modules at page boundaries
    .short 0
    .long 8
    .short 0                    // end
    .short 0
    .long 8
multiboot2_end:
    .long 0x1badb002            // version 1: magic
    .long 7                     // modules at page boundaries; memory information; video mode
    .long -(0x1badb002 + 7)
    .long 0, 0, 0, 0, 0         // no load addresses
    .long 0, 1024, 768, 32      // a mode that nobody has

.section .text.boot, "ax"
.code32
.global multiboot_start
multiboot_start:
    mov [MULTIBOOT_REGISTERS], eax
    mov [MULTIBOOT_REGISTERS + 4], ebx
    jmp pvh_start
.code64
