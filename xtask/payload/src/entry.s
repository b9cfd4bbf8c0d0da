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

    mov eax, offset tss
    mov edi, offset gdt_tss
    mov ecx, offset ring0_stack_end
    call task_state
    mov eax, 0x28
    ltr ax

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

# Writes the descriptor at EDI for the task state at EAX, whose ring 0 stack ends at ECX: its base goes in pieces;
# every port is allowed to ring 3.
task_state:
    mov qword ptr [rax + 4], rcx
    mov word ptr [rax + 102], 104
    mov byte ptr [rax + 104 + 8192], 0xff
    mov word ptr [rdi + 2], ax
    shr eax, 16
    mov byte ptr [rdi + 4], al
    mov byte ptr [rdi + 7], ah
    ret

# A second processor begins here, in real mode, by a copy of this at 0x8000.
    .globl second_start, second_end
    .balign 8
second_start:
    .code16
    cli
    jmp 11f
    .balign 8                   # the copy's is at 0x8008
    .word gdt_pointer - gdt - 1
    .long gdt
11: lgdt [0x8008]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long second_protected
    .word 0x48
second_end:

    .code32
second_protected:
    mov eax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
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
    .byte 0xea
    .long second_long
    .word 0x08

    .code64
second_long:
    mov esp, offset second_ring0_stack_end
    mov eax, offset second_tss
    mov edi, offset gdt_second_tss
    mov ecx, offset second_ring0_stack_end
    call task_state
    mov eax, 0x38
    ltr ax
    lidt [idt_pointer]
    push 0x1b
    push offset second_ring3_stack_end - 8
    push 2
    push 0x23
    push offset second_main
    iretq

# For ring 3 to call: what it may not do itself. EDI chooses, ECX, EAX and EDX are the instruction's; R8 is lost. What
# faults does nothing. The way into ring 0 is a fault, which every KVM can do. Where a hypercall is to write to memory, it
# is to be none of this program's.
    .globl call_privileged
call_privileged:
    hlt
    ret

privileged:
    mov r8, rbx
    cmp edi, 0
    je 6f
    cmp edi, 1
    je 7f
    cmp edi, 3
    je 8f
    cpuid
    jmp privileged_end
6:  rdmsr
    jmp privileged_end
7:  wrmsr
    jmp privileged_end
8:  mov ebx, edx
    or ebx, 0x1000000
    vmcall
privileged_end:
    mov rbx, r8
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

# A non-maskable interrupt is nothing, a fault of `privileged` ends that. Every other exception is the end.
exception:
    cmp dword ptr [rsp], 2
    je 9f
    cmp dword ptr [rsp], 6
    je 10f
    cmp dword ptr [rsp], 13
    jne fatal
    add rsp, 8                  # an error code instead of the vector
    mov dword ptr [rsp], 13
    cmp qword ptr [rsp + 8], offset call_privileged
    jne 10f
    add rsp, 8
    inc qword ptr [rsp]
    jmp privileged
10: cmp qword ptr [rsp + 8], offset privileged
    jb fatal
    cmp qword ptr [rsp + 8], offset privileged_end
    jae fatal
    mov qword ptr [rsp + 8], offset privileged_end
9:  add rsp, 8
    iretq

fatal:
    mov dx, 0x3f8
    mov al, 0x21                # '!', the vector as a letter from '@' on, and where, as letters from 'a' on
    out dx, al
    pop rax
    add al, 0x40
    out dx, al
    pop rbx                     # the error code of a page fault
    mov ecx, 16
12: rol rbx, 4
    mov al, bl
    and al, 0xf
    add al, 0x61
    out dx, al
    dec ecx
    jnz 12b
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
gdt_second_tss:                 # 0x38: as above, of the second processor
    .quad 0x0000890000002068
    .quad 0
    .quad 0x00cf9b000000ffff    # 0x48: ring 0 code of 32 bits
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .quad gdt
idt_pointer:
    .word 256 * 16 - 1
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
second_tss:
    .skip 104 + 8192 + 8
    .balign 16
start_info:
    .skip 16
    .skip 16384
ring0_stack_end:
    .skip 65536
ring3_stack_end:
    .skip 16384
second_ring0_stack_end:
    .skip 65536
second_ring3_stack_end:
