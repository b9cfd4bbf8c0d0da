//! A virtio device behind virtio-mmio registers, and any sequence of accesses to them by a driver that
//! writes to its memory in between.

use std::sync::Arc;

use devices::bus::BusDevice;
use devices::memory::anonymous;
use devices::virtio::VirtioDevice;
use devices::virtio::test_driver::mmio::MmioDevice;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use vm_memory::{Bytes, GuestAddress};

use crate::MEMORY;
use crate::rings::{Address, Descriptor};

/// Rings of queue `n` are `n << 16` further.
const DESCRIPTORS: u64 = 0x10_0000;
const AVAILABLE: u64 = DESCRIPTORS + 0x8000;

/// What the guest, or the host, does.
#[derive(Arbitrary, Clone, Debug)]
#[allow(missing_docs)]
pub enum Step {
    /// Reads at an offset in the window, of this many bytes up to 8.
    Read { offset: u16, len: u8 },
    /// Writes the first bytes, up to 8.
    Write { offset: u16, len: u8, bytes: [u8; 8] },
    /// Writes a register as it is meant to be written.
    Register { number: u8, value: u8 },
    /// Does all a decent driver does to start, with features of its choice.
    Start { features: u64 },
    /// Writes a descriptor of a queue.
    Descriptor { queue: u8, index: u8, descriptor: Descriptor },
    /// Puts a head on the available ring and rings.
    Post { queue: u8, head: u8, ahead: u8 },
    /// Writes anywhere.
    Memory { address: Address, bytes: Vec<u8> },
    /// The host pauses and resumes the device.
    Pause,
    /// The host saves the device and restores it to another.
    Restore,
}

/// Does all of it. Must neither panic nor hang, and end with a device that a reset brings back.
pub fn run<D: VirtioDevice + 'static>(fresh: impl Fn() -> D, steps: &[Step]) {
    let memory = Arc::new(anonymous(&[(0, MEMORY)]));
    let mut guest = MmioDevice::with_memory(fresh(), memory);
    for step in steps.iter().take(64) {
        match step {
            Step::Read { offset, len } => {
                guest.mmio.read(u64::from(*offset), &mut vec![0; usize::from(len % 9)]);
            }
            Step::Write { offset, len, bytes } => {
                guest.mmio.write(u64::from(*offset), &bytes[..usize::from(len % 9)]);
            }
            Step::Register { number, value } => {
                guest.write(u64::from(number % 64) * 4, (*value).into())
            }
            Step::Start { features } => drop(guest.start(features | 1 << 32)),
            Step::Descriptor { queue, index, descriptor } => {
                let table = DESCRIPTORS + (u64::from(queue % 4) << 16);
                descriptor.write(&guest.memory, table, *index);
            }
            Step::Post { queue, head, ahead } => post(&mut guest, queue % 4, *head, *ahead),
            Step::Memory { address, bytes } => {
                let _ = guest.memory.write_slice(bytes, GuestAddress(address.0));
            }
            Step::Pause => {
                guest.core().suspend();
                guest.core().resume();
            }
            Step::Restore => guest = restore(guest, fresh()),
        }
        let status = guest.status();
        assert!(status & 0x30 == 0 && (status & 4 == 0 || status & 8 != 0));
    }
    assert!(guest.negotiate(u64::MAX), "a reset does not bring it back");
}

fn restore<D: VirtioDevice + 'static>(guest: MmioDevice, fresh: D) -> MmioDevice {
    guest.core().suspend();
    let state = guest.core().save();
    let restored = MmioDevice::with_memory(fresh, Arc::clone(&guest.memory));
    // Rings may have become nonsense by now, but not the set-up.
    restored.core().restore(&state).expect("its own state");
    restored.core().resume();
    restored
}

/// Puts `head` in all slots of the available ring of a queue, as though `ahead` more were available.
fn post(guest: &mut MmioDevice, queue: u8, head: u8, ahead: u8) {
    let ring = AVAILABLE + (u64::from(queue) << 16);
    for slot in 0..64 {
        let _ = guest.memory.write_obj(u16::from(head), GuestAddress(ring + 4 + 2 * slot));
    }
    let index: u16 = guest.memory.read_obj(GuestAddress(ring + 2)).unwrap_or(0);
    let _ = guest.memory.write_obj(index.wrapping_add(ahead.into()), GuestAddress(ring + 2));
    guest.kick(queue.into());
}
