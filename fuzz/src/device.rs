//! A virtio device behind queues, without a transport: a driver that speaks its protocol more or less well,
//! damages its own rings now and then, and a host that does what hosts do meanwhile.

use std::fmt::Debug;
use std::sync::Arc;

use devices::memory::anonymous;
use devices::virtio::VirtioDevice;
use devices::virtio::test_driver::{Driver, DriverQueue, MEMORY, Part};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use vm_memory::{Bytes, GuestAddress};

use crate::rings::{Address, Descriptor};

/// Most steps of one run.
const STEPS: usize = 64;
/// Rounds a step waits for the device's thread.
const PATIENCE: usize = 1000;

/// The host of a device, and what its guest asks for.
pub trait Host {
    /// The device.
    type Device: VirtioDevice;
    /// What a driver asks.
    type Request: for<'a> Arbitrary<'a> + Debug + Clone;
    /// What the host does.
    type Action: for<'a> Arbitrary<'a> + Debug + Clone;

    /// A host with nothing going on.
    fn new() -> Self;

    /// A fresh device of this host's.
    fn device(&self) -> Self::Device;

    /// The number of a queue, and the buffers to put there.
    fn request(&mut self, request: &Self::Request) -> (usize, Vec<Part>);

    /// Does it.
    fn act(&mut self, action: &Self::Action);
}

/// What the guest, or the host, does.
#[derive(Arbitrary, Clone, Debug)]
#[allow(missing_docs)]
pub enum Step<R, A> {
    /// A request, in an indirect table from the nth buffer on, if it is to be.
    Request {
        request: R,
        indirect: Option<u8>,
        kick: bool,
    },
    /// The host does something.
    Host(A),
    /// Waits for the device to have looked at everything.
    Wait,
    /// Accesses to the configuration space.
    ReadConfig {
        offset: u8,
        len: u8,
    },
    WriteConfig {
        offset: u8,
        len: u8,
        bytes: [u8; 8],
    },
    /// A buffer of any kind on any queue.
    Bytes {
        queue: u8,
        bytes: Vec<u8>,
    },
    Room {
        queue: u8,
        len: u16,
    },
    /// Damage.
    Descriptor {
        queue: u8,
        index: u8,
        descriptor: Descriptor,
    },
    Head {
        queue: u8,
        head: u8,
    },
    AvailIndex {
        queue: u8,
        index: u16,
    },
    Memory {
        address: Address,
        bytes: Vec<u8>,
    },
    /// The machine stops and goes on.
    Pause,
    Restore,
}

/// A run: features of the driver's choice, and steps.
#[derive(Arbitrary, Clone, Debug)]
#[allow(missing_docs)]
pub struct Input<R, A> {
    pub features: u64,
    pub all_features: bool,
    pub steps: Vec<Step<R, A>>,
}

/// Does all of it. The device must neither panic nor hang, and give back its queues in the end.
pub fn run<H: Host>(input: &Input<H::Request, H::Action>) {
    let mut host = H::new();
    let memory = Arc::new(anonymous(&[(0, MEMORY)]));
    let features = if input.all_features { u64::MAX } else { input.features };
    let mut driver = Driver::with_memory(host.device(), features, memory);
    for step in input.steps.iter().take(STEPS) {
        apply(&mut host, &mut driver, step);
    }
    let count = driver.queues.len();
    assert_eq!(
        driver.device.quiesce().len(),
        count,
        "queues were lost: the device's thread panicked"
    );
    driver.device.reset();
}

fn apply<H: Host>(
    host: &mut H,
    driver: &mut Driver<H::Device>,
    step: &Step<H::Request, H::Action>,
) {
    let count = driver.queues.len();
    let queue = |number: u8| usize::from(number) % count;
    match step {
        Step::Request { request, indirect, kick } => {
            let (number, parts) = host.request(request);
            let queue = &mut driver.queues[number % count];
            match indirect {
                Some(direct) => {
                    // Room for what the table is described by.
                    let direct = usize::from(*direct) % (parts.len() + 1);
                    if direct < parts.len() {
                        queue.post_indirect(direct, &parts);
                    }
                }
                None => drop(queue.post(&parts)),
            }
            if *kick {
                queue.kick();
            }
        }
        Step::Host(action) => host.act(action),
        Step::Wait => {
            driver.queues.iter().for_each(|queue| queue.kick());
            for _ in 0..PATIENCE {
                std::thread::yield_now();
            }
        }
        Step::ReadConfig { offset, len } => {
            driver.device.read_config((*offset).into(), &mut vec![0; usize::from(len % 9)]);
        }
        Step::WriteConfig { offset, len, bytes } => {
            driver.device.write_config((*offset).into(), &bytes[..usize::from(len % 9)]);
        }
        Step::Bytes { queue: number, bytes } => {
            post(&mut driver.queues[queue(*number)], Part::Out(bytes.clone()));
        }
        Step::Room { queue: number, len } => {
            post(&mut driver.queues[queue(*number)], Part::In((*len).into()));
        }
        Step::Descriptor { queue: number, index, descriptor } => {
            let table = driver.queues[queue(*number)].descriptors();
            descriptor.write(&driver.memory, table, *index);
        }
        Step::Head { queue: number, head } => {
            let queue = &mut driver.queues[queue(*number)];
            queue.make_available((*head).into());
            queue.kick();
        }
        Step::AvailIndex { queue: number, index } => {
            let queue = &mut driver.queues[queue(*number)];
            queue.set_avail_index(*index);
            queue.kick();
        }
        Step::Memory { address, bytes } => {
            let _ = driver.memory.write_slice(bytes, GuestAddress(address.0));
        }
        Step::Pause => driver.pause_and_resume(),
        Step::Restore => driver.save_and_restore(host.device()),
    }
}

/// Posts a buffer and rings.
fn post(queue: &mut DriverQueue, part: Part) {
    queue.post(&[part]);
    queue.kick();
}

/// A fuzz target of a device: its host.
#[macro_export]
macro_rules! virtio_queues {
    ($host:ty) => {
        ::libfuzzer_sys::fuzz_target!(|input: $crate::device::Input<
            <$host as $crate::device::Host>::Request,
            <$host as $crate::device::Host>::Action,
        >| {
            $crate::device::run::<$host>(&input);
        });
    };
}
