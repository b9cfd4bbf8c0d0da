//! One virtual machine on KVM: built from a configuration, run, reset and ended.
//!
//! [`run()`] is the whole of it for a caller: it blocks until the guest has ended and says how.
//! KVM is met in [`kvm`], the machine's shape in [`machine`], everything the guest sees on its
//! buses in the crate `devices`, and what it finds at its first instruction in the crate `boot`.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;
mod changes;
pub mod clock;
pub mod command;
pub mod console;
mod descriptor;
mod event_loop;
mod explain;
pub mod guests;
pub mod host;
mod in_force;
pub mod jail;
pub mod kvm;
pub mod ledger;
pub mod machine;
mod messages;
pub mod outcome;
pub mod preflight;
mod request;
mod resets;
mod run;
pub mod signals;
mod statistics;
pub mod timings;

pub use command::{Answer, Command, Mailbox, Refusal};
pub use console::{Console, ConsoleHandle};
pub use explain::explain;
pub use outcome::{End, Outcome};
pub use run::{Control, Error, Full, Notice, RunOptions, run};
