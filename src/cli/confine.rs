//! Flags for how far a guest's VMM is confined. By default as far as the host allows.

use clap::Args;
use vmm::jail::Settings;
use vmm::jail::seccomp::Mode;

/// How the VMM of a guest is confined.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Confinement")]
pub struct ConfineFlags {
    /// What is done about system calls that the VMM has no use for: on (they end it), log (they are
    /// carried out, and noted in the host's kernel log) or off
    #[arg(long, value_name = "MODE", default_value_t, hide_default_value = true)]
    pub seccomp: Mode,
}

impl ConfineFlags {
    /// As the guest keeps them.
    pub fn settings(&self) -> Settings {
        Settings { seccomp: self.seccomp }
    }
}
