//! `bench block`: a disk's requests, Carve beside QEMU: of a driver that polls at real speed, or of fio in a stock guest.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::Result;
use super::devices::{self, Device};
use super::stock::{self, Monitors, Programs};
use crate::workspace::Workspace;

const WORKLOADS: [&str; 6] = [
    "randread-4k-1",
    "randread-4k-32",
    "randwrite-4k-1",
    "randwrite-4k-32",
    "read-1024k-4",
    "write-1024k-4",
];

/// Runs the workload that its name describes on the disk with the serial number `bench`. Of fio's terse output: KiB
/// and milliseconds of reads and writes.
const FIO: &str = "d=$(grep -l bench /sys/block/vd*/serial | cut -d/ -f4); \
    m() { w=$1; IFS=-; set -- $w; unset IFS; \
    fio --name=j --thread --minimal --filename=/dev/$d --direct=1 --ioengine=libaio --gtod_reduce=1 --norandommap \
    --rw=$1 --bs=$2 --iodepth=$3 --time_based --runtime=$S >/tmp/o; \
    set -- $w ${2%k} $(cut -d';' -f6,9,47,50 /tmp/o | tr ';' ' '); \
    echo end $1 $((($3+$5)/$2)) $((($4+$6)*1000)); }";

/// Arguments of `bench block`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    common: devices::Common,
    #[command(flatten)]
    speed: devices::Speed,
    #[command(flatten)]
    stock: stock::Options,
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
    if arguments.speed.stock {
        return run_stock(workspace, arguments);
    }
    let disk = disk(&arguments.directory, arguments.size)?;
    let device = Device {
        bench: "block",
        workloads: &WORKLOADS,
        carve: arguments.carve(&disk),
        qemu: arguments.qemu(&disk, "virtio-blk-device"),
    };
    println!("{}", arguments.description());
    devices::measure(workspace, &arguments.common, &arguments.speed, &device)
}

/// The same with fio.
fn run_stock(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let common = &arguments.common;
    let monitors = Monitors::obtain(workspace, common, arguments.stock.transport)?;
    if !common.subject.here {
        return common.subject.there(workspace);
    }
    let disk = disk(&arguments.directory, arguments.size)?;
    let programs = Programs {
        device: "fio on virtio-blk",
        workloads: common.chosen(&WORKLOADS),
        script: FIO.to_owned(),
        carve: arguments.carve(&disk),
        qemu: arguments.qemu(&disk, &monitors.qemu_device("virtio-blk")),
    };
    println!("{}", arguments.description());
    stock::measure(&monitors, common, &programs, || Ok(()))
}

impl Arguments {
    fn carve(&self, disk: &Path) -> Vec<String> {
        let direct = if self.direct { ",direct" } else { "" };
        let disk = format!("path={},format=raw,serial=bench{direct}", disk.display());
        vec!["--disk".to_owned(), disk]
    }

    fn qemu(&self, disk: &Path, device: &str) -> Vec<String> {
        let path = disk.display();
        let cache = if self.direct { ",cache=none" } else { "" };
        let polling = if self.no_peer_polling { ",poll-max-ns=0" } else { "" };
        // The lock of the monitor before it may still be there: its ring goes away after it.
        let file =
            format!("if=none,id=disk,file={path},format=raw,file.locking=off,aio=io_uring{cache}");
        let device = format!("{device},drive=disk,iothread=io,serial=bench");
        let thread = format!("iothread,id=io{polling}");
        ["-object", &thread, "-drive", &file, "-device", &device].map(str::to_owned).into()
    }

    fn description(&self) -> String {
        format!(
            "disk: a raw file of {} MiB in {}, {}; QEMU with io_uring and an I/O thread of its own{}",
            self.size,
            self.directory.display(),
            if self.direct { "without the page cache" } else { "through the page cache" },
            if self.no_peer_polling { " that does not poll" } else { "" },
        )
    }
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
