//! How many frames a second pass between a driver and the device, in batches of what a driver makes
//! available at once, over a stream socket as to passt; and over a tap, where this process may make one
//! (`unshare --net cargo bench …`, as root). The worker's thread and its notifications are part of it.
//!
//!     cargo bench -p devices --features test-utils --bench net

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use devices::virtio::net::{Backend, Link, Net, Options, StreamSocket, Tap, header, tap};
use devices::virtio::test_driver::{Driver, Part};

const MAC: [u8; 6] = [0x02, 0xca, 0x4e, 0, 0, 1];
const BATCH: u16 = 64;
const RX: usize = 0;
const TX: usize = 1;
const LENGTHS: [usize; 3] = [60, 1514, 65_000];

fn driver(backend: Arc<dyn Backend>) -> Driver<Net> {
    let options = Options {
        name: "net".into(),
        mac: MAC,
        mtu: None,
        queue_size: 256,
        link: Link::new(true),
        receive_limit: None,
        send_limit: None,
    };
    Driver::new(Net::new(backend, options), u64::MAX)
}

/// A frame of a type nobody listens to.
fn frame(len: usize) -> Vec<u8> {
    let mut frame = [MAC, [0x02, 0xca, 0x4e, 0, 0, 2]].concat();
    frame.extend([0x88, 0xb5]);
    frame.resize(len, 0x55);
    frame
}

/// Makes a batch available and waits until it is all used.
fn send_batch(driver: &mut Driver<Net>, parts: &[Part]) {
    let queue = &mut driver.queues[TX];
    let target = queue.used_index().wrapping_add(BATCH);
    (0..BATCH).for_each(|_| _ = queue.post(parts));
    queue.kick_if_wanted();
    while queue.used_index() != target {
        std::hint::spin_loop();
    }
    while queue.poll_used().is_some() {}
}

fn send(criterion: &mut Criterion, name: &str, backend: &Arc<dyn Backend>, lengths: &[usize]) {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(BATCH.into()));
    for &len in lengths {
        let mut driver = driver(Arc::clone(backend));
        let parts = [Part::Out([&[0; header::LEN][..], &frame(len)].concat())];
        group.bench_function(format!("{len} bytes"), |bencher| {
            bencher.iter(|| send_batch(&mut driver, &parts));
        });
    }
    group.finish();
}

/// Waits for `count` frames and gives their room back.
fn receive_batch(driver: &mut Driver<Net>, count: u16) {
    let queue = &mut driver.queues[RX];
    let mut frames = 0;
    while frames < count {
        let Some((_, bytes)) = queue.poll_used() else {
            std::hint::spin_loop();
            continue;
        };
        // Where frames begin, there are other bytes than in the middle of one: the source's.
        frames += u16::from(bytes.get(header::LEN..header::LEN + 6) == Some(&MAC));
        queue.post(&[Part::In(2048)]);
        queue.kick_if_wanted();
    }
}

fn stream(criterion: &mut Criterion) {
    let Ok((ours, mut theirs)) = UnixStream::pair() else { return };
    let Ok(backend) = StreamSocket::new(ours) else { return };
    let backend: Arc<dyn Backend> = Arc::new(backend);
    let Ok(mut reader) = theirs.try_clone() else { return };
    let sink = std::thread::spawn(move || {
        let mut bytes = vec![0; 1 << 18];
        while reader.read(&mut bytes).is_ok_and(|count| count > 0) {}
    });
    send(criterion, "net, stream, send", &backend, &LENGTHS);
    let mut group = criterion.benchmark_group("net, stream, receive");
    for len in LENGTHS {
        let mut driver = driver(Arc::clone(&backend));
        (0..200).for_each(|_| _ = driver.queues[RX].post(&[Part::In(2048)]));
        driver.queues[RX].kick();
        // As many as the socket surely takes at once.
        let count = if len > 2000 { 2 } else { BATCH };
        let prefix = u32::try_from(len).unwrap_or(0).to_be_bytes();
        let batch = [&prefix[..], &frame(len)].concat().repeat(count.into());
        group.throughput(Throughput::Elements(count.into()));
        group.bench_function(format!("{len} bytes"), |bencher| {
            bencher.iter(|| {
                if theirs.write_all(&batch).is_ok() {
                    receive_batch(&mut driver, count);
                }
            });
        });
    }
    group.finish();
    let _ = theirs.shutdown(std::net::Shutdown::Both);
    let _ = sink.join();
}

/// A tap that is up, if it can be had.
fn open_tap() -> Option<Arc<dyn Backend>> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").ok()?;
    let name = tap::attach(&file, "bench%d", false).ok()?;
    let backend = Tap::new(vec![file]).ok()?;
    let up = Command::new("ip").args(["link", "set", &name, "up"]).status().ok()?;
    up.success().then(|| Arc::new(backend) as _)
}

fn tap_send(criterion: &mut Criterion) {
    match open_tap() {
        Some(backend) => send(criterion, "net, tap, send", &backend, &LENGTHS),
        None => eprintln!("skipped: no tap"),
    }
}

criterion_group!(benches, stream, tap_send);
criterion_main!(benches);
