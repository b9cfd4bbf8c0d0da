//! The entropy device (virtio 1.3, 5.4): random bytes from the host's kernel.

mod worker;

use std::io;

use super::device::{Activation, DeviceId, VirtioDevice};
use super::queue::Queue;
use super::worker::Worker;
use crate::thread::Role;

use self::worker::Entropy;

const QUEUE_SIZES: [u16; 1] = [64];

/// An entropy device.
#[derive(Debug, Default)]
pub struct Rng {
    worker: Option<Worker<Entropy>>,
}

impl VirtioDevice for Rng {
    fn id(&self) -> DeviceId {
        DeviceId::Entropy
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, mut activation: Activation) -> io::Result<()> {
        if let Some(queue) = activation.take_queue(0) {
            self.worker = Some(Worker::start(Role::Rng, "rng".to_owned(), Entropy::new(queue))?);
        }
        Ok(())
    }

    fn quiesce(&mut self) -> Vec<Queue> {
        let handler = self.worker.take().and_then(Worker::stop);
        handler.map(Entropy::into_queue).into_iter().collect()
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
#[path = "rng_test.rs"]
mod rng_test;
