//! One file for each verb of the command line.

pub mod completions;
pub mod doctor;
pub mod man;
pub mod run;

/// What a verb answers with when it fails for a reason of Carve's own.
type Error = Box<dyn std::error::Error>;
