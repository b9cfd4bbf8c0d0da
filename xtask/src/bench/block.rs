//! `bench block`: a disk's requests, Carve beside QEMU.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::Result;
use super::devices::{self, Device};
use crate::workspace::Workspace;

const WORKLOADS: [&str; 6] = [
    "randread-4k-1",
    "randread-4k-32",
    "randwrite-4k-1",
    "randwrite-4k-32",
    "read-1024k-4",
    "write-1024k-4",
];

/// Arguments of `bench block`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    common: devices::Common,
    /// Where the disk's file is made
    #[arg(long, default_value = "/dev/shm", value_name = "DIRECTORY")]
    directory: PathBuf,
    /// Go around the page cache
    #[arg(long)]
    direct: bool,
    /// Size of the disk in MiB
    #[arg(long, default_value_t = 512)]
    size: usize,
    /// Have QEMU's I/O thread sleep at once instead of polling for up to 32 µs first
    #[arg(long)]
    no_peer_polling: bool,
}

pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let disk = disk(&arguments.directory, arguments.size)?;
    let path = disk.display();
    let (direct, cache) = if arguments.direct { (",direct", ",cache=none") } else { ("", "") };
    let polling = if arguments.no_peer_polling { ",poll-max-ns=0" } else { "" };
    let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let device = Device {
        bench: "block",
        workloads: &WORKLOADS,
        carve: text(&["--disk", &format!("path={path},format=raw{direct}")]),
        qemu: text(&[
            "-object",
            &format!("iothread,id=io{polling}"),
            "-drive",
            // The lock of the monitor before it may still be there: its ring goes away after it.
            &format!("if=none,id=disk,file={path},format=raw,file.locking=off,aio=io_uring{cache}"),
            "-device",
            "virtio-blk-device,drive=disk,iothread=io",
        ]),
    };
    println!(
        "disk: a raw file of {} MiB in {}, {}; QEMU with io_uring and an I/O thread of its own{}",
        arguments.size,
        arguments.directory.display(),
        if arguments.direct { "without the page cache" } else { "through the page cache" },
        if arguments.no_peer_polling { " that does not poll" } else { "" },
    );
    devices::measure(workspace, &arguments.common, &device)
}

/// A file with every block written.
fn disk(directory: &Path, mib: usize) -> Result<tempfile::TempPath> {
    let file = tempfile::Builder::new().prefix("carve-bench-").tempfile_in(directory)?;
    let (mut to, path): (File, _) = file.into_parts();
    let piece = vec![0x5a; 1 << 20];
    for _ in 0..mib {
        to.write_all(&piece)?;
    }
    to.sync_all()?;
    Ok(path)
}
