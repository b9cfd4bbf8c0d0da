//! QEMU as the emulated host: finding or installing one that works, and its command line.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::prepare::Host;
use super::{Error, Init, io};
use crate::apt::{Apt, Suite};
use crate::workspace::Workspace;
use crate::{child, process};

/// Names the QEMU to use.
const QEMU_VARIABLE: &str = "CARVE_QEMU";
const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
const REMEDY: &str = "Or set CARVE_QEMU to a qemu-system-x86_64 of version 10 or newer.";
/// Oldest major version known to work: 7.2 hangs guests with kernels newer than 6.1.
pub const OLDEST: u32 = 10;

/// Name of the port the agent talks through.
pub const AGENT_PORT: &str = "carve.agent";
/// 9p tags.
const ROOT_TAG: &str = "root";
/// Tag of the writable share.
pub const SHARE_TAG: &str = "share";

/// A QEMU that can emulate a KVM host.
#[derive(Debug, Clone)]
pub struct Qemu {
    path: PathBuf,
}

impl Qemu {
    /// The program.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finds QEMU, or installs it where that is possible.
    pub fn obtain(workspace: &Workspace) -> Result<Self, Error> {
        if let Some(path) = std::env::var_os(QEMU_VARIABLE) {
            return Ok(Self { path: PathBuf::from(path) });
        }
        if let Some(path) = process::find(PROGRAM)
            && version(&path)?.is_some_and(|(major, _)| major >= OLDEST)
        {
            return Ok(Self { path });
        }
        Apt::open(workspace, REMEDY)?.install(&[PACKAGE], Suite::Backports)?;
        let path = process::find(PROGRAM).unwrap_or_else(|| PathBuf::from(PROGRAM));
        match version(&path)? {
            Some((major, text)) if major < OLDEST => Err(Error::OldQemu { path, version: text }),
            _ => Ok(Self { path }),
        }
    }
}

/// Major version and version as text.
fn version(path: &Path) -> Result<Option<(u32, String)>, Error> {
    let text = process::output(Command::new(path).arg("--version"))?;
    let version = text.split("version ").nth(1).and_then(|rest| rest.split_whitespace().next());
    Ok(version
        .and_then(|version| Some((version.split('.').next()?.parse().ok()?, version.to_owned()))))
}

/// An emulated host that runs. Killed when dropped.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    log: File,
}

impl Machine {
    /// Starts the host; the stream is the agent's port.
    pub fn start(
        qemu: &Qemu,
        host: &Host,
        share: &Path,
        (size, init): (Size, Init),
    ) -> Result<(Self, UnixStream), Error> {
        let (ours, theirs) = UnixStream::pair().map_err(io("make a pair of sockets"))?;
        let log = tempfile::tempfile().map_err(io("make a temporary file"))?;
        rustix::fs::fcntl_setfl(&log, rustix::fs::OFlags::APPEND)
            .map_err(|error| io("append to a temporary file")(error.into()))?;
        let clone = || log.try_clone().map_err(io("duplicate a file descriptor"));
        let agent = std::env::current_exe().map_err(io("find this program"))?;
        let mut command = Command::new(&qemu.path);
        command
            .args(machine_arguments(size))
            .arg("-kernel")
            .arg(&host.kernel)
            .arg("-initrd")
            .arg(&host.initrd)
            .arg("-append")
            .arg(kernel_command_line(&text(&agent, "the path of xtask")?, init))
            .args(share_arguments(Path::new("/"), ROOT_TAG, true)?)
            .args(share_arguments(share, SHARE_TAG, false)?)
            // Its standard input is the agent's port: the one descriptor a child surely inherits.
            .stdin(OwnedFd::from(theirs))
            .stdout(clone()?)
            .stderr(clone()?)
            // Out of the terminal's foreground group: Ctrl-C is for the command, through us.
            .process_group(0);
        child::die_with_parent(&mut command);
        let child = command.spawn().map_err(|source| process::Error::Start {
            program: qemu.path.display().to_string(),
            source,
        })?;
        Ok((Self { child, log }, ours))
    }

    /// The end of what its kernel and QEMU said.
    pub fn log_tail(&mut self) -> String {
        const BYTES: i64 = 4000;
        let mut bytes = Vec::new();
        let start = self.log.seek(SeekFrom::End(-BYTES)).or_else(|_| self.log.rewind().map(|()| 0));
        let _ = start.and_then(|_| self.log.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a host has.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory: u32,
    /// NUMA nodes, between which CPUs and memory are divided evenly.
    pub nodes: u32,
}

fn machine_arguments(size: Size) -> Vec<String> {
    let (cpus, memory) = (size.cpus.to_string(), size.memory.to_string());
    let port = format!("virtserialport,chardev=agent,name={AGENT_PORT}");
    [
        // Nothing here needs the board's own timer, keyboard and disks; probing them takes time.
        &["-M", "q35,hpet=off,i8042=off,sata=off,smbus=off,usb=off,vmport=off"][..],
        &["-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max,la57=off"],
        &["-smp", &cpus, "-m", &memory],
        &["-nodefaults", "-display", "none", "-no-reboot"],
        &["-serial", "chardev:log", "-chardev", "file,id=log,path=/dev/stderr,append=on"],
        &["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"],
        &["-chardev", "socket,id=agent,fd=0", "-device", &port],
    ]
    .concat()
    .into_iter()
    .map(str::to_owned)
    .chain(node_arguments(size))
    .collect()
}

/// NUMA nodes; none are described where there is one.
fn node_arguments(size: Size) -> Vec<String> {
    let nodes = if size.nodes > 1 { size.nodes } else { 0 };
    let each = |total: u32, node: u32| (total * node / nodes, total * (node + 1) / nodes);
    let describe = |node| {
        let (first, past) = each(size.cpus, node);
        let (from, to) = each(size.memory, node);
        let last = past.saturating_sub(1);
        [
            "-object".to_owned(),
            format!("memory-backend-ram,id=node{node},size={}M", to - from),
            "-numa".to_owned(),
            format!("node,nodeid={node},memdev=node{node},cpus={first}-{last}"),
        ]
    };
    (0..nodes).flat_map(describe).collect()
}

fn share_arguments(path: &Path, tag: &str, read_only: bool) -> Result<[String; 2], Error> {
    // A comma separates options and is doubled to stand for itself.
    let path = text(path, "the shared folder")?.replace(',', ",,");
    let read_only = if read_only { "on" } else { "off" };
    let options = format!(
        "local,path={path},mount_tag={tag},security_model=none,readonly={read_only},multidevs=remap"
    );
    Ok(["-virtfs".to_owned(), options])
}

fn kernel_command_line(agent: &str, init: Init) -> String {
    let agent = crate::percent::encode(agent);
    let init = match init {
        Init::Agent => "",
        Init::Systemd => " carve.init=systemd",
    };
    // Nothing in here is worth protecting from speculation, nor clearing memory twice for. The emulated TSC is the
    // machine's. Left to find out how fast that is, on a busy machine Linux may take it for several times slower, and
    // all of its time runs as much too fast.
    let khz = crate::tsc::rate() / 1e3;
    format!(
        "console=ttyS0 panic=-1 quiet mitigations=off init_on_alloc=0 random.trust_cpu=on \
         tsc=reliable tsc_early_khz={khz:.0} no_timer_check cryptomgr.notests audit=0 lsm=landlock cgroup_no_v1=all \
         carve.agent={agent}{init}"
    )
}

fn text(path: &Path, what: &str) -> Result<String, Error> {
    let text = path.to_str().ok_or_else(|| Error::NotText { what: what.to_owned() })?;
    Ok(text.to_owned())
}
