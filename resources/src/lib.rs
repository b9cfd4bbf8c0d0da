//! The ledger of a host: what a VM asks for and what the host has.
//!
//! [`config`] is the one schema of a VM, read from command-line flags and from
//! TOML files alike; it is pure and touches nothing of the host. [`inventory`]
//! reads what the host has from `/proc` and `/sys`. Nothing here knows KVM.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod config;
mod cpus;
pub mod enforce;
pub mod inventory;
pub mod plan;
mod size;
mod thousandths;
mod users;

pub use cpus::{CpuSet, ParseCpuSetError};
pub use size::{ParseSizeError, Size};
pub use thousandths::Thousandths;
pub use users::User;
