//! Taps: made, or found, opened once for each pair of queues, and put where they are wanted. One that
//! is made here goes with this process; one that was there stays as it was found.
#![allow(unsafe_code)] // Descriptors that were passed to this process.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::BorrowedFd;

use devices::virtio::net::{Tap, tap};

use super::Problem;
use super::interface::{Interfaces, Kind};

const DEVICE: &str = "/dev/net/tun";
/// What taps are called that nobody gave a name.
const PATTERN: &str = "carve%d";
/// What interfaces have and guests assume where nothing else is said.
const USUAL_MTU: u16 = 1500;

/// A tap, and the MTU to tell the guest of.
pub(super) struct Opened {
    pub tap: Tap,
    pub mtu: Option<u16>,
}

/// The tap `name`, made if there is none.
pub(super) fn named(name: &str, queues: u16, mtu: Option<u16>) -> Result<Opened, Problem> {
    let interfaces = interfaces()?;
    let exists = interfaces.index(name).is_ok();
    let files = if exists {
        attach_existing(&interfaces, name, queues)?
    } else {
        attach(name, queues, queues > 1).map_err(|error| error.making(name))?.1
    };
    let mtu = set_mtu(&interfaces, name, mtu)?;
    bring_up(&interfaces, name)?;
    finish(name, files, mtu)
}

/// A tap of its own on `bridge`.
pub(super) fn on_bridge(bridge: &str, queues: u16, mtu: Option<u16>) -> Result<Opened, Problem> {
    let interfaces = interfaces()?;
    let bridge_mtu = interfaces.mtu(bridge).map_err(|source| bridge_problem(bridge, source))?;
    let (name, files) =
        attach(PATTERN, queues, queues > 1).map_err(|error| error.making("a tap"))?;
    // A bridge takes on the least MTU of its interfaces, unless told otherwise: a new one must not
    // lower it unasked.
    let mtu = mtu.or_else(|| u16::try_from(bridge_mtu).ok());
    let mtu = set_mtu(&interfaces, &name, mtu)?;
    interfaces.join(bridge, &name).map_err(|source| bridge_problem(bridge, source))?;
    bring_up(&interfaces, &name)?;
    finish(&name, files, mtu)
}

/// The tap that descriptor `fd` is.
pub(super) fn passed(fd: u32, mtu: Option<u16>) -> Result<Opened, Problem> {
    let refuse = |reason: &str| Problem::Descriptor { fd, reason: reason.to_owned() };
    let number = i32::try_from(fd).map_err(|_| refuse("there is no such descriptor"))?;
    // SAFETY: not kept; a number that is no descriptor gets EBADF, and one of this process's own files is
    // no tap.
    let passed = unsafe { BorrowedFd::borrow_raw(number) };
    let file = passed.try_clone_to_owned().map(File::from);
    let file = file.map_err(|_| refuse("there is no such descriptor"))?;
    let info = tap::info(&file).map_err(|_| refuse("it is no tap"))?;
    if !info.is_tap {
        return Err(refuse("it is a tun, which carries no Ethernet frames"));
    }
    if !info.has_vnet_header {
        return Err(refuse("it was opened without IFF_VNET_HDR"));
    }
    // Programs started by this one have no business with it.
    let _ = rustix::io::fcntl_setfd(passed, rustix::io::FdFlags::CLOEXEC);
    // It may be of another network namespace, where its MTU cannot be asked for.
    let found = interfaces()?.mtu(&info.name).ok().and_then(|mtu| u16::try_from(mtu).ok());
    finish(&info.name, vec![file], mtu.or(found.filter(|mtu| *mtu != USUAL_MTU)))
}

fn interfaces() -> Result<Interfaces, Problem> {
    Interfaces::open().map_err(Problem::Socket)
}

/// Why a tap cannot be attached to.
enum Refused {
    Device(io::Error),
    Attach(io::Error),
}

impl Refused {
    fn making(self, name: &str) -> Problem {
        let name = name.to_owned();
        match self {
            Self::Device(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                Problem::DevicePermission
            }
            Self::Device(source) => Problem::Device(source),
            Self::Attach(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                Problem::MakePermission { name }
            }
            Self::Attach(source) => Problem::Make { name, source },
        }
    }
}

/// Opens the tap `name` once for each of `queues`; the name it has.
fn attach(name: &str, queues: u16, multi_queue: bool) -> Result<(String, Vec<File>), Refused> {
    let mut name = name.to_owned();
    let mut files = Vec::new();
    for _ in 0..queues {
        let file = OpenOptions::new().read(true).write(true).open(DEVICE);
        let file = file.map_err(Refused::Device)?;
        name = tap::attach(&file, &name, multi_queue).map_err(Refused::Attach)?;
        files.push(file);
    }
    Ok((name, files))
}

fn attach_existing(interfaces: &Interfaces, name: &str, queues: u16) -> Result<Vec<File>, Problem> {
    // What it is tells more than the kernel's answer to an attempt. Unknown: see that answer.
    match interfaces.kind(name).unwrap_or(Kind::Tap) {
        Kind::Tap => {}
        Kind::Tun => return Err(Problem::NotATap { name: name.to_owned(), is: "a tun" }),
        Kind::Other => return Err(Problem::NotATap { name: name.to_owned(), is: "no tap" }),
    }
    let mut result = attach(name, queues, queues > 1);
    if let Err(Refused::Attach(error)) = &result
        && error.raw_os_error() == Some(libc::EINVAL)
        && queues == 1
    {
        // Made for several queues: one of them is enough.
        result = attach(name, queues, true);
    }
    let name = name.to_owned();
    result.map(|(_, files)| files).map_err(|error| match error {
        Refused::Attach(source) => match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Problem::UsePermission { name },
            Some(libc::EBUSY) => Problem::Busy { name },
            Some(libc::EINVAL) => Problem::OneQueue { name, queues },
            _ => Problem::Attach { name, source },
        },
        error @ Refused::Device(_) => error.making(&name),
    })
}

/// Sets the MTU if it is given and another; which to tell the guest of.
fn set_mtu(interfaces: &Interfaces, name: &str, mtu: Option<u16>) -> Result<Option<u16>, Problem> {
    let fail = |source| Problem::Mtu { name: name.to_owned(), mtu, source };
    let found = interfaces.mtu(name).map_err(fail)?;
    match mtu {
        Some(mtu) if u32::from(mtu) != found => interfaces.set_mtu(name, mtu).map_err(fail)?,
        Some(_) => {}
        None => return Ok(u16::try_from(found).ok().filter(|mtu| *mtu != USUAL_MTU)),
    }
    Ok(mtu)
}

fn bring_up(interfaces: &Interfaces, name: &str) -> Result<(), Problem> {
    interfaces.bring_up(name).map_err(|source| Problem::Up { name: name.to_owned(), source })
}

fn bridge_problem(bridge: &str, source: io::Error) -> Problem {
    let bridge = bridge.to_owned();
    match source.raw_os_error() {
        Some(libc::ENODEV) => Problem::NoBridge { bridge },
        Some(libc::EOPNOTSUPP) => Problem::NotABridge { bridge },
        _ => Problem::Bridge { bridge, source },
    }
}

fn finish(name: &str, files: Vec<File>, mtu: Option<u16>) -> Result<Opened, Problem> {
    let tap =
        Tap::new(files).map_err(|source| Problem::Attach { name: name.to_owned(), source })?;
    Ok(Opened { tap, mtu })
}
