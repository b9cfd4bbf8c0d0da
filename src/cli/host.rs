//! Arguments of the verbs that divide a host between VMs.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use resources::config::Name;

use super::Format;

/// Exit codes of `carve plan`.
const PLAN_EXIT_CODES: &str = "\
Exit codes:
  0      nothing to do
  1      refused: the file is wrong, or what it asks for does not fit
  2      there is something to do
  125    Carve itself failed, wrong usage included";

/// A host file and what is laid over it.
#[derive(Clone, Debug, Args)]
pub struct HostFileArgs {
    /// Host file; those in the folder of its name with .d for its extension are laid over it
    #[arg(default_value = "/etc/carve/carve.toml", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Set a key, over what the files and the environment (CARVE_SET, in TOML) say; may be given
    /// several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Which host it is for.
#[derive(Clone, Debug, Args)]
pub struct ForHostArgs {
    /// Host to plan for, as `carve inventory` writes it, instead of this machine
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub inventory: Option<PathBuf>,
}

/// Say what a host file makes of this host, and do nothing
#[derive(Debug, Args)]
#[command(after_long_help = PLAN_EXIT_CODES)]
pub struct PlanArgs {
    #[command(flatten)]
    pub host_file: HostFileArgs,
    #[command(flatten)]
    pub for_host: ForHostArgs,
    /// Plan the removal of VMs that are no longer in the file
    #[arg(long)]
    pub prune: bool,
    /// Form of the plan
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

/// Show what of a host is promised and what still fits
#[derive(Debug, Args)]
pub struct CapacityArgs {
    #[command(flatten)]
    pub host_file: HostFileArgs,
    #[command(flatten)]
    pub for_host: ForHostArgs,
    /// Also say how many more VMs like this one of the file fit
    #[arg(long, value_name = "VM")]
    pub like: Option<Name>,
    /// Form of the answer
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

/// Explain what a VM of a host file gets, and why that
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// Name of the VM
    pub vm: Name,
    #[command(flatten)]
    pub host_file: HostFileArgs,
    #[command(flatten)]
    pub for_host: ForHostArgs,
    /// Form of the answer
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

/// Show what this host has to divide; as JSON for --inventory elsewhere
#[derive(Debug, Args)]
pub struct InventoryArgs {
    /// Folder whose file system is to be in it, such as that of a pool; may be given several times
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub folder: Vec<PathBuf>,
    /// Form of the inventory
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    pub format: Format,
}

/// Look at the configuration of a host
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    Show(ConfigShowArgs),
}

/// Show every key that has a value in a host file or what is laid over it
#[derive(Debug, Args)]
pub struct ConfigShowArgs {
    #[command(flatten)]
    pub host_file: HostFileArgs,
    /// Also show who gave the value
    #[arg(long)]
    pub origin: bool,
    /// Form of the answer
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

/// Print the JSON schema of host files
#[derive(Debug, Args)]
pub struct SchemaArgs {}
