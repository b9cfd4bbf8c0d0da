//! A network device whose queues another serves, from its driver's side. The kernel is the test: it takes
//! chains off the queues it was given when it is told to.

use std::sync::{Arc, Mutex};

use super::super::net_test::*;
use super::super::{Backend, Net, Port, features, net_test};
use super::*;
use crate::mutex::lock;
use crate::virtio::device::{Activation, VirtioDevice};
use crate::virtio::interrupt::{Caller, Interrupt};
use crate::virtio::test_driver::{Driver, Part, wait};

/// Interrupts by an eventfd.
struct ByCall(Mutex<EventFd>);

impl Interrupt for ByCall {
    fn signal_queue(&self, _: u16) {
        lock(&self.0).write(1).unwrap();
    }

    fn signal_config(&self) {}

    fn signal_needs_reset(&self) {}
}

#[derive(Debug)]
struct Served {
    queue: Queue,
    error: EventFd,
}

#[derive(Debug, Default)]
struct Kernel {
    served: Mutex<[Option<Served>; 2]>,
    calls: Mutex<[Option<Arc<ByCall>>; 2]>,
    features: Mutex<Option<u64>>,
    refuses: bool,
}

impl std::fmt::Debug for ByCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ByCall")
    }
}

impl Kernel {
    fn serves(&self) -> [bool; 2] {
        let served = lock(&self.served);
        [served[0].is_some(), served[1].is_some()]
    }

    /// Takes a chain off a queue, if there is one, and answers with `bytes`; what the driver wrote.
    fn answer(&self, direction: Direction, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut served = lock(&self.served);
        let queue = &mut served[direction as usize].as_mut()?.queue;
        let mut chain = queue.chain();
        if !queue.pop(&mut chain).unwrap() {
            return None;
        }
        let mut read = vec![0; chain.readable_len()];
        chain.read(0, &mut read).unwrap();
        if !bytes.is_empty() {
            chain.write(0, bytes).unwrap();
        }
        queue.push(chain.head(), u32::try_from(bytes.len()).unwrap());
        queue.signal();
        Some(read)
    }

    fn receive(&self, frame: &[u8]) -> bool {
        let mut header = [0; super::super::header::LEN];
        header[10] = 1;
        self.answer(Direction::Receive, &[&header, frame].concat()).is_some()
    }
}

impl Vhost for Kernel {
    fn prepare(&self, _: &GuestMemory, features: u64) -> io::Result<()> {
        assert_eq!(self.serves(), [false; 2]);
        *lock(&self.features) = Some(features);
        if self.refuses { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) }
    }

    fn start(&self, direction: Direction, ends: &Ends<'_>) -> io::Result<()> {
        let at = direction as usize;
        let call = Arc::new(ByCall(Mutex::new(ends.call.try_clone()?)));
        let queue = ends.queue;
        assert_eq!(queue.index(), direction as u16);
        let (memory, doorbell) = (Arc::clone(queue.memory()), Arc::clone(queue.doorbell()));
        let queue = Queue::new(queue.index(), &queue.state(), memory, doorbell, call.clone());
        let served = Served { queue: queue.unwrap(), error: ends.error.try_clone()? };
        assert!(lock(&self.served)[at].replace(served).is_none());
        lock(&self.calls)[at] = Some(call);
        Ok(())
    }

    fn set_call(&self, direction: Direction, call: &EventFd) -> io::Result<()> {
        let calls = lock(&self.calls);
        *lock(&calls[direction as usize].as_ref().unwrap().0) = call.try_clone()?;
        Ok(())
    }

    fn stop(&self, direction: Direction) -> io::Result<u16> {
        let served = lock(&self.served)[direction as usize].take();
        served.map(|served| served.queue.next_avail()).ok_or(io::ErrorKind::NotFound.into())
    }
}

/// A cable whose queues a kernel serves.
#[derive(Debug)]
struct Accelerated(Arc<dyn Backend>, Arc<Kernel>);

impl Backend for Accelerated {
    fn pairs(&self) -> u16 {
        self.0.pairs()
    }

    fn has_offloads(&self) -> bool {
        self.0.has_offloads()
    }

    fn port(&self, pair: u16) -> io::Result<Box<dyn Port>> {
        self.0.port(pair)
    }

    fn vhost(&self, _: u16) -> Option<Arc<dyn Vhost>> {
        Some(self.1.clone())
    }

    fn set_offloads(&self, offloads: u64) -> io::Result<()> {
        self.0.set_offloads(offloads)
    }

    fn use_pairs(&self, count: u16) -> io::Result<()> {
        self.0.use_pairs(count)
    }
}

/// A driver, the kernel that serves its device, and who has the other end of the cable.
fn driver_on(kernel: Kernel) -> (Driver<Net>, Arc<Kernel>, Peer) {
    let kernel = Arc::new(kernel);
    let (cable, peer) = cable();
    let backend = Arc::new(Accelerated(cable, Arc::clone(&kernel)));
    (Driver::new(Net::new(backend, options()), u64::MAX), kernel, peer)
}

fn driver() -> (Driver<Net>, Arc<Kernel>, Peer) {
    let (driver, kernel, peer) = driver_on(Kernel::default());
    wait("the kernel serves", || kernel.serves() == [true; 2]);
    (driver, kernel, peer)
}

#[test]
fn the_kernel_serves_both_queues_and_its_interrupts_reach_the_driver() {
    let (mut driver, kernel, _peer) = driver();
    let features = lock(&kernel.features).unwrap();
    assert_eq!(features & FEATURES, FEATURES);
    post_buffers(&mut driver, 4);
    let inwards = frame(MAC, 1, 200);
    assert!(kernel.receive(&inwards));
    assert_eq!(received(&mut driver), inwards);
    wait("its interrupt", || driver.signals.queues() == 1);
    let out = frame(OTHER, 2, 60);
    driver.queues[TX].post(&[outgoing(&out)]);
    let sent = kernel.answer(Direction::Transmit, &[]).unwrap();
    assert_eq!(sent[super::super::header::LEN..], out);
    driver.queues[TX].wait_used();
    wait("its interrupt", || driver.signals.queues() == 2);
    // The control queue stays with the device.
    assert_eq!(command(&mut driver, 0, 0, &[1]), 0);
}

#[test]
fn pauses_take_the_queues_from_the_kernel_and_give_them_back_as_they_were() {
    let (mut driver, kernel, _peer) = driver();
    post_buffers(&mut driver, 40);
    for round in 0..20 {
        let frames = [frame(MAC, round, 60), frame(MAC, round + 1, 70)];
        frames.iter().for_each(|frame| assert!(kernel.receive(frame)));
        driver.queues[TX].post(&[outgoing(&frame(OTHER, round, 60))]);
        let queues = driver.device.quiesce();
        assert_eq!((kernel.serves(), queues.len()), ([false; 2], 3));
        assert_eq!(queues[RX].state().next_avail, 2 * (u16::try_from(round).unwrap() + 1));
        assert_eq!(queues[TX].state().next_avail, u16::try_from(round).unwrap());
        driver.restart(queues);
        wait("the kernel serves", || kernel.serves() == [true; 2]);
        assert!(frames.iter().all(|frame| received(&mut driver) == *frame));
        assert!(kernel.answer(Direction::Transmit, &[]).is_some());
        assert!(kernel.answer(Direction::Transmit, &[]).is_none(), "sent twice");
        driver.queues[TX].wait_used();
        if round == 0 {
            // What was interrupted for right before the pause is not forgotten.
            assert!(driver.signals.queues() > 0);
        }
    }
    assert!(!driver.signals.needs_reset());
}

#[test]
fn an_unplugged_cable_swallows_frames_here_and_the_kernel_carries_on_behind_them() {
    let (mut driver, kernel, mut peer) = driver();
    let link = Arc::clone(&driver.device.shared.link);
    post_buffers(&mut driver, 4);
    link.set(false);
    wait("the kernel stops", || kernel.serves() == [false; 2]);
    for i in 0..3 {
        driver.queues[TX].request(&[outgoing(&frame(OTHER, i, 60))]);
    }
    peer.send(&frame(MAC, 1, 60));
    wait("the frame is dropped", || counter(&driver, |c| c.filtered) == 1);
    assert_eq!(counter(&driver, |c| c.send_dropped), 3);
    link.set(true);
    wait("the kernel serves", || kernel.serves() == [true; 2]);
    let inwards = frame(MAC, 2, 100);
    assert!(kernel.receive(&inwards));
    assert_eq!(received(&mut driver), inwards);
    assert!(kernel.answer(Direction::Transmit, &[]).is_none());
    driver.queues[TX].post(&[outgoing(&frame(OTHER, 4, 60))]);
    assert!(kernel.answer(Direction::Transmit, &[]).is_some());
}

#[test]
fn what_the_kernel_can_make_nothing_of_makes_the_device_ask_for_a_reset() {
    let (mut driver, kernel, _peer) = driver();
    post_buffers(&mut driver, 1);
    lock(&kernel.served)[0].as_ref().unwrap().error.write(1).unwrap();
    driver.signals.wait_for_reset_request();
    wait("the kernel stops", || kernel.serves() == [false; 2]);
    assert_eq!(driver.device.quiesce().len(), 3);
}

#[test]
fn a_used_ring_that_the_driver_spoilt_makes_the_device_ask_for_a_reset() {
    let (mut driver, kernel, _peer) = driver();
    driver.queues[RX].start_at(77);
    driver.device.quiesce();
    assert!(driver.signals.needs_reset());
    assert_eq!(kernel.serves(), [false; 2]);
}

#[test]
fn a_device_that_is_dropped_takes_the_kernel_off_its_memory() {
    let (driver, kernel, _peer) = driver();
    drop(driver);
    assert_eq!(kernel.serves(), [false; 2]);
}

#[test]
fn where_the_kernel_refuses_frames_pass_all_the_same() {
    let kernel = Kernel { refuses: true, ..Kernel::default() };
    let (mut driver, kernel, mut peer) = driver_on(kernel);
    let out = frame(OTHER, 1, 60);
    assert_eq!(driver.queues[TX].request(&[outgoing(&out)]), []);
    assert_eq!(peer.receive(), out);
    post_buffers(&mut driver, 4);
    peer.send(&frame(MAC, 2, 300));
    assert_eq!(received(&mut driver), frame(MAC, 2, 300));
    assert_eq!(kernel.serves(), [false; 2]);
}

#[test]
fn a_driver_may_leave_queues_out() {
    let (mut driver, kernel, _peer) = driver();
    let mut queues = driver.device.quiesce();
    queues.remove(RX);
    driver.restart(queues);
    wait("the kernel serves one", || kernel.serves() == [false, true]);
    driver.queues[TX].post(&[outgoing(&frame(OTHER, 1, 60))]);
    assert!(kernel.answer(Direction::Transmit, &[]).is_some());
    driver.queues[TX].wait_used();
}

/// Who tells callers of an eventfd.
#[derive(Default)]
struct Straight(Mutex<Option<Arc<dyn Caller>>>);

impl Interrupt for Straight {
    fn signal_queue(&self, _: u16) {}

    fn signal_config(&self) {}

    fn set_caller(&self, index: u16, caller: Option<Arc<dyn Caller>>) {
        if usize::from(index) == RX {
            *lock(&self.0) = caller;
        }
    }

    fn signal_needs_reset(&self) {}
}

#[test]
fn interrupts_go_straight_where_there_is_a_way_and_back_where_there_is_none() {
    let kernel = Arc::new(Kernel::default());
    let straight = Arc::new(Straight::default());
    let (cable, _peer) = cable();
    let mut device = Net::new(Arc::new(Accelerated(cable, Arc::clone(&kernel))), options());
    // Rings and memory are those of a driver that is not at work.
    let mut driver = Driver::new(Net::new(net_test::cable().0, options()), u64::MAX);
    let _ = driver.device.quiesce();
    let interrupt: Arc<dyn Interrupt> = straight.clone();
    let queues = driver.queues[..2].iter();
    let queues = queues.map(|queue| queue.device_side(Arc::clone(&interrupt)).unwrap()).collect();
    let memory = Arc::clone(&driver.memory);
    let features = FEATURES & !features::MRG_RXBUF;
    let activation = Activation { memory, queues, interrupt, features };
    device.activate(activation).unwrap();
    wait("the kernel is ready to be told", || lock(&straight.0).is_some());
    let caller = lock(&straight.0).clone().unwrap();
    let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    caller.call_by(Some(&event));
    for _ in 0..2 {
        driver.queues[RX].post(&[Part::In(BUFFER)]);
    }
    assert!(kernel.receive(&frame(MAC, 1, 60)));
    assert_eq!(event.read().unwrap(), 1);
    caller.call_by(None);
    assert!(kernel.receive(&frame(MAC, 1, 60)));
    assert!(event.read().is_err(), "interrupted by a vector that is masked");
    device.quiesce();
    // Told too late, it does nothing.
    caller.call_by(Some(&event));
    assert!(lock(&straight.0).is_none());
}
