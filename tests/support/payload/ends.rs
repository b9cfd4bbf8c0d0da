//! Guests that end at once, each in another way.

payload! {
    /// Powers off at once.
    power_off:
    "mov dx, 0x600",
    "mov al, 0x34",
    "out dx, al",
    "2: hlt",
    "jmp 2b",
}

payload! {
    /// Prints a dot and resets through the ACPI reset register.
    reset:
    "mov dx, 0x3f8",
    "mov al, 0x2e",
    "out dx, al",
    "mov dx, 0x602",
    "mov al, 1",
    "out dx, al",
    "2: jmp 2b",
}

payload! {
    /// Resets through the keyboard controller.
    reset_i8042:
    "mov al, 0xfe",
    "out 0x64, al",
    "2: jmp 2b",
}

payload! {
    /// Enters real mode and jumps to the reset vector, as a kernel without other means does: by a
    /// far return through a 16-bit code segment that this puts behind the loader's own.
    reset_vector:
    "mov dx, 0x3f8",
    "mov al, 0x2e",
    "out dx, al",
    // Flat 32-bit and 16-bit code segments at selectors 8 and 0x10 of a table of our own.
    "lea rdi, [rip + 6f]",
    "mov [rip + 5f + 2], rdi",
    "lgdt [rip + 5f]",
    "lea rsi, [rip + 4f]",
    "lea rax, [rip + 2f]",
    "push 0x8",
    "push rax",
    "retfq",
    "2: .code32",
    "mov eax, cr0",
    "and eax, 0x7fffffff",
    "mov cr0, eax",
    "mov ecx, 0xc0000080",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    // The last steps run below 1 MiB, at 0x3000.
    "mov edi, 0x3000",
    "mov ecx, 64",
    "rep movsb",
    "push 0x10",
    "push 0x3000",
    "retf",
    "4: .code16",
    "mov eax, cr0",
    "and al, 0xfe",
    "mov cr0, eax",
    ".byte 0xea, 0x00, 0x00, 0xff, 0xff",
    ".code64",
    "5: .word 23",
    ".quad 0",
    "6: .quad 0",
    ".quad 0x00cf9b000000ffff",
    ".quad 0x00009b000000ffff",
}

payload! {
    /// An exception without a handler, without a handler for that, and so on.
    triple_fault:
    "mov rbx, 0x1122334455667788",
    "ud2",
}

payload! {
    /// Jumps to where neither memory nor a device is: KVM cannot fetch the instruction.
    run_into_nowhere:
    "mov eax, 0xd0000000",
    "jmp rax",
}

payload! {
    /// Writes 42 to the debug-exit port, then powers off where there is no such port.
    debug_exit:
    "mov dx, 0x501",
    "mov al, 42",
    "out dx, al",
    "mov dx, 0x600",
    "mov al, 0x34",
    "out dx, al",
}

payload! {
    /// Tells pvpanic of a panic and resets.
    panic:
    "mov dx, 0x505",
    "mov al, 1",
    "out dx, al",
    "mov dx, 0x602",
    "out dx, al",
    "2: jmp 2b",
}
