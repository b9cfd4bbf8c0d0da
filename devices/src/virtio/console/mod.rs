//! The console device (virtio 1.3, 5.3): streams of bytes between the guest and the host. Port 0 is
//! usually a console, `/dev/hvc0` in Linux; further ports have names, under which the guest finds
//! them in `/dev/virtio-ports/`.
//!
//! A single console without a name is offered without VIRTIO_CONSOLE_F_MULTIPORT: that is less to
//! agree on, and its size then travels in the configuration space, which every driver reads alike.
//!
//! # Where output goes when nobody takes it
//!
//! A reader that is there and slow stops the port's queue, and thereby the guest; nothing is lost and
//! nothing grows. When nobody is there (a socket without client, a pseudo-terminal that nobody has
//! open, a pipe whose reader has gone) output is dropped, as on a serial line. Stopping the device
//! waits up to a second for slow readers, and a pause not at all; what they have not taken by then the
//! guest still holds, and it is sent when the device carries on.

mod control;
mod host;
mod port;
mod stream;
mod worker;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use super::device::{Activation, DeviceId, RestoreError, VirtioDevice, read_config};
use super::queue::Queue;
use super::worker::Worker;
use crate::thread::Role;

use self::control::{MAX_NAME, Size};
pub use self::host::BackEnd;
pub use self::port::Port;
use self::port::{GuestSide, PortInUse};
use self::worker::Serving;

/// Device feature bits (virtio 1.3, 5.3.3).
pub mod feature {
    /// Columns and rows are valid.
    pub const SIZE: u64 = 1 << 0;
    /// There are control queues, and there may be more than one port.
    pub const MULTIPORT: u64 = 1 << 1;
    /// Single characters can be written without a queue.
    pub const EMERG_WRITE: u64 = 1 << 2;
}

/// Most ports of a device.
pub const MAX_PORTS: usize = 16;

const DATA_SIZE: u16 = 64;
const CONTROL_SIZE: u16 = 32;

/// Where `emerg_wr` is in the configuration space (5.3.4).
const EMERGENCY: u64 = 8;
/// Emergency characters that wait to be written; more are dropped.
const EMERGENCY_ROOM: usize = 4096;

/// What the host tells a console while it runs. One handle serves all the devices of a machine's
/// life, one after the other.
#[derive(Debug)]
pub struct Handle {
    /// Rows in the upper half, columns in the lower; 0: unknown.
    size: AtomicU32,
    /// The driver has not been told of the size.
    news: AtomicBool,
    /// Slow readers are not waited for when the device is stopped: it carries on soon.
    pausing: AtomicBool,
    emergency: Mutex<Vec<u8>>,
    wake: EventFd,
}

impl Handle {
    /// The handle of a console whose size is unknown.
    ///
    /// # Errors
    ///
    /// The host has no more descriptors.
    pub fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            size: AtomicU32::new(0),
            news: AtomicBool::new(false),
            pausing: AtomicBool::new(false),
            emergency: Mutex::default(),
            wake: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        }))
    }

    /// The terminal has so many columns and rows now; 0 and 0: unknown. The guest's consoles follow.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = u32::from(rows) << 16 | u32::from(columns);
        if self.size.swap(size, Ordering::AcqRel) != size {
            self.news.store(true, Ordering::Release);
            // The counter cannot overflow: the worker empties it.
            let _ = self.wake.write(1);
        }
    }

    fn size(&self) -> Option<Size> {
        let size = self.size.load(Ordering::Acquire);
        let [a, b, c, d] = size.to_le_bytes();
        (size != 0).then_some((u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])))
    }

    /// Whether the driver is to be told of the size; only once.
    fn take_news(&self) -> bool {
        self.news.swap(false, Ordering::AcqRel)
    }

    fn add_emergency(&self, byte: u8) {
        let mut waiting = self.emergency.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < EMERGENCY_ROOM {
            waiting.push(byte);
            let _ = self.wake.write(1);
        }
    }

    fn take_emergency(&self, write: impl FnMut(u8)) {
        self.emergency.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(write);
    }
}

/// Why a console cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// None, or more than [`MAX_PORTS`].
    #[error("a console device has 1 to {MAX_PORTS} ports, not {0}; give them to several devices")]
    Ports(usize),
    /// A name the control messages have no room for.
    #[error("the port name `{0}` is empty or longer than {MAX_NAME} bytes; use a shorter one")]
    Name(String),
}

/// What is saved of a console.
#[derive(Serialize, Deserialize)]
struct State {
    ports: Vec<GuestSide>,
}

/// A console device.
#[derive(Debug)]
pub struct Console {
    queue_sizes: Vec<u16>,
    multiport: bool,
    port_count: u32,
    handle: Arc<Handle>,
    /// While no worker has them.
    ports: Vec<PortInUse>,
    worker: Option<Worker<Serving>>,
}

impl Console {
    /// A device of `ports`, numbered in this order.
    ///
    /// # Errors
    ///
    /// [`Error`]
    pub fn new(ports: Vec<Port>, handle: Arc<Handle>) -> Result<Self, Error> {
        if ports.is_empty() || ports.len() > MAX_PORTS {
            return Err(Error::Ports(ports.len()));
        }
        let unusable = |name: &&String| name.is_empty() || name.len() > MAX_NAME;
        if let Some(name) = ports.iter().filter_map(|port| port.name.as_ref()).find(unusable) {
            return Err(Error::Name(name.clone()));
        }
        let multiport =
            ports.len() > 1 || ports.iter().any(|port| port.name.is_some() || !port.console);
        let mut queue_sizes = vec![DATA_SIZE; 2];
        if multiport {
            queue_sizes.extend([CONTROL_SIZE; 2]);
            queue_sizes.extend(std::iter::repeat_n(DATA_SIZE, 2 * (ports.len() - 1)));
        }
        let port_count = u32::try_from(ports.len()).unwrap_or(0);
        let ports = ports.into_iter().map(PortInUse::new).collect();
        handle.news.store(handle.size().is_some(), Ordering::Release);
        Ok(Self { queue_sizes, multiport, port_count, handle, ports, worker: None })
    }
}

impl VirtioDevice for Console {
    fn id(&self) -> DeviceId {
        DeviceId::Console
    }

    fn features(&self) -> u64 {
        let multiport = if self.multiport { feature::MULTIPORT } else { 0 };
        feature::SIZE | feature::EMERG_WRITE | multiport
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let (columns, rows) = self.handle.size().unwrap_or_default();
        let mut space = [0; 12];
        space[..2].copy_from_slice(&columns.to_le_bytes());
        space[2..4].copy_from_slice(&rows.to_le_bytes());
        space[4..8].copy_from_slice(&self.port_count.to_le_bytes());
        read_config(&space, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let (EMERGENCY, Some(&byte)) = (offset, data.first()) else { return };
        if self.worker.is_some() {
            self.handle.add_emergency(byte);
        } else if let Some(port) = self.ports.first_mut() {
            port.host.write_byte(byte);
        }
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let ports = std::mem::take(&mut self.ports);
        if ports.is_empty() {
            return Err(io::Error::other("the ports were lost with an earlier thread"));
        }
        let serving = Serving::new(ports, activation, Arc::clone(&self.handle))?;
        self.worker =
            Some(Worker::start(Role::VirtioConsole, "virtio-console".to_owned(), serving)?);
        Ok(())
    }

    fn quiesce(&mut self) -> Vec<Queue> {
        let Some(serving) = self.worker.take().and_then(Worker::stop) else { return Vec::new() };
        let (ports, queues) = serving.into_parts();
        self.ports = ports;
        queues
    }

    fn pause(&mut self) -> Vec<Queue> {
        self.handle.pausing.store(true, Ordering::Release);
        let queues = self.quiesce();
        self.handle.pausing.store(false, Ordering::Release);
        queues
    }

    fn reset(&mut self) {
        for port in &mut self.ports {
            port.guest = GuestSide::default();
        }
        self.handle.news.store(self.handle.size().is_some(), Ordering::Release);
    }

    fn save(&self) -> Vec<u8> {
        let ports = self.ports.iter().map(|port| port.guest).collect();
        // Flags and numbers always make bytes.
        postcard::to_allocvec(&State { ports }).unwrap_or_default()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        let refuse = |reason| RestoreError { device: "console", reason };
        let state: State =
            postcard::from_bytes(state).map_err(|error| refuse(error.to_string()))?;
        if state.ports.len() != self.ports.len() {
            let (saved, here) = (state.ports.len(), self.ports.len());
            return Err(refuse(format!("it has {saved} ports, and the device {here}")));
        }
        for (port, saved) in self.ports.iter_mut().zip(state.ports) {
            port.guest = saved;
            port.told_departures = port.host.departures();
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "console_test.rs"]
mod console_test;
