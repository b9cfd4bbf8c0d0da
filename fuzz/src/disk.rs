//! Disks in memory.

use std::fs::File;
use std::sync::Arc;

use devices::virtio::block::backend::{Raw, RawOptions};
use devices::virtio::block::{Block, Properties};
use rustix::fs::{MemfdFlags, memfd_create};

/// Size of each in bytes.
pub const SIZE: u64 = 1 << 20;

/// A file of so many zeros.
pub fn file(len: u64) -> File {
    let file = File::from(memfd_create("disk", MemfdFlags::CLOEXEC).expect("a memfd"));
    file.set_len(len).expect("memory");
    file
}

/// A disk of [`SIZE`] zeros with so many queues.
pub fn fresh(queues: u16) -> Block {
    let storage = Raw::new(file(SIZE), RawOptions::default()).expect("a disk");
    let properties = Properties { queues, queue_size: 64, ..Properties::default() };
    Block::new(Arc::new(storage), properties).expect("a device")
}
