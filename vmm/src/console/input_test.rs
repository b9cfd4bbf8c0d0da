//! Console input from pipes and files, through a real event loop to a real UART model.

use std::io::{Seek, Write};

use devices::bus::BusDevice;
use devices::interrupt::InterruptLine;
use event_manager::{EventManager, SubscriberOps};

use super::*;

struct NoLine;

impl InterruptLine for NoLine {
    fn trigger(&self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Guest {
    manager: EventManager<Box<dyn MutEventSubscriber>>,
    serial: Arc<Mutex<Serial>>,
    input: Rc<RefCell<Input>>,
    requests: Requests,
}

impl Guest {
    fn new(source: OwnedFd, escapes: bool) -> Self {
        let requests = Requests::default();
        let input = Input::new(Some(source), escapes, None, requests.clone()).unwrap();
        let on_drained = input.borrow().on_drained();
        let serial = Serial::new(Arc::new(NoLine), Box::new(std::io::sink()), on_drained);
        let serial = Arc::new(Mutex::new(serial));
        // As a driver opens the port: received data interrupt; DTR, RTS and OUT2.
        serial.lock().unwrap().write(1, &[1]);
        serial.lock().unwrap().write(4, &[0x0b]);
        let mut manager: EventManager<Box<dyn MutEventSubscriber>> = EventManager::new().unwrap();
        manager.add_subscriber(Box::new(Rc::clone(&input)));
        input.borrow_mut().attach(Arc::clone(&serial));
        Self { manager, serial, input, requests }
    }

    /// Reads received bytes as a driver does: while LSR says there are any.
    fn read(&mut self) -> Vec<u8> {
        let mut received = Vec::new();
        while self.manager.run_with_timeout(100).unwrap() > 0 {
            let mut serial = self.serial.lock().unwrap();
            let mut register = |offset| {
                let mut value = [0];
                serial.read(offset, &mut value);
                value[0]
            };
            while register(5) & 1 != 0 {
                received.push(register(0));
            }
        }
        received
    }
}

#[test]
fn a_pipe_larger_than_every_buffer_arrives_whole() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let sent: Vec<u8> = (0..40_000u32).map(|i| (i % 251) as u8).collect();
    let mut guest = Guest::new(reader.into(), false);
    writer.write_all(&sent).unwrap();
    drop(writer);
    assert!(guest.read() == sent);
}

#[test]
fn a_file_which_cannot_be_polled_arrives_whole() {
    let mut file = tempfile::tempfile().unwrap();
    let sent: Vec<u8> = (0..40_000u32).map(|i| (i % 251) as u8).collect();
    file.write_all(&sent).unwrap();
    file.rewind().unwrap();
    assert!(Guest::new(file.into(), false).read() == sent);
}

#[test]
fn an_ended_source_leaves_the_loop_quiet() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(writer);
    let mut guest = Guest::new(reader.into(), false);
    guest.read();
    assert_eq!(guest.manager.run_with_timeout(50).unwrap(), 0);
}

#[test]
fn escape_keys_work_though_the_guest_reads_nothing() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut guest = Guest::new(reader.into(), true);
    writer.write_all(&[b'a'; 20_000]).unwrap();
    writer.write_all(b"\x01x").unwrap();
    while guest.manager.run_with_timeout(100).unwrap() > 0 {}
    assert!(matches!(guest.requests.pop(), Some(Request::Quit)));
    assert!(guest.input.borrow().pending.len() <= CAPACITY);
}

fn wake() -> Arc<EventFd> {
    Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap())
}

#[test]
fn what_clients_type_arrives_whole_beside_the_terminal_s_though_the_guest_reads_slowly() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut guest = Guest::new(reader.into(), true);
    let remote = guest.input.borrow().remote().clone();
    let wake = wake();
    // Ctrl-A means something on the terminal only.
    let sent: Vec<u8> = (0..40_000u32).map(|i| (i % 251).to_le_bytes()[0]).collect();
    let (mut rest, mut received) = (&sent[..], vec![]);
    while received.len() < sent.len() {
        let taken = remote.send(rest, &wake);
        rest = &rest[taken..];
        received.extend(guest.read());
        assert!(rest.is_empty() || wake.read().is_ok(), "nobody says that there is room");
    }
    assert!(received == sent);
    writer.write_all(b"and me").unwrap();
    assert_eq!(guest.read(), b"and me");
    assert!(guest.requests.pop().is_none());
}

#[test]
fn a_client_is_refused_what_a_guest_that_reads_nothing_has_no_room_for() {
    let input = Input::new(None, false, None, Requests::default()).unwrap();
    let remote = input.borrow().remote().clone();
    let wake = wake();
    let taken = remote.send(&[b'x'; 100_000], &wake);
    assert!(taken <= CAPACITY);
    assert_eq!(remote.send(b"y", &wake), 0);
    assert!(wake.read().is_err());
}

#[test]
fn a_port_of_the_virtio_console_gets_the_input_whole_though_it_reads_slowly() {
    let (source, mut writer) = std::io::pipe().unwrap();
    let (mut reader, port) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&port, true).unwrap();
    let requests = Requests::default();
    let input = Input::new(Some(source.into()), false, Some(port.into()), requests).unwrap();
    let mut manager: EventManager<Box<dyn MutEventSubscriber>> = EventManager::new().unwrap();
    manager.add_subscriber(Box::new(Rc::clone(&input)));
    let sent: Vec<u8> = (0..200_000u32).map(|i| (i % 251).to_le_bytes()[0]).collect();
    let expected = sent.clone();
    let typist = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    let guest = std::thread::spawn(move || {
        let mut received = vec![0; 200_000];
        std::io::Read::read_exact(&mut reader, &mut received).unwrap();
        received
    });
    while !guest.is_finished() {
        manager.run_with_timeout(10).unwrap();
    }
    typist.join().unwrap();
    assert!(guest.join().unwrap() == expected);
}
