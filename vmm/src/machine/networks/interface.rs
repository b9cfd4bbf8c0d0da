//! The host's network interfaces, asked and changed by ioctls (netdevice(7), linux/if_bridge.h,
//! linux/ethtool.h). All of them act in the network namespace this process is in.
#![allow(unsafe_code)] // ioctls.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::{c_int, c_ulong, c_void};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Bytes of an interface's name, its end included (IFNAMSIZ).
const NAME_SIZE: usize = 16;
// Not in the C library's bindings.
const SIOCBRADDIF: c_ulong = 0x89a2;
/// Asks for `struct ethtool_drvinfo`.
const ETHTOOL_GDRVINFO: u32 = 3;

/// What an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tap,
    Tun,
    Other,
}

/// `struct ifreq`, with a value of whatever type the ioctl takes.
#[repr(C)]
struct Request<T> {
    name: [u8; NAME_SIZE],
    value: T,
}

/// As long as the kernel's union.
type Value = [c_int; 6];

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    /// Of a tun or tap: which of them it is.
    bus: [u8; 32],
    rest: [u8; 32 + 12 + 5 * 4],
}

/// A socket to ask through.
pub(super) struct Interfaces(OwnedFd);

impl Interfaces {
    pub(super) fn open() -> io::Result<Self> {
        let socket =
            socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Self(socket))
    }

    /// The index of interface `name`; an error of `ENODEV` if there is none.
    pub(super) fn index(&self, name: &str) -> io::Result<c_int> {
        self.ioctl(libc::SIOCGIFINDEX, name, [0; 6]).map(|value| value[0])
    }

    /// Its MTU in bytes.
    pub(super) fn mtu(&self, name: &str) -> io::Result<u32> {
        let value = self.ioctl(libc::SIOCGIFMTU, name, [0; 6])?;
        u32::try_from(value[0]).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    pub(super) fn set_mtu(&self, name: &str, mtu: u16) -> io::Result<()> {
        self.ioctl(libc::SIOCSIFMTU, name, [mtu.into(), 0, 0, 0, 0, 0]).map(|_| ())
    }

    /// Sets it up, if it is not.
    pub(super) fn bring_up(&self, name: &str) -> io::Result<()> {
        let mut value = self.ioctl(libc::SIOCGIFFLAGS, name, [0; 6])?;
        // The flags are 16 bits, at the beginning on every architecture of this program.
        if value[0] & libc::IFF_UP != 0 {
            return Ok(());
        }
        value[0] |= libc::IFF_UP;
        self.ioctl(libc::SIOCSIFFLAGS, name, value).map(|_| ())
    }

    /// Attaches the interface `name` to `bridge`.
    pub(super) fn join(&self, bridge: &str, name: &str) -> io::Result<()> {
        let index = self.index(name)?;
        self.ioctl(SIOCBRADDIF, bridge, [index, 0, 0, 0, 0, 0]).map(|_| ())
    }

    pub(super) fn kind(&self, name: &str) -> io::Result<Kind> {
        let mut info = DriverInfo {
            command: ETHTOOL_GDRVINFO,
            driver: [0; 32],
            version: [0; 32],
            firmware: [0; 32],
            bus: [0; 32],
            rest: [0; 64],
        };
        let data: *mut c_void = (&raw mut info).cast();
        match self.ioctl(libc::SIOCETHTOOL, name, (data, [0u64; 2])) {
            // The loopback interface, for one, has no driver.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Kind::Other),
            result => result?,
        };
        let is = |text: &[u8], word: &[u8]| text.split(|byte| *byte == 0).next() == Some(word);
        Ok(match (is(&info.driver, b"tun"), is(&info.bus, b"tap")) {
            (true, true) => Kind::Tap,
            (true, false) => Kind::Tun,
            (false, _) => Kind::Other,
        })
    }

    fn ioctl<T>(&self, operation: c_ulong, name: &str, value: T) -> io::Result<T> {
        const { assert!(size_of::<T>() == size_of::<Value>()) }
        let mut request = Request { name: [0; NAME_SIZE], value };
        let place = request.name[..NAME_SIZE - 1].get_mut(..name.len());
        place.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(name.as_bytes());
        // SAFETY: these ioctls read and write one `struct ifreq`, which the structure is as long as, and,
        // in `kind`, one `struct ethtool_drvinfo`, which is borrowed until the call returns.
        let result =
            unsafe { libc::ioctl(self.0.as_raw_fd(), operation as libc::Ioctl, &raw mut request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(request.value) }
    }
}
