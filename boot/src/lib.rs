//! What a guest finds at its first instruction: memory map, kernel, initrd, command line, ACPI
//! tables and CPU registers.
//!
//! [`BootSource`] holds what a guest boots from and loads it into guest memory, at every boot and
//! reboot anew. The crate knows nothing of KVM and of what devices do.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::cast_possible_truncation))]

pub mod acpi;
pub mod cmdline;
pub mod initrd;
pub mod kernel;
pub mod layout;
mod source;
pub mod x86_64;

pub use source::{BootSource, Entry, Error, Protocol};

/// Random bytes from the host.
fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    // Requests of up to 256 bytes are never cut short.
    if filled == N { Ok(bytes) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}
