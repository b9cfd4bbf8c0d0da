//! Getting a vCPU out of KVM_RUN: a real-time signal and `kvm_run.immediate_exit`.
//!
//! The signal's handler sets `immediate_exit` in the vCPU's own `kvm_run` page, so a kick that lands
//! between the vCPU's last look at its requests and its entry into KVM_RUN is not lost: KVM_RUN
//! then returns EINTR at once (Documentation/virt/kvm/api.rst, 5. The kvm_run structure).
#![allow(unsafe_code)] // A signal handler writing to a page shared with the kernel.

use std::cell::Cell;
use std::io;
use std::ptr;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// This thread's `kvm_run.immediate_exit`, or null. Const-initialized and without a destructor:
    /// reading it in a signal handler neither allocates nor locks.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// The signal that kicks a vCPU thread.
pub fn signal() -> i32 {
    SIGRTMIN()
}

/// Installs the handler for [`signal`], once for the process.
///
/// # Errors
///
/// The kernel's answer when the handler cannot be installed.
pub fn install_handler() -> io::Result<()> {
    extern "C" fn kicked(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        let flag = IMMEDIATE_EXIT.get();
        if !flag.is_null() {
            // SAFETY: not null, so `Kickable` of this very thread is alive, and with it the page.
            unsafe { ptr::write_volatile(flag, 1) };
        }
    }
    register_signal_handler(signal(), kicked).map_err(io::Error::from)
}

/// While it lives, a kick of this thread makes the vCPU leave KVM_RUN.
#[derive(Debug)]
pub struct Kickable {
    flag: *mut u8,
}

impl Kickable {
    /// Ties this thread's kicks to `vcpu`, which must outlive the value.
    pub fn new(vcpu: &mut VcpuFd) -> Self {
        let flag = &raw mut vcpu.get_kvm_run().immediate_exit;
        IMMEDIATE_EXIT.set(flag);
        Self { flag }
    }

    /// Makes the next KVM_RUN return before it enters the guest.
    pub fn kick(&self) {
        // SAFETY: the vCPU's page is mapped while this value lives.
        unsafe { ptr::write_volatile(self.flag, 1) };
    }

    /// Forgets kicks so far; whether there were any. Look at the requests after this, not before.
    pub fn clear(&self) -> bool {
        // SAFETY: the vCPU's page is mapped while this value lives.
        let kicked = unsafe { ptr::read_volatile(self.flag) } != 0;
        // SAFETY: as above. A kick between the two is forgotten, too, and reported if the first was.
        unsafe { ptr::write_volatile(self.flag, 0) };
        kicked
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}
