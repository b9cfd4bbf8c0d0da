//! Tap interfaces of the host's kernel as back ends, and the ioctls of `/dev/net/tun`
//! (linux/if_tun.h). Who opens that file, and what the interface is connected to, is not known here.
#![allow(unsafe_code)] // ioctls.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{c_int, c_ulong};

use super::backend::{Backend, Port};
use super::buffers::{self, Room};
use super::features::{GUEST_CSUM, GUEST_ECN, GUEST_TSO4, GUEST_TSO6, GUEST_UFO};
use super::vhost::Vhost;
use crate::virtio::chain::Chain;

/// Bytes of an interface's name, its end included (IFNAMSIZ).
const NAME_SIZE: usize = 16;
// Not in every C library's bindings.
const IFF_ATTACH_QUEUE: c_int = 0x0200;
const IFF_DETACH_QUEUE: c_int = 0x0400;

/// [`super::header::LEN`] as the kernel takes it.
const HEADER_SIZE: c_int = 12;

/// `struct ifreq` as the ioctls here use it.
#[derive(Default)]
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_SIZE],
    flags: u16,
    rest: [u16; 11],
}

/// What an opened tap is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapInfo {
    /// Name of the interface.
    pub name: String,
    /// Whether it is a tap (frames), not a tun (packets).
    pub is_tap: bool,
    /// Whether frames carry a virtio-net header.
    pub has_vnet_header: bool,
    /// Whether several files can be attached to it.
    pub multi_queue: bool,
}

/// Attaches `file`, `/dev/net/tun` opened for reading and writing, to the tap `name`, which is made if
/// there is none; one that is made here goes with its last file. `%d` in the name stands for the first
/// free number. Returns the name.
///
/// # Errors
///
/// The name is none, or the kernel's answer: `EPERM` without the right to make or use it, `EBUSY` when
/// it is in use, `EINVAL` when it was made with other flags.
pub fn attach(file: &File, name: &str, multi_queue: bool) -> io::Result<String> {
    let mut request = InterfaceRequest::default();
    if name.is_empty() || name.len() >= NAME_SIZE || name.contains('\0') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    let mode = if multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
    request.flags = flags(libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | mode);
    interface_ioctl(file, libc::TUNSETIFF as c_ulong, &mut request)?;
    Ok(request.name())
}

/// What `file` is attached to.
///
/// # Errors
///
/// It is no tap or tun, or not attached.
pub fn info(file: &File) -> io::Result<TapInfo> {
    let mut request = InterfaceRequest::default();
    interface_ioctl(file, libc::TUNGETIFF as c_ulong, &mut request)?;
    let has = |flag| request.flags & flags(flag) != 0;
    Ok(TapInfo {
        name: request.name(),
        is_tap: has(libc::IFF_TAP),
        has_vnet_header: has(libc::IFF_VNET_HDR),
        multi_queue: has(libc::IFF_MULTI_QUEUE),
    })
}

impl InterfaceRequest {
    fn name(&self) -> String {
        let name = CStr::from_bytes_until_nul(&self.name).unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// The kernel keeps these flags in 16 bits.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn flags(flags: c_int) -> u16 {
    flags as u16
}

fn interface_ioctl(
    file: &File,
    operation: c_ulong,
    request: &mut InterfaceRequest,
) -> io::Result<()> {
    // SAFETY: these ioctls read and write one `struct ifreq`, which the structure is as long as.
    check(unsafe { libc::ioctl(file.as_raw_fd(), operation as _, &raw mut *request) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A tap with one file for each pair of queues.
#[derive(Debug)]
pub struct Tap {
    queues: Vec<Arc<TapQueue>>,
    /// One for each pair of queues, or none.
    vhosts: Vec<Arc<dyn Vhost>>,
}

#[derive(Debug)]
struct TapQueue {
    file: File,
    /// The kernel spreads frames over those queues that are.
    attached: AtomicBool,
}

impl Tap {
    /// Takes over files attached to one tap, each for a pair of queues.
    ///
    /// # Errors
    ///
    /// There is none, or the kernel's answer.
    pub fn new(files: Vec<File>) -> io::Result<Self> {
        if files.is_empty() || files.len() > usize::from(u16::MAX) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for file in &files {
            rustix::io::ioctl_fionbio(file, true)?;
            let size: c_int = HEADER_SIZE;
            // SAFETY: reads one int.
            check(unsafe {
                libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const size)
            })?;
        }
        let queue = |file| Arc::new(TapQueue { file, attached: AtomicBool::new(true) });
        let queues = files.into_iter().map(queue).collect();
        let tap = Self { queues, vhosts: Vec::new() };
        tap.set_offloads(0)?;
        tap.use_pairs(1)?;
        Ok(tap)
    }

    /// Leaves the frames to `vhosts`, each for a pair of queues.
    #[must_use]
    pub fn with_vhosts(self, vhosts: Vec<Arc<dyn Vhost>>) -> Self {
        Self { vhosts, ..self }
    }
}

impl TapQueue {
    fn set_attached(&self, attached: bool) -> io::Result<()> {
        if self.attached.load(Ordering::Acquire) == attached {
            return Ok(());
        }
        let flags = flags(if attached { IFF_ATTACH_QUEUE } else { IFF_DETACH_QUEUE });
        let mut request = InterfaceRequest { flags, ..Default::default() };
        interface_ioctl(&self.file, libc::TUNSETQUEUE as c_ulong, &mut request)?;
        self.attached.store(attached, Ordering::Release);
        Ok(())
    }
}

impl Backend for Tap {
    #[allow(clippy::cast_possible_truncation)] // Checked by `new`.
    fn pairs(&self) -> u16 {
        self.queues.len() as u16
    }

    fn has_offloads(&self) -> bool {
        true
    }

    fn port(&self, pair: u16) -> io::Result<Box<dyn Port>> {
        let queue = self.queues.get(usize::from(pair)).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Box::new(TapPort(Arc::clone(queue))))
    }

    fn vhost(&self, pair: u16) -> Option<Arc<dyn Vhost>> {
        self.vhosts.get(usize::from(pair)).cloned()
    }

    fn set_offloads(&self, offloads: u64) -> io::Result<()> {
        let Some(queue) = self.queues.first() else { return Ok(()) };
        let value = c_ulong::from(tun_offloads(offloads));
        // SAFETY: takes a number.
        check(unsafe { libc::ioctl(queue.file.as_raw_fd(), libc::TUNSETOFFLOAD as _, value) })
    }

    /// The last ones leave first and the first ones come first, so that the kernel numbers the queues
    /// as the device does.
    fn use_pairs(&self, count: u16) -> io::Result<()> {
        let (used, unused) = self.queues.split_at(usize::from(count).min(self.queues.len()));
        unused.iter().rev().try_for_each(|queue| queue.set_attached(false))?;
        used.iter().try_for_each(|queue| queue.set_attached(true))
    }
}

/// Feature bits as the kernel's. It refuses segmentation without checksums, and congestion notification
/// without segmentation.
fn tun_offloads(offloads: u64) -> u32 {
    let has = |feature| offloads & feature != 0;
    if !has(GUEST_CSUM) {
        return 0;
    }
    let segmentation = has(GUEST_TSO4 | GUEST_TSO6);
    [
        (true, libc::TUN_F_CSUM),
        (has(GUEST_TSO4), libc::TUN_F_TSO4),
        (has(GUEST_TSO6), libc::TUN_F_TSO6),
        (segmentation && has(GUEST_ECN), libc::TUN_F_TSO_ECN),
        (has(GUEST_UFO), libc::TUN_F_UFO),
    ]
    .into_iter()
    .fold(0, |bits, (set, bit)| if set { bits | bit } else { bits })
}

struct TapPort(Arc<TapQueue>);

impl Port for TapPort {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }

    fn receive(&mut self, room: &mut Room, spill: &mut [u8]) -> io::Result<usize> {
        room.read_from(self.0.file.as_fd(), spill)
    }

    fn send(&mut self, frames: &[Chain]) -> io::Result<usize> {
        let Some(frame) = frames.first() else { return Ok(0) };
        // Whole or not at all, and the kernel takes one frame by a call. It checks the header, which is
        // the guest's: kind and size of segments, and that checksum and headers lie within the frame.
        buffers::write_frame(self.0.file.as_fd(), frame).map(|_| 1)
    }
}

#[cfg(test)]
#[path = "tap_test.rs"]
mod tap_test;
