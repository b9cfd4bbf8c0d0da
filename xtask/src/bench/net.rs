//! `bench net`: frames through a tap to the host's own kernel and back, Carve beside QEMU: of a driver that polls at real
//! speed, or of iperf3 and ping in a stock guest.

use std::fs;
use std::process::{Child, Command, Stdio};

use super::Result;
use super::devices::{self, Device};
use super::stock::{self, Monitors, Programs};
use crate::workspace::Workspace;
use crate::{child, process};

/// What, bytes of a frame, frames under way. `tx` goes to nobody; an `echo` is answered by the host's kernel.
const WORKLOADS: [&str; 6] =
    ["echo-60-1", "echo-60-64", "echo-1514-64", "tx-60-64", "tx-1514-64", "tx-61440-16"];

/// Pieces of 64 KiB of a TCP stream, datagrams of 64 bytes, and pings one by one; out of the guest and into it.
const STOCK_WORKLOADS: [&str; 5] = ["tcp-out-64k", "tcp-in-64k", "udp-out-64", "udp-in-64", "ping"];

/// Runs one of them. Bits a second are in iperf3's last account of what was received, and so are packets, those lost, and
/// how long it took, which is longer where its end has to wait for all that is on its way; a ping's mean time is the
/// second number of its last line, in milliseconds with three decimals. Cubic takes the uneven round trips of an emulated
/// host for congestion as a stream starts (`HyStart`), and hardly ever recovers.
const PROGRAMS: &str = "ip address add 198.18.77.2/24 dev eth0; ip link set eth0 up; \
    f() { grep -A15 \"\\\"$1\\\"\" /tmp/o | grep \"\\\"$2\\\"\" | tail -n 1 | cut -d: -f2 | cut -d. -f1 | tr -dc 0-9; }; \
    m() { w=$1; o=; case $w in *-in-*) o=-R;; esac; case $w in udp*) o=\"$o -u -b 0 -l 64\";; *) o=\"$o -C reno\";; esac; \
    if [ $w = ping ]; then ping -q -A -w $S 198.18.77.1 >/tmp/o; n=$(sed -n 's/.* \\([0-9]*\\) received.*/\\1/p' /tmp/o); \
    t=$(tail -n 1 /tmp/o | cut -d/ -f5 | sed 's/[.]//; s/^0*//'); echo end $w $n $((n*t)); return; fi; \
    iperf3 -c 198.18.77.1 -J -t $S $o >/tmp/o; \
    case $w in tcp*) n=$(($(f sum_received bits_per_second)*S/524288)); t=$((S*1000000));; \
    *) n=$(($(f sum packets)-$(f sum lost_packets))); \
    t=$(grep -A15 '\"sum\"' /tmp/o | grep '\"seconds\"' | tail -n 1 | cut -d: -f2 | tr -dc 0-9.); t=$(printf %.0f ${t}e6);; esac; \
    echo end $w $n $t; }";

/// Name of the tap.
const TAP: &str = "carvebench0";

// Addresses are of the block that benchmarks have (RFC 2544).

/// Arguments of `bench net`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    common: devices::Common,
    #[command(flatten)]
    speed: devices::Speed,
    #[command(flatten)]
    stock: stock::Options,
}

pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    if arguments.speed.stock {
        return run_stock(workspace, arguments);
    }
    let tap = Tap::new()?;
    let device = Device {
        bench: "net",
        workloads: &WORKLOADS,
        carve: carve(),
        qemu: qemu("virtio-net-device"),
    };
    println!("{DESCRIPTION}; an operation is a frame, or a ping with its answer");
    let done = devices::measure(workspace, &arguments.common, &arguments.speed, &device);
    drop(tap);
    done
}

/// The same with iperf3 and ping.
fn run_stock(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let common = &arguments.common;
    let monitors = Monitors::obtain(workspace, common, arguments.stock.transport)?;
    if !common.subject.here {
        return common.subject.there(workspace);
    }
    let tap = Tap::new()?;
    let programs = Programs {
        device: "iperf3 and ping on virtio-net",
        workloads: common.chosen(&STOCK_WORKLOADS),
        script: PROGRAMS.to_owned(),
        carve: carve(),
        qemu: qemu(&monitors.qemu_device("virtio-net")),
    };
    println!("{DESCRIPTION}");
    let done = stock::measure(&monitors, common, &programs, Server::start);
    drop(tap);
    done
}

const DESCRIPTION: &str = "network: a tap, both monitors in user space (no vhost)";

fn carve() -> Vec<String> {
    vec!["--net".to_owned(), format!("tap={TAP},mac=02:00:00:00:00:02")]
}

fn qemu(device: &str) -> Vec<String> {
    let tap = format!("tap,id=net,ifname={TAP},script=no,downscript=no,vhost=off");
    let device = format!("{device},netdev=net,mac=02:00:00:00:00:02");
    ["-netdev", &tap, "-device", &device].map(str::to_owned).into()
}

/// iperf3 on the host's end of the tap. Killed when dropped.
struct Server(Child);

impl Server {
    fn start() -> Result<Self> {
        let mut command = Command::new("iperf3");
        command.args(["--server", "--bind", "198.18.77.1"]).stdout(Stdio::null());
        child::die_with_parent(&mut command);
        Ok(Self(command.spawn().map_err(|error| format!("iperf3: {error}"))?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The tap, which is there as long as this, with the addresses that the payload knows.
struct Tap;

impl Tap {
    fn new() -> Result<Self> {
        ip(&["tuntap", "add", "dev", TAP, "mode", "tap"])?;
        let tap = Self;
        // Nothing but what the payload asks for.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{TAP}/disable_ipv6"), "1");
        ip(&["link", "set", "dev", TAP, "address", "02:00:00:00:00:01", "up"])?;
        ip(&["address", "add", "198.18.77.1/24", "dev", TAP])?;
        let neighbour =
            ["198.18.77.2", "lladdr", "02:00:00:00:00:02", "dev", TAP, "nud", "permanent"];
        ip(&[&["neighbour", "replace"], &neighbour[..]].concat())?;
        Ok(tap)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = ip(&["link", "delete", "dev", TAP]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    Ok(process::run_quietly(Command::new("ip").args(arguments))?)
}
