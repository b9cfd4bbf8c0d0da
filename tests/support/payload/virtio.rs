//! Guests that drive a virtio device.

/// Starts the device over MMIO at RDI: status and features, then queue 0 of four entries, at 0x11_0000.
macro_rules! start_mmio {
    () => {
        "mov dword ptr [rdi + 0x70], 1
         mov dword ptr [rdi + 0x70], 3
         mov dword ptr [rdi + 0x24], 1
         mov dword ptr [rdi + 0x20], 1
         mov dword ptr [rdi + 0x70], 0xb
         mov dword ptr [rdi + 0x30], 0
         mov dword ptr [rdi + 0x38], 4
         mov dword ptr [rdi + 0x80], 0x110000
         mov dword ptr [rdi + 0x90], 0x111000
         mov dword ptr [rdi + 0xa0], 0x112000
         mov dword ptr [rdi + 0x44], 1
         mov dword ptr [rdi + 0x70], 0xf"
    };
}

/// Writes sectors of a disk, whose queue of four entries is at 0x11_0000 and whose doorbell R15 points at:
/// write number n puts n into sector n modulo 2048. Says that it takes input. Prints a dot every 256 writes; after a byte was
/// received, the number of writes, and powers off. A write that fails prints `E`, and powers off.
macro_rules! write_disk {
    () => {
        concat!(
            "mov ebp, 0x110000
             mov dword ptr [rbp], 0x113000
             mov dword ptr [rbp + 8], 16
             mov dword ptr [rbp + 12], 0x10001
             mov dword ptr [rbp + 16], 0x114000
             mov dword ptr [rbp + 24], 512
             mov dword ptr [rbp + 28], 0x20001
             mov dword ptr [rbp + 32], 0x113010
             mov dword ptr [rbp + 40], 1
             mov dword ptr [rbp + 44], 2
             mov word ptr [rbp + 0x1000], 1
             mov dword ptr [rbp + 0x3000], 1
             xor r12d, r12d
             mov dx, 0x3fc
             mov al, 0xa
             out dx, al
             mov dx, 0x3f9
             mov al, 1
             out dx, al
             81: mov rax, r12
             and eax, 2047
             mov [rbp + 0x3008], rax
             mov [rbp + 0x4000], r12
             mov byte ptr [rbp + 0x3010], 0xff
             lea eax, [r12 + 1]
             mov [rbp + 0x1002], ax
             mov dword ptr [r15], 0
             82: pause
             cmp [rbp + 0x2002], ax
             jne 82b
             mov dx, 0x3f8
             mov al, 0x45
             cmp byte ptr [rbp + 0x3010], 0
             jne 83f
             inc r12
             test r12d, 255
             jnz 81b
             mov al, 0x2e
             out dx, al
             mov dx, 0x3fd
             in al, dx
             test al, 1
             jz 81b
             mov rbx, r12
             ",
            print_rbx!(),
            "
             83: out dx, al
             mov dx, 0x600
             mov al, 0x34
             out dx, al"
        )
    };
}

payload! {
    /// Drives the entropy device over PCI: finds it by the configuration ports (`R`), moves its memory to
    /// 0xC100_0000, sets up its queue with an MSI-X interrupt, and asks for 16 bytes. The interrupt's handler
    /// prints `I` if they came, else `N`, and powers off; so does a search that found nothing.
    virtio_pci:
    "mov ebx, 0x80000000",
    "2: xor ecx, ecx",
    "call 7f",
    "in eax, dx",
    "cmp eax, 0x10441af4",
    "je 3f",
    "add ebx, 0x800",
    "cmp ebx, 0x80010000",
    "jne 2b",
    "mov al, 0x4e",
    "jmp 8f",
    "3: mov al, 0x52",
    "mov dx, 0x3f8",
    "out dx, al",
    // BAR 0, its upper half, memory space and bus master, MSI-X enable.
    "mov ecx, 0x10",
    "mov esi, 0xc1000000",
    "call 6f",
    "mov ecx, 0x14",
    "xor esi, esi",
    "call 6f",
    "mov ecx, 4",
    "mov esi, 6",
    "call 6f",
    "mov ecx, 0x40",
    "mov esi, 0x80000000",
    "call 6f",
    handle_interrupts!("di"),
    // The local APIC.
    "mov edi, 0xfee00000",
    "mov dword ptr [rdi + 0xf0], 0x1ff",
    // MSI-X vector 1.
    "mov edi, 0xc1000000",
    "mov dword ptr [rdi + 0x8010], 0xfee00000",
    "mov dword ptr [rdi + 0x8014], 0",
    "mov dword ptr [rdi + 0x8018], 0x31",
    "mov dword ptr [rdi + 0x801c], 0",
    // Status and features.
    "mov byte ptr [rdi + 0x14], 1",
    "mov byte ptr [rdi + 0x14], 3",
    "mov dword ptr [rdi + 0x08], 1",
    "mov dword ptr [rdi + 0x0c], 1",
    "mov byte ptr [rdi + 0x14], 0xb",
    // Queue 0: four entries, at 0x11_0000, with vector 1.
    "mov word ptr [rdi + 0x16], 0",
    "mov word ptr [rdi + 0x18], 4",
    "mov word ptr [rdi + 0x1a], 1",
    "mov dword ptr [rdi + 0x20], 0x110000",
    "mov dword ptr [rdi + 0x28], 0x111000",
    "mov dword ptr [rdi + 0x30], 0x112000",
    "mov word ptr [rdi + 0x1c], 1",
    "mov byte ptr [rdi + 0x14], 0xf",
    "mov ebp, 0x110000",
    "mov dword ptr [rbp], 0x113000",
    "mov dword ptr [rbp + 8], 16",
    "mov dword ptr [rbp + 12], 2",
    "mov word ptr [rbp + 0x1002], 1",
    "mov word ptr [rdi + 0x3000], 0",
    "sti",
    "4: hlt",
    "jmp 4b",
    "5: mov al, 0x4e",
    "cmp word ptr [rbp + 0x2002], 1",
    "jne 8f",
    "cmp dword ptr [rbp + 0x2008], 16",
    "jne 8f",
    "mov al, 0x49",
    "jmp 8f",
    // Writes ESI to register ECX.
    "6: call 7f",
    "mov eax, esi",
    "out dx, eax",
    "ret",
    // Selects register ECX of the function at EBX.
    "7: lea eax, [rbx + rcx]",
    "mov dx, 0xcf8",
    "out dx, eax",
    "mov dx, 0xcfc",
    "ret",
    // Prints AL and powers off.
    "8: mov dx, 0x3f8",
    "out dx, al",
    "mov dx, 0x600",
    "mov al, 0x34",
    "out dx, al",
}

payload! {
    /// Drives the entropy device over MMIO as [`virtio_pci`] does over PCI: prints `R` where its registers say
    /// what they should, then `I` from the handler of its interrupt, by pin 16 of the I/O APIC.
    virtio_mmio:
    "mov edi, 0xc0000000",
    "mov al, 0x4e",
    "cmp dword ptr [rdi], 0x74726976",
    "jne 8f",
    "cmp dword ptr [rdi + 4], 2",
    "jne 8f",
    "cmp dword ptr [rdi + 8], 4",
    "jne 8f",
    "mov al, 0x52",
    "mov dx, 0x3f8",
    "out dx, al",
    handle_interrupts!("bx"),
    // The local APIC, and pin 16.
    "mov ebx, 0xfee00000",
    "mov dword ptr [rbx + 0xf0], 0x1ff",
    "mov ebx, 0xfec00000",
    "mov dword ptr [rbx], 0x31",
    "mov dword ptr [rbx + 0x10], 0",
    "mov dword ptr [rbx], 0x30",
    "mov dword ptr [rbx + 0x10], 0x31",
    start_mmio!(),
    "mov ebp, 0x110000",
    "mov dword ptr [rbp], 0x113000",
    "mov dword ptr [rbp + 8], 16",
    "mov dword ptr [rbp + 12], 2",
    "mov word ptr [rbp + 0x1002], 1",
    "mov dword ptr [rdi + 0x50], 0",
    "sti",
    "4: hlt",
    "jmp 4b",
    "5: mov al, 0x4e",
    "cmp dword ptr [rdi + 0x60], 1",
    "jne 8f",
    "cmp word ptr [rbp + 0x2002], 1",
    "jne 8f",
    "cmp dword ptr [rbp + 0x2008], 16",
    "jne 8f",
    "mov al, 0x49",
    // Prints AL and powers off.
    "8: mov dx, 0x3f8",
    "out dx, al",
    "mov dx, 0x600",
    "mov al, 0x34",
    "out dx, al",
}

payload! {
    /// Writes to the disk that is the first device over MMIO: see `write_disk`.
    disk_mmio:
    "mov edi, 0xc0000000",
    "lea r15, [rdi + 0x50]",
    start_mmio!(),
    write_disk!(),
}

payload! {
    /// Writes to the disk in the first slot of the PCI bus: see `write_disk`.
    disk_pci:
    "mov ebx, 0x80000800",
    "mov edi, 0xc1000000",
    "lea r15, [rdi + 0x3000]",
    // BAR 0, its upper half, memory space.
    "mov ecx, 0x10",
    "mov esi, edi",
    "call 6f",
    "mov ecx, 0x14",
    "xor esi, esi",
    "call 6f",
    "mov ecx, 4",
    "mov esi, 6",
    "call 6f",
    "mov byte ptr [rdi + 0x14], 1",
    "mov byte ptr [rdi + 0x14], 3",
    "mov dword ptr [rdi + 0x08], 1",
    "mov dword ptr [rdi + 0x0c], 1",
    "mov byte ptr [rdi + 0x14], 0xb",
    "mov word ptr [rdi + 0x16], 0",
    "mov word ptr [rdi + 0x18], 4",
    "mov dword ptr [rdi + 0x20], 0x110000",
    "mov dword ptr [rdi + 0x28], 0x111000",
    "mov dword ptr [rdi + 0x30], 0x112000",
    "mov word ptr [rdi + 0x1c], 1",
    "mov byte ptr [rdi + 0x14], 0xf",
    write_disk!(),
    // Writes ESI to register ECX of the function at EBX.
    "6: lea eax, [rbx + rcx]",
    "mov dx, 0xcf8",
    "out dx, eax",
    "mov dx, 0xcfc",
    "mov eax, esi",
    "out dx, eax",
    "ret",
}
