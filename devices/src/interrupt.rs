//! Interrupt lines as devices see them: something to pulse. What a pulse becomes (an irqfd, a
//! pin of the [I/O APIC](crate::ioapic), a counter in a test) is the machine's business.

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// An edge-triggered interrupt line.
pub trait InterruptLine: Send + Sync {
    /// Sends one edge.
    ///
    /// # Errors
    ///
    /// The edge could not be handed on. The device carries on: its state still shows the
    /// interrupt as pending.
    fn trigger(&self) -> io::Result<()>;
}

/// An eventfd registered with KVM as an irqfd.
impl InterruptLine for EventFd {
    fn trigger(&self) -> io::Result<()> {
        self.write(1)
    }
}
