# Goes from the PVH entry (32-bit, paging off, EBX = start info) to 64-bit Rust code in the upper
# half.

.section .note.Xen, "a", @note
.align 4
.long 4, 4, 18                  # namesz, descsz, XEN_ELFNOTE_PHYS32_ENTRY (elfnote.h)
.asciz "Xen"
.long pvh_start

.section .boot, "ax", @progbits
.code32
.global pvh_start
pvh_start:
    cli
    cld
    mov esp, offset stack_top_physical
    mov ebp, ebx                # the start info

    # Without long mode the kernel can only say so.
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb no_long_mode
    mov eax, 0x80000001
    cpuid
    bt edx, 29
    jnc no_long_mode

    # The first 4 GiB in 2 MiB pages, at 0 and again in the upper half.
    mov edi, offset boot_tables_physical
    lea eax, [edi + 4096 + 3]
    mov [edi], eax              # PML4[0]
    mov [edi + 511 * 8], eax    # PML4[511]: the same PDPT, of which entry 510 is the upper half's
    lea ebx, [edi + 4096]
    lea eax, [edi + 8192 + 3]
    mov [ebx], eax
    mov [ebx + 510 * 8], eax
    add eax, 4096
    mov [ebx + 8], eax
    add eax, 4096
    mov [ebx + 16], eax
    add eax, 4096
    mov [ebx + 24], eax
    lea ebx, [edi + 8192]
    mov eax, 0x83               # present, writable, 2 MiB
    mov ecx, 2048
1:  mov [ebx], eax
    add eax, 0x200000
    add ebx, 8
    dec ecx
    jnz 1b

    mov eax, 0x20               # CR4.PAE
    mov cr4, eax
    mov cr3, edi
    mov ecx, 0xC0000080         # EFER
    rdmsr
    bts eax, 8                  # LME
    wrmsr
    mov eax, cr0
    or eax, 0x80010001          # PG, WP, PE
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    ljmp 8, offset long_mode

no_long_mode:
    mov esi, offset no_long_mode_text
2:  lodsb
    test al, al
    jz 3f
    out 0xE9, al
    jmp 2b
3:  mov al, 3
    out 0xF4, al
    hlt
    jmp 3b

no_long_mode_text:
    .asciz "cloister: fatal: the processor has no 64-bit mode\n"

.code64
long_mode:
    xor eax, eax
    mov ds, ax
    mov es, ax
    mov fs, ax
    mov gs, ax
    mov ss, ax
    movabs rsp, offset stack_top
    mov edi, ebp
    xor ebp, ebp
    movabs rax, offset kernel_main
    call rax
    ud2

.align 8
boot_gdt:
    .quad 0
    .quad 0x00209B0000000000    # 64-bit code
boot_gdt_pointer:
    .word 15
    .long boot_gdt
