// The instructions that `mmio` compares, and the way into them and out.
//
// A snippet finds in RDI, RSI and R10 addresses in the memory under test (R10: right before a page boundary), in R8 the
// address of plain RAM, in R9 that of a near return, in RCX a small count, and anything in the other registers and
// the status flags. It leaves the stack as it was.

.macro group name
.pushsection .rodata.snippet_names, "a"
.set snippet_group, .
    .asciz "\name"
.popsection
.endm

// `ignored` are the status flags that the manual leaves undefined.
.macro snippet ignored, text
.pushsection .rodata.snippet_names, "a"
9:  .asciz "\text"
.popsection
.pushsection .text.snippets, "ax"
8:  \text
    ret
.popsection
.pushsection .rodata.snippets, "a"
    .quad snippet_group, 9b, 8b, \ignored
.popsection
.endm

.macro plain text
    snippet 0, "\text"
.endm

.set AF, 0x010
.set OF, 0x800
.set STATUS, 0x8d5
.set SF_ZF_AF_PF, 0x0d4

.pushsection .rodata.snippets, "a"
.balign 8
.global snippets
snippets:
.popsection

group "mov"
plain "mov [rdi], al"
plain "mov [rdi], ah"
plain "mov [rdi], r12b"
plain "mov [rdi], dx"
plain "mov [rdi], edx"
plain "mov [rdi], rdx"
plain "mov al, [rdi]"
plain "mov dh, [rdi]"
plain "mov r13b, [rdi]"
plain "mov dx, [rdi]"
plain "mov edx, [rdi]"
plain "mov rdx, [rdi]"
plain "mov byte ptr [rdi], 0x5a"
plain "mov word ptr [rdi], 0x5aa5"
plain "mov dword ptr [rdi], 0x12345678"
plain "mov qword ptr [rdi], -0x12345678"
plain "mov [rdi + 1], edx"
plain "mov rdx, [rdi + 3]"
plain "mov rdx, [rdi + rcx * 8]"
plain "mov [rdi + rcx * 4 - 4], dx"
plain "mov edi, [rdi]"
plain "mov [rdi], rdi"
plain "mov [rdi], rsp"
plain "movnti [rdi], edx"
plain "movnti [rdi], rdx"
plain "movbe [rdi], dx"
plain "movbe edx, [rdi]"
plain "movbe [rdi], rdx"
plain "mov [rdi], ds"
plain "mov [rdi], cs"
plain "mov edx, es; mov [rdi], edx"

group "movzx-and-movsx"
plain "movzx dx, byte ptr [rdi]"
plain "movzx edx, byte ptr [rdi]"
plain "movzx rdx, byte ptr [rdi]"
plain "movzx edx, word ptr [rdi]"
plain "movzx rdx, word ptr [rdi]"
plain "movsx dx, byte ptr [rdi]"
plain "movsx edx, byte ptr [rdi]"
plain "movsx rdx, byte ptr [rdi]"
plain "movsx edx, word ptr [rdi]"
plain "movsx rdx, word ptr [rdi]"
plain "movsxd rdx, dword ptr [rdi]"

group "a-stack-in-this-memory"
.macro on_stack text
    plain "mov r11, rsp; mov rsp, rdi; \text; mov rcx, rsp; mov rsp, r11"
.endm
on_stack "push rdx"
on_stack "push ax"
on_stack "push -3"
on_stack "push fs"
on_stack "push [rsp + 8]"
on_stack "pop rdx"
on_stack "pop dx"
on_stack "pop [rsp]"
on_stack "push fs; pop fs"
on_stack "pushfq"
on_stack "pushfq; popfq"
on_stack "pushfq; xor qword ptr [rsp], 0x8d5; popfq"
on_stack "call 1f; 1:"
on_stack "lea rdx, [rip + 1f]; call rdx; 1:"
on_stack "lea rdx, [rip + 1f]; push rdx; ret; 1:"
on_stack "lea rdx, [rip + 1f]; push rdx; ret 16; 1:"
on_stack "enter 16, 0; mov rdx, rbp"
on_stack "mov rbp, rsp; leave; mov rdx, rbp"
on_stack "lea rsp, [r10 + 4]; push rdx; pop rax"

group "across-a-page-boundary"
plain "mov [r10], edx"
plain "mov rdx, [r10]"
plain "mov [r10 + 1], dx"
plain "mov edx, [r10 + 1]"
plain "add [r10], rdx"
plain "lock xadd [r10], rdx"
plain "xchg [r10], edx"
plain "movsx rdx, word ptr [r10 + 1]"
plain "bts dword ptr [r10], 17"
plain "lea rdi, [r10 - 8]; mov ecx, 5; cld; rep stosd"
plain "lea rsi, [r10 - 9]; mov rdi, r8; mov ecx, 21; cld; rep movsb"

group "add-and-or"
.irp op, add, or
plain "\op [rdi], al"
plain "\op [rdi], dx"
plain "\op [rdi], edx"
plain "\op [rdi], rdx"
plain "\op dl, [rdi]"
plain "\op dx, [rdi]"
plain "\op edx, [rdi]"
plain "\op rdx, [rdi]"
plain "\op byte ptr [rdi], 0x7f"
plain "\op word ptr [rdi], -2"
plain "\op dword ptr [rdi], 0x12345678"
plain "\op qword ptr [rdi], -128"
plain "lock \op [rdi], edx"
.endr

group "adc-and-sbb"
.irp op, adc, sbb
plain "\op [rdi], al"
plain "\op [rdi], dx"
plain "\op [rdi], edx"
plain "\op [rdi], rdx"
plain "\op dl, [rdi]"
plain "\op rdx, [rdi]"
plain "\op byte ptr [rdi], -1"
plain "\op dword ptr [rdi], -1"
plain "\op qword ptr [rdi], 0x7fffffff"
plain "lock \op [rdi], rdx"
.endr

group "and-sub-xor"
.irp op, and, sub, xor
plain "\op [rdi], ah"
plain "\op [rdi], dx"
plain "\op [rdi], edx"
plain "\op [rdi], rdx"
plain "\op dl, [rdi]"
plain "\op dx, [rdi]"
plain "\op edx, [rdi]"
plain "\op rdx, [rdi]"
plain "\op byte ptr [rdi], 0x0f"
plain "\op word ptr [rdi], 0x7fff"
plain "\op dword ptr [rdi], -1"
plain "lock \op [rdi], dx"
.endr

group "cmp-and-test"
plain "cmp [rdi], al"
plain "cmp [rdi], dx"
plain "cmp [rdi], edx"
plain "cmp [rdi], rdx"
plain "cmp dl, [rdi]"
plain "cmp dx, [rdi]"
plain "cmp edx, [rdi]"
plain "cmp rdx, [rdi]"
plain "cmp byte ptr [rdi], 0x80"
plain "cmp dword ptr [rdi], -1"
plain "cmp qword ptr [rdi], 0x7fffffff"
plain "test [rdi], al"
plain "test [rdi], dx"
plain "test [rdi], edx"
plain "test [rdi], rdx"
plain "test byte ptr [rdi], 0x80"
plain "test dword ptr [rdi], 0x80000001"
plain "test qword ptr [rdi], -1"

group "inc-dec-neg-not"
.irp op, inc, dec, neg, not
plain "\op byte ptr [rdi]"
plain "\op word ptr [rdi]"
plain "\op dword ptr [rdi]"
plain "\op qword ptr [rdi]"
plain "lock \op dword ptr [rdi]"
.endr
plain "mov byte ptr [rdi], 0xff; inc byte ptr [rdi]"
plain "mov dword ptr [rdi], 0x80000000; dec dword ptr [rdi]"
plain "mov word ptr [rdi], 0x8000; neg word ptr [rdi]"
plain "mov qword ptr [rdi], 0; neg qword ptr [rdi]"

group "shifts"
.irp op, shl, shr, sar
snippet AF, "\op byte ptr [rdi], 1"
snippet AF, "\op word ptr [rdi], 1"
snippet AF, "\op dword ptr [rdi], 1"
snippet AF, "\op qword ptr [rdi], 1"
snippet "AF | OF", "\op dword ptr [rdi], 5"
snippet "AF | OF", "\op qword ptr [rdi], 63"
snippet "AF | OF", "\op dword ptr [rdi], cl"
plain "\op dword ptr [rdi], 32"
plain "\op qword ptr [rdi], 64"
.endr
.irp op, rol, ror, rcl, rcr
plain "\op byte ptr [rdi], 1"
plain "\op dword ptr [rdi], 1"
plain "\op qword ptr [rdi], 1"
snippet OF, "\op word ptr [rdi], 5"
snippet OF, "\op dword ptr [rdi], 31"
snippet OF, "\op byte ptr [rdi], cl"
snippet OF, "\op qword ptr [rdi], cl"
.endr

group "bit-tests"
.irp op, bt, bts, btr, btc
snippet "AF | OF | 0x84", "\op word ptr [rdi], 13"
snippet "AF | OF | 0x84", "\op dword ptr [rdi], 31"
snippet "AF | OF | 0x84", "\op qword ptr [rdi], 62"
snippet "AF | OF | 0x84", "movsx rdx, dl; \op [rdi], rdx"
snippet "AF | OF | 0x84", "movsx edx, dl; \op [rdi], edx"
snippet "AF | OF | 0x84", "movsx dx, dl; \op [rdi], dx"
.endr
snippet "AF | OF | 0x84", "lock bts dword ptr [rdi], 7"
snippet "AF | OF | 0x84", "lock btr qword ptr [rdi], 40"

group "xchg-and-xadd"
plain "xchg [rdi], al"
plain "xchg [rdi], dh"
plain "xchg [rdi], dx"
plain "xchg [rdi], edx"
plain "xchg [rdi], rdx"
plain "xadd [rdi], al"
plain "xadd [rdi], dx"
plain "xadd [rdi], edx"
plain "lock xadd [rdi], rdx"

group "cmpxchg"
plain "cmpxchg [rdi], dl"
plain "cmpxchg [rdi], dx"
plain "cmpxchg [rdi], edx"
plain "lock cmpxchg [rdi], rdx"
plain "mov al, [rdi]; cmpxchg [rdi], dl"
plain "mov ax, [rdi]; cmpxchg [rdi], dx"
plain "mov eax, [rdi]; lock cmpxchg [rdi], edx"
plain "mov rax, [rdi]; cmpxchg [rdi], rdx"
plain "cmpxchg8b [rdi]"
plain "mov eax, [rdi]; mov edx, [rdi + 4]; lock cmpxchg8b [rdi]"
plain "cmpxchg16b [rdi]"
plain "mov rax, [rdi]; mov rdx, [rdi + 8]; lock cmpxchg16b [rdi]"

group "setcc-and-cmovcc"
.irp condition, o, no, b, ae, e, ne, be, a, s, ns, p, np, l, ge, le, g
plain "set\condition byte ptr [rdi]"
plain "cmov\condition edx, [rdi]"
.endr
plain "cmovs dx, [rdi]"
plain "cmovnz rdx, [rdi]"

group "push-pop-call-jmp"
plain "push qword ptr [rdi]; pop rdx"
plain "push word ptr [rdi]; pop dx"
plain "push rdx; pop qword ptr [rdi]"
plain "push dx; pop word ptr [rdi]"
plain "mov [rdi], r9; call [rdi]"
plain "mov [rdi], r9; lea rax, [rip + 7f]; push rax; jmp [rdi]; 7: nop"
plain "mov rax, rsp; mov rsp, rdi; push rdx; push 0x1234; push -1; mov rsp, rax"
plain "mov rax, rsp; mov rsp, rdi; pop rdx; pop bx; mov rsp, rax"
plain "mov rax, rsp; mov rsp, rdi; push qword ptr [rsi]; pop qword ptr [rsi + 8]; mov rsp, rax"
plain "mov rax, rsp; mov rsp, rdi; push [rsp + 8]; pop [rsp + 8]; mov rsp, rax"

group "movs"
plain "movsb"
plain "movsw"
plain "movsd"
plain "movsq"
plain "rep movsb"
plain "rep movsw"
plain "rep movsd"
plain "rep movsq"
plain "cld; mov rdi, r8; rep movsb"
plain "cld; mov rsi, r8; rep movsq"
plain "std; rep movsw"
plain "std; mov rsi, r8; add rsi, 32; rep movsd"
plain "xor ecx, ecx; rep movsb"
plain "cld; mov ecx, 300; lea rdi, [r8 + 64]; rep movsb; sub rdi, 300"
plain "cld; lea rsi, [rdi - 1]; mov ecx, 20; rep movsb"
plain "repne movsb"

group "stos-and-lods"
plain "stosb"
plain "stosw"
plain "stosd"
plain "stosq"
plain "rep stosb"
plain "rep stosw"
plain "rep stosd"
plain "std; rep stosq"
plain "lodsb"
plain "lodsw"
plain "lodsd"
plain "lodsq"
plain "rep lodsb"
plain "rep lodsq"
plain "std; rep lodsd"
plain "cld; lea ecx, [rcx + 290]; rep stosb"

group "cmps-and-scas"
plain "cmpsb"
plain "cmpsw"
plain "cmpsd"
plain "cmpsq"
plain "repe cmpsb"
plain "repne cmpsb"
plain "repe cmpsd"
plain "repne cmpsq"
plain "cld; lea rsi, [rdi]; mov ecx, 9; repe cmpsb"
plain "cld; lea rsi, [rdi]; mov ecx, 9; repe cmpsd"
plain "mov rsi, r8; repne cmpsw"
plain "xor ecx, ecx; repe cmpsb"
plain "scasb"
plain "scasw"
plain "scasd"
plain "scasq"
plain "repe scasb"
plain "repne scasb"
plain "cld; mov al, [rdi + 3]; mov ecx, 10; repne scasb"
plain "cld; mov eax, [rdi]; mov ecx, 10; repe scasd"
plain "xor ecx, ecx; repne scasb"

group "ins-and-outs"
plain "mov dx, 0x3ff; insb"
plain "mov dx, 0x3ff; rep insb"
plain "mov dx, 0x3ff; outsb"
plain "mov dx, 0x3ff; rep outsb"

group "address-sizes-and-segments"
plain "mov edx, [rip + snippets]"
plain "mov edx, ds:[rdi]"
plain "mov es:[rdi], dx"
plain "mov rdx, [rdi + rcx]"
plain "mov rdx, [rdi + rcx * 2 + 0x10]"

group "vector-moves"
plain "movups [rdi], xmm0"
plain "movups xmm0, [rdi]"
plain "movdqu [rdi + 1], xmm1"
plain "movaps [rdi], xmm1"
plain "movdqa xmm1, [rdi]"
plain "movd [rdi], xmm0"
plain "movd xmm0, [rdi]"
plain "movq [rdi], xmm0"
plain "movq xmm0, qword ptr [rdi]"
plain "movss xmm1, [rdi]"
plain "movsd xmm1, qword ptr [rdi]"
plain "movlps xmm1, [rdi]"
plain "movhps [rdi], xmm0"
plain "movhpd xmm0, [rdi]"
plain "movntdq [rdi], xmm0"
plain "movnti [rdi], rdx"

group "multiply-and-divide"
.irp op, mul, imul
snippet SF_ZF_AF_PF, "\op byte ptr [rdi]"
snippet SF_ZF_AF_PF, "\op word ptr [rdi]"
snippet SF_ZF_AF_PF, "\op dword ptr [rdi]"
snippet SF_ZF_AF_PF, "\op qword ptr [rdi]"
.endr
snippet SF_ZF_AF_PF, "imul dx, [rdi]"
snippet SF_ZF_AF_PF, "imul edx, [rdi]"
snippet SF_ZF_AF_PF, "imul rdx, [rdi]"
snippet SF_ZF_AF_PF, "imul dx, [rdi], -3"
snippet SF_ZF_AF_PF, "imul edx, [rdi], 0x12345"
snippet SF_ZF_AF_PF, "imul rdx, [rdi], -0x12345"
.irp op, div, idiv
snippet STATUS, "and eax, 0x7f; or byte ptr [rdi], 1; \op byte ptr [rdi]"
snippet STATUS, "xor edx, edx; and eax, 0x7fff; or word ptr [rdi], 1; \op word ptr [rdi]"
snippet STATUS, "xor edx, edx; and eax, 0x7fffffff; or dword ptr [rdi], 1; \op dword ptr [rdi]"
snippet STATUS, "xor edx, edx; shr rax; or qword ptr [rdi], 1; \op qword ptr [rdi]"
snippet STATUS, "mov rdx, -1; mov rax, -5; mov qword ptr [rdi], 7; \op qword ptr [rdi]"
snippet STATUS, "mov dword ptr [rdi], 0; \op dword ptr [rdi]"
snippet STATUS, "mov edx, 0x40000000; mov dword ptr [rdi], 1; \op dword ptr [rdi]"
.endr

group "double-shifts"
.irp op, shld, shrd
snippet AF, "\op word ptr [rdi], dx, 1"
snippet AF, "\op dword ptr [rdi], edx, 1"
snippet AF, "\op qword ptr [rdi], rdx, 1"
snippet "AF | OF", "\op word ptr [rdi], dx, 15"
snippet "AF | OF", "\op dword ptr [rdi], edx, 31"
snippet "AF | OF", "\op qword ptr [rdi], rdx, 33"
snippet "AF | OF", "\op dword ptr [rdi], edx, cl"
snippet "AF | OF", "\op qword ptr [rdi], rdx, cl"
plain "\op dword ptr [rdi], edx, 32"
.endr

group "bit-scans"
.irp op, bsf, bsr
snippet "STATUS & ~0x40", "or byte ptr [rdi + 1], 4; \op dx, [rdi]"
snippet "STATUS & ~0x40", "or byte ptr [rdi + 2], 4; \op edx, [rdi]"
snippet "STATUS & ~0x40", "or byte ptr [rdi + 5], 4; \op rdx, [rdi]"
snippet "STATUS & ~0x40", "mov dword ptr [rdi], 0; \op edx, [rdi]; mov edx, 0"
.endr
plain "popcnt dx, [rdi]"
plain "popcnt edx, [rdi]"
plain "popcnt rdx, [rdi]"

group "mmx-moves"
plain "movq mm1, [rdi]; movq [r8], mm1; emms"
plain "movd mm7, [rdi]; movq [r8], mm7; emms"
plain "movq mm0, [r8]; movq [rdi], mm0; emms"
plain "movq mm1, [r8]; movd [rdi], mm1; emms"
plain "movq mm1, [r8]; movntq [rdi], mm1; emms"
plain "movq mm2, [r10]; movq [r8], mm2; emms"

// Without AVX these are invalid on either kind of memory.
group "avx-moves"
.irp op, vmovups, vmovupd, vmovdqu, vmovaps, vmovapd, vmovdqa
plain "\op xmm1, [rdi]; vmovdqu [r8], ymm1; vzeroupper"
plain "\op ymm1, [rdi]; vmovdqu [r8], ymm1; vzeroupper"
plain "vmovdqu ymm1, [r8]; \op [rdi], xmm1; vzeroupper"
plain "vmovdqu ymm1, [r8]; \op [rdi], ymm1; vzeroupper"
.endr
plain "vmovdqu xmm15, [rdi + rcx * 8]; vmovdqu [r8], ymm15; vzeroupper"
plain "vmovdqu ymm1, [r10 - 8]; vmovdqu [r8], ymm1; vzeroupper"
plain "vmovdqu ymm1, [r8]; vmovdqu [r10 - 8], ymm1; vzeroupper"
plain "vmovdqu ymm1, [r8]; vmovntdq [rdi], ymm1; vzeroupper"
plain "vmovdqu ymm1, [r8]; vmovntps [rdi], xmm1; vzeroupper"
plain "vmovntdqa xmm1, [rdi]; vmovdqu [r8], ymm1; vzeroupper"
plain "vlddqu ymm1, [rdi]; vmovdqu [r8], ymm1; vzeroupper"
plain "vmovd xmm1, dword ptr [rdi]; vmovdqu [r8], ymm1; vzeroupper"
plain "vmovq xmm1, qword ptr [rdi]; vmovdqu [r8], ymm1; vzeroupper"
plain "vmovss xmm1, dword ptr [rdi]; vmovdqu [r8], ymm1; vzeroupper"
plain "vmovsd xmm1, qword ptr [rdi]; vmovdqu [r8], ymm1; vzeroupper"
plain "vmovd dword ptr [rdi], xmm1"
plain "vmovq qword ptr [rdi], xmm1"
plain "vmovss dword ptr [rdi], xmm1"
plain "vmovsd qword ptr [rdi], xmm1"
plain "vmovaps ymm1, [rdi + 16]"
plain "vmovdqa [rdi + 8], xmm1"

group "segment-loads"
plain "mov eax, ds; mov [rdi], ax; mov es, [rdi]; mov edx, es"
plain "mov word ptr [rdi], 0; mov fs, [rdi]; mov edx, fs"
plain "mov word ptr [rdi], 3; mov gs, [rdi]; mov edx, gs; mov eax, ds; mov gs, eax"
plain "mov word ptr [rdi], 0xfff8; mov es, [rdi]"
plain "mov word ptr [rdi], 0xfffc; mov ds, [rdi]"
plain "mov eax, cs; mov [rdi], ax; mov es, [rdi]; mov edx, es; mov eax, ds; mov es, eax"
plain "mov eax, cs; mov [rdi], ax; mov ss, [rdi]"
plain "mov eax, ss; mov [rdi], ax; mov ss, [rdi]; mov edx, ss"
plain "mov word ptr [rdi], 3; mov ss, [rdi]"
plain "mov dword ptr [rdi], 0x12345678; mov eax, ds; mov [rdi + 4], ax; lfs edx, [rdi]; mov eax, fs"
plain "mov eax, ds; mov [rdi + 2], ax; lgs dx, [rdi]; mov eax, gs"
plain "mov eax, ss; mov [rdi + 4], ax; lss edx, [rdi]; mov eax, ss"
plain "mov word ptr [rdi + 4], 0xfff8; lfs edx, [rdi]"

group "far-transfers"
plain "lea rax, [rip + 2f]; mov [rdi], eax; mov eax, cs; mov [rdi + 4], ax; jmp fword ptr [rdi]; ud2; 2: mov edx, cs"
plain "lea rax, [rip + 2f]; mov [rdi], rax; mov eax, cs; mov [rdi + 8], ax; .byte 0x48, 0xff, 0x2f; ud2; 2: mov edx, cs"
plain "lea rax, [rip + 2f]; mov [rdi], eax; mov eax, cs; mov [rdi + 4], ax; call fword ptr [rdi]; jmp 3f; 2: mov rdx, [rsp]; retf; 3: nop"
plain "mov qword ptr [rdi], 0; jmp fword ptr [rdi]"
plain "mov eax, ds; mov [rdi + 4], ax; jmp fword ptr [rdi]"
plain "mov word ptr [rdi + 4], 0xfff8; call fword ptr [rdi]"
plain "mov rax, 0x800000000000; mov [rdi], rax; mov eax, cs; mov [rdi + 8], ax; .byte 0x48, 0xff, 0x2f"

group "descriptor-tables"
plain "sgdt [rdi]"
plain "sidt [rdi]"
plain "sldt word ptr [rdi]"
plain "str word ptr [rdi]"
plain "smsw word ptr [rdi]"
plain "sgdt [rdi]; lgdt [rdi]; mov eax, ds; mov es, eax"
plain "sidt [rdi]; lidt [rdi]"
plain "sldt word ptr [rdi]; lldt word ptr [rdi]"
plain "smsw word ptr [rdi]; lmsw word ptr [rdi]"
plain "str word ptr [rdi]; ltr word ptr [rdi]"
plain "mov word ptr [rdi], 0; ltr word ptr [rdi]"
plain "mov word ptr [rdi], 0xfff8; lldt word ptr [rdi]"
plain "mov rax, 0x800000000000; mov [rdi + 2], rax; lgdt [rdi]"
plain "sgdt [r10 - 4]"

group "cache-lines"
plain "clflush [rdi]"
plain "clflushopt [rdi]"
plain "clwb [rdi]"

group "faults"
plain "movaps [rdi + 1], xmm0"
plain "cmpxchg16b [rdi + 8]"
plain "lock cmpxchg16b [rdi + 1]"
plain "mov [r11], edx"
plain "mov rdx, [r11]"
plain "add [r11], rdx"
plain "cmp dword ptr [r11], 0"
plain "cmpxchg [r11], rdx"
plain "xadd [r11], edx"
plain "lea rdi, [r11 - 12]; cld; mov ecx, 8; rep stosd"
plain "lea rsi, [r11 - 12]; mov rdi, r8; cld; mov ecx, 8; rep movsd"
plain "lea rdi, [r11 - 12]; mov rsi, r8; cld; mov ecx, 8; rep movsd"
plain "lea rdi, [r11 + 0x100]; cld; movsb"
plain "mov rsi, 0x800000000000; cld; movsb"
plain "mov rdi, 0x800000000000; cld; movsb"
plain "lea rsi, [r11 + 0x100]; mov rdi, 0x800000000000; cld; movsb"
plain "lea rsi, [r11 + 0x100]; lea rdi, [rsi + 0x1000]; cld; movsb"
plain "mov rax, 0x800000000000; mov [rdi], rax; call [rdi]"
plain "mov rax, 0x800000000000; mov [rdi], rax; jmp [rdi]"
plain "mov rax, rsp; mov rsp, 0x800000000000; push qword ptr [rdi]"
plain "mov rax, rsp; lea rsp, [r11 + 0x100]; push qword ptr [rdi]"
plain "mov rax, rsp; lea rsp, [r11 + 0x100]; pop qword ptr [rdi]"
plain "mov rax, rsp; mov rsp, r8; pop qword ptr [r11]"

.pushsection .rodata.snippets, "a"
.global snippets_end
snippets_end:
.popsection

// fn snippet_run(code, registers): loads the registers (see `Registers`), calls the code, and stores them. Keeps what
// the C calling convention says.
.pushsection .text.snippet_run, "ax"
.global snippet_run
snippet_run:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + snippet_code], rdi
    mov [rip + snippet_registers], rsi
    mov rax, rsi
    movups xmm0, [rax + 0x80]
    movups xmm1, [rax + 0x90]
    push qword ptr [rax + 0x78]
    popfq
    mov rcx, [rax + 0x08]
    mov rdx, [rax + 0x10]
    mov rbx, [rax + 0x18]
    mov rbp, [rax + 0x20]
    mov rsi, [rax + 0x28]
    mov rdi, [rax + 0x30]
    mov r8, [rax + 0x38]
    mov r9, [rax + 0x40]
    mov r10, [rax + 0x48]
    mov r11, [rax + 0x50]
    mov r12, [rax + 0x58]
    mov r13, [rax + 0x60]
    mov r14, [rax + 0x68]
    mov r15, [rax + 0x70]
    mov rax, [rax]
    call [rip + snippet_code]
    mov [rip + snippet_rsi], rsi
    mov rsi, [rip + snippet_registers]
    mov [rsi], rax
    pushfq
    pop rax
    cld
    mov [rsi + 0x78], rax
    mov rax, [rip + snippet_rsi]
    mov [rsi + 0x28], rax
    mov [rsi + 0x08], rcx
    mov [rsi + 0x10], rdx
    mov [rsi + 0x18], rbx
    mov [rsi + 0x20], rbp
    mov [rsi + 0x30], rdi
    mov [rsi + 0x38], r8
    mov [rsi + 0x40], r9
    mov [rsi + 0x48], r10
    mov [rsi + 0x50], r11
    mov [rsi + 0x58], r12
    mov [rsi + 0x60], r13
    mov [rsi + 0x68], r14
    mov [rsi + 0x70], r15
    movups [rsi + 0x80], xmm0
    movups [rsi + 0x90], xmm1
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
.global snippet_return
snippet_return:
    ret
.popsection
.pushsection .bss.snippets, "aw", @nobits
.balign 8
snippet_code: .skip 8
snippet_registers: .skip 8
snippet_rsi: .skip 8
.popsection
