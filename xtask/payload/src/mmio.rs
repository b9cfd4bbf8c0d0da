//! Finding a virtio device on the MMIO transport and setting it up (virtio 1.3, 4.2).

use crate::queue::Queue;

const MAGIC: u32 = 0x7472_6976;
const MAGIC_VALUE: usize = 0x00;
const VERSION: usize = 0x04;
const DEVICE_ID: usize = 0x08;
const DEVICE_FEATURES: usize = 0x10;
const DEVICE_FEATURES_SEL: usize = 0x14;
const DRIVER_FEATURES: usize = 0x20;
const DRIVER_FEATURES_SEL: usize = 0x24;
const QUEUE_SEL: usize = 0x30;
const QUEUE_NUM_MAX: usize = 0x34;
const QUEUE_NUM: usize = 0x38;
const QUEUE_READY: usize = 0x44;
const QUEUE_NOTIFY: usize = 0x50;
const STATUS: usize = 0x70;
const QUEUE_DESC: usize = 0x80;
const QUEUE_DRIVER: usize = 0x90;
const QUEUE_DEVICE: usize = 0xa0;
const CONFIG: usize = 0x100;

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;

/// Where windows are: Carve's, and those of QEMU's microvm.
const WINDOWS: [(usize, usize, usize); 2] = [(0xc000_0000, 0x1000, 8), (0xfeb0_0000, 0x200, 24)];

/// Feature: the rings' event indices.
pub const EVENT_IDX: u64 = 1 << 29;
/// Feature: not the protocol from before version 1.
pub const VERSION_1: u64 = 1 << 32;

/// The registers of one device.
#[derive(Clone, Copy)]
pub struct Device {
    base: usize,
}

impl Device {
    /// The first device of type `id`.
    pub fn find(id: u32) -> Result<Self, &'static str> {
        WINDOWS
            .iter()
            .flat_map(|&(start, step, count)| {
                (0..count).map(move |index| Self { base: start + index * step })
            })
            .find(|device| {
                device.get(MAGIC_VALUE) == MAGIC
                    && device.get(VERSION) == 2
                    && device.get(DEVICE_ID) == id
            })
            .ok_or("there is no such device")
    }

    /// Resets it and agrees on those of `wanted` features that it has; which.
    pub fn negotiate(&self, wanted: u64) -> Result<u64, &'static str> {
        self.set(STATUS, 0);
        self.set(STATUS, ACKNOWLEDGE);
        self.set(STATUS, ACKNOWLEDGE | DRIVER);
        let half = |number: u32| {
            self.set(DEVICE_FEATURES_SEL, number);
            u64::from(self.get(DEVICE_FEATURES))
        };
        let features = (half(0) | half(1) << 32) & wanted;
        for (number, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.set(DRIVER_FEATURES_SEL, number);
            self.set(DRIVER_FEATURES, half);
        }
        self.set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if self.get(STATUS) & FEATURES_OK == 0 {
            return Err("the device does not take the features");
        }
        Ok(features)
    }

    /// Sets queue `index` up with `size` entries in `memory`.
    pub fn queue(
        &self,
        index: u16,
        size: u16,
        memory: usize,
        features: u64,
    ) -> Result<Queue, &'static str> {
        self.set(QUEUE_SEL, index.into());
        if self.get(QUEUE_NUM_MAX) < size.into() {
            return Err("the queue is too small");
        }
        self.set(QUEUE_NUM, size.into());
        let notify = (self.base + QUEUE_NOTIFY) as *mut u32;
        let queue = Queue::new(index, size, memory, notify, features & EVENT_IDX != 0);
        let [desc, driver, device] = queue.addresses();
        for (register, address) in
            [(QUEUE_DESC, desc), (QUEUE_DRIVER, driver), (QUEUE_DEVICE, device)]
        {
            self.set(register, address as u32);
            self.set(register + 4, (address >> 32) as u32);
        }
        self.set(QUEUE_READY, 1);
        Ok(queue)
    }

    /// Makes the device work.
    pub fn start(&self) {
        self.set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// 64 bits of the device's configuration, at `offset`.
    pub fn config_u64(&self, offset: usize) -> u64 {
        u64::from(self.get(CONFIG + offset)) | u64::from(self.get(CONFIG + offset + 4)) << 32
    }

    fn get(&self, register: usize) -> u32 {
        // SAFETY: device memory, or none, which reads as ones.
        u32::from_le(unsafe { ((self.base + register) as *const u32).read_volatile() })
    }

    fn set(&self, register: usize, value: u32) {
        // SAFETY: device memory.
        unsafe { ((self.base + register) as *mut u32).write_volatile(value.to_le()) };
    }
}
