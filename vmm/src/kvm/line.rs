//! Interrupt lines: eventfds that KVM watches, one for each pin of the I/O APIC that a device has.

use std::io;
use std::sync::{Arc, OnceLock};

use devices::interrupt::InterruptLine;
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

/// A line that costs nothing before its first edge.
#[derive(Debug)]
pub struct LazyLine {
    vm: Arc<VmFd>,
    gsi: u32,
    event: OnceLock<EventFd>,
}

impl LazyLine {
    /// The line of `gsi`.
    pub fn new(vm: Arc<VmFd>, gsi: u32) -> Self {
        Self { vm, gsi, event: OnceLock::new() }
    }
}

impl InterruptLine for LazyLine {
    fn trigger(&self) -> io::Result<()> {
        if self.event.get().is_none() {
            let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
            self.vm.register_irqfd(&event, self.gsi)?;
            // One that another thread made meanwhile serves as well.
            let _ = self.event.set(event);
        }
        self.event.get().map_or(Ok(()), |event| event.write(1))
    }
}
