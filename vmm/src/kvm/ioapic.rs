//! Connects the I/O APIC in this process to KVM: its pins become routes from GSIs to MSIs.

use std::sync::Arc;

use devices::ioapic::{Message, Routes};
use devices::rate_limit::RateLimitedLog;

use super::Error;
use super::routing::{GsiRouter, Msi};

/// The I/O APIC's way to the routing table; pin *n* is GSI *n*.
#[derive(Debug)]
pub struct IoApicRoutes {
    router: Arc<GsiRouter>,
    refused: RateLimitedLog,
}

impl IoApicRoutes {
    /// Routes through `router`.
    pub fn new(router: Arc<GsiRouter>) -> Self {
        Self { router, refused: RateLimitedLog::new() }
    }
}

impl Routes for IoApicRoutes {
    fn set(&mut self, pin: u32, message: Option<Message>) {
        if let Err(error) = self.router.set(pin, message.map(msi)) {
            self.note(&error);
        }
    }

    fn deliver(&mut self, message: Message) {
        if let Err(error) = self.router.deliver(msi(message)) {
            self.note(&error);
        }
    }
}

impl IoApicRoutes {
    /// The guest chose the message, so it must not choose how much is logged.
    fn note(&self, error: &Error) {
        if let Some(suppressed) = self.refused.admit() {
            tracing::warn!(suppressed, "an interrupt message was refused: {error}");
        }
    }
}

fn msi(Message { address, data }: Message) -> Msi {
    Msi { address, data }
}
