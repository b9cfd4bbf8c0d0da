//! `bench plan`: how long `carve plan` takes to divide a host of 256 CPUs between many VMs, from exec to the process's
//! end, reading of the file included.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;

use super::Result;
use super::stats::{median, ms};
use crate::cargo::{self, Profile};
use crate::workspace::Workspace;

/// Arguments of `bench plan`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Counted runs for each number of VMs
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// The carve binary; built where it is not given
    #[arg(long, value_name = "FILE")]
    carve: Option<PathBuf>,
}

/// VMs, and the milliseconds that planning for them may take.
const GOALS: [(u32, f64); 2] = [(1000, 100.0), (10_000, 2000.0)];
/// Tenants the VMs are divided between.
const TENANTS: u32 = 20;

pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let carve = match &arguments.carve {
        Some(carve) => carve.clone(),
        None => cargo::build_carve(workspace, Profile::Release, None)?,
    };
    let files = tempfile::tempdir()?;
    let inventory = files.path().join("host.json");
    std::fs::write(&inventory, host().to_string())?;
    println!("carve plan, 256 CPUs, {TENANTS} tenants, medians of {} runs", arguments.rounds);
    for (count, goal) in GOALS {
        let file = files.path().join(format!("{count}.toml"));
        std::fs::write(&file, host_file(count))?;
        let mut took = Vec::new();
        for round in 0..=arguments.rounds {
            let mut command = Command::new(&carve);
            command.arg("plan").arg(&file).arg("--inventory").arg(&inventory);
            let start = Instant::now();
            let status = command.stdout(Stdio::null()).status()?;
            // The first round warms caches.
            if round > 0 {
                took.push(ms(start.elapsed()));
            }
            // 2: admitted, and something to do.
            if status.code() != Some(2) {
                return Err(format!("carve plan ended with {status} for {count} VMs").into());
            }
        }
        let median = median(took);
        println!("{count:6} VMs  {median:8.1} ms  (goal {goal:.0} ms, {:.2} of it)", median / goal);
    }
    Ok(())
}

/// Four NUMA nodes with 32 cores of two threads each, and 8 TiB.
fn host() -> serde_json::Value {
    let cpus: Vec<_> = (0..256u32)
        .map(|id| json!({ "id": id, "core": id % 128, "node": id % 128 / 32, "package": id % 128 / 32 }))
        .collect();
    let nodes: Vec<_> = (0..4).map(|id| json!({ "id": id, "memory": "2TiB" })).collect();
    json!({
        "version": 1,
        "cpus": cpus,
        "nodes": nodes,
        "memory": "8TiB",
        "controllers": ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"],
        "core_scheduling": true,
        "file_systems": { "/srv/fast": { "size": "64TiB", "free": "64TiB", "device": "8:0" } },
    })
}

/// `count` VMs, a section each: 64 with CPUs of their own, the others with a disk, a network and a share.
fn host_file(count: u32) -> String {
    let mut text = String::from(
        "[host]\nreserve = { cpus = \"0-1,128-129\", memory = \"64GiB\" }\n\
         overcommit = { cpu = 100, storage = 2 }\n[pool.fast]\npath = \"/srv/fast\"\n",
    );
    // Writing to a String cannot fail.
    for tenant in 0..TENANTS {
        let _ = writeln!(
            text,
            "[tenant.t{tenant}]\ncpus = 12\nmemory = \"380GiB\"\nstorage.fast = \"6TiB\"\nbandwidth = \"100Gbit/s\""
        );
    }
    for vm in 0..count {
        let cpu = if vm < 64 { "\"dedicated\"" } else { "{ min = 0.005, max = 1 }" };
        let _ = writeln!(
            text,
            "[vm.vm-{vm}]\ntenant = \"t{}\"\nkernel = \"/boot/vmlinuz\"\ninitrd = \"/boot/initrd.img\"\nvcpus = 1\ncpu = {cpu}\n\
             memory = \"512MiB\"\ndisk.root = {{ pool = \"fast\", size = \"8GiB\", iops = 1000 }}\n\
             net.lan = {{ bridge = \"br0\", bandwidth = \"100Mbit/s\" }}\nlabels.n = \"{vm}\"",
            vm % TENANTS
        );
    }
    text
}
