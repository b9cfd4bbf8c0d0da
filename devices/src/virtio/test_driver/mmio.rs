//! A device behind virtio-mmio registers, as a driver finds it.
#![allow(clippy::cast_possible_truncation)] // Sizes chosen by the test.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use vmm_sys_util::eventfd::EventFd;

use super::{DriverQueue, MEMORY};
use crate::bus::BusDevice;
use crate::interrupt::InterruptLine;
use crate::memory::{self, GuestMemory};
use crate::virtio::device::VirtioDevice;
use crate::virtio::transport::mmio::{Mmio, MmioInterrupt, QUEUE_NOTIFY};
use crate::virtio::transport::{Core, Doorbells, Notifications, feature, status};

/// An interrupt line whose edges are counted.
#[derive(Debug, Default)]
pub struct Line(AtomicU32);

impl Line {
    /// Edges so far.
    pub fn edges(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

impl InterruptLine for Line {
    fn trigger(&self) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// The queues whose doorbells KVM would ring.
#[derive(Debug, Default)]
pub struct Connected(Mutex<Vec<u16>>);

impl Connected {
    /// Their numbers, in the order they were connected in.
    pub fn queues(&self) -> Vec<u16> {
        self.0.lock().unwrap().clone()
    }
}

impl Doorbells for Arc<Connected> {
    fn connect(&self, index: u16, _: &EventFd) -> io::Result<()> {
        let mut queues = self.0.lock().unwrap();
        assert!(!queues.contains(&index), "connected twice");
        queues.push(index);
        Ok(())
    }

    fn disconnect(&self, index: u16, _: &EventFd) -> io::Result<()> {
        let mut queues = self.0.lock().unwrap();
        let at = queues.iter().position(|queue| *queue == index).expect("connected");
        queues.remove(at);
        Ok(())
    }
}

/// A device, its registers, and RAM of [`MEMORY`] bytes from address 0.
pub struct MmioDevice {
    /// The registers.
    pub mmio: Mmio,
    /// Guest RAM.
    pub memory: Arc<GuestMemory>,
    /// The device's interrupt.
    pub line: Arc<Line>,
    /// The doorbells.
    pub connected: Arc<Connected>,
    core: Arc<Mutex<Core>>,
}

impl MmioDevice {
    /// `device` after its reset, with RAM of its own.
    pub fn new(device: impl VirtioDevice + 'static) -> Self {
        Self::with_memory(device, Arc::new(memory::anonymous(&[(0, MEMORY)])))
    }

    /// `device` after its reset.
    pub fn with_memory(device: impl VirtioDevice + 'static, memory: Arc<GuestMemory>) -> Self {
        let (line, connected) = (Arc::<Line>::default(), Arc::<Connected>::default());
        let notifications = Arc::<Notifications>::default();
        let interrupt = Arc::new(MmioInterrupt::new(line.clone(), Arc::clone(&notifications)));
        let doorbells = Box::new(Arc::clone(&connected));
        let ram = Arc::clone(&memory);
        let core = Core::new(Box::new(device), ram, interrupt.clone(), notifications, doorbells);
        let core = Arc::new(Mutex::new(core.unwrap()));
        Self { mmio: Mmio::new(Arc::clone(&core), interrupt), memory, line, connected, core }
    }

    /// The state machine, for what the host does with it.
    pub fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap()
    }

    /// Reads a register.
    pub fn read(&mut self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.mmio.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Writes a register.
    pub fn write(&mut self, offset: u64, value: u32) {
        assert!(self.mmio.write(offset, &value.to_le_bytes()).is_none());
    }

    /// Device status.
    pub fn status(&mut self) -> u8 {
        self.read(0x70) as u8
    }

    /// Adds bits to the device status, and reads it back.
    pub fn add_status(&mut self, bits: u8) -> u8 {
        let value = self.status() | bits;
        self.write(0x70, value.into());
        self.status()
    }

    /// Resets the device and negotiates those of `features` that it offers; whether it agreed.
    pub fn negotiate(&mut self, features: u64) -> bool {
        self.write(0x70, 0);
        assert_eq!(self.status(), 0);
        self.add_status(status::ACKNOWLEDGE | status::DRIVER);
        for (word, shift) in [(0, 0), (1, 32)] {
            self.write(0x14, word);
            let offered = self.read(0x10);
            self.write(0x24, word);
            self.write(0x20, offered & (features >> shift) as u32);
        }
        self.add_status(status::FEATURES_OK) & status::FEATURES_OK != 0
    }

    /// The driver's side of queue `index`, of the largest size.
    pub fn queue(&mut self, index: u16) -> DriverQueue {
        self.write(0x30, index.into());
        let size = self.read(0x34) as u16;
        let event_idx = self.core().negotiated(feature::EVENT_IDX);
        DriverQueue::new(&self.memory, index, size, event_idx)
    }

    /// Tells the device of a queue and enables it.
    pub fn enable(&mut self, queue: &DriverQueue) {
        self.write(0x30, queue.index.into());
        self.write(0x38, queue.size.into());
        let rings =
            [(0x80, queue.descriptors()), (0x90, queue.available()), (0xa0, queue.used_ring())];
        for (register, address) in rings {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(0x44, 1);
    }

    /// Rings the doorbell of queue `index`.
    pub fn kick(&mut self, index: u16) {
        self.write(QUEUE_NOTIFY, index.into());
    }

    /// Does all a driver does up to DRIVER_OK: its side of all queues.
    #[track_caller]
    pub fn start(&mut self, features: u64) -> Vec<DriverQueue> {
        assert!(self.negotiate(features));
        let count = self.core().queue_count();
        let queues: Vec<_> = (0..count).map(|index| self.queue(index)).collect();
        queues.iter().for_each(|queue| self.enable(queue));
        assert_eq!(self.add_status(status::DRIVER_OK), 15);
        queues
    }
}
