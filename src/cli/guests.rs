//! Arguments of the verbs that act on guests known by name or id.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};
use clap_complete::engine::ArgValueCompleter;
use resources::Size;
use resources::config::Name;
use vmm::guests::{InvalidLabel, Restart, check_label};

use super::moment::Moment;
use super::update::{DiskChange, NetChange};
use crate::verbs::attach::DetachKeys;
use crate::verbs::completions;

/// How a guest is kept and what follows its end.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Guest")]
pub struct KeepFlags {
    /// When to start the guest again after its end: no, on-failure, on-failure:N (at most N times in a
    /// row), unless-stopped or always
    #[arg(long, value_name = "POLICY", default_value_t = Restart::No, hide_default_value = true, conflicts_with = "rm")]
    pub restart: Restart,
    /// Remove the guest when it has ended
    #[arg(long)]
    pub rm: bool,
    /// Note something about the guest, for filters and scripts; may be given several times
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
}

fn label(text: &str) -> Result<(String, String), InvalidLabel> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    check_label(key, value)?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Guests to act on.
#[derive(Debug, Args)]
pub struct Guests {
    /// Name or id of a guest, or the beginning of one
    #[arg(required = true, value_name = "GUEST", add = ArgValueCompleter::new(completions::guests))]
    pub guests: Vec<String>,
}

/// One guest.
#[derive(Debug, Args)]
pub struct OneGuest {
    /// Name or id of the guest, or the beginning of one
    #[arg(value_name = "GUEST", add = ArgValueCompleter::new(completions::guests))]
    pub guest: String,
}

/// Start guests that were created or have ended, detached
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Show the guest's output until it ends, and end with its exit code; for one guest
    #[arg(short, long)]
    pub attach: bool,
    /// Send what is typed to the guest, too; for one guest
    #[arg(short, long)]
    pub interactive: bool,
    /// Keys that leave the guest's console: characters or ctrl-KEY, with commas between them
    #[arg(long, value_name = "KEYS", default_value_t)]
    pub detach_keys: DetachKeys,
    #[command(flatten)]
    pub which: Guests,
}

/// Print what a guest's console said, in all its runs
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Go on with what comes, until the guest ends
    #[arg(short, long)]
    pub follow: bool,
    /// From when on: how long ago (10m, 1h30m), or a time in UTC (2026-03-01T12:00:00)
    #[arg(long, value_name = "TIME")]
    pub since: Option<Moment>,
    /// Up to when, likewise
    #[arg(long, value_name = "TIME")]
    pub until: Option<Moment>,
    /// Only so many lines, the last ones; or all
    #[arg(short = 'n', long, value_name = "LINES", default_value_t)]
    pub tail: Tail,
    /// Print before each line when its beginning was written
    #[arg(short, long)]
    pub timestamps: bool,
    #[command(flatten)]
    pub which: OneGuest,
}

/// How many lines of a log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tail(Option<usize>);

impl Tail {
    /// So many; nothing means all.
    pub fn lines(self) -> Option<usize> {
        self.0
    }
}

impl fmt::Display for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("all"),
            Some(lines) => lines.fmt(f),
        }
    }
}

impl FromStr for Tail {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self(None)),
            text => text.parse().map(|lines| Self(Some(lines))).map_err(|_| {
                format!("`{}` is neither a number of lines nor all", text.escape_debug())
            }),
        }
    }
}

/// Put this terminal on the console of a running guest, until it ends
///
/// The last of what the guest said is shown first. Ctrl-P Ctrl-Q leaves the guest running. Several may be attached
/// at once: all see the same, and all may type. Ends with the exit code of the guest's end.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Keys that leave the guest's console: characters or ctrl-KEY, with commas between them
    #[arg(long, value_name = "KEYS", default_value_t)]
    pub detach_keys: DetachKeys,
    /// Only look: send nothing to the guest
    #[arg(long)]
    pub no_stdin: bool,
    #[command(flatten)]
    pub which: OneGuest,
}

/// End guests: press the power button, and kill what has not ended after a while
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Seconds to wait before killing
    #[arg(short, long, alias = "time", value_name = "SECONDS", default_value_t = 10)]
    pub timeout: u64,
    #[command(flatten)]
    pub which: Guests,
}

impl StopArgs {
    /// How long to wait before killing.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// Stop guests and start them again
#[derive(Debug, Args)]
pub struct RestartArgs {
    #[command(flatten)]
    pub stop: StopArgs,
}

/// End guests at once
#[derive(Debug, Args)]
pub struct KillArgs {
    /// Signal to send to the guest's process; all but KILL let it end in order
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub signal: KillSignal,
    #[command(flatten)]
    pub which: Guests,
}

/// The signals that end a guest.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum KillSignal {
    #[value(alias = "SIGKILL", alias = "9")]
    Kill,
    #[value(alias = "SIGTERM", alias = "15")]
    Term,
    #[value(alias = "SIGINT", alias = "2")]
    Int,
    #[value(alias = "SIGQUIT", alias = "3")]
    Quit,
    #[value(alias = "SIGHUP", alias = "1")]
    Hup,
}

/// Stop the vCPUs and devices of guests until `unpause`
#[derive(Debug, Args)]
pub struct PauseArgs {
    #[command(flatten)]
    pub which: Guests,
}

/// Let paused guests go on
#[derive(Debug, Args)]
pub struct UnpauseArgs {
    #[command(flatten)]
    pub which: Guests,
}

/// Remove guests and what Carve keeps about them; files you named stay
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Kill guests that run; to remove one that is not there is no error
    #[arg(short, long)]
    pub force: bool,
    /// Also remove the disks that the host file made for them in pools
    #[arg(short, long)]
    pub volumes: bool,
    #[command(flatten)]
    pub which: Guests,
}

/// List guests
#[derive(Debug, Args)]
#[command(visible_alias = "ls")]
pub struct PsArgs {
    /// Also those that do not run
    #[arg(short, long)]
    pub all: bool,
    /// Ids only
    #[arg(short, long, conflicts_with = "format")]
    pub quiet: bool,
    /// Taken for the sake of habit: nothing is cut off
    #[arg(long, hide = true)]
    pub no_trunc: bool,
    /// Only guests with this property: name=TEXT, id=TEXT, state=STATE, label=KEY or label=KEY=VALUE;
    /// several of one kind are alternatives
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// Form of the list
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: super::Format,
}

/// Show everything about guests, as JSON
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Form of what is shown
    #[arg(long, value_name = "FORMAT", default_value = "json", value_parser = ["json"], hide = true)]
    pub format: String,
    #[command(flatten)]
    pub which: Guests,
}

/// Show what happens to guests, a line of JSON each, until interrupted
///
/// Without --since only what happens from now on is shown.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// From when on: how long ago (10m, 1h30m), or a time in UTC (2026-03-01T12:00:00)
    #[arg(long, value_name = "TIME")]
    pub since: Option<Moment>,
    /// Up to when, likewise; without it until interrupted
    #[arg(long, value_name = "TIME")]
    pub until: Option<Moment>,
    /// Only events with this property: guest=NAME, guest=ID, event=EVENT, label=KEY or
    /// label=KEY=VALUE; several of one kind are alternatives
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// Form of the lines
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    pub format: super::Format,
}

/// Wait until guests have ended and print their exit codes
#[derive(Debug, Args)]
pub struct WaitArgs {
    #[command(flatten)]
    pub which: Guests,
}

/// Give a guest another name
#[derive(Debug, Args)]
pub struct RenameArgs {
    #[command(flatten)]
    pub which: OneGuest,
    /// The new name
    #[arg(value_name = "NAME")]
    pub name: Name,
}

/// Change guests, at once and for their next starts
///
/// 0 lifts a limit. A disk grows only while its guest runs.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// Change a disk: its name, then size, iops or bandwidth, as in disk0,size=20GiB,iops=1000;
    /// may be given several times
    #[arg(long = "disk", value_name = "NAME,KEY=VALUE,...")]
    pub disks: Vec<DiskChange>,
    /// Change a network device: its name, then link (up or down), rx-bandwidth, rx-packets,
    /// tx-bandwidth or tx-packets, as in net0,link=down; may be given several times
    #[arg(long = "net", value_name = "NAME,KEY=VALUE,...")]
    pub nets: Vec<NetChange>,
    /// Memory that the guest is asked to give back through its balloon; 0 for none
    #[arg(long, value_name = "SIZE")]
    pub balloon: Option<Size>,
    /// When to start the guest again after its end: no, on-failure, on-failure:N, unless-stopped or
    /// always
    #[arg(long, value_name = "POLICY")]
    pub restart: Option<Restart>,
    /// Note something about the guest, in place of what was noted by that key; may be given several
    /// times
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    #[command(flatten)]
    pub which: Guests,
}

/// Show what running guests use, again every second until interrupted
///
/// Rates are those of the last second.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Show it once
    #[arg(long)]
    pub no_stream: bool,
    /// Form of the list; JSON is one line a second
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: super::Format,
    /// Name or id of a guest, or the beginning of one; without any, all that run
    #[arg(value_name = "GUEST", add = ArgValueCompleter::new(completions::guests))]
    pub guests: Vec<String>,
}

/// Serve the control interface of all guests, over HTTP on a unix socket
///
/// Started by systemd for a socket of its (see systemd.socket(5)), it serves that one.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where to listen, for this user and root alone
    /// [default: host.sock beside the sockets of running guests]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
    /// End after so many seconds without clients; to be started again by systemd when there is one
    #[arg(long, value_name = "SECONDS")]
    pub idle_exit: Option<u32>,
}

/// Print the description of a guest's control interface, in OpenAPI 3.1
#[derive(Debug, Args)]
pub struct ApiSpecArgs {
    /// That of the interface of all guests, which `carve serve` serves
    #[arg(long)]
    pub host: bool,
}

/// Remove all guests that have ended
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Also guests that were created and never started
    #[arg(short, long)]
    pub all: bool,
    /// Taken for the sake of habit: nobody is asked
    #[arg(short, long, hide = true)]
    pub force: bool,
}

/// Run the monitor of a guest
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct MonitorArgs {
    pub id: String,
    /// Watch a guest that runs already
    #[arg(long)]
    pub take_over: bool,
}

/// Run the machine of a guest under its monitor
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct VmmArgs {
    pub id: String,
    /// Starts by the restart policy so far
    pub restarts: u32,
}
