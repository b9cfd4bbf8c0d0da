//! MSI-X vectors of devices in this process as KVM sees them: a GSI each, whose route follows the guest's
//! message, and an irqfd that raises it. Nothing is made for a vector that no guest has unmasked.

use std::io;
use std::sync::{Arc, OnceLock};

use devices::ioapic::Message;
use devices::pci::MsiVectors;
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use super::routing::{GsiRouter, Msi};

/// GSIs for vectors, given out device by device.
#[derive(Debug)]
pub struct GsiAllocator {
    next: u32,
    limit: u32,
}

/// There are no more GSIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{needed} interrupt routes are needed, but this host's KVM has {limit} (KVM_CAP_IRQ_ROUTING)"
)]
pub struct NoGsis {
    /// Routes that the devices so far need, with this one.
    pub needed: u32,
    /// Routes that there are.
    pub limit: u32,
}

impl GsiAllocator {
    /// GSIs from `first` up to below `limit`.
    pub fn new(first: u32, limit: u32) -> Self {
        Self { next: first, limit }
    }

    /// The first of `count` GSIs in a row.
    ///
    /// # Errors
    ///
    /// [`NoGsis`]
    pub fn reserve(&mut self, count: u16) -> Result<u32, NoGsis> {
        let first = self.next;
        let needed = first.saturating_add(count.into());
        if needed > self.limit {
            return Err(NoGsis { needed, limit: self.limit });
        }
        self.next = needed;
        Ok(first)
    }
}

/// The vectors of one device.
#[derive(Debug)]
pub struct GsiVectors {
    vm: Arc<VmFd>,
    router: Arc<GsiRouter>,
    first: u32,
    /// Made when the vector is first routed.
    events: Box<[OnceLock<EventFd>]>,
}

impl GsiVectors {
    /// `count` vectors at the GSIs from `first` on.
    pub fn new(vm: Arc<VmFd>, router: Arc<GsiRouter>, first: u32, count: u16) -> Self {
        let events = (0..count).map(|_| OnceLock::new()).collect();
        Self { vm, router, first, events }
    }
}

impl MsiVectors for GsiVectors {
    fn route(&self, vector: u16, message: Message) -> io::Result<()> {
        let Some(place) = self.events.get(usize::from(vector)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let gsi = self.first + u32::from(vector);
        let Message { address, data } = message;
        self.router.set(gsi, Some(Msi { address, data })).map_err(io::Error::other)?;
        if place.get().is_none() {
            let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
            self.vm.register_irqfd(&event, gsi)?;
            // One that another thread made meanwhile serves as well.
            let _ = place.set(event);
        }
        Ok(())
    }

    fn event(&self, vector: u16) -> Option<&EventFd> {
        self.events.get(usize::from(vector)).and_then(OnceLock::get)
    }

    fn signal(&self, vector: u16) {
        if let Some(event) = self.event(vector) {
            // Fails only with a full counter, and then an interrupt is on its way anyway.
            let _ = event.write(1);
        }
    }
}

#[cfg(test)]
mod msix_test {
    use super::*;

    #[test]
    fn gsis_are_reserved_until_they_run_out() {
        let mut gsis = GsiAllocator::new(48, 60);
        assert_eq!((gsis.reserve(3), gsis.reserve(9)), (Ok(48), Ok(51)));
        assert_eq!(gsis.reserve(0), Ok(60));
        assert_eq!(gsis.reserve(u16::MAX), Err(NoGsis { needed: 60 + 65535, limit: 60 }));
    }
}
