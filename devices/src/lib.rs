//! What a guest finds on its buses: the bus itself, interrupt lines, the I/O APIC, the few
//! legacy devices an x86 kernel expects, PCI, and virtio devices.
//!
//! Devices here speak their specifications and nothing else. They know no KVM types, open no
//! paths and take no policy decisions: they get opened sinks, interrupt lines and callbacks, and
//! what a guest asks of the machine as a whole (power off, reset, panic) comes back as an
//! [`bus::Action`] from the write that asked for it.
//!
//! The guest is hostile. No sequence of accesses, of any width, makes a device panic, block or
//! log without bound.

#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(test)]
mod allocations;
pub mod bus;
mod count;
pub mod interrupt;
pub mod ioapic;
pub mod legacy;
pub mod memory;
pub mod mutex;
pub mod pci;
pub mod rate_limit;
pub mod thread;
pub mod token_bucket;
pub mod virtio;
