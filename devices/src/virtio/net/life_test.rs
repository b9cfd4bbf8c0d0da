//! The life of a network device: waiting, pause and restore, its link, its limits.

use std::io::Write;
use std::time::{Duration, Instant};

use super::net_test::*;
use super::*;
use crate::token_bucket::{Limits, LimitsHandle, Rate};
use crate::virtio::test_driver::{Driver, survives_pause_and_restore, wait};

/// CPU time of the threads of this process that are called `name`, in clock ticks.
fn cpu_ticks(name: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let stats =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let of_name = stats.filter(|stat| stat.contains(&format!("({name})")));
    of_name
        .map(|stat| {
            let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        })
        .sum()
}

#[test]
fn waiting_costs_no_processor_time() {
    let options = Options { name: "idle".to_owned(), ..options() };
    let (mut driver, mut peer) = driver_of(options, u64::MAX);
    // Nothing to receive into while frames come, and a socket that takes no more.
    peer.send(&frame(MAC, 1, 60));
    for i in 0..60 {
        driver.queues[TX].post(&[outgoing(&frame(OTHER, i, 20_000))]);
    }
    driver.queues[TX].kick();
    std::thread::sleep(Duration::from_millis(100));
    let before = cpu_ticks("idle-0");
    std::thread::sleep(Duration::from_millis(300));
    assert!(cpu_ticks("idle-0") - before < 5, "it spins on a full socket");
    drop(peer);
    wait("the link goes down", || !driver.device.shared.link.is_up());
    let before = cpu_ticks("idle-0");
    std::thread::sleep(Duration::from_millis(300));
    assert!(cpu_ticks("idle-0") - before < 5, "it spins on a closed socket");
}

/// A device on a cable that is always there.
fn connected() -> Net {
    let (backend, peer) = cable();
    std::mem::forget(peer);
    Net::new(backend, options())
}

survives_pause_and_restore!(connected(), TX, [outgoing(&frame(OTHER, 1, 60))]);

#[test]
fn requests_survive_pause_and_restore() {
    let (backend, mut peer) = cable();
    let mut driver = Driver::new(Net::new(Arc::clone(&backend), options()), u64::MAX);
    assert_eq!(command(&mut driver, 0, 0, &[0]), 0);
    post_buffers(&mut driver, 40);
    for round in 0..20 {
        let (out, inwards) = (frame(OTHER, round, 300), frame(MAC, round, 4000));
        driver.queues[TX].post(&[outgoing(&out)]);
        peer.send(&inwards);
        if round % 2 == 0 {
            driver.queues[TX].kick();
        }
        if round % 3 == 0 {
            driver.save_and_restore(Net::new(Arc::clone(&backend), options()));
        } else {
            driver.pause_and_resume();
        }
        post_buffers(&mut driver, 3);
        peer.send(&frame(OTHER, round, 60));
        assert!(received(&mut driver) == inwards, "round {round}");
        assert_eq!(peer.receive(), out);
        driver.queues[TX].wait_used();
    }
    assert!(driver.queues[RX].poll_used().is_none(), "the filter was forgotten");
    assert!(driver.queues[TX].poll_used().is_none());
}

#[test]
fn the_driver_is_asked_to_announce_itself_after_a_pause() {
    let (mut driver, _peer) = driver();
    assert_eq!((status(&driver), driver.signals.config()), (1, 0));
    driver.pause_and_resume();
    assert_eq!((status(&driver), driver.signals.config()), (3, 1));
    assert_eq!(command(&mut driver, 3, 0, &[]), 0);
    assert_eq!(status(&driver), 1);
    let (backend, _peer) = cable();
    driver.save_and_restore(Net::new(backend, options()));
    assert_eq!((status(&driver), driver.signals.config()), (3, 2));
}

#[test]
fn only_states_of_such_a_device_are_restored() {
    let (mut driver, _peer) = driver();
    driver.device.quiesce();
    let good = driver.device.save();
    let (backend, _other) = cable();
    let mut fresh = Net::new(backend, options());
    assert!(fresh.restore(&good).is_ok());
    for len in 0..good.len() {
        assert!(fresh.restore(&good[..len]).is_err());
    }
    let damage: [fn(&mut Settings); 5] = [
        |settings| settings.pairs = 0,
        |settings| settings.pairs = 2,
        |settings| settings.offloads = features::GUEST_CSUM,
        |settings| settings.filter.mac[0] |= 1,
        |settings| settings.filter.unicast.addresses = vec![MAC; 65],
    ];
    for damage in damage {
        let mut settings = initial(MAC);
        damage(&mut settings);
        let state = State { settings: Some(settings), announce: false };
        assert!(fresh.restore(&state.bytes()).is_err());
    }
}

#[test]
fn the_link_can_be_cut_and_mended() {
    let (mut driver, mut peer) = driver();
    let link = Arc::clone(&driver.device.shared.link);
    post_buffers(&mut driver, 4);
    link.set(false);
    link.set(false);
    assert_eq!((status(&driver), driver.signals.config()), (0, 1));
    driver.queues[TX].request(&[outgoing(&frame(OTHER, 1, 60))]);
    peer.send(&frame(MAC, 1, 60));
    wait("the frame is dropped", || counter(&driver, |c| c.filtered) == 1);
    link.set(true);
    assert_eq!((status(&driver), driver.signals.config()), (1, 2));
    driver.queues[TX].request(&[outgoing(&frame(OTHER, 2, 60))]);
    assert_eq!(peer.receive(), frame(OTHER, 2, 60));
    peer.send(&frame(MAC, 3, 60));
    assert_eq!(received(&mut driver), frame(MAC, 3, 60));
}

#[test]
fn a_link_that_is_cut_while_the_device_rests_is_told_when_it_carries_on() {
    let (mut driver, _peer) = driver();
    let queues = driver.device.pause();
    driver.device.shared.link.set(false);
    assert_eq!(driver.signals.config(), 0);
    driver.restart(queues);
    assert_eq!((status(&driver) & 1, driver.signals.config() > 0), (0, true));
    let told = driver.signals.config();
    driver.pause_and_resume();
    assert!(driver.signals.config() <= told + 1, "at most an announcement");
}

#[test]
fn a_lost_peer_is_a_lost_link_and_frames_still_come_back() {
    let (mut driver, peer) = driver();
    post_buffers(&mut driver, 4);
    drop(peer);
    wait("the link goes down", || status(&driver) == 0);
    assert_eq!(driver.queues[TX].request(&[outgoing(&frame(OTHER, 1, 60))]), []);
    driver.pause_and_resume();
    assert_eq!(driver.queues[TX].request(&[outgoing(&frame(OTHER, 1, 60))]), []);
}

#[test]
fn a_peer_that_is_replaced_mends_the_link() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let backend = StreamSocket::new(ours).unwrap();
    let mut driver = Driver::new(Net::new(Arc::new(backend.clone()), options()), u64::MAX);
    post_buffers(&mut driver, 4);
    let mut theirs = Some(Peer(theirs));
    for round in 0..4 {
        // A frame broken off in the middle must not be continued by the next peer's.
        theirs.take().unwrap().0.write_all(&[0, 0, 1]).unwrap();
        wait("the link goes down", || status(&driver) & 1 == 0);
        match round {
            1 => driver.pause_and_resume(),
            2 => driver.save_and_restore(Net::new(Arc::new(backend.clone()), options())),
            _ => {}
        }
        assert_eq!(status(&driver) & 1, 0);
        let (ours, next) = std::os::unix::net::UnixStream::pair().unwrap();
        next.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        backend.replace(ours).unwrap();
        wait("the link comes back", || status(&driver) & 1 == 1);
        let next = theirs.insert(Peer(next));
        driver.queues[TX].request(&[outgoing(&frame(OTHER, round, 60))]);
        assert_eq!(next.receive(), frame(OTHER, round, 60));
        next.send(&frame(MAC, round, 60));
        assert_eq!(received(&mut driver), frame(MAC, round, 60));
        post_buffers(&mut driver, 1);
    }
    driver.device.shared.link.set(false);
    assert_eq!(status(&driver) & 1, 0, "plugged out, whatever is at the other end");
}

fn limit(bytes: u64) -> Option<Arc<SharedLimiter>> {
    let bandwidth = Some(Rate { per_second: bytes, burst: 1000 });
    let limits = Limits { bandwidth, operations: None };
    Some(Arc::new(SharedLimiter::new(LimitsHandle::new(limits))))
}

#[test]
fn limits_hold_in_each_direction() {
    let limited = Options { receive_limit: limit(100_000), send_limit: limit(50_000), ..options() };
    let (mut driver, mut peer) = driver_of(limited, u64::MAX);
    post_buffers(&mut driver, 40);
    let start = Instant::now();
    for i in 0..21 {
        driver.queues[TX].post(&[outgoing(&frame(OTHER, i, 1000))]);
        peer.send(&frame(MAC, i, 1000));
    }
    driver.queues[TX].kick();
    for i in 0..21 {
        assert_eq!(received(&mut driver), frame(MAC, i, 1000));
    }
    let inwards = start.elapsed();
    for i in 0..21 {
        assert_eq!(peer.receive(), frame(OTHER, i, 1000));
    }
    let out = start.elapsed();
    // 20 frames beyond the burst: 200 and 400 ms; late wake-ups of a busy host are made good.
    assert!(inwards > Duration::from_millis(195), "{inwards:?}");
    assert!(out > Duration::from_millis(395) && out < Duration::from_secs(3), "{out:?}");
}

#[test]
fn a_frame_held_by_its_limit_survives_a_pause() {
    let (mut driver, mut peer) =
        driver_of(Options { receive_limit: limit(1000), ..options() }, u64::MAX);
    post_buffers(&mut driver, 4);
    peer.send(&frame(MAC, 1, 1000));
    assert_eq!(received(&mut driver), frame(MAC, 1, 1000));
    peer.send(&frame(MAC, 2, 1000));
    std::thread::sleep(Duration::from_millis(50));
    assert!(driver.queues[RX].poll_used().is_none());
    driver.pause_and_resume();
    assert_eq!(received(&mut driver), frame(MAC, 2, 1000));
}

#[test]
fn a_reset_forgets_the_driver() {
    let (mut driver, _peer) = driver();
    command(&mut driver, 0, 0, &[0]);
    command(&mut driver, 1, 1, &OTHER);
    driver.device.quiesce();
    driver.device.reset();
    assert_eq!(driver.device.shared.mac(), MAC);
    assert!(driver.device.shared.settings().filter.promiscuous);
}
