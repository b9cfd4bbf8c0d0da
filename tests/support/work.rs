//! Tiny guests that work: as much as they can, or a fixed amount in each span of time. Each unit of it is a dot on the
//! console, so whoever counts those knows what a guest got done.

/// Units that [`metronome`] does in a second.
pub const RATE: f64 = 100.0;

payload! {
    /// Does a unit of work, a fiftieth of [`busy`]'s, every 10 ms by its kvm-clock, and halts where none is due. What it
    /// could not do in time it does as soon as it can.
    metronome:
    "mov edi, 0x100000",
    "mov ecx, 0x4b564d01",
    "mov eax, 0x100001",
    "xor edx, edx",
    "wrmsr",
    handle_interrupts!("bx"),
    // Local APIC: software enable, and its timer, periodic, vector 0x31; KVM's counts nanoseconds.
    "mov ebx, 0xfee00000",
    "mov dword ptr [rbx + 0xf0], 0x1ff",
    "mov dword ptr [rbx + 0x3e0], 0xb",
    "mov dword ptr [rbx + 0x320], 0x20031",
    "mov dword ptr [rbx + 0x380], 10000000",
    read_clock!(),
    // When the next unit is due.
    "mov r14, rax",
    "2:",
    read_clock!(),
    "cmp rax, r14",
    "jae 3f",
    "sti",
    "hlt",
    "cli",
    "jmp 2b",
    "3: mov ecx, 40000",
    "4: dec ecx",
    "jnz 4b",
    "mov dx, 0x3f8",
    "mov al, 0x2e",
    "out dx, al",
    "add r14, 10000000",
    "jmp 2b",
    // End of interrupt.
    "5: mov dword ptr [rbx + 0xb0], 0",
    "iretq",
}

payload! {
    /// Spins on all vCPUs, and counts units on the first.
    busy:
    // The others' trampoline, in real mode at 0x3000.
    "mov word ptr [0x3000], 0xfeeb",
    start_others!(),
    "2: mov ecx, 2000000",
    "3: dec ecx",
    "jnz 3b",
    "mov dx, 0x3f8",
    "mov al, 0x2e",
    "out dx, al",
    "jmp 2b",
}
