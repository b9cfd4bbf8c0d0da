//! Flags for how far a guest's VMM is confined. By default as far as the host allows.

use clap::Args;
use vmm::jail::seccomp::Mode;
use vmm::jail::{Settings, Switch};

/// How the VMM of a guest is confined.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Confinement")]
pub struct ConfineFlags {
    /// Whether the VMM gives up what it does not need once everything is open, files and networks most
    /// of all: on (as far as the host lets it), strict (completely, or it does not start) or off
    #[arg(long, value_name = "MODE", default_value_t, hide_default_value = true)]
    pub jail: Switch,
    /// What is done about system calls that the VMM has no use for: on (they end it), log (they are
    /// carried out, and noted in the host's kernel log) or off
    #[arg(long, value_name = "MODE", default_value_t, hide_default_value = true)]
    pub seccomp: Mode,
}

impl ConfineFlags {
    /// As the guest keeps them.
    pub fn settings(&self) -> Settings {
        Settings { jail: self.jail, seccomp: self.seccomp }
    }
}
