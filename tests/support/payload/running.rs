//! Guests that run, rest, start their other vCPUs, or look at the time.

payload! {
    /// Says that it runs, then never leaves the guest again.
    spin:
    "mov dx, 0x3f8",
    "mov al, 0x2e",
    "out dx, al",
    "2: jmp 2b",
}

payload! {
    /// Writes to every page from 4 to 64 MiB, says that it has, and goes on doing so.
    touch:
    "mov dx, 0x3f8",
    "2: mov edi, 0x400000",
    "3: inc qword ptr [rdi]",
    "add edi, 0x1000",
    "cmp edi, 0x4000000",
    "jb 3b",
    "mov al, 0x2e",
    "out dx, al",
    "jmp 2b",
}

payload! {
    /// Says that it runs, then halts with interrupts off.
    halt:
    "mov dx, 0x3f8",
    "mov al, 0x2e",
    "out dx, al",
    "cli",
    "2: hlt",
    "jmp 2b",
}

payload! {
    /// Reads absent ports and MMIO at every width: prints Y for each that reads all ones, else N.
    absent:
    "mov dx, 0x2000",
    "xor eax, eax",
    "in al, dx",
    "cmp al, 0xff",
    "call 9f",
    "xor eax, eax",
    "in ax, dx",
    "cmp ax, 0xffff",
    "call 9f",
    "xor eax, eax",
    "in eax, dx",
    "cmp eax, 0xffffffff",
    "call 9f",
    "mov ebx, 0xd0000000",
    "mov al, [rbx]",
    "cmp al, 0xff",
    "call 9f",
    "mov ax, [rbx]",
    "cmp ax, 0xffff",
    "call 9f",
    "mov eax, [rbx]",
    "cmp eax, 0xffffffff",
    "call 9f",
    "mov rax, [rbx]",
    "cmp rax, -1",
    "call 9f",
    // Writes go nowhere, and the order of what follows is kept.
    "mov qword ptr [rbx], 0",
    "mov rax, [rbx]",
    "cmp rax, -1",
    "call 9f",
    "mov dx, 0x600",
    "mov al, 0x34",
    "out dx, al",
    "9: mov al, 0x59",
    "je 8f",
    "mov al, 0x4e",
    "8: push rdx",
    "mov dx, 0x3f8",
    "out dx, al",
    "pop rdx",
    "ret",
}

payload! {
    /// Starts every other vCPU by INIT and SIPI to all but itself, counts them at 0x9_0000, prints
    /// a dot once for each that came and powers off when there were as many as the word at 0x2000
    /// of the command line says. The count is given by the test in `a=NNNN` (four hex digits).
    start_others:
    // The trampoline, in real mode at 0x3000: count and halt.
    "mov edi, 0x3000",
    "lea rsi, [rip + 6f]",
    "mov ecx, 32",
    "rep movsb",
    "mov dword ptr [0x90000], 0",
    start_others!(),
    // ESI of the boot protocol is gone; the command line is at a fixed place: find `a=`.
    "mov esi, 0x20000",
    "2: lodsb",
    "cmp al, 0x61",
    "jne 2b",
    "lodsb",
    "cmp al, 0x3d",
    "jne 2b",
    "xor ebx, ebx",
    "mov ecx, 4",
    "3: lodsb",
    "sub al, 0x30",
    "cmp al, 9",
    "jbe 4f",
    "sub al, 0x27",
    "4: shl ebx, 4",
    "movzx eax, al",
    "or ebx, eax",
    "loop 3b",
    "5: pause",
    "cmp [0x90000], ebx",
    "jb 5b",
    "mov dx, 0x600",
    "mov al, 0x34",
    "out dx, al",
    "6: .code16",
    "xor ax, ax",
    "mov ax, 0x9000",
    "mov ds, ax",
    "lock inc dword ptr [0]",
    "7: hlt",
    "jmp 7b",
    ".code64",
}

payload! {
    /// Reads its kvm-clock (Documentation/virt/kvm/x86/msr.rst) again and again. Prints `B` when it went
    /// backwards, `S` when it was told that it had been stopped, the time in nanoseconds as 16 digits
    /// for each byte received, and powers off at `q`.
    clock:
    "mov ecx, 0x4b564d01",
    "mov eax, 0x100001",
    "xor edx, edx",
    "wrmsr",
    "mov edi, 0x100000",
    "xor ebp, ebp",
    "2:",
    read_clock!(),
    "cmp rax, rbp",
    "mov rbp, rax",
    "mov al, 0x42",
    "mov dx, 0x3f8",
    "jae 5f",
    "out dx, al",
    "5: test byte ptr [rdi + 29], 2",
    "jz 6f",
    "lock and byte ptr [rdi + 29], 0xfd",
    "mov al, 0x53",
    "out dx, al",
    "6: mov dx, 0x3fd",
    "in al, dx",
    "test al, 1",
    "jz 2b",
    "mov dx, 0x3f8",
    "in al, dx",
    "cmp al, 0x71",
    "je 8f",
    "mov rbx, rbp",
    print_rbx!(),
    "jmp 2b",
    "8: mov dx, 0x600",
    "mov al, 0x34",
    "out dx, al",
}
