//! The words of the control interface. Fields are only ever added within a version, and readers of
//! answers skip those they do not know; in requests an unknown field is refused.
//!
//! Sizes are bytes and times are milliseconds unless a name says otherwise.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The version of the interface, the first part of every path.
pub const VERSION: &str = "v1";

/// What a connection goes over to for the console: bytes, both ways.
pub const CONSOLE_PROTOCOL: &str = "carve-console";

/// The header field that says which byte of the console's output comes first.
pub const CONSOLE_OFFSET: &str = "Carve-Console-Offset";

/// What a running guest is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Its vCPUs run, or wait for something to do.
    Running,
    /// It was paused, and goes on when resumed.
    Paused,
}

impl RunState {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
        }
    }
}

/// A running guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Vm {
    /// Id of the guest; empty where it was started without one.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: RunState,
    /// Process id of its monitor, in the host's first namespace it was started in.
    pub pid: u32,
    /// Version of Carve that runs it.
    pub carve_version: String,
    /// CPUs the guest sees.
    pub vcpus: u32,
    /// Memory the guest sees, in bytes.
    pub memory: u64,
    /// How often it was reset since it was started.
    pub resets: u32,
    /// Since when it has run, in milliseconds of the host's clock since 1970.
    pub started_at: u64,
}

/// Rate limits in one direction, or of a disk. What is left out stays as it is; 0 takes a limit away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsUpdate {
    /// Bytes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Requests or packets a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations_per_second: Option<u64>,
    /// Bytes that may pass at once after a time of rest. Left out with a new limit, it follows that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_burst: Option<u64>,
    /// Requests or packets that may pass at once after a time of rest, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations_burst: Option<u64>,
}

/// A change of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskUpdate {
    /// New size in bytes, not less than now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// New limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsUpdate>,
}

/// A change of a network device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetUpdate {
    /// Whether the cable is plugged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_up: Option<bool>,
    /// New limits of what the guest receives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive: Option<LimitsUpdate>,
    /// New limits of what the guest sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<LimitsUpdate>,
}

/// A change of the balloon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BalloonUpdate {
    /// Memory the guest is asked to give back, in bytes, at most what it has.
    pub target: u64,
}

/// The size of a console's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsoleSize {
    /// Characters in a row.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// What a guest has done so far. All are counted from the start of the run, over resets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Statistics {
    /// Since the run was started, in milliseconds.
    pub uptime: u64,
    /// Each vCPU, by its number.
    pub vcpus: Vec<VcpuStatistics>,
    /// Memory.
    pub memory: MemoryStatistics,
    /// Disks by name.
    pub disks: BTreeMap<String, DiskStatistics>,
    /// Network devices by name.
    pub nets: BTreeMap<String, NetStatistics>,
    /// Interrupts of each virtio device, in the order in which the guest finds them.
    pub interrupts: Vec<InterruptStatistics>,
    /// CPU time of the whole process, in microseconds.
    pub cpu_time: u64,
}

/// One vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct VcpuStatistics {
    /// CPU time of its thread, guest and exits, in microseconds.
    pub cpu_time: u64,
    /// Times the guest was left for Carve.
    pub exits: u64,
}

/// Memory of a guest, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MemoryStatistics {
    /// What it sees.
    pub size: u64,
    /// What it holds of the host.
    pub resident: u64,
    /// What it gave back through its balloon.
    pub balloon: u64,
    /// What it is asked to give back.
    pub balloon_target: u64,
    /// What it could use without swapping, by its own account; absent without a balloon that asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<u64>,
}

/// One disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DiskStatistics {
    /// Its size.
    pub size: u64,
    /// Requests to read.
    pub reads: u64,
    /// Requests to write.
    pub writes: u64,
    /// Requests to flush.
    pub flushes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Each of its queues.
    pub queues: Vec<DiskQueueStatistics>,
}

/// One queue of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DiskQueueStatistics {
    /// Requests to read.
    pub reads: u64,
    /// Requests to write.
    pub writes: u64,
    /// Requests to flush.
    pub flushes: u64,
    /// Requests to discard, to write zeroes, for the serial id, and those that are none.
    pub others: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// From taking requests off the queue to their answers, altogether, in microseconds.
    pub time: u64,
    /// How many requests took how long: the first number counts those of up to 16 microseconds, each
    /// following one those of up to twice as long, the last all longer ones.
    pub latency: Vec<u64>,
}

/// One network device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NetStatistics {
    /// Frames to the guest.
    pub received_packets: u64,
    /// Bytes to the guest.
    pub received_bytes: u64,
    /// Frames from the guest.
    pub sent_packets: u64,
    /// Bytes from the guest.
    pub sent_bytes: u64,
    /// Frames that were dropped, either way.
    pub dropped: u64,
    /// Each of its pairs of queues.
    pub queues: Vec<NetQueueStatistics>,
}

/// One pair of queues of a network device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NetQueueStatistics {
    /// Frames to the guest.
    pub received_packets: u64,
    /// Bytes to the guest.
    pub received_bytes: u64,
    /// Frames that the guest had no room for.
    pub receive_dropped: u64,
    /// Frames that the guest does not want.
    pub receive_filtered: u64,
    /// Frames from the guest.
    pub sent_packets: u64,
    /// Bytes from the guest.
    pub sent_bytes: u64,
    /// Frames that the host did not take, and those that are none.
    pub send_dropped: u64,
}

/// How often a device has interrupted its guest, masked or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct InterruptStatistics {
    /// What it is: `disk`, `net`, `console`, `vsock`, `balloon`, `rng`.
    pub kind: String,
    /// Its name in the configuration; of a device that is the only one of its kind, the kind.
    pub device: String,
    /// For each of its queues; none while no machine has been built yet.
    pub queues: Vec<u64>,
    /// For changes of its configuration.
    pub config: u64,
}

/// Something that happened to a guest, one line of JSON each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub time: u64,
    /// What: `started`, `paused`, `resumed`, `reset`, `panicked`, `power-button`, `updated`, `exited`, …
    pub event: String,
    /// Id of the guest.
    pub id: String,
    /// Its name then.
    pub name: String,
    /// Id of the user whose process told of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// What the user noted about the guest; only in the journal of all guests.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// More about it, by kind of event.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
}

/// Why a request was refused (RFC 9457, `application/problem+json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProblemDocument {
    /// A stable name of the kind of problem, as a URI reference.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// This case in words, with the remedy.
    pub detail: String,
}
