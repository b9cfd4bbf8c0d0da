//! [`Net`]: one network device and what it is connected to.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::words::words;
use super::{Bandwidth, Forward, MacAddress, Name};

/// Most pairs of queues of a device.
pub const MAX_QUEUES: u16 = 16;
const QUEUE_SIZES: std::ops::RangeInclusive<u16> = 16..=1024;
const DEFAULT_QUEUE_SIZE: u16 = 256;
const MTUS: std::ops::RangeInclusive<u32> = 68..=65535;
/// Bytes of an interface's name on Linux (IFNAMSIZ, without its end).
const MAX_INTERFACE: usize = 15;

words! {
    /// Whether the cable is plugged in when the guest starts.
    LinkState {
        /// It is.
        #[default]
        Up = "up",
        /// It is not.
        Down = "down",
    }
}

/// What a network device is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    /// A tap interface of this name, made if there is none.
    Tap(String),
    /// A tap that whoever started Carve has opened as this descriptor.
    TapFd(u32),
    /// A tap of its own, attached to this bridge.
    Bridge(String),
    /// The host's own connections, through passt, without any privilege; these ports lead in.
    User {
        /// Ports that lead in.
        forward: Vec<Forward>,
        /// The gateway's address leads to services of the host, its loopback included.
        host: bool,
    },
}

/// Bounds in one direction; what is `None` is not bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetLimits {
    /// Bytes of frames a second.
    pub bandwidth: Option<Bandwidth>,
    /// Frames a second, from 1.
    pub packets: Option<u64>,
}

/// A network device, resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "NetSpec")]
pub struct Net {
    /// What it is connected to.
    pub connection: Connection,
    /// Its address; a random one if none.
    pub mac: Option<MacAddress>,
    /// The MTU it tells the guest and sets on the host, in bytes; whatever it is there if none.
    pub mtu: Option<u16>,
    /// Pairs of queues, 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// Entries of each queue, a power of two.
    pub queue_size: u16,
    /// The host's kernel moves the frames (vhost-net); a tap or bridge then, and no limits.
    pub vhost: bool,
    /// Bounds what the guest receives.
    pub receive: NetLimits,
    /// Bounds what the guest sends.
    pub send: NetLimits,
    /// Whether the cable is plugged in at first.
    pub link: LinkState,
}

/// [`Net`] as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NetSpec {
    /// See [`Connection::Tap`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// See [`Connection::TapFd`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tap_fd: Option<u32>,
    /// See [`Connection::Bridge`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// See [`Connection::User`]; false counts as not given.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub user: bool,
    /// Ports that lead in, with `user` only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forward: Vec<Forward>,
    /// See [`Connection::User`]; with `user` only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub host: bool,
    /// See [`Net::mac`]; derived from the VM's name where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// See [`Net::mtu`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// See [`Net::queues`]; 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// See [`Net::queue_size`]; 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_size: Option<u16>,
    /// See [`Net::vhost`].
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub vhost: bool,
    /// `rx_bandwidth` and `tx_bandwidth` where those are not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// See [`Net::receive`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_bandwidth: Option<Bandwidth>,
    /// See [`Net::receive`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_packets: Option<u64>,
    /// See [`Net::send`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_bandwidth: Option<Bandwidth>,
    /// See [`Net::send`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_packets: Option<u64>,
    /// See [`Net::link`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkState>,
}

/// Every key of [`NetSpec`].
const KEYS: [&str; 17] = [
    "tap",
    "tap_fd",
    "bridge",
    "user",
    "forward",
    "host",
    "mac",
    "mtu",
    "queues",
    "queue_size",
    "vhost",
    "bandwidth",
    "rx_bandwidth",
    "rx_packets",
    "tx_bandwidth",
    "tx_packets",
    "link",
];

/// A rule that a network device breaks. Says which device, value, reason and remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {rule}")]
pub struct NetConflict {
    /// What the device is written under, such as `net.lan`.
    pub name: String,
    /// The rule.
    pub rule: NetRule,
}

/// See [`NetConflict`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetRule {
    /// Connected to nothing.
    #[error("it is connected to nothing; give it one of tap, tap_fd, bridge and user")]
    NoConnection,
    /// Connected to several things.
    #[error("{first} and {second} are both given, but a network device has one cable; keep one")]
    Connections {
        /// One key.
        first: &'static str,
        /// Another.
        second: &'static str,
    },
    /// No name of an interface.
    #[error(
        "{key} is `{}`, which is no name of an interface; use 1 to 15 bytes without space, /, : and %, such as {example}",
        .name.escape_debug()
    )]
    Interface {
        /// `tap` or `bridge`.
        key: &'static str,
        /// As given.
        name: String,
        /// One that is.
        example: &'static str,
    },
    /// A descriptor that is no tap.
    #[error("tap_fd is {0}, but 0, 1 and 2 are the terminal; pass the tap as 3 or above")]
    StandardDescriptor(u32),
    /// Ports without passt.
    #[error("forward is given, but only `user` forwards ports; use user, or leave forward out")]
    ForwardWithoutUser,
    /// The host without passt.
    #[error("host is given, but only `user` keeps the host away; use user, or leave host out")]
    HostWithoutUser,
    /// One port twice.
    #[error("{forward} is forwarded already by {other}; choose another port of the host")]
    ForwardTwice {
        /// The later one.
        forward: Forward,
        /// Where the earlier one is.
        other: String,
    },
    /// An impossible MTU.
    #[error("mtu is {0}, but an MTU is 68 to 65535 bytes; use 1500 or leave it out")]
    Mtu(u32),
    /// Too many queues, or none.
    #[error("queues is {0}, but a network device has 1 to {MAX_QUEUES} pairs; choose from these")]
    Queues(u16),
    /// Several queues where there can be one only.
    #[error(
        "queues is {queues}, but {key} has one pair only; leave queues out, or use tap or bridge"
    )]
    SingleQueue {
        /// As given.
        queues: u16,
        /// What it is connected to.
        key: &'static str,
    },
    /// An impossible size of queue.
    #[error(
        "queue_size is {0}, but a queue has a power of two of entries from {first} to {last}; use {DEFAULT_QUEUE_SIZE}",
        first = QUEUE_SIZES.start(),
        last = QUEUE_SIZES.end()
    )]
    QueueSize(u16),
    /// No tap that the host's kernel could serve.
    #[error(
        "vhost is given, but the host's kernel serves taps only; use tap or bridge, or leave vhost out"
    )]
    VhostWithUser,
    /// A limit that nobody would keep.
    #[error(
        "{0} and vhost are both given, but with vhost the host's kernel moves the packets, and it knows no limits; keep one"
    )]
    VhostWithLimit(&'static str),
    /// A limit of nothing.
    #[error("{0} is 0, which would stop all traffic; give a number from 1, or use link = \"down\"")]
    NoPackets(&'static str),
    /// One address twice.
    #[error("mac is {mac}, which {other} has already; give each device an address of its own")]
    MacTwice {
        /// The address.
        mac: MacAddress,
        /// The other device.
        other: String,
    },
    /// One interface twice.
    #[error("{key} is {value}, which {other} uses already; give each device a tap of its own")]
    TapTwice {
        /// `tap` or `tap_fd`.
        key: &'static str,
        /// The name or descriptor.
        value: String,
        /// The other device.
        other: String,
    },
}

impl NetRule {
    /// The key of the device to show.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::NoConnection => "tap",
            Self::Connections { second: key, .. }
            | Self::Interface { key, .. }
            | Self::TapTwice { key, .. }
            | Self::VhostWithLimit(key)
            | Self::NoPackets(key) => key,
            Self::StandardDescriptor(_) => "tap_fd",
            Self::HostWithoutUser => "host",
            Self::ForwardWithoutUser | Self::ForwardTwice { .. } => "forward",
            Self::Mtu(_) => "mtu",
            Self::Queues(_) | Self::SingleQueue { .. } => "queues",
            Self::QueueSize(_) => "queue_size",
            Self::VhostWithUser => "vhost",
            Self::MacTwice { .. } => "mac",
        }
    }
}

/// The network devices of the VM `name`, defaults filled in. Each comes with what it is written under,
/// such as `net.lan`, which messages call it by.
///
/// # Errors
///
/// Every rule that one of them breaks, or several together.
pub fn resolve_nets(
    specs: Vec<(String, NetSpec)>,
    name: Option<&Name>,
) -> Result<Vec<(String, Net)>, Vec<NetConflict>> {
    let mut conflicts = Vec::new();
    let mut note = |name: &str, rules: Vec<NetRule>| {
        let conflict = |rule| NetConflict { name: name.to_owned(), rule };
        conflicts.extend(rules.into_iter().map(conflict));
    };
    let mut nets: Vec<(String, Net)> = Vec::new();
    for (index, (label, spec)) in specs.into_iter().enumerate() {
        match spec.resolve(name, index, &label) {
            Ok(net) => nets.push((label, net)),
            Err(rules) => note(&label, rules),
        }
    }
    for (later, (label, net)) in nets.iter().enumerate() {
        for (other, earlier) in &nets[..later] {
            note(label, net.conflicts_with(earlier, other));
        }
    }
    if conflicts.is_empty() { Ok(nets) } else { Err(conflicts) }
}

impl Net {
    fn conflicts_with(&self, earlier: &Self, other: &str) -> Vec<NetRule> {
        let mut rules = Vec::new();
        let other = || other.to_owned();
        if let Some(mac) = self.mac
            && earlier.mac == Some(mac)
        {
            rules.push(NetRule::MacTwice { mac, other: other() });
        }
        match (&self.connection, &earlier.connection) {
            (Connection::Tap(name), Connection::Tap(earlier)) if name == earlier => {
                rules.push(NetRule::TapTwice { key: "tap", value: name.clone(), other: other() });
            }
            (Connection::TapFd(fd), Connection::TapFd(earlier)) if fd == earlier => {
                rules.push(NetRule::TapTwice {
                    key: "tap_fd",
                    value: fd.to_string(),
                    other: other(),
                });
            }
            (
                Connection::User { forward: forwards, .. },
                Connection::User { forward: earlier, .. },
            ) => {
                let twice = |forward: &&Forward| earlier.iter().any(|e| forward.clashes_with(e));
                let twice = forwards.iter().filter(twice);
                rules.extend(
                    twice.map(|&forward| NetRule::ForwardTwice { forward, other: other() }),
                );
            }
            _ => {}
        }
        rules
    }
}

impl NetSpec {
    fn resolve(self, name: Option<&Name>, index: usize, label: &str) -> Result<Net, Vec<NetRule>> {
        let mut rules = self.check(label);
        let connection = self.connection().map_err(|rule| rules.insert(0, rule)).ok();
        let Some(connection) = connection.filter(|_| rules.is_empty()) else { return Err(rules) };
        Ok(Net {
            connection,
            mac: self.mac.or_else(|| name.map(|name| MacAddress::derived(name, index))),
            mtu: self.mtu.and_then(|mtu| mtu.try_into().ok()),
            queues: self.queues.unwrap_or(1),
            queue_size: self.queue_size.unwrap_or(DEFAULT_QUEUE_SIZE),
            vhost: self.vhost,
            receive: NetLimits {
                bandwidth: self.rx_bandwidth.or(self.bandwidth),
                packets: self.rx_packets,
            },
            send: NetLimits {
                bandwidth: self.tx_bandwidth.or(self.bandwidth),
                packets: self.tx_packets,
            },
            link: self.link.unwrap_or_default(),
        })
    }

    fn connection(&self) -> Result<Connection, NetRule> {
        let tap = self.tap.clone().map(|name| ("tap", Connection::Tap(name)));
        let tap_fd = self.tap_fd.map(|fd| ("tap_fd", Connection::TapFd(fd)));
        let bridge = self.bridge.clone().map(|name| ("bridge", Connection::Bridge(name)));
        let to_user = || Connection::User { forward: self.forward.clone(), host: self.host };
        let user = self.user.then(|| ("user", to_user()));
        let mut given = [tap, tap_fd, bridge, user].into_iter().flatten();
        let (first, connection) = given.next().ok_or(NetRule::NoConnection)?;
        match given.next() {
            Some((second, _)) => Err(NetRule::Connections { first, second }),
            None => Ok(connection),
        }
    }

    /// Everything but what it is connected to.
    fn check(&self, label: &str) -> Vec<NetRule> {
        let mut rules = Vec::new();
        for (key, name, example) in [("tap", &self.tap, "tap0"), ("bridge", &self.bridge, "br0")] {
            if let Some(name) = name.clone().filter(|name| !is_interface(name)) {
                rules.push(NetRule::Interface { key, name, example });
            }
        }
        rules.extend(self.tap_fd.filter(|fd| *fd < 3).map(NetRule::StandardDescriptor));
        if self.host && !self.user {
            rules.push(NetRule::HostWithoutUser);
        }
        if !self.forward.is_empty() && !self.user {
            rules.push(NetRule::ForwardWithoutUser);
        }
        for (later, &forward) in self.forward.iter().enumerate() {
            if self.forward[..later].iter().any(|earlier| forward.clashes_with(earlier)) {
                rules.push(NetRule::ForwardTwice { forward, other: label.to_owned() });
            }
        }
        rules.extend(self.mtu.filter(|mtu| !MTUS.contains(mtu)).map(NetRule::Mtu));
        let queues = self.queues.unwrap_or(1);
        if !(1..=MAX_QUEUES).contains(&queues) {
            rules.push(NetRule::Queues(queues));
        } else if queues > 1 && (self.user || self.tap_fd.is_some()) {
            let key = if self.user { "user" } else { "tap_fd" };
            rules.push(NetRule::SingleQueue { queues, key });
        }
        let size = self.queue_size.unwrap_or(DEFAULT_QUEUE_SIZE);
        if !QUEUE_SIZES.contains(&size) || !size.is_power_of_two() {
            rules.push(NetRule::QueueSize(size));
        }
        if self.vhost {
            rules.extend(self.user.then_some(NetRule::VhostWithUser));
            let limits = [
                ("bandwidth", self.bandwidth.is_some()),
                ("rx_bandwidth", self.rx_bandwidth.is_some()),
                ("rx_packets", self.rx_packets.is_some()),
                ("tx_bandwidth", self.tx_bandwidth.is_some()),
                ("tx_packets", self.tx_packets.is_some()),
            ];
            let given = limits.into_iter().find(|(_, given)| *given);
            rules.extend(given.map(|(key, _)| NetRule::VhostWithLimit(key)));
        }
        for (key, packets) in [("rx_packets", self.rx_packets), ("tx_packets", self.tx_packets)] {
            rules.extend((packets == Some(0)).then_some(NetRule::NoPackets(key)));
        }
        rules
    }
}

/// What Linux takes as the name of an interface (`dev_valid_name`), without `%`, which would be a pattern.
fn is_interface(name: &str) -> bool {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
    (1..=MAX_INTERFACE).contains(&name.len())
        && !name.contains(forbidden)
        && name != "."
        && name != ".."
}

impl From<Net> for NetSpec {
    fn from(net: Net) -> Self {
        let mut spec = Self {
            mac: net.mac,
            mtu: net.mtu.map(u32::from),
            queues: Some(net.queues),
            queue_size: Some(net.queue_size),
            vhost: net.vhost,
            rx_bandwidth: net.receive.bandwidth,
            rx_packets: net.receive.packets,
            tx_bandwidth: net.send.bandwidth,
            tx_packets: net.send.packets,
            link: Some(net.link),
            ..Self::default()
        };
        match net.connection {
            Connection::Tap(name) => spec.tap = Some(name),
            Connection::TapFd(fd) => spec.tap_fd = Some(fd),
            Connection::Bridge(name) => spec.bridge = Some(name),
            Connection::User { forward, host } => {
                (spec.user, spec.forward, spec.host) = (true, forward, host);
            }
        }
        spec
    }
}

/// Why a text is no network device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a network device: {reason}; write it as in tap=tap0,mac=02:ca:4e:12:34:56 or user,forward=8080:80"
)]
pub struct ParseNetError {
    /// What was written.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

impl FromStr for NetSpec {
    type Err = ParseNetError;

    /// Keys joined by commas, as in `tap=tap0,mtu=9000`. `user` and `vhost` may stand alone; `forward`
    /// may be given several times.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut spec = Self::default();
        let mut seen = Vec::new();
        for part in text.split(',') {
            let (key, value) = part.split_once('=').unzip();
            let key = key.unwrap_or(part);
            let fail = |reason: String| ParseNetError { text: text.to_owned(), reason };
            if seen.contains(&key) && key != "forward" {
                return Err(fail(format!("{key} is given twice")));
            }
            seen.push(key);
            spec.set(key, value).map_err(fail)?;
        }
        Ok(spec)
    }
}

impl NetSpec {
    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        if !KEYS.contains(&key) {
            return Err(format!("`{key}` is none of its keys {}", KEYS.join(", ")));
        }
        let value = match (key, value) {
            ("user" | "host" | "vhost", None) => "true",
            (_, None) => return Err(format!("`{key}` has no value")),
            (_, Some(value)) => value,
        };
        match key {
            "tap" => self.tap = Some(value.to_owned()),
            "tap_fd" => self.tap_fd = Some(number(key, value)?),
            "bridge" => self.bridge = Some(value.to_owned()),
            "user" => self.user = flag(key, value)?,
            "host" => self.host = flag(key, value)?,
            "forward" => self.forward.push(parsed(value)?),
            "mac" => self.mac = Some(parsed(value)?),
            "mtu" => self.mtu = Some(number(key, value)?),
            "queues" => self.queues = Some(number(key, value)?),
            "queue_size" => self.queue_size = Some(number(key, value)?),
            "vhost" => self.vhost = flag(key, value)?,
            "bandwidth" => self.bandwidth = Some(parsed(value)?),
            "rx_bandwidth" => self.rx_bandwidth = Some(parsed(value)?),
            "rx_packets" => self.rx_packets = Some(number(key, value)?),
            "tx_bandwidth" => self.tx_bandwidth = Some(parsed(value)?),
            "tx_packets" => self.tx_packets = Some(number(key, value)?),
            _ => self.link = Some(parsed(value)?),
        }
        Ok(())
    }
}

fn parsed<T: FromStr<Err: fmt::Display>>(value: &str) -> Result<T, String> {
    value.parse().map_err(|error: T::Err| error.to_string())
}

fn number<T: FromStr>(key: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{key} `{value}` is not a whole number in its range"))
}

fn flag(key: &str, value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| format!("{key} `{value}` is neither true nor false"))
}

#[cfg(test)]
#[path = "net_test.rs"]
mod net_test;
