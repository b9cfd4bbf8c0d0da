//! Holding VMs to a plan: writing limits to the kernel, and reading them back.
//!
//! | file | what |
//! |---|---|
//! | `hierarchy` | control groups: made, limited, read back, removed |
//! | `systemd` | the same by systemd, where it is the first process |
//! | `process` | what a VMM does to itself: its control group, CPUs, NUMA nodes, siblings, place in a shortage |
//!
//! Which limits, and for whom, is the [`plan`](crate::plan)'s business.

mod hierarchy;
mod process;
pub(crate) mod systemd;

pub use hierarchy::{Difference, Hierarchy, HierarchyError};
pub use process::{ProcessError, Settings, affinity_of, pin};
