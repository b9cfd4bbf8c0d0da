//! `/dev/vhost-net` and its ioctls (linux/vhost.h). Who opens that file is not known here.
#![allow(unsafe_code)] // ioctls.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use libc::c_int;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::{Direction, Ends, FEATURES, Vhost};
use crate::memory::GuestMemory;

/// Numbers of the ioctls, for whoever decides which thread may make them.
pub mod ioctls {
    #![allow(missing_docs)] // The names are the kernel's.

    use super::{RingAddresses, RingFile, RingState};

    const READ: u32 = 2;
    const WRITE: u32 = 1;

    #[allow(clippy::cast_possible_truncation)] // Structures of a few bytes.
    const fn number<T>(direction: u32, command: u32) -> u32 {
        direction << 30 | (size_of::<T>() as u32) << 16 | 0xaf << 8 | command
    }

    pub const GET_FEATURES: u32 = number::<u64>(READ, 0x00);
    pub const SET_FEATURES: u32 = number::<u64>(WRITE, 0x00);
    pub const SET_OWNER: u32 = number::<()>(0, 0x01);
    /// Its size is that of the head of a list.
    pub const SET_MEM_TABLE: u32 = number::<u64>(WRITE, 0x03);
    pub const SET_VRING_NUM: u32 = number::<RingState>(WRITE, 0x10);
    pub const SET_VRING_ADDR: u32 = number::<RingAddresses>(WRITE, 0x11);
    pub const SET_VRING_BASE: u32 = number::<RingState>(WRITE, 0x12);
    pub const GET_VRING_BASE: u32 = number::<RingState>(READ | WRITE, 0x12);
    pub const SET_VRING_KICK: u32 = number::<RingFile>(WRITE, 0x20);
    pub const SET_VRING_CALL: u32 = number::<RingFile>(WRITE, 0x21);
    pub const SET_VRING_ERR: u32 = number::<RingFile>(WRITE, 0x22);
    pub const NET_SET_BACKEND: u32 = number::<RingFile>(WRITE, 0x30);

    /// What the thread of a pair of queues does.
    pub const SERVE: [u32; 10] = [
        SET_FEATURES,
        SET_MEM_TABLE,
        SET_VRING_NUM,
        SET_VRING_ADDR,
        SET_VRING_BASE,
        GET_VRING_BASE,
        SET_VRING_KICK,
        SET_VRING_CALL,
        SET_VRING_ERR,
        NET_SET_BACKEND,
    ];
}

/// `struct vhost_vring_state`.
#[repr(C)]
struct RingState {
    index: u32,
    value: u32,
}

/// `struct vhost_vring_addr`: addresses in this process.
#[repr(C)]
struct RingAddresses {
    index: u32,
    flags: u32,
    descriptors: u64,
    used: u64,
    available: u64,
    log: u64,
}

/// `struct vhost_vring_file`.
#[repr(C)]
struct RingFile {
    index: u32,
    fd: c_int,
}

/// `struct vhost_memory_region`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Region {
    guest: u64,
    len: u64,
    host: u64,
    flags: u64,
}

/// The most regions of guest memory that are told of: far more than a machine has, and as many as the
/// kernel takes unless it was told otherwise (`max_mem_regions` of the module vhost).
const MAX_REGIONS: usize = 64;

/// `struct vhost_memory`.
#[repr(C)]
struct Memory {
    count: u32,
    padding: u32,
    regions: [Region; MAX_REGIONS],
}

/// No file.
const NONE: RawFd = -1;

/// An opened `/dev/vhost-net`, which serves one pair of queues.
#[derive(Debug)]
pub struct VhostNet(File);

impl VhostNet {
    /// Takes over `file`, `/dev/vhost-net` opened for reading and writing.
    ///
    /// # Errors
    ///
    /// It is not that, or the kernel's lacks what drivers are offered.
    pub fn new(file: File) -> io::Result<Self> {
        let mut features: u64 = 0;
        // SAFETY: writes one u64.
        check(unsafe {
            libc::ioctl(file.as_raw_fd(), ioctls::GET_FEATURES as _, &raw mut features)
        })?;
        match FEATURES & !features {
            0 => Ok(Self(file)),
            missing => {
                let reason = format!("this kernel's lacks the feature bits {missing:#x}");
                Err(io::Error::other(reason))
            }
        }
    }

    /// Makes this process the owner, once: the kernel's worker begins, in the control groups that the
    /// calling thread is in now, and has the memory of this process.
    ///
    /// # Errors
    ///
    /// There can be no such worker, or there is one already.
    pub fn own(&self) -> io::Result<()> {
        // SAFETY: takes nothing.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), ioctls::SET_OWNER as _, 0) })
    }

    fn state(&self, operation: u32, index: u32, value: u32) -> io::Result<u32> {
        let mut state = RingState { index, value };
        // SAFETY: these ioctls read and write one `struct vhost_vring_state`.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), operation as _, &raw mut state) })?;
        Ok(state.value)
    }

    fn file(&self, operation: u32, index: u32, fd: RawFd) -> io::Result<()> {
        let file = RingFile { index, fd };
        // SAFETY: these ioctls read one `struct vhost_vring_file`; the kernel keeps the file, if any, itself.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), operation as _, &raw const file) })
    }

    fn set_up(&self, index: u32, ends: &Ends<'_>) -> io::Result<()> {
        let queue = ends.queue;
        self.state(ioctls::SET_VRING_NUM, index, queue.size().into())?;
        self.state(ioctls::SET_VRING_BASE, index, queue.next_avail().into())?;
        let [descriptors, available, used] = queue.rings();
        let addresses = RingAddresses { index, flags: 0, descriptors, used, available, log: 0 };
        // SAFETY: reads one `struct vhost_vring_addr`. The rings are checked to lie in guest memory, whose
        // mapping the queue keeps; the kernel copies from and to them as a system call does.
        check(unsafe {
            libc::ioctl(self.0.as_raw_fd(), ioctls::SET_VRING_ADDR as _, &raw const addresses)
        })?;
        self.file(ioctls::SET_VRING_KICK, index, queue.doorbell().as_raw_fd())?;
        self.file(ioctls::SET_VRING_CALL, index, ends.call.as_raw_fd())?;
        self.file(ioctls::SET_VRING_ERR, index, ends.error.as_raw_fd())?;
        self.file(ioctls::NET_SET_BACKEND, index, ends.tap.as_raw_fd())
    }
}

impl Vhost for VhostNet {
    fn prepare(&self, memory: &GuestMemory, features: u64) -> io::Result<()> {
        let features = features & FEATURES;
        // SAFETY: reads one u64.
        check(unsafe {
            libc::ioctl(self.0.as_raw_fd(), ioctls::SET_FEATURES as _, &raw const features)
        })?;
        let mut table = Memory { count: 0, padding: 0, regions: [Region::default(); MAX_REGIONS] };
        for region in memory.iter() {
            let GuestAddress(guest) = region.start_addr();
            let host = memory.get_host_address(region.start_addr()).map_err(io::Error::other)?;
            let place = table.regions.get_mut(table.count as usize);
            *place.ok_or_else(|| io::Error::other("guest memory has too many regions"))? =
                Region { guest, len: region.len(), host: host.addr() as u64, flags: 0 };
            table.count += 1;
        }
        // SAFETY: reads a `struct vhost_memory` and as many regions as it says, which there are.
        check(unsafe {
            libc::ioctl(self.0.as_raw_fd(), ioctls::SET_MEM_TABLE as _, &raw const table)
        })
    }

    fn start(&self, direction: Direction, ends: &Ends<'_>) -> io::Result<()> {
        let started = self.set_up(direction as u32, ends);
        match started {
            // For what the driver made available before, whose doorbell the kernel did not hear.
            Ok(()) => ends.queue.ring_doorbell(),
            Err(_) => drop(self.stop(direction)),
        }
        started
    }

    fn set_call(&self, direction: Direction, call: &EventFd) -> io::Result<()> {
        self.file(ioctls::SET_VRING_CALL, direction as u32, call.as_raw_fd())
    }

    fn stop(&self, direction: Direction) -> io::Result<u16> {
        let index = direction as u32;
        self.file(ioctls::NET_SET_BACKEND, index, NONE)?;
        let next = self.state(ioctls::GET_VRING_BASE, index, 0)?;
        // They belong to a machine that may end before this.
        for operation in [ioctls::SET_VRING_KICK, ioctls::SET_VRING_CALL, ioctls::SET_VRING_ERR] {
            self.file(operation, index, NONE)?;
        }
        u16::try_from(next).map_err(io::Error::other)
    }
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod kernel_test {
    use super::*;

    #[test]
    fn numbers_and_structures_are_those_of_the_kernels_headers() {
        assert_eq!((ioctls::GET_FEATURES, ioctls::SET_FEATURES), (0x8008_af00, 0x4008_af00));
        assert_eq!((ioctls::SET_OWNER, ioctls::SET_MEM_TABLE), (0xaf01, 0x4008_af03));
        assert_eq!((ioctls::SET_VRING_NUM, ioctls::SET_VRING_ADDR), (0x4008_af10, 0x4028_af11));
        assert_eq!((ioctls::SET_VRING_BASE, ioctls::GET_VRING_BASE), (0x4008_af12, 0xc008_af12));
        assert_eq!((ioctls::SET_VRING_KICK, ioctls::SET_VRING_ERR), (0x4008_af20, 0x4008_af22));
        assert_eq!(ioctls::NET_SET_BACKEND, 0x4008_af30);
        assert_eq!(size_of::<Memory>(), 8 + 32 * MAX_REGIONS);
    }

    #[test]
    fn a_file_that_is_something_else_is_refused() {
        let file = File::open("/dev/null").unwrap();
        assert_eq!(VhostNet::new(file).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }
}
