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

/// Has interrupt 0x31 handled at the label `5` further on, by a gate in a table at 0x10_2000: offset, selector 0x10,
/// present, type 14. Leaves the table's address in the register, named without its first letter; changes RAX and RSP.
macro_rules! handle_interrupts {
    ($register:literal) => {
        concat!(
            "lea rax, [rip + 5f]\n",
            "mov e",
            $register,
            ", 0x102000\n",
            "mov [r",
            $register,
            " + 0x310], ax\n",
            "mov word ptr [r",
            $register,
            " + 0x312], 0x10\n",
            "mov word ptr [r",
            $register,
            " + 0x314], 0x8e00\n",
            "shr rax, 16\n",
            "mov [r",
            $register,
            " + 0x316], ax\n",
            "mov qword ptr [r",
            $register,
            " + 0x318], 0\n",
            "sub rsp, 16\n",
            "mov word ptr [rsp], 0xfff\n",
            "mov [rsp + 2], r",
            $register,
            "\n",
            "lidt [rsp]",
        )
    };
}

/// Starts all other vCPUs at page 3; changes RAX, RCX and RDX.
macro_rules! start_others {
    () => {
        // x2APIC mode: IA32_APIC_BASE bits 11 and 10, then spurious vector register 0x80f. Interrupt command register
        // 0x830: INIT, then SIPI, to all excluding self.
        "mov ecx, 0x1b
         rdmsr
         or eax, 0xc00
         wrmsr
         mov ecx, 0x80f
         mov eax, 0x1ff
         xor edx, edx
         wrmsr
         mov ecx, 0x830
         mov eax, 0x000c4500
         wrmsr
         mov eax, 0x000c4603
         wrmsr"
    };
}

mod ends;
mod running;
mod serial;
mod virtio;

// Each test target uses its own part.
#[allow(unused_imports)]
pub use self::{ends::*, running::*, serial::*, virtio::*};

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
