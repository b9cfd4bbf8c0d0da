//! Arguments of the verbs that divide a host between VMs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueHint};
use resources::config::Name;

use super::{Format, KvmArgs};

/// Exit codes of `carve plan`.
const PLAN_EXIT_CODES: &str = "\
Exit codes:
  0      nothing to do
  1      refused: the file is wrong, or what it asks for does not fit
  2      there is something to do
  125    Carve itself failed, wrong usage included";

/// Exit codes of `carve apply`.
const APPLY_EXIT_CODES: &str = "\
Exit codes:
  0      everything is as the file says
  1      refused, and nothing was done; or something failed, and the next apply goes on from there
  125    Carve itself failed, wrong usage included";

/// Exit codes of `carve down`.
const DOWN_EXIT_CODES: &str = "\
Exit codes:
  0      none of the VMs runs any more
  1      one could not be stopped
  125    Carve itself failed, wrong usage included";

/// Exit codes of `carve verify`.
const VERIFY_EXIT_CODES: &str = "\
Exit codes:
  0      every limit is as it is booked
  1      something differs
  125    Carve itself failed, or no host file was applied";

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

/// Run a command as the user of a tenant, in the tenant's control group; guests it starts are in the tenant
#[derive(Debug, Args)]
pub struct EnterArgs {
    /// Tenant
    #[arg(value_name = "TENANT")]
    pub tenant: Name,
    /// Command, with its arguments; the user's login shell if there is none
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<std::ffi::OsString>,
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
    /// Plan the loss of disks that cannot be kept
    #[arg(long)]
    pub volumes: bool,
    /// Form of the plan
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

/// Do what a host file says: make, start, change and stop its VMs, each held to its share
#[derive(Debug, Args)]
#[command(after_long_help = APPLY_EXIT_CODES)]
pub struct ApplyArgs {
    #[command(flatten)]
    pub host_file: HostFileArgs,
    /// Remove VMs that are no longer in the file; their disks stay
    #[arg(long)]
    pub prune: bool,
    /// Remove disks, too: of removed VMs, and those that cannot be kept when a VM is made anew
    #[arg(long)]
    pub volumes: bool,
    #[command(flatten)]
    pub stop: StopTimeArgs,
    #[command(flatten)]
    pub kvm: KvmArgs,
    /// Form of the answer
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

/// How long guests have to end.
#[derive(Clone, Debug, Args)]
pub struct StopTimeArgs {
    /// Seconds a guest has to power itself off before it is killed
    #[arg(short, long, alias = "time", value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,
}

impl StopTimeArgs {
    /// The same as a time.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// Stop the VMs of the host file, each before those it comes after; they keep their shares
#[derive(Debug, Args)]
#[command(after_long_help = DOWN_EXIT_CODES)]
pub struct DownArgs {
    #[command(flatten)]
    pub stop: StopTimeArgs,
    /// Form of the answer
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

/// Read back from the kernel that every VM is held to its share
#[derive(Debug, Args)]
#[command(after_long_help = VERIFY_EXIT_CODES)]
pub struct VerifyArgs {
    /// Form of the answer
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
