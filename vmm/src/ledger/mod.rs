//! The ledger of a host: what is promised to whom, and what holds everybody to it.
//!
//! There is one where a host file was applied, for root's guests. No process keeps it: it is a file
//! under a lock, which every process brings up to date that opens it, by who lives.
//!
//! | file | what |
//! |---|---|
//! | `books` | [`Ledger`]: the file, its lock, and bringing it up to date |
//! | `share` | [`Share`]: what the process of a guest does before it runs it: it books, and enters its control group |
//! | `present` | what a host file makes of this host as it is |
//! | `apply` | [`apply()`]: what a host file takes, done |
//! | `order` | one step for each VM, in parallel, each after those it waits for |
//! | `down` | [`down()`]: the VMs of the file stopped |
//! | `verify` | [`verify()`]: every limit read back |
//! | `tenant` | tenants that have a user, who books in them |
//! | `used` | [`Used`]: what is used of it |
//! | `volume` | disks in pools |
//!
//! What fits and what follows from it is worked out by [`resources::plan`], which knows nothing of
//! processes.

mod apply;
mod books;
mod down;
mod order;
mod present;
mod share;
mod tenant;
mod used;
mod verify;
mod volume;

pub use apply::{Applied, ApplyOptions, Error as ApplyError, Refused, Step, apply};
pub use books::{Error, Ledger};
pub use down::{DownOptions, down};
pub use present::{forget, has_name, plan_here as plan};
pub use share::{Companion, Error as ShareError, Share};
pub use tenant::Tenancy;
pub use used::{Part, Used};
pub use verify::{Finding, Verified, verify};
