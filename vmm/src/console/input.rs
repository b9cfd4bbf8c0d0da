//! The guest's console input: from a descriptor, and from clients of the control interface, to the UART or to a port
//! of the virtio console, as fast as the guest reads.
//!
//! What it has no room for waits here, bounded. A pipe or file is simply not read meanwhile,
//! so nothing is lost, nor is a client; a terminal is always read, for its escape keys, and loses what a guest
//! that does not listen cannot take, as a terminal does.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use devices::legacy::Serial;
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;

use super::keys::{Key, Keys};
use super::remote::RemoteInput;
use crate::request::{Request, Requests};

/// Bytes kept for the guest beyond what the UART holds.
const CAPACITY: usize = 4096;

const HELP: &str = "\r\nCtrl-A x  quit, ending the guest at once\r\n\
    Ctrl-A p  press the guest's power button\r\n\
    Ctrl-A h  this help\r\n\
    Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n";

/// The console's input side: a subscriber of the event loop.
pub struct Input {
    source: Option<OwnedFd>,
    remote: RemoteInput,
    /// The source has no more bytes. It stays open: the event loop may still know it.
    ended: bool,
    /// Whether the source is in the event loop now.
    watched: bool,
    /// The source cannot be polled (a file, `/dev/null`): it is always ready.
    always_ready: bool,
    keys: Option<Keys>,
    pending: VecDeque<u8>,
    /// Fires when the guest has emptied the UART's receive buffer.
    drained: Arc<EventFd>,
    serial: Option<Arc<Mutex<Serial>>>,
    /// A pipe to the virtio console's port that takes the input in place of the UART, O_NONBLOCK.
    port: Option<OwnedFd>,
    requests: Requests,
}

impl Input {
    /// Input from `source`, to `port` if there is one; with `escapes`, Ctrl-A is the escape key.
    ///
    /// # Errors
    ///
    /// The kernel's answer when it gives no eventfd.
    pub fn new(
        source: Option<OwnedFd>,
        escapes: bool,
        port: Option<OwnedFd>,
        requests: Requests,
    ) -> std::io::Result<Rc<RefCell<Self>>> {
        Ok(Rc::new(RefCell::new(Self {
            source,
            remote: RemoteInput::new()?,
            ended: false,
            watched: false,
            always_ready: false,
            keys: escapes.then(Keys::default),
            pending: VecDeque::new(),
            drained: Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?),
            serial: None,
            port,
            requests,
        })))
    }

    /// Where other threads put input.
    pub fn remote(&self) -> &RemoteInput {
        &self.remote
    }

    /// What the UART calls when the guest has emptied its receive buffer.
    pub fn on_drained(&self) -> Box<dyn Fn() + Send> {
        let drained = Arc::clone(&self.drained);
        Box::new(move || {
            // An eventfd that is already signalled needs no second signal.
            let _ = drained.write(1);
        })
    }

    /// Connects the UART of a new machine; what waited for the old one goes to it.
    pub fn attach(&mut self, serial: Arc<Mutex<Serial>>) {
        self.serial = Some(serial);
        let _ = self.drained.write(1);
    }

    /// Disconnects the UART of a machine that is taken down.
    pub fn detach(&mut self) {
        self.serial = None;
    }

    /// Hands on waiting bytes, as many as are taken.
    fn feed(&mut self) {
        if let Some(port) = &self.port {
            while !self.pending.is_empty()
                && let Ok(accepted @ 1..) = rustix::io::write(port, self.pending.as_slices().0)
            {
                self.pending.drain(..accepted);
            }
            return;
        }
        let Some(serial) = &self.serial else { return };
        let mut serial = serial.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.pending.is_empty() {
            let accepted = serial.enqueue(self.pending.as_slices().0);
            if accepted == 0 {
                break;
            }
            self.pending.drain(..accepted);
        }
    }

    fn wants_more(&self) -> bool {
        self.source.is_some() && !self.ended && (self.keys.is_some() || self.pending.is_empty())
    }

    /// Reads once from the source.
    fn read(&mut self) {
        let Some(source) = &self.source else { return };
        let mut bytes = [0; CAPACITY];
        match rustix::io::read(source, &mut bytes) {
            Ok(0) => self.ended = true,
            Ok(count) => bytes[..count].iter().for_each(|&byte| self.take(byte)),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => {
                // A terminal that hung up answers EIO; the signal for it comes separately.
                tracing::debug!("console input ended: {error}");
                self.ended = true;
            }
        }
    }

    fn take(&mut self, byte: u8) {
        let Some(keys) = &mut self.keys else { return self.pending.push_back(byte) };
        let (pending, requests) = (&mut self.pending, &self.requests);
        keys.feed(byte, |key| match key {
            Key::Byte(byte) if pending.len() < CAPACITY => pending.push_back(byte),
            Key::Byte(_) => {}
            Key::Quit => requests.push(Request::Quit),
            Key::PowerButton => requests.push(Request::PowerButton),
            Key::Help => requests.push(Request::Say(HELP)),
        });
    }

    /// Moves bytes until the UART is full or the source is empty, then sets what to wait for.
    fn pump(&mut self, ops: &mut EventOps<'_>) {
        self.feed();
        self.take_remote();
        while self.always_ready && self.wants_more() {
            self.read();
            self.feed();
            self.take_remote();
        }
        self.watch(ops);
    }

    /// Lets clients in while nobody else's bytes wait.
    fn take_remote(&mut self) {
        while self.pending.is_empty() {
            self.pending = self.remote.take();
            if self.pending.is_empty() {
                break;
            }
            self.feed();
        }
    }

    fn watch(&mut self, ops: &mut EventOps<'_>) {
        let wanted = self.wants_more() && !self.always_ready;
        let Some(source) = self.source.as_ref().filter(|_| wanted != self.watched) else { return };
        let events = Events::new(source, EventSet::IN);
        let result = if wanted { ops.add(events) } else { ops.remove(events) };
        match result {
            Ok(()) => self.watched = wanted,
            Err(event_manager::Error::Epoll(e)) if e.errno() == libc::EPERM => {
                self.always_ready = true;
                self.pump(ops);
            }
            Err(error) => {
                tracing::error!("console input cannot be watched: {error}");
                self.ended = true;
            }
        }
    }
}

impl MutEventSubscriber for Input {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        for event in [&*self.drained, self.remote.filled()] {
            if let Err(error) = ops.add(Events::new(event, EventSet::IN)) {
                tracing::error!("console input cannot be watched: {error}");
            }
        }
        let room = EventSet::OUT | EventSet::EDGE_TRIGGERED;
        if let Some(port) = &self.port
            && let Err(error) = ops.add(Events::new(port, room))
        {
            tracing::error!("the virtio console's input cannot be watched: {error}");
        }
        self.watch(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.fd() == self.drained.as_raw_fd() {
            let _ = self.drained.read();
        } else if events.fd() == self.remote.filled().as_raw_fd() {
            let _ = self.remote.filled().read();
        } else if self.port.as_ref().is_none_or(|port| events.fd() != port.as_raw_fd()) {
            self.read();
        }
        self.pump(ops);
    }
}

#[cfg(test)]
#[path = "input_test.rs"]
mod input_test;
