# PVH entry: 32-bit protected mode without paging, EBX at hvm_start_info. Maps the first 4 GiB one to one with the user
# bit at every level, builds GDT, TSS and IDT, and enters `payload_main` in ring 3, where code runs at the speed of the
# host even where KVM interprets ring 0.

    .section .note.Xen, "a", @note
    .balign 4
    .long 4
    .long 8
    .long 18                    # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

    .section .text.entry, "ax", @progbits
    .code32
    .globl pvh_entry
pvh_entry:
    cli
    cld
    mov esp, offset ring0_stack_end
    mov dword ptr [start_info], ebx

    # One PML4, one PDPT, four page directories of 2 MiB pages: present, writable, user.
    mov edi, offset pml4
    mov eax, offset pdpt + 7
    mov [edi], eax
    mov edi, offset pdpt
    mov eax, offset directories + 7
    mov ecx, 4
2:  mov [edi], eax
    add eax, 0x1000
    add edi, 8
    dec ecx
    jnz 2b
    mov edi, offset directories
    mov eax, 0x87
    mov ecx, 2048
3:  mov [edi], eax
    add eax, 0x200000
    add edi, 8
    dec ecx
    jnz 3b

    # CR4: PAE, OSFXSR, OSXMMEXCPT. EFER: LME. CR0: PG, NE, ET, MP, PE.
    mov eax, 0x620
    mov cr4, eax
    mov eax, offset pml4
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, 0x80000033
    mov cr0, eax
    lgdt [gdt_pointer]
    .byte 0xea
    .long long_mode
    .word 0x08

    .code64
long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov eax, 0x10
    mov ss, eax
    mov esp, offset ring0_stack_end

    # The base of the TSS goes into its descriptor in pieces; every port is allowed to ring 3.
    mov eax, offset tss
    mov word ptr [gdt_tss + 2], ax
    shr eax, 16
    mov byte ptr [gdt_tss + 4], al
    mov byte ptr [gdt_tss + 7], ah
    mov qword ptr [tss + 4], offset ring0_stack_end
    mov word ptr [tss + 102], 104
    mov byte ptr [tss + 104 + 8192], 0xff
    mov eax, 0x28
    ltr ax

    # Every exception is the end.
    mov edi, offset idt
    mov eax, offset exceptions
    mov ecx, 32
4:  mov word ptr [rdi], ax
    mov word ptr [rdi + 2], 0x08
    mov word ptr [rdi + 4], 0x8e00
    mov edx, eax
    shr edx, 16
    mov word ptr [rdi + 6], dx
    add eax, 16
    add edi, 16
    dec ecx
    jnz 4b
    lidt [idt_pointer]

    push 0x1b
    push offset ring3_stack_end - 8
    push 2
    push 0x23
    push offset payload_main
    mov edi, dword ptr [start_info]
    iretq

    .balign 16
exceptions:
    .set vector, 0
    .rept 32
    .balign 16
    push vector
    jmp exception
    .set vector, vector + 1
    .endr

exception:
    mov dx, 0x3f8
    mov al, 0x21                # '!', and the vector as a letter from '@' on
    out dx, al
    pop rax
    add al, 0x40
    out dx, al
    mov al, 0x0a
    out dx, al
    mov dx, 0x501
    mov al, 1
    out dx, al
5:  hlt
    jmp 5b

    .section .data.entry, "aw", @progbits
    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 0x08: ring 0 code
    .quad 0x00cf93000000ffff    # 0x10: ring 0 data
    .quad 0x00cff3000000ffff    # 0x18: ring 3 data
    .quad 0x00affb000000ffff    # 0x20: ring 3 code
gdt_tss:                        # 0x28: TSS of 104 bytes and 8 KiB of port permissions
    .quad 0x0000890000002068
    .quad 0
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .quad gdt
idt_pointer:
    .word 32 * 16 - 1
    .quad idt

    .section .bss.entry, "aw", @nobits
    .balign 4096
pml4:
    .skip 4096
pdpt:
    .skip 4096
directories:
    .skip 4 * 4096
idt:
    .skip 4096
tss:
    .skip 104 + 8192 + 8
    .balign 16
start_info:
    .skip 16
    .skip 16384
ring0_stack_end:
    .skip 65536
ring3_stack_end:
