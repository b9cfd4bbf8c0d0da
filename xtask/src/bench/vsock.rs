//! `bench vsock`: streams between a stock guest and its host, Carve with its sockets beside QEMU with vhost-vsock.

use std::fs::File;
use std::io::{Read, Write};
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::account::Sample;
use super::stock::{Monitors, Options, heading};
use super::table::Table;
use super::{Result, devices, threads};
use crate::workspace::Workspace;
use crate::{child, process};

/// Pieces of 64 KiB out of the guest and into it, and 64 bytes that a program of the guest sends back.
const WORKLOADS: [&str; 3] = ["out-64k", "in-64k", "echo-64"];
const PIECE: usize = 64 << 10;
const PING: usize = 64;
/// Port of the first; the next ones follow.
const PORT: u32 = 7000;
/// For the guest's boot, and between workloads.
const PATIENCE: Duration = Duration::from_secs(120);

/// Arguments of `bench vsock`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    common: devices::Common,
    #[command(flatten)]
    stock: Options,
}

pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let common = &arguments.common;
    let monitors = Monitors::obtain(workspace, common, arguments.stock.transport)?;
    if !common.subject.here {
        return common.subject.there(workspace);
    }
    let (rounds, seconds) = (common.rounds(3), common.seconds(5.0));
    let names = common.chosen(&WORKLOADS);
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("v");
    let carve = ["--vsock".to_owned(), format!("cid=42,socket={}", socket.display())];
    let device = monitors.qemu_device("vhost-vsock");
    let qemu = ["-device".to_owned(), format!("{device},guest-cid=42")];
    let mut commands = monitors.commands(&script(&names)?, &carve, &qemu);
    let mut table = Table::default();
    for _ in 0..rounds {
        for (contender, command) in commands.iter_mut().enumerate() {
            let listen = |port| match contender {
                0 => listen_unix(&socket, port),
                _ => listen_vsock(port),
            };
            table.add(contender, measure(command, &names, seconds, listen)?);
        }
    }
    println!("sockets: Carve with unix sockets, QEMU with vhost-vsock, whose kernel thread counts");
    heading(&monitors, "socat on virtio-vsock", rounds, seconds);
    table.print(monitors.peer());
    Ok(())
}

/// What the guest runs: each program ends when the host closes the stream.
fn script(names: &[&str]) -> Result<String> {
    let mut script = String::new();
    for (name, port) in names.iter().zip(PORT..) {
        let command = match *name {
            "out-64k" => format!("socat -u -b {PIECE} OPEN:/dev/zero VSOCK-CONNECT:2:{port}"),
            "in-64k" => format!("socat -u -b {PIECE} VSOCK-CONNECT:2:{port} OPEN:/dev/null"),
            "echo-64" => format!("socat VSOCK-CONNECT:2:{port} EXEC:cat,nofork"),
            other => return Err(format!("there is no workload {other}").into()),
        };
        script.push_str(&command);
        script.push_str(" 2>/dev/null; ");
    }
    Ok(script + "true")
}

/// Runs a monitor through all workloads.
fn measure(
    command: &mut Command,
    names: &[&str],
    seconds: f64,
    listen: impl Fn(u32) -> Result<OwnedFd>,
) -> Result<Vec<Sample>> {
    let shown = process::shown(command);
    let listeners: Result<Vec<_>> =
        names.iter().zip(PORT..).map(|(_, port)| listen(port)).collect();
    let listeners = listeners?;
    child::die_with_parent(command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let mut monitor = command.spawn().map_err(|error| format!("{shown}: {error}"))?;
    let pid = monitor.id();
    let measured = names.iter().zip(&listeners).map(|(name, listener)| {
        let stream = accept(listener).map_err(|error| format!("{name}: {error}"))?;
        one(name, stream, Duration::from_secs_f64(seconds), pid)
    });
    let samples: Result<Vec<_>> = measured.collect();
    let _ = monitor.kill();
    monitor.wait()?;
    samples.map_err(|error| format!("{shown}: {error}").into())
}

/// One workload, until the stream is closed.
fn one(name: &str, mut stream: File, time: Duration, monitor: u32) -> Result<Sample> {
    let mut bytes = vec![0; PIECE];
    let before = threads::cpu_beside_vcpus(monitor)?;
    let start = Instant::now();
    let mut moved = 0;
    while start.elapsed() < time {
        moved += match name {
            "out-64k" => stream.read(&mut bytes)?,
            "in-64k" => stream.write(&bytes)?,
            _ => {
                stream.write_all(&bytes[..PING])?;
                stream.read_exact(&mut bytes[..PING])?;
                PING
            }
        };
    }
    let took = start.elapsed();
    let cpu = threads::cpu_beside_vcpus(monitor)?.saturating_sub(before);
    let size = if name == "echo-64" { PING } else { PIECE };
    let operations = u32::try_from(moved / size)?;
    if operations == 0 {
        return Err(format!("{name}: nothing came through").into());
    }
    let rate = f64::from(operations) / took.as_secs_f64();
    Ok(Sample { name: name.to_owned(), rate, cpu: cpu / operations })
}

fn accept(listener: &OwnedFd) -> Result<File> {
    let timeout = Timespec::try_from(PATIENCE)?;
    if poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&timeout))? == 0 {
        return Err("the guest does not connect".into());
    }
    Ok(File::from(rustix::net::accept(listener.as_fd())?))
}

/// Where Carve connects to when the guest does to `port`.
fn listen_unix(socket: &Path, port: u32) -> Result<OwnedFd> {
    let path = format!("{}_{port}", socket.display());
    if Path::new(&path).exists() {
        std::fs::remove_file(&path)?;
    }
    Ok(UnixListener::bind(path)?.into())
}

/// A listening socket of the family that vhost-vsock leads to.
#[allow(unsafe_code)] // The standard library does not know the family.
fn listen_vsock(port: u32) -> Result<OwnedFd> {
    // SAFETY: plain numbers.
    let fd = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(format!("a vsock: {}", std::io::Error::last_os_error()).into());
    }
    // SAFETY: nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeroes is a valid address.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::sa_family_t::try_from(libc::AF_VSOCK)?;
    (address.svm_port, address.svm_cid) = (port, libc::VMADDR_CID_ANY);
    let len = libc::socklen_t::try_from(size_of::<libc::sockaddr_vm>())?;
    // SAFETY: the kernel reads the address, which has that length.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    if bound != 0 {
        return Err(format!("vsock port {port}: {}", std::io::Error::last_os_error()).into());
    }
    rustix::net::listen(&socket, 1)?;
    Ok(socket)
}
