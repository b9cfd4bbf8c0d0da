//! The console from its driver's side, as Linux's driver behaves, and from the host's side.
#![allow(clippy::cast_possible_truncation)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, fcntl_setfl, memfd_create};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::*;
use crate::virtio::test_driver::{Driver, Part, survives_pause_and_restore, wait};

const READY: u16 = 0;
const ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE: u16 = 4;
const RESIZE: u16 = 5;
const OPEN: u16 = 6;
const NAME: u16 = 7;

/// Long enough for a device to do what it must not.
const A_MOMENT: Duration = Duration::from_millis(30);

fn pipe(nonblocking: bool) -> (File, OwnedFd) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    fcntl_setpipe_size(&writer, 4096).unwrap();
    if nonblocking {
        fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    }
    (File::from(reader), writer)
}

fn console(input: Option<OwnedFd>, output: Option<OwnedFd>) -> Port {
    Port { name: None, console: true, back_end: BackEnd::Files { input, output } }
}

fn named(name: &str, back_end: BackEnd) -> Port {
    Port { name: Some(name.to_owned()), console: false, back_end }
}

fn listener() -> (OwnedFd, impl Fn() -> UnixStream) {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
    listener.set_nonblocking(true).unwrap();
    (listener.into(), move || UnixStream::connect(folder.path().join("socket")).unwrap())
}

fn device(ports: Vec<Port>) -> (Console, Arc<Handle>) {
    let handle = Handle::new().unwrap();
    (Console::new(ports, Arc::clone(&handle)).unwrap(), handle)
}

fn driver(ports: Vec<Port>) -> Driver<Console> {
    Driver::new(device(ports).0, u64::MAX)
}

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

/// Reads exactly `len` bytes.
fn read(mut from: impl Read, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes).unwrap();
    bytes
}

impl Driver<Console> {
    /// Sends a control message.
    #[track_caller]
    fn say(&mut self, port: u32, event: u16, value: u16) {
        let message = [&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()];
        self.queues[3].request(&[Part::Out(message.concat())]);
    }

    /// Provides buffers for control messages.
    fn provide(&mut self, count: usize) {
        for _ in 0..count {
            self.queues[2].post(&[Part::In(4096)]);
        }
        self.queues[2].kick();
    }

    /// The next control message: port, event, value, and what follows.
    #[track_caller]
    fn hear(&mut self) -> (u32, u16, u16, Vec<u8>) {
        let (_, bytes) = self.queues[2].wait_used();
        self.provide(1);
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let port = u32::from(half(0)) | u32::from(half(2)) << 16;
        (port, half(4), half(6), bytes[8..].to_vec())
    }

    #[track_caller]
    fn expect(&mut self, port: u32, event: u16, value: u16) {
        assert_eq!(self.hear(), (port, event, value, vec![]));
    }

    #[track_caller]
    fn expect_silence(&mut self) {
        thread::sleep(A_MOMENT);
        assert_eq!(self.queues[2].poll_used(), None);
    }

    /// Takes port `port`, connected and called `name`, into use as Linux does, and opens it.
    #[track_caller]
    fn open_named(&mut self, port: u32, name: &str) {
        self.say(port, PORT_READY, 1);
        assert_eq!(self.hear(), (port, NAME, 1, name.as_bytes().to_vec()));
        self.say(port, OPEN, 1);
    }

    /// Writes to a port and waits until the device has taken it.
    #[track_caller]
    fn print(&mut self, queue: usize, bytes: &[u8]) {
        assert_eq!(self.queues[queue].request(&[Part::Out(bytes.to_vec())]), b"");
    }
}

/// A driver that has told the device that it is ready, and heard of a console and a named port.
#[track_caller]
fn multiport(first: Port, second: Port) -> Driver<Console> {
    let mut driver = driver(vec![first, second]);
    driver.provide(16);
    driver.say(u32::MAX, READY, 1);
    driver.expect(0, ADD, 1);
    driver.expect(1, ADD, 1);
    driver
}

#[test]
fn a_single_console_needs_no_control_queues() {
    let (console, _) = device(vec![console(None, None)]);
    assert_eq!(console.features(), feature::SIZE | feature::EMERG_WRITE);
    assert_eq!(console.queue_sizes(), [64, 64]);
    let (named, _) = device(vec![named("a", BackEnd::Files { input: None, output: None })]);
    assert_eq!(named.features() & feature::MULTIPORT, feature::MULTIPORT);
    assert_eq!(named.queue_sizes(), [64, 64, 32, 32]);
}

#[test]
fn ports_are_refused_when_there_are_too_many_or_names_are_too_long() {
    let make = |ports| Console::new(ports, Handle::new().unwrap()).unwrap_err().to_string();
    assert!(make(vec![]).contains("not 0"));
    assert!(make((0..17).map(|_| console(None, None)).collect()).contains("not 17"));
    let nothing = || BackEnd::Files { input: None, output: None };
    assert!(make(vec![named("", nothing())]).contains("empty"));
    assert!(make(vec![named(&"x".repeat(65), nothing())]).contains("longer than 64"));
}

#[test]
fn bytes_go_both_ways() {
    let (out, output) = pipe(true);
    let (input, mut to_guest) = UnixStream::pair().unwrap();
    input.set_nonblocking(true).unwrap();
    let mut driver = driver(vec![console(Some(input.into()), Some(output))]);
    driver.queues[1].request(&[Part::Out(b"hello, ".to_vec()), Part::Out(b"world".to_vec())]);
    assert_eq!(read(&out, 12), b"hello, world");
    to_guest.write_all(b"who").unwrap();
    assert_eq!(driver.queues[0].request(&[Part::In(1), Part::In(64)]), b"who");
    assert!(driver.signals.queues() > 0);
}

#[test]
fn input_waits_for_buffers() {
    let (input, mut to_guest) = UnixStream::pair().unwrap();
    let mut driver = driver(vec![console(Some(input.into()), None)]);
    to_guest.write_all(b"abcdef").unwrap();
    thread::sleep(A_MOMENT);
    assert_eq!(driver.queues[0].request(&[Part::In(2)]), b"ab");
    assert_eq!(driver.queues[0].request(&[Part::In(2)]), b"cd");
    driver.queues[0].post(&[Part::In(2)]);
    let late = driver.queues[0].post(&[Part::In(2)]);
    driver.queues[0].kick();
    assert_eq!(driver.queues[0].wait_used().1, b"ef");
    to_guest.write_all(b"g").unwrap();
    assert_eq!(driver.queues[0].wait_used(), (late, b"g".to_vec()));
}

/// Prints a MiB while its reader is slow, and checks every byte.
fn print_to_a_slow_reader(mut out: File, output: OwnedFd) {
    let mut driver = driver(vec![console(None, Some(output))]);
    let all = pattern(1 << 20);
    let expected = all.clone();
    let reader = thread::spawn(move || {
        let mut bytes = vec![];
        let mut chunk = vec![0; 40_000];
        while bytes.len() < expected.len() {
            thread::sleep(Duration::from_millis(1));
            let count = out.read(&mut chunk).unwrap();
            bytes.extend_from_slice(&chunk[..count]);
        }
        assert!(bytes == expected, "bytes were lost, doubled or swapped");
        out
    });
    for chunk in all.chunks(128 << 10) {
        let (head, tail) = chunk.split_at(1000);
        driver.queues[1].request(&[Part::Out(head.to_vec()), Part::Out(tail.to_vec())]);
    }
    reader.join().unwrap();
}

#[test]
fn a_slow_reader_gets_every_byte() {
    let (out, output) = pipe(true);
    print_to_a_slow_reader(out, output);
}

#[test]
fn a_slow_reader_of_a_blocking_pipe_or_socket_gets_every_byte() {
    let (out, output) = pipe(false);
    print_to_a_slow_reader(out, output);
    let (out, output) = UnixStream::pair().unwrap();
    print_to_a_slow_reader(File::from(OwnedFd::from(out)), output.into());
}

#[test]
fn a_pause_does_not_wait_for_a_slow_reader_and_loses_nothing() {
    let (mut out, output) = pipe(true);
    let mut driver = driver(vec![console(None, Some(output))]);
    let all = pattern(1 << 20);
    driver.queues[1].post(&[Part::Out(all.clone())]);
    driver.queues[1].kick();
    let mut bytes = vec![0; all.len()];
    for chunk in bytes.chunks_mut(200_000) {
        let start = Instant::now();
        driver.pause_and_resume();
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        out.read_exact(chunk).unwrap();
    }
    assert!(bytes == all, "bytes were lost, doubled or swapped");
}

#[test]
fn a_reader_that_does_not_read_stops_the_queue() {
    let (out, output) = pipe(true);
    let mut driver = driver(vec![console(None, Some(output))]);
    let posted = driver.queues[1].post(&[Part::Out(pattern(10_000))]);
    driver.queues[1].post(&[Part::Out(pattern(10))]);
    driver.queues[1].kick();
    thread::sleep(A_MOMENT);
    assert_eq!(driver.queues[1].poll_used(), None);
    assert_eq!(read(&out, 10_000), pattern(10_000));
    assert_eq!(driver.queues[1].wait_used().0, posted);
    driver.queues[1].wait_used();
}

#[test]
fn output_that_nobody_reads_any_more_is_dropped() {
    let (out, output) = pipe(true);
    let mut driver = driver(vec![console(None, Some(output))]);
    driver.queues[1].post(&[Part::Out(pattern(10_000))]);
    driver.queues[1].kick();
    thread::sleep(A_MOMENT);
    drop(out);
    driver.queues[1].wait_used();
    driver.print(1, &pattern(100_000));
    assert!(!driver.signals.needs_reset());
}

#[test]
fn output_to_a_file_is_there_and_input_from_one_ends() {
    let output = File::from(memfd_create("out", MemfdFlags::CLOEXEC).unwrap());
    let mut input = File::from(memfd_create("in", MemfdFlags::CLOEXEC).unwrap());
    input.write_all(b"once").unwrap();
    std::io::Seek::rewind(&mut input).unwrap();
    let written = output.try_clone().unwrap();
    let mut driver = driver(vec![console(Some(input.into()), Some(output.into()))]);
    driver.print(1, &pattern(100_000));
    let mut bytes = vec![0; 100_001];
    let count = std::os::unix::fs::FileExt::read_at(&written, &mut bytes, 0).unwrap();
    assert!(count == 100_000 && bytes[..count] == pattern(100_000));
    assert_eq!(driver.queues[0].request(&[Part::In(64)]), b"once");
    driver.queues[0].post(&[Part::In(64)]);
    driver.queues[0].kick();
    driver.print(1, b"goes on");
    assert_eq!(driver.queues[0].poll_used(), None);
}

#[test]
fn a_file_that_takes_nothing_for_a_while_takes_what_comes_later() {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut output = File::from(memfd_create("out", flags).unwrap());
    // Full, until there is room at its beginning.
    output.write_all(b"12345678").unwrap();
    fcntl_add_seals(&output, SealFlags::GROW).unwrap();
    let mut driver = driver(vec![console(None, Some(output.try_clone().unwrap().into()))]);
    driver.print(1, b"lost");
    std::io::Seek::rewind(&mut output).unwrap();
    driver.print(1, b"kept");
    let mut bytes = [0; 8];
    std::os::unix::fs::FileExt::read_exact_at(&output, &mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"kept5678");
}

#[test]
fn a_pause_ends_with_everything_written() {
    let (out, output) = pipe(true);
    let mut driver = driver(vec![console(None, Some(output))]);
    for chunk in pattern(40_000).chunks(10_000) {
        driver.queues[1].post(&[Part::Out(chunk.to_vec())]);
    }
    let reader = thread::spawn(move || read(&out, 40_000));
    let started = Instant::now();
    assert_eq!(driver.device.quiesce().len(), 2);
    assert!(started.elapsed() < Duration::from_millis(900));
    assert!(reader.join().unwrap() == pattern(40_000));
}

#[test]
fn a_pause_does_not_wait_for_ever_and_what_is_left_comes_later_once() {
    let (out, output) = pipe(true);
    let second = output.try_clone().unwrap();
    let mut driver = driver(vec![console(None, Some(output))]);
    let posted = driver.queues[1].post(&[Part::Out(pattern(10_000))]);
    driver.queues[1].kick();
    thread::sleep(A_MOMENT);
    let started = Instant::now();
    driver.save_and_restore(device(vec![console(None, Some(second))]).0);
    let elapsed = started.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&elapsed));
    assert_eq!(driver.queues[1].poll_used(), None);
    assert_eq!(read(&out, 10_000), pattern(10_000));
    assert_eq!(driver.queues[1].wait_used().0, posted);
    driver.print(1, b"!");
    assert_eq!(read(&out, 1), b"!");
}

#[test]
fn ports_are_set_up_as_linux_does_it() {
    let (console_out, output) = pipe(true);
    let (agent, peer) = UnixStream::pair().unwrap();
    let agent = BackEnd::Files { input: Some(agent.into()), output: None };
    let (device, handle) = device(vec![console(None, Some(output)), named("agent.0", agent)]);
    handle.resize(80, 25);
    let mut driver = Driver::new(device, u64::MAX);
    let mut config = [0; 14];
    driver.device.read_config(0, &mut config);
    assert_eq!(config, [80, 0, 25, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    driver.provide(32);
    driver.expect_silence();
    driver.say(u32::MAX, READY, 1);
    driver.expect(0, ADD, 1);
    driver.expect(1, ADD, 1);
    driver.expect_silence();
    driver.say(0, PORT_READY, 1);
    driver.expect(0, CONSOLE, 1);
    assert_eq!(driver.hear(), (0, RESIZE, 0, vec![80, 0, 25, 0]));
    driver.expect(0, OPEN, 1);
    driver.say(0, OPEN, 1);
    driver.say(1, PORT_READY, 1);
    assert_eq!(driver.hear(), (1, NAME, 1, b"agent.0".to_vec()));
    driver.expect(1, OPEN, 1);
    driver.expect_silence();
    driver.print(1, b"booting");
    assert_eq!(read(&console_out, 7), b"booting");
    // What the agent is sent waits until it listens.
    (&peer).write_all(b"ping").unwrap();
    driver.queues[4].post(&[Part::In(64)]);
    driver.queues[4].kick();
    thread::sleep(A_MOMENT);
    assert_eq!(driver.queues[4].poll_used(), None);
    driver.say(1, OPEN, 1);
    assert_eq!(driver.queues[4].wait_used().1, b"ping");
    // And when it stops listening, again.
    driver.say(1, OPEN, 0);
    (&peer).write_all(b"pong").unwrap();
    driver.queues[4].post(&[Part::In(64)]);
    driver.queues[4].kick();
    thread::sleep(A_MOMENT);
    assert_eq!(driver.queues[4].poll_used(), None);
}

#[test]
fn without_multiport_port_0_is_a_console() {
    let (out, output) = pipe(true);
    let (input, mut to_guest) = UnixStream::pair().unwrap();
    let ports = vec![
        console(Some(input.into()), Some(output)),
        named("x", BackEnd::Files { input: None, output: None }),
    ];
    let mut driver = Driver::new(device(ports).0, !feature::MULTIPORT);
    driver.print(1, b"hvc0");
    assert_eq!(read(&out, 4), b"hvc0");
    to_guest.write_all(b"in").unwrap();
    assert_eq!(driver.queues[0].request(&[Part::In(9)]), b"in");
    driver.pause_and_resume();
}

#[test]
fn control_messages_wait_for_buffers_and_do_not_pile_up() {
    let (_out, output) = pipe(true);
    let nothing = BackEnd::Files { input: None, output: None };
    let (device, handle) = device(vec![console(None, Some(output)), named("n", nothing)]);
    let mut driver = Driver::new(device, u64::MAX);
    for round in 0..200 {
        driver.say(u32::MAX, READY, 1);
        driver.say(0, PORT_READY, 1);
        handle.resize(100, round + 1);
    }
    driver.provide(1);
    driver.expect(0, CONSOLE, 1);
    assert_eq!(driver.hear(), (0, RESIZE, 0, vec![100, 0, 200, 0]));
    driver.expect(0, OPEN, 1);
    driver.expect(1, ADD, 1);
    driver.expect_silence();
}

#[test]
fn control_messages_that_make_no_sense_change_nothing() {
    let (out, output) = pipe(true);
    let nothing = BackEnd::Files { input: None, output: None };
    let mut driver = multiport(console(None, Some(output)), named("n", nothing));
    for (port, event, value) in [
        (2, PORT_READY, 1),
        (u32::MAX, PORT_READY, 1),
        (77, OPEN, 1),
        (0, ADD, 1),
        (0, CONSOLE, 1),
        (0, NAME, 1),
        (0, RESIZE, 1),
        (0, u16::MAX, u16::MAX),
        (1, PORT_READY, 0),
    ] {
        driver.say(port, event, value);
    }
    driver.queues[3].request(&[Part::Out(vec![0; 7])]);
    driver.queues[3].request(&[Part::In(8)]);
    driver.queues[3].request(&[Part::Out(vec![0xff; 100_000])]);
    driver.expect_silence();
    driver.say(u32::MAX, READY, 0);
    driver.expect_silence();
    assert!(!driver.signals.needs_reset());
    driver.print(1, b"x");
    assert_eq!(read(&out, 1), b"x");
}

#[test]
fn a_control_buffer_that_is_too_small_breaks_the_queue() {
    let nothing = || BackEnd::Files { input: None, output: None };
    let mut driver = driver(vec![named("a", nothing()), named("b", nothing())]);
    driver.queues[2].post(&[Part::In(7)]);
    driver.queues[2].kick();
    driver.say(0, READY, 1);
    driver.signals.wait_for_reset_request();
    assert_eq!(driver.device.quiesce().len(), 6);
}

#[test]
fn a_console_without_multiport_is_resized_through_its_configuration() {
    let (device, handle) = device(vec![console(None, None)]);
    let driver = Driver::new(device, u64::MAX);
    handle.resize(132, 43);
    wait("a configuration change", || driver.signals.config() == 1);
    let mut config = [0; 4];
    driver.device.read_config(0, &mut config);
    assert_eq!(config, [132, 0, 43, 0]);
    // Nothing new, nothing said.
    handle.resize(132, 43);
    thread::sleep(A_MOMENT);
    assert_eq!(driver.signals.config(), 1);
}

#[test]
fn a_multiport_console_is_resized_by_a_message_even_after_a_pause() {
    let (_out, output) = pipe(true);
    let nothing = BackEnd::Files { input: None, output: None };
    let (device, handle) = device(vec![console(None, Some(output)), named("n", nothing)]);
    let mut driver = Driver::new(device, u64::MAX);
    driver.provide(8);
    driver.say(0, READY, 1);
    driver.expect(0, ADD, 1);
    driver.expect(1, ADD, 1);
    driver.say(0, PORT_READY, 1);
    driver.expect(0, CONSOLE, 1);
    driver.expect(0, OPEN, 1);
    handle.resize(300, 2);
    assert_eq!(driver.hear(), (0, RESIZE, 0, vec![44, 1, 2, 0]));
    let queues = driver.device.quiesce();
    handle.resize(1, 1);
    driver.restart(queues);
    assert_eq!(driver.hear(), (0, RESIZE, 0, vec![1, 0, 1, 0]));
    driver.expect_silence();
    assert_eq!(driver.signals.config(), 0);
}

#[test]
fn clients_of_a_socket_come_and_go() {
    let (socket, connect) = listener();
    let mut driver = multiport(console(None, None), named("agent", BackEnd::Listener(socket)));
    driver.open_named(1, "agent");
    // Nobody is there: dropped.
    driver.print(5, b"lost");
    driver.expect_silence();
    let mut first = connect();
    driver.expect(1, OPEN, 1);
    driver.print(5, b"hello");
    assert_eq!(read(&first, 5), b"hello");
    first.write_all(b"hi").unwrap();
    assert_eq!(driver.queues[4].request(&[Part::In(64)]), b"hi");
    // A second one waits until the first has gone, and everything that said has been read.
    let mut second = connect();
    second.write_all(b"second").unwrap();
    first.write_all(b"last words").unwrap();
    drop(first);
    driver.expect_silence();
    assert_eq!(driver.queues[4].request(&[Part::In(64)]), b"last words");
    driver.queues[4].post(&[Part::In(64)]);
    driver.queues[4].kick();
    driver.expect(1, OPEN, 0);
    driver.expect(1, OPEN, 1);
    assert_eq!(driver.queues[4].wait_used().1, b"second");
    drop(second);
    driver.queues[4].post(&[Part::In(64)]);
    driver.queues[4].kick();
    driver.expect(1, OPEN, 0);
}

#[test]
fn a_client_nobody_listens_to_does_not_keep_others_out() {
    let (socket, connect) = listener();
    let mut driver = multiport(console(None, None), named("agent", BackEnd::Listener(socket)));
    driver.say(1, PORT_READY, 1);
    assert_eq!(driver.hear().1, NAME);
    let mut first = connect();
    driver.expect(1, OPEN, 1);
    first.write_all(b"anyone?").unwrap();
    let _second = connect();
    drop(first);
    driver.expect(1, OPEN, 0);
    driver.expect(1, OPEN, 1);
}

#[test]
fn a_client_that_has_said_everything_still_gets_the_answer() {
    let (socket, connect) = listener();
    let mut driver = multiport(console(None, None), named("agent", BackEnd::Listener(socket)));
    driver.open_named(1, "agent");
    let mut client = connect();
    driver.expect(1, OPEN, 1);
    client.write_all(b"question").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(driver.queues[4].request(&[Part::In(64)]), b"question");
    driver.queues[4].post(&[Part::In(64)]);
    driver.queues[4].kick();
    driver.print(5, &pattern(100_000));
    assert!(read(&client, 100_000) == pattern(100_000));
    drop(client);
    driver.expect(1, OPEN, 0);
}

#[test]
fn a_mebibyte_comes_in_and_goes_out_through_a_socket() {
    let (socket, connect) = listener();
    let mut driver = multiport(console(None, None), named("agent", BackEnd::Listener(socket)));
    driver.open_named(1, "agent");
    let client = connect();
    driver.expect(1, OPEN, 1);
    let mut writer = client.try_clone().unwrap();
    let writer = thread::spawn(move || writer.write_all(&pattern(1 << 20)).unwrap());
    let reader = thread::spawn(move || read(client, 1 << 20));
    let mut bytes = vec![];
    while bytes.len() < 1 << 20 {
        let part = driver.queues[4].request(&[Part::In(40_000)]);
        driver.print(5, &part);
        bytes.extend(part);
    }
    writer.join().unwrap();
    assert!(bytes == pattern(1 << 20) && reader.join().unwrap() == bytes);
}

#[test]
fn a_pseudo_terminal_is_connected_while_somebody_has_it_open() {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    fcntl_setfl(&master, OFlags::NONBLOCK).unwrap();
    let peer = master.try_clone().unwrap();
    let open = || ioctl_tiocgptpeer(&peer, flags).unwrap();
    let slave = open();
    let mut termios = tcgetattr(&slave).unwrap();
    termios.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &termios).unwrap();
    drop(slave);

    let mut driver =
        driver(vec![Port { name: None, console: true, back_end: BackEnd::Pty(master) }]);
    // More than the kernel would keep for it.
    driver.print(1, &pattern(100_000));
    for round in 0..3 {
        let slave = File::from(open());
        driver.print(1, b"screen");
        assert_eq!(read(&slave, 6), b"screen", "round {round}");
        (&slave).write_all(b"keys").unwrap();
        assert_eq!(driver.queues[0].request(&[Part::In(64)]), b"keys");
        drop(slave);
        driver.print(1, &pattern(100_000));
    }
    // Somebody who only types is noticed, too.
    driver.queues[0].post(&[Part::In(64)]);
    driver.queues[0].kick();
    thread::sleep(A_MOMENT);
    let slave = File::from(open());
    (&slave).write_all(b"hello").unwrap();
    assert_eq!(driver.queues[0].wait_used().1, b"hello");
}

#[test]
fn emergency_characters_need_no_queue() {
    let (out, output) = pipe(true);
    let (device, _) = device(vec![console(None, Some(output))]);
    let mut device = device;
    device.write_config(8, &[b'a', 0, 0, 0]);
    let mut driver = Driver::new(device, u64::MAX);
    driver.device.write_config(8, b"b");
    driver.device.write_config(0, b"c");
    driver.device.write_config(9, b"d");
    driver.device.write_config(u64::MAX, b"e");
    driver.device.write_config(8, &[]);
    driver.device.write_config(8, b"f");
    assert_eq!(read(&out, 3), b"abf");
    // As many as one likes, and nothing grows.
    for _ in 0..20_000 {
        driver.device.write_config(8, b"x");
    }
    driver.device.quiesce();
}

#[test]
fn bogus_rings_break_their_queue_alone() {
    for index in 0..6 {
        let (out, output) = pipe(true);
        let (input, mut peer) = UnixStream::pair().unwrap();
        let input = Some(input.into());
        let mut driver = driver(vec![
            console(None, Some(output)),
            named("n", BackEnd::Files { input, output: None }),
        ]);
        driver.say(0, READY, 1);
        driver.say(1, OPEN, 1);
        peer.write_all(b"x").unwrap();
        if index == 0 {
            // Looked at only when there is something to put there.
            driver.pause_and_resume();
            continue;
        }
        driver.queues[index].set_avail_index(4000);
        driver.queues[index].kick();
        driver.signals.wait_for_reset_request();
        if index != 1 {
            driver.print(1, b"alive");
            assert_eq!(read(&out, 5), b"alive");
        }
        assert_eq!(driver.device.quiesce().len(), 6);
    }
}

#[test]
fn input_buffers_without_room_break_the_queue() {
    let (input, mut peer) = UnixStream::pair().unwrap();
    let mut driver = driver(vec![console(Some(input.into()), None)]);
    driver.queues[0].post(&[Part::Out(vec![1])]);
    driver.queues[0].kick();
    peer.write_all(b"x").unwrap();
    driver.signals.wait_for_reset_request();
    assert_eq!(driver.device.quiesce().len(), 2);
}

#[test]
fn a_driver_that_starts_over_finds_a_fresh_device() {
    let (socket, connect) = listener();
    let mut driver = multiport(console(None, None), named("agent", BackEnd::Listener(socket)));
    driver.open_named(1, "agent");
    let client = connect();
    driver.expect(1, OPEN, 1);
    driver.device.quiesce();
    driver.device.reset();
    let Driver { device, .. } = driver;
    let mut driver = Driver::new(device, u64::MAX);
    driver.provide(8);
    driver.expect_silence();
    driver.say(0, READY, 1);
    driver.expect(0, ADD, 1);
    driver.expect(1, ADD, 1);
    driver.open_named(1, "agent");
    driver.expect(1, OPEN, 1);
    driver.print(5, b"again");
    assert_eq!(read(client, 5), b"again");
}

#[test]
fn a_saved_state_that_is_none_is_refused() {
    let (mut one, _) = device(vec![console(None, None)]);
    let (two, _) = device(vec![console(None, None), console(None, None)]);
    assert!(one.restore(&[0xff; 5]).unwrap_err().to_string().contains("console"));
    assert!(one.restore(&two.save()).unwrap_err().to_string().contains("2 ports"));
    one.restore(&device(vec![console(None, None)]).0.save()).unwrap();
}

survives_pause_and_restore!(
    device(vec![console(None, None)]).0,
    1,
    [Part::Out(b"to nobody".to_vec())]
);

#[test]
fn requests_survive_pause_and_restore() {
    let (out, output) = pipe(true);
    let (input, mut peer) = UnixStream::pair().unwrap();
    let (input, output) = (File::from(OwnedFd::from(input)), File::from(output));
    let ports = || {
        let (input, output) = (input.try_clone().unwrap(), output.try_clone().unwrap());
        let files = BackEnd::Files { input: Some(input.into()), output: Some(output.into()) };
        vec![console(None, None), named("agent", files)]
    };
    let mut driver = driver(ports());
    driver.provide(8);
    driver.say(0, READY, 1);
    driver.expect(0, ADD, 1);
    driver.expect(1, ADD, 1);
    driver.open_named(1, "agent");
    driver.expect(1, OPEN, 1);
    for round in 0..20u8 {
        let sent = driver.queues[5].post(&[Part::Out(vec![round; 100])]);
        let received = driver.queues[4].post(&[Part::In(64)]);
        if round % 2 == 0 {
            driver.queues[5].kick();
            driver.queues[4].kick();
        }
        if round % 4 == 0 {
            peer.write_all(&[round]).unwrap();
        }
        if round % 3 == 0 {
            driver.save_and_restore(device(ports()).0);
        } else {
            driver.pause_and_resume();
        }
        if round % 4 != 0 {
            peer.write_all(&[round]).unwrap();
        }
        assert_eq!(driver.queues[5].wait_used().0, sent);
        assert_eq!(read(&out, 100), [round; 100]);
        assert_eq!(driver.queues[4].wait_used(), (received, vec![round]));
    }
    // The driver knows everything already.
    driver.expect_silence();
}
