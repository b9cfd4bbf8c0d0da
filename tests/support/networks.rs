//! Interfaces of the host that guests are connected to, and iperf3 between the two.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::guests::busybox;
use super::{Running, tool};

/// Number of the next interface of this process. Tests of other processes run in other hosts, or one after the other.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// An interface of the host with a network of its own, which goes away with the test.
pub struct Interface {
    name: String,
    network: u32,
}

impl Interface {
    /// A tap that stays when nobody has it open.
    pub fn tap() -> Self {
        Self::make("tap", |name| format!("ip tuntap add {name} mode tap"))
    }

    /// A tap for a number of queues.
    pub fn multi_queue_tap() -> Self {
        Self::make("tap", |name| format!("ip tuntap add {name} mode tap multi_queue"))
    }

    /// A bridge without ports.
    pub fn bridge() -> Self {
        Self::make("br", |name| format!("ip link add {name} type bridge"))
    }

    fn make(kind: &str, command: impl FnOnce(&str) -> String) -> Self {
        let network = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{kind}-e2e{network}");
        tool(&command(&name));
        let interface = Self { name, network };
        tool(&format!("ip address add {}/24 dev {}", interface.host(), interface.name));
        tool(&format!("ip link set {} up", interface.name));
        interface
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many frames have come from the guest.
    pub fn frames_from_guest(&self) -> u64 {
        self.counted("rx_packets")
    }

    /// What the host's kernel has counted, by the name that it has there: `rx` is what comes from the guest.
    pub fn counted(&self, what: &str) -> u64 {
        let path = format!("/sys/class/net/{}/statistics/{what}", self.name);
        std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    /// The host's address.
    pub fn host(&self) -> String {
        self.address(1)
    }

    /// The address of the `number`th guest, counted from 1.
    pub fn guest(&self, number: u32) -> String {
        self.address(1 + number)
    }

    /// The address of all of them.
    pub fn broadcast(&self) -> String {
        self.address(255)
    }

    /// The command by which the `number`th guest takes its address.
    pub fn set_up(&self, number: u32) -> String {
        let address = self.guest(number);
        format!("ip address add {address}/24 dev eth0; ip link set eth0 up")
    }

    fn address(&self, last: u32) -> String {
        format!("10.77.{}.{last}", self.network)
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", &self.name]).status();
    }
}

/// Whether the host has an interface of that name.
pub fn interface_exists(name: &str) -> bool {
    std::path::Path::new("/sys/class/net").join(name).exists()
}

/// A DHCP server on an interface of the host, which has one `address` to lease, and its folder. What it does it says on
/// standard error.
pub fn dhcp_server(interface: &Interface, address: &str) -> (Running, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let [config, leases, pid] = ["config", "leases", "pid"].map(|name| folder.path().join(name));
    let text = format!(
        "interface {}\nstart {address}\nend {address}\nmax_leases 1\noption subnet 255.255.255.0\noption router {}\n\
         lease_file {}\npidfile {}\n",
        interface.name(),
        interface.host(),
        leases.display(),
        pid.display()
    );
    fs::write(&config, text).unwrap();
    fs::write(&leases, "").unwrap();
    let mut command = Command::new(busybox());
    (Running::start(command.args(["udhcpd", "-f"]).arg(config)), folder)
}

/// An iperf3 server at an address of the host.
pub fn iperf3_server(address: &str) -> Running {
    let mut command = Command::new("iperf3");
    command.args(["--server", "--forceflush", "--bind", address]);
    let mut server = Running::start(&mut command);
    server.wait_for("Server listening", Duration::from_secs(20));
    server
}

/// The command of a guest that sends to (or with `options` `-R` receives from) the server for some seconds. What came
/// through is printed for [`iperf3_rate`].
pub fn iperf3(address: &str, options: &str) -> String {
    format!(
        "iperf3 --client {address} --json --connect-timeout 5000 {options} >/tmp/iperf3; \
         echo iperf3=$?,$(grep -A9 '\"sum_received\"' /tmp/iperf3 | grep bits_per_second | tr -dc 0-9.)"
    )
}

/// The same with datagrams; how many came through is printed for [`iperf3_rate`], too.
pub fn iperf3_datagrams(address: &str, options: &str) -> String {
    let field = |name: &str| format!("$(grep {name} /tmp/iperf3 | tail -n 1 | tr -dc 0-9)");
    format!(
        "iperf3 --client {address} --udp --json --connect-timeout 5000 {options} >/tmp/iperf3; \
         echo iperf3=$?,$(({}-{}))",
        field("'\"packets\"'"),
        field("'\"lost_packets\"'"),
    )
}

/// Bits a second, or datagrams, that arrived at last. iperf3 must have ended well.
#[track_caller]
pub fn iperf3_rate(log: &str) -> f64 {
    let result = super::guests::value(log, "iperf3");
    let (status, rate) = result.split_once(',').unwrap();
    assert_eq!(status, "0", "iperf3 met an error:\n{log}");
    rate.parse().unwrap_or_else(|_| panic!("iperf3 told no rate:\n{log}"))
}

/// What `ip -json` says of one interface of the host.
#[track_caller]
pub fn interface(name: &str) -> Value {
    let all: Value =
        serde_json::from_str(&tool(&format!("ip -json -details link show {name}"))).unwrap();
    all[0].clone()
}
