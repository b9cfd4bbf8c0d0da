//! `bench net`: frames through a tap to the host's own kernel and back, Carve beside QEMU.

use std::fs;
use std::process::Command;

use super::Result;
use super::devices::{self, Device};
use crate::process;
use crate::workspace::Workspace;

/// What, bytes of a frame, frames under way. `tx` goes to nobody; an `echo` is answered by the host's kernel.
const WORKLOADS: [&str; 6] =
    ["echo-60-1", "echo-60-64", "echo-1514-64", "tx-60-64", "tx-1514-64", "tx-61440-16"];

/// Name of the tap.
const TAP: &str = "carvebench0";

// Addresses are of the block that benchmarks have (RFC 2544).

/// Arguments of `bench net`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    common: devices::Common,
}

pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let tap = Tap::new()?;
    let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let device = Device {
        bench: "net",
        workloads: &WORKLOADS,
        carve: text(&["--net", &format!("tap={TAP},mac=02:00:00:00:00:02")]),
        qemu: text(&[
            "-netdev",
            &format!("tap,id=net,ifname={TAP},script=no,downscript=no,vhost=off"),
            "-device",
            "virtio-net-device,netdev=net,mac=02:00:00:00:00:02",
        ]),
    };
    println!(
        "network: a tap, both monitors in user space (no vhost); an operation is a frame, or a ping with its answer"
    );
    let done = devices::measure(workspace, &arguments.common, &device);
    drop(tap);
    done
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
