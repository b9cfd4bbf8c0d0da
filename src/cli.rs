//! The command line: every verb and flag, declared for clap.
//!
//! What a flag of a VM takes is said once, in [`resources::config::KEYS`]; its
//! help comes from there. Nothing here acts.

pub mod confine;
pub mod guests;
pub mod host;
pub mod moment;
pub mod update;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use resources::Size;
use resources::config::{
    Backing, BalloonSpec, BootProtocol, BootSpec, ConsolePort, DevicesSpec, Disk, HugePageSize,
    KEYS, MemorySpec, Name, NetSpec, OnReboot, Topology, Transport, VmSpec, Vsock, key, numbered,
};

use self::confine::ConfineFlags;
use self::guests::{
    ApiSpecArgs, AttachArgs, EventsArgs, InspectArgs, KeepFlags, KillArgs, LogsArgs, MonitorArgs,
    PauseArgs, PruneArgs, PsArgs, RenameArgs, RestartArgs, RmArgs, ServeArgs, StartArgs, StatsArgs,
    StopArgs, UnpauseArgs, UpdateArgs, VmmArgs, WaitArgs,
};
use self::host::{
    ApplyArgs, CapacityArgs, ConfigArgs, DownArgs, EnterArgs, InventoryArgs, PlanArgs, SchemaArgs,
    VerifyArgs, WhyArgs,
};
use crate::exit;

/// Boot virtual machines from stock Linux kernels, on KVM
#[derive(Debug, Parser)]
#[command(name = "carve", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    Run(Box<RunArgs>),
    Create(Box<CreateArgs>),
    Start(StartArgs),
    Stop(StopArgs),
    Restart(RestartArgs),
    Kill(KillArgs),
    Pause(PauseArgs),
    Unpause(UnpauseArgs),
    Rm(RmArgs),
    Ps(PsArgs),
    Inspect(InspectArgs),
    Logs(LogsArgs),
    Attach(AttachArgs),
    Events(EventsArgs),
    Serve(ServeArgs),
    ApiSpec(ApiSpecArgs),
    /// Print what all guests do, for Prometheus
    Metrics,
    Wait(WaitArgs),
    Rename(RenameArgs),
    Update(UpdateArgs),
    Stats(StatsArgs),
    /// Show all guests on the whole terminal, with keys for what is done most
    Tui,
    Prune(PruneArgs),
    Monitor(MonitorArgs),
    Vmm(VmmArgs),
    Plan(PlanArgs),
    Apply(ApplyArgs),
    Down(DownArgs),
    Verify(VerifyArgs),
    Enter(EnterArgs),
    Capacity(CapacityArgs),
    Why(WhyArgs),
    Inventory(InventoryArgs),
    Config(ConfigArgs),
    Schema(SchemaArgs),
    Doctor(DoctorArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Where Carve's own messages go; never into the guest's output.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// Least severe messages to log
    #[arg(long, value_name = "LEVEL", global = true, default_value = "warn")]
    pub log_level: LogLevel,
    /// File that messages are appended to, instead of standard error
    #[arg(long, value_name = "FILE", global = true, value_hint = ValueHint::FilePath)]
    pub log_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Boot a guest, its serial console on this terminal or, with -d, in its log
///
/// On a terminal Ctrl-A is the escape key: Ctrl-A x quits and ends the guest at once, Ctrl-A p
/// presses its power button, Ctrl-A h lists the keys, Ctrl-A Ctrl-A sends Ctrl-A to the guest.
/// Elsewhere standard input and output are the guest's console as they are.
#[derive(Debug, Args)]
#[command(after_long_help = exit::HELP)]
pub struct RunArgs {
    /// Config file (TOML) with keys of the VM; flags win over it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// File to write how the run ended to, as JSON, replaced in one step
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub exit_record: Option<PathBuf>,
    /// Print at the end when each step of the start was reached
    #[arg(long)]
    pub timings: bool,
    /// Return as soon as the guest runs, and print its id
    #[arg(short, long, conflicts_with_all = ["exit_record", "timings"])]
    pub detach: bool,
    /// Taken for the sake of habit: the console is interactive and a terminal where it can be
    #[arg(short, long, hide = true)]
    pub interactive: bool,
    /// Taken for the sake of habit
    #[arg(short, long, hide = true)]
    pub tty: bool,
    #[command(flatten)]
    pub kvm: KvmArgs,
    // Last: their help headings would hold for all flags after them.
    #[command(flatten)]
    pub confine: ConfineFlags,
    #[command(flatten)]
    pub keep: KeepFlags,
    #[command(flatten)]
    pub vm: VmFlags,
}

/// Make a guest without starting it, and print its id
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Config file (TOML) with keys of the VM; flags win over it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub kvm: KvmArgs,
    #[command(flatten)]
    pub confine: ConfineFlags,
    #[command(flatten)]
    pub keep: KeepFlags,
    #[command(flatten)]
    pub vm: VmFlags,
}

#[derive(Debug, Args)]
pub struct KvmArgs {
    /// KVM device to use
    #[arg(long, value_name = "FILE", default_value = "/dev/kvm", value_hint = ValueHint::FilePath)]
    pub kvm_device: PathBuf,
}

/// The flags that set keys of a VM's configuration.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Virtual machine")]
pub struct VmFlags {
    #[arg(long, help = help("kernel"), value_name = "FILE", value_hint = ValueHint::FilePath)]
    kernel: Option<PathBuf>,
    #[arg(long, help = help("initrd"), value_name = "FILE", value_hint = ValueHint::FilePath)]
    initrd: Option<PathBuf>,
    #[arg(long, help = help("cmdline"), value_name = "TEXT", allow_hyphen_values = true)]
    cmdline: Option<String>,
    #[arg(long, help = help("vcpus"), value_name = "NUMBER")]
    cpus: Option<u32>,
    #[arg(long, help = help("memory.size"), value_name = "SIZE")]
    memory: Option<Size>,
    #[arg(long, help = help("name"), value_name = "NAME")]
    name: Option<Name>,
    #[arg(long, help = help("topology"), value_name = "sockets=S,cores=C,threads=T")]
    topology: Option<Topology>,
    #[arg(long, help = help("hugepages"), value_name = "SIZE")]
    hugepages: Option<HugePageSize>,
    #[arg(long, help = help("memory.backing"), value_name = "KIND", value_parser = words::<Backing>(Backing::WORDS), hide_possible_values = true)]
    memory_backing: Option<Backing>,
    /// Do not ask the host for transparent huge pages
    #[arg(long)]
    no_thp: bool,
    #[arg(long, help = help("memory.prefault"))]
    prefault: bool,
    #[arg(long, help = help("boot.protocol"), value_name = "PROTOCOL", value_parser = words::<BootProtocol>(BootProtocol::WORDS), hide_possible_values = true)]
    boot_protocol: Option<BootProtocol>,
    /// Leave a compressed kernel to the guest to unpack, at every boot
    #[arg(long)]
    no_extract: bool,
    /// End the VM when the guest reboots, as if it had powered off
    #[arg(long)]
    no_reboot: bool,
    #[arg(long, help = help("devices.debug_exit"))]
    debug_exit: bool,
    /// Leave out the entropy device
    #[arg(long)]
    no_rng: bool,
    #[arg(long, help = help("devices.transport"), value_name = "TRANSPORT", value_parser = words::<Transport>(Transport::WORDS), hide_possible_values = true)]
    transport: Option<Transport>,
    #[arg(long, help = table_help("disk.*"), value_name = "FILE|KEY=VALUE,...")]
    disk: Vec<Disk>,
    #[arg(long, help = table_help("net.*"), value_name = "KEY=VALUE,...")]
    net: Vec<NetSpec>,
    #[arg(long, help = help("console.*"), value_name = "KIND[=PATH][,name=NAME]")]
    console: Vec<ConsolePort>,
    #[arg(long, help = help("vsock"), value_name = "cid=NUMBER,socket=PATH")]
    vsock: Option<Vsock>,
    #[arg(long, help = table_help("balloon"), value_name = "KEY=VALUE,...", num_args = 0..=1, default_missing_value = "reporting=true")]
    balloon: Option<BalloonSpec>,
}

impl VmFlags {
    /// The keys these flags set.
    pub fn spec(&self) -> VmSpec {
        let flags = self.clone();
        VmSpec {
            name: flags.name,
            kernel: flags.kernel,
            initrd: flags.initrd,
            cmdline: flags.cmdline,
            vcpus: flags.cpus,
            hugepages: flags.hugepages,
            on_reboot: flags.no_reboot.then_some(OnReboot::Exit),
            topology: flags.topology,
            memory: MemorySpec {
                size: flags.memory,
                min: None,
                backing: flags.memory_backing,
                transparent_hugepages: flags.no_thp.then_some(false),
                prefault: flags.prefault.then_some(true),
            },
            boot: BootSpec {
                protocol: flags.boot_protocol,
                extract: flags.no_extract.then_some(false),
            },
            devices: DevicesSpec {
                debug_exit: flags.debug_exit.then_some(true),
                rng: flags.no_rng.then_some(false),
                transport: flags.transport,
            },
            disk: numbered("disk", flags.disk),
            net: numbered("net", flags.net),
            console: numbered("console", flags.console),
            vsock: flags.vsock,
            balloon: flags.balloon,
        }
    }
}

/// Say whether this machine is fit to run guests, and the remedy for each lack
///
/// The exit code is 0 if it is fit and 1 if not.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Form of the report
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
    /// Print instead how many system calls and rules the filter of each kind of thread has
    #[arg(long)]
    pub seccomp: bool,
    #[command(flatten)]
    pub kvm: KvmArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// Print the completion script of a shell
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell to complete in
    pub shell: clap_complete::Shell,
}

/// Write the manual pages, one for each command
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct ManArgs {
    /// Folder for the pages; without it the main page goes to standard output
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}

/// What the key at `path` means and takes, as help for its flag.
fn help(path: &str) -> String {
    let Some(key) = key(path) else { return String::new() };
    let takes = if key.takes == "true or false" || key.takes == "text" || key.takes == "path" {
        String::new()
    } else {
        format!(": {}", key.takes)
    };
    let default = match key.default {
        "" | "false" => String::new(),
        default => format!(" [default: {default}]"),
    };
    format!("{}{takes}{default}", key.meaning)
}

/// What the table at `path` means, and which keys a flag for it takes.
fn table_help(path: &str) -> String {
    let table = format!("{path}.");
    let keys: Vec<_> = KEYS
        .iter()
        .filter(|key| !key.is_of_host_file())
        .filter_map(|key| key.path.strip_prefix(&table))
        .collect();
    let meaning = key(path).map_or("", |key| key.meaning);
    format!("{meaning}; keys: {}", keys.join(", "))
}

/// A parser that offers `known` words to completion and help.
fn words<T>(known: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: std::str::FromStr<Err = resources::config::UnknownWord> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(known).try_map(|word| word.parse())
}

/// Reads the command line; what it asks of clap itself (help, the version) or gets
/// wrong is answered at once, with the exit code to end with.
pub fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        let styled = error.render();
        let render = |colored| if colored { styled.ansi().to_string() } else { styled.to_string() };
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                return exit::print(render(io::stdout().is_terminal()).as_bytes());
            }
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                let _ = write!(io::stderr(), "{}", render(io::stderr().is_terminal()));
            }
            _ => {
                let _ = write!(io::stderr(), "carve: {}", render(io::stderr().is_terminal()));
                exit::record_usage_error(&render(false));
            }
        }
        ExitCode::from(exit::OWN_ERROR)
    })
}

#[cfg(test)]
#[path = "cli_test.rs"]
mod cli_test;
