//! Tiny guests: a few instructions in an ELF file, entered by the 64-bit boot protocol.
//!
//! The instructions are assembled with the test itself and copied out of it, so they must not
//! depend on where they run. A guest starts in long mode with interrupts off, the first 4 GiB mapped
//! one to one and a small stack.
#![allow(unsafe_code)] // Reading the bytes between two symbols.

use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempPath;

/// Where payloads are loaded and entered.
pub const BASE: u64 = 0x20_0000;

/// The bare-metal guest of `xtask/payload/`; none where nobody built it.
pub fn bare_metal() -> Option<PathBuf> {
    let found = std::env::var_os("CARVE_PAYLOAD").map(PathBuf::from);
    if found.is_none() {
        assert!(std::env::var_os("CARVE_REQUIRE_KVM").is_none(), "CARVE_PAYLOAD is not set");
        eprintln!(
            "skipped: CARVE_PAYLOAD names no bare-metal guest; `cargo xtask test` builds one"
        );
    }
    found
}

/// Declares `fn NAME() -> &'static [u8]`, the machine code of the given instructions.
macro_rules! payload {
    ($(#[$doc:meta])* $name:ident: $($line:expr),+ $(,)?) => {
        core::arch::global_asm!(
            concat!(".pushsection .rodata.payload_", stringify!($name), ",\"a\",@progbits"),
            concat!(".globl payload_", stringify!($name), "_start"),
            concat!("payload_", stringify!($name), "_start:"),
            $($line,)+
            concat!(".globl payload_", stringify!($name), "_end"),
            concat!("payload_", stringify!($name), "_end:"),
            ".popsection",
        );

        $(#[$doc])*
        pub fn $name() -> &'static [u8] {
            unsafe extern "C" {
                #[link_name = concat!("payload_", stringify!($name), "_start")]
                static START: u8;
                #[link_name = concat!("payload_", stringify!($name), "_end")]
                static END: u8;
            }
            let (start, end) = (&raw const START, &raw const END);
            // SAFETY: the assembler placed both symbols around the same bytes of this program.
            unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
        }
    };
}

/// Reads the kvm-clock whose page RDI points at: nanoseconds in RAX; changes RCX, RDX, RSI and R8.
macro_rules! read_clock {
    () => {
        // Between two equal, even versions.
        "93: mov esi, [rdi]
         test esi, 1
         jnz 93b
         rdtsc
         shl rdx, 32
         or rax, rdx
         sub rax, [rdi + 8]
         mov cl, [rdi + 28]
         test cl, cl
         js 94f
         shl rax, cl
         jmp 95f
         94: neg cl
         shr rax, cl
         95: mov r8d, [rdi + 24]
         mul r8
         shrd rax, rdx, 32
         add rax, [rdi + 16]
         cmp esi, [rdi]
         jne 93b"
    };
}

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
    // Interrupt gate 0x31 in a table at 0x10_2000: offset, selector 0x10, present, type 14.
    "lea rax, [rip + 5f]",
    "mov edi, 0x102000",
    "mov [rdi + 0x310], ax",
    "mov word ptr [rdi + 0x312], 0x10",
    "mov word ptr [rdi + 0x314], 0x8e00",
    "shr rax, 16",
    "mov [rdi + 0x316], ax",
    "mov qword ptr [rdi + 0x318], 0",
    "sub rsp, 16",
    "mov word ptr [rsp], 0xfff",
    "mov [rsp + 2], rdi",
    "lidt [rsp]",
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
    // Interrupt gate 0x31 in a table at 0x10_2000, and the local APIC.
    "lea rax, [rip + 5f]",
    "mov edi, 0x102000",
    "mov [rdi + 0x310], ax",
    "mov word ptr [rdi + 0x312], 0x10",
    "mov word ptr [rdi + 0x314], 0x8e00",
    "shr rax, 16",
    "mov [rdi + 0x316], ax",
    "mov qword ptr [rdi + 0x318], 0",
    "sub rsp, 16",
    "mov word ptr [rsp], 0xfff",
    "mov [rsp + 2], rdi",
    "lidt [rsp]",
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
    // Interrupt gate 0x31 in a table at 0x10_2000, the local APIC, and pin 16.
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
    "mov ebx, 0xfee00000",
    "mov dword ptr [rbx + 0xf0], 0x1ff",
    "mov ebx, 0xfec00000",
    "mov dword ptr [rbx], 0x31",
    "mov dword ptr [rbx + 0x10], 0",
    "mov dword ptr [rbx], 0x30",
    "mov dword ptr [rbx + 0x10], 0x31",
    // Status and features.
    "mov dword ptr [rdi + 0x70], 1",
    "mov dword ptr [rdi + 0x70], 3",
    "mov dword ptr [rdi + 0x24], 1",
    "mov dword ptr [rdi + 0x20], 1",
    "mov dword ptr [rdi + 0x70], 0xb",
    // Queue 0: four entries, at 0x11_0000.
    "mov dword ptr [rdi + 0x30], 0",
    "mov dword ptr [rdi + 0x38], 4",
    "mov dword ptr [rdi + 0x80], 0x110000",
    "mov dword ptr [rdi + 0x90], 0x111000",
    "mov dword ptr [rdi + 0xa0], 0x112000",
    "mov dword ptr [rdi + 0x44], 1",
    "mov dword ptr [rdi + 0x70], 0xf",
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

/// Prints RBX as 16 digits and a line feed; changes RAX, RBX, RCX and RDX.
macro_rules! print_rbx {
    () => {
        "mov ecx, 16
         mov dx, 0x3f8
         91: rol rbx, 4
         mov al, bl
         and al, 15
         add al, 0x30
         cmp al, 0x39
         jbe 92f
         add al, 0x27
         92: out dx, al
         loop 91b
         mov al, 10
         out dx, al"
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

payload! {
    /// Writes to the disk that is the first device over MMIO: see `write_disk`.
    disk_mmio:
    "mov edi, 0xc0000000",
    "lea r15, [rdi + 0x50]",
    "mov dword ptr [rdi + 0x70], 1",
    "mov dword ptr [rdi + 0x70], 3",
    "mov dword ptr [rdi + 0x24], 1",
    "mov dword ptr [rdi + 0x20], 1",
    "mov dword ptr [rdi + 0x70], 0xb",
    "mov dword ptr [rdi + 0x30], 0",
    "mov dword ptr [rdi + 0x38], 4",
    "mov dword ptr [rdi + 0x80], 0x110000",
    "mov dword ptr [rdi + 0x90], 0x111000",
    "mov dword ptr [rdi + 0xa0], 0x112000",
    "mov dword ptr [rdi + 0x44], 1",
    "mov dword ptr [rdi + 0x70], 0xf",
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

/// Writes a payload as an ELF file that `carve run --kernel` takes.
pub fn elf(code: &[u8]) -> TempPath {
    let mut file = tempfile::NamedTempFile::with_prefix("payload-").unwrap();
    file.write_all(&elf_bytes(code)).unwrap();
    file.into_temp_path()
}

/// Writes a payload to `path`, for benchmarks.
pub fn write_elf(code: &[u8], path: &Path) {
    std::fs::write(path, elf_bytes(code)).unwrap();
}

/// An ELF64 executable of one loadable segment at [`BASE`], entered at its start.
fn elf_bytes(code: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    let mut elf = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let mut half = |value: u16| elf.extend(value.to_le_bytes());
    half(2); // ET_EXEC
    half(62); // EM_X86_64
    elf.extend(1u32.to_le_bytes());
    for address in [BASE, 64, 0] {
        elf.extend(address.to_le_bytes());
    }
    elf.extend(0u32.to_le_bytes());
    for size in [64u16, 56, 1, 64, 0, 0] {
        elf.extend(size.to_le_bytes());
    }
    elf.extend(1u32.to_le_bytes()); // PT_LOAD
    elf.extend(7u32.to_le_bytes());
    let size = code.len() as u64;
    for field in [HEADERS, BASE, BASE, size, size, 0x1000] {
        elf.extend(field.to_le_bytes());
    }
    elf.extend(code);
    elf
}
