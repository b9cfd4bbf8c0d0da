//! The state in which an x86-64 guest starts: CPU registers, descriptor tables, page tables, and
//! the structures through which the Linux and PVH boot protocols describe the machine.
//!
//! Where the kernel and initrd are is decided elsewhere; this module only tells the guest.

pub mod boot_params;
pub mod gdt;
pub mod paging;
pub mod pvh;
pub mod registers;
pub mod reset_vector;

pub use registers::Registers;
