//! What of this host matters to guests: asked for by `carve doctor`, without running anything.

use std::path::Path;

use crate::kvm::{Error, System, system::CAPABILITIES};

/// A capability of KVM and whether this host's has it.
#[derive(Debug, Clone, Copy)]
pub struct Capability {
    /// Its name in the kernel documentation.
    pub name: &'static str,
    /// What Carve needs it for.
    pub purpose: &'static str,
    /// Whether no guest runs without it.
    pub required: bool,
    /// Whether it is there.
    pub present: bool,
}

/// What this host's KVM can do.
#[derive(Debug, Clone)]
pub struct Kvm {
    /// Every capability Carve uses.
    pub capabilities: Vec<Capability>,
    /// The most vCPUs one guest can have.
    pub max_vcpus: u32,
}

/// Asks the KVM device at `path`.
///
/// # Errors
///
/// [`Error`] when it is missing, not permitted, or not KVM. Missing capabilities are no error here.
pub fn probe(path: &Path) -> Result<Kvm, Error> {
    let system = System::open_unchecked(path)?;
    let capabilities = CAPABILITIES
        .iter()
        .map(|capability| Capability {
            name: capability.name,
            purpose: capability.purpose,
            required: capability.required,
            present: system.has(capability),
        })
        .collect();
    Ok(Kvm { capabilities, max_vcpus: system.max_vcpus() })
}
