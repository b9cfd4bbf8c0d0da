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
    // Interrupt gate 0x31 in a table at 0x10_2000: offset, selector 0x10, present, type 14.
    "lea rax, [rip + 5f]",
    "mov ebx, 0x102000",
    "mov [rbx + 0x310], ax",
    "mov word ptr [rbx + 0x312], 0x10",
    "mov word ptr [rbx + 0x314], 0x8e00",
    "shr rax, 16",
    "mov [rbx + 0x316], ax",
    "mov qword ptr [rbx + 0x318], 0",
    "sub rsp, 16",
    "mov word ptr [rsp], 0xfff",
    "mov [rsp + 2], rbx",
    "lidt [rsp]",
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
    // x2APIC mode: IA32_APIC_BASE bits 11 and 10, then spurious vector register 0x80f.
    "mov ecx, 0x1b",
    "rdmsr",
    "or eax, 0xc00",
    "wrmsr",
    "mov ecx, 0x80f",
    "mov eax, 0x1ff",
    "xor edx, edx",
    "wrmsr",
    // Interrupt command register 0x830: INIT, then SIPI at page 3, to all excluding self.
    "mov ecx, 0x830",
    "mov eax, 0x000c4500",
    "wrmsr",
    "mov eax, 0x000c4603",
    "wrmsr",
    "2: mov ecx, 2000000",
    "3: dec ecx",
    "jnz 3b",
    "mov dx, 0x3f8",
    "mov al, 0x2e",
    "out dx, al",
    "jmp 2b",
}
