//! The schema of a VM.
//!
//! Flags and files say the same things in the same words, so both become a
//! [`VmSpec`], where every key is optional. Specs are laid over one another
//! (flags over the file) and resolved once, defaults filled in, into a
//! [`VmConfig`], which only ever exists valid:
//!
//! ```text
//! flags ─────────────> VmSpec ─┐
//!                              ├─ resolve ─> VmConfig, or every Problem
//! file ─> File::parse ─> VmSpec┘
//! ```
//!
//! [`KEYS`] documents each key (what it takes, its range and its default) for help
//! texts, the user guide and error messages. A new kind of device adds a struct
//! of its own here, one field in [`VmSpec`] and [`VmConfig`], and its keys.
//!
//! Everything in this module is pure: no file is opened here.

mod balloon;
mod bandwidth;
mod catalogue;
mod code;
mod console;
mod disk;
mod document;
mod file;
mod forward;
pub mod host;
mod keys;
mod mac;
mod memory;
mod name;
mod named;
mod net;
mod options;
mod problem;
pub(crate) mod schema_of;
mod spec;
mod topology;
mod vm;
mod volume;
mod vsock;
mod words;

pub use balloon::{Balloon, BalloonConflict, BalloonSpec, ParseBalloonError};
pub use bandwidth::{Bandwidth, ParseBandwidthError};
pub use code::Code;
pub use console::{
    ConsoleConflict, ConsoleKind, ConsolePort, ConsoleTarget, InvalidPortName, MAX_CONSOLE_PORTS,
    ParseConsoleError, PortName, console_conflicts,
};
pub use disk::{Disk, DiskFormat, InvalidDisk, Overlay, ParseDiskError};
pub use file::File;
pub use forward::{Forward, ParseForwardError, Protocol};
pub use keys::{KEYS, Key, key};
pub use mac::{InvalidMacAddress, MacAddress};
pub use memory::{Backing, HugePageSize, Memory, MemorySpec, NotAHugePageSize};
pub use name::{InvalidName, Name};
pub use named::{Named, numbered};
pub use net::{
    Connection, LinkState, MAX_QUEUES, Net, NetConflict, NetLimits, NetRule, NetSpec,
    ParseNetError, resolve_nets,
};
pub use options::{Boot, BootProtocol, BootSpec, Devices, DevicesSpec, OnReboot, Transport};
pub use problem::{Error, Location, Problem, Shortage};
pub(crate) use schema_of::schema_of;
pub use spec::VmSpec;
pub use topology::{ParseTopologyError, Topology};
pub use vm::{Conflict, MAX_VCPUS, MIN_MEMORY, VmConfig, load};
pub use volume::Volume;
pub use vsock::{InvalidVsock, Vsock};
pub use words::UnknownWord;
