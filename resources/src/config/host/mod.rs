//! The host file: what the host keeps, what each tenant may have, and which VMs there are.
//!
//! As with a VM, every source says what it likes and says it as a [`HostSpec`], where every key is
//! optional; sources are laid over one another and resolved once into a [`HostConfig`], in which
//! every VM of every `count` stands by itself:
//!
//! ```text
//! carve.toml, carve.d/*.toml, environment, flags
//!      │ Layers::parse: one HostSpec each, with the place of every value
//!      ▼
//!  Layers ─ resolve ─> HostConfig, or every Problem
//! ```
//!
//! [`HOST_KEYS`] and [`SHARE_KEYS`] document the keys beside those of a VM
//! ([`KEYS`](super::KEYS)), which mean the same here. Nothing here reads files or knows the host:
//! whether it all fits is for [`plan`](crate::plan).

mod conflict;
mod cpu;
mod guest;
mod keys;
mod layers;
mod order;
mod resolve;
mod schema;
mod share;
mod spec;
mod unique;

pub use conflict::HostConflict;
pub use guest::{Guest, Pool, Tenant};
pub use keys::{HOST_KEYS, SHARE_KEYS};
pub use layers::{Layers, Source, Value};
pub use resolve::HostConfig;
pub use schema::json_schema;
pub use share::{
    CpuShare, CpuSpec, DurationText, Enforce, InvalidDuration, InvalidRestart, PowerState, Ready,
    Restart, ShareSpec,
};
pub use spec::{
    GuestSpec, HostSection, HostSpec, OnFull, OvercommitSpec, PoolSpec, ReserveSpec, Smt,
    TenantSpec,
};
