//! The descriptor of an eventfd in the form rustix takes, which vmm-sys-util does not give.
#![allow(unsafe_code)] // Borrows a descriptor by its number.

use std::os::fd::{AsRawFd, BorrowedFd};

use vmm_sys_util::eventfd::EventFd;

/// The descriptor of `event`.
pub fn descriptor(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: open as long as `event` is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
