//! Guests that use the serial port.

payload! {
    /// Prints a line with one string instruction, then powers off.
    hello:
    "lea rsi, [rip + 3f]",
    "mov ecx, 6",
    "mov dx, 0x3f8",
    "rep outsb",
    "mov dx, 0x600",
    "mov al, 0x34",
    "out dx, al",
    "3: .ascii \"hello\\n\"",
}

payload! {
    /// Echoes each byte received until `q`, then powers off. Polls the line status register.
    echo:
    "2: mov dx, 0x3fd",
    "in al, dx",
    "test al, 1",
    "jz 2b",
    "mov dx, 0x3f8",
    "in al, dx",
    "out dx, al",
    "cmp al, 0x71",
    "jne 2b",
    "mov dx, 0x600",
    "mov al, 0x34",
    "out dx, al",
}

payload! {
    /// Prints 256 KiB: 4,096 times 64 bytes by string instruction. Then powers off.
    flood:
    "mov ebx, 4096",
    "2: lea rsi, [rip + 3f]",
    "mov ecx, 64",
    "mov dx, 0x3f8",
    "rep outsb",
    "dec ebx",
    "jnz 2b",
    "mov dx, 0x600",
    "mov al, 0x34",
    "out dx, al",
    "3: .ascii \"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+\\n\"",
}

payload! {
    /// Prints lines of 64 bytes by string instruction, without end.
    torrent:
    "2: lea rsi, [rip + 3f]",
    "mov ecx, 64",
    "mov dx, 0x3f8",
    "rep outsb",
    "jmp 2b",
    "3: .ascii \"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+\\n\"",
}

payload! {
    /// Takes the serial port's transmitter interrupt: routes I/O APIC pin 4 to vector 0x31 of the
    /// first local APIC, enables the interrupt in the UART, and waits with `sti; hlt`. The handler
    /// prints `I` and powers off.
    interrupt:
    handle_interrupts!("di"),
    // Local APIC: software enable, spurious vector 0xff.
    "mov ebx, 0xfee00000",
    "mov dword ptr [rbx + 0xf0], 0x1ff",
    // I/O APIC, pin 4: destination 0, then vector 0x31, fixed, edge, not masked.
    "mov ebx, 0xfec00000",
    "mov dword ptr [rbx], 0x19",
    "mov dword ptr [rbx + 0x10], 0",
    "mov dword ptr [rbx], 0x18",
    "mov dword ptr [rbx + 0x10], 0x31",
    // Interrupt enable register: transmitter holding register empty.
    "mov dx, 0x3f9",
    "mov al, 2",
    "out dx, al",
    "mov dx, 0x3f8",
    "mov al, 0x2e",
    "out dx, al",
    "sti",
    "4: hlt",
    "jmp 4b",
    "5: mov dx, 0x3f8",
    "mov al, 0x49",
    "out dx, al",
    "mov dx, 0x600",
    "mov al, 0x34",
    "out dx, al",
}
