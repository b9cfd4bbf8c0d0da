//! The control loop: file descriptors in, [`Request`]s out.
//!
//! It carries signals, ticks, console input, the ends of vCPUs and of console output. Data paths of
//! devices have loops of their own.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::timerfd::TimerFd;

use crate::command::Inbox;
use crate::console::input::Input;
use crate::console::output::Output;
use crate::kvm::stops;
use crate::request::{Request, Requests};
use crate::signals::{self, Signals};

/// The event loop of the main thread.
pub struct EventLoop {
    manager: EventManager<Box<dyn MutEventSubscriber>>,
    requests: Requests,
}

impl EventLoop {
    /// A loop that turns `signals`, `input`, `output` and `vcpu_ended` into requests.
    ///
    /// # Errors
    ///
    /// The kernel's answer when it gives no epoll instance.
    pub fn new(
        signals: Signals,
        input: Rc<RefCell<Input>>,
        output: &Output,
        vcpu_ended: Arc<EventFd>,
        requests: Requests,
    ) -> event_manager::Result<Self> {
        let mut manager: EventManager<Box<dyn MutEventSubscriber>> = EventManager::new()?;
        let queue = || requests.clone();
        manager.add_subscriber(Box::new(SignalEvents { signals, requests: queue() }));
        manager.add_subscriber(Box::new(input));
        manager.add_subscriber(Box::new(Counter {
            fd: output.event().as_raw_fd(),
            source: output.clone(),
            take: |output| drop(output.event().read()),
            request: || Request::Output,
            requests: queue(),
        }));
        manager.add_subscriber(Box::new(Counter {
            fd: vcpu_ended.as_raw_fd(),
            source: vcpu_ended,
            take: |event| drop(event.read()),
            request: || Request::VcpuEnded,
            requests: queue(),
        }));
        Ok(Self { manager, requests })
    }

    /// Makes a [`Request::Tick`] every `interval` from now on.
    ///
    /// # Errors
    ///
    /// The kernel's answer when it gives no timer.
    pub fn tick(&mut self, interval: Duration) -> io::Result<()> {
        let mut timer = TimerFd::new()?;
        timer.reset(interval, Some(interval))?;
        self.manager.add_subscriber(Box::new(Counter {
            fd: timer.as_raw_fd(),
            source: RefCell::new(timer),
            take: |timer| {
                let _ = timer.borrow_mut().wait();
            },
            request: || Request::Tick,
            requests: self.requests.clone(),
        }));
        Ok(())
    }

    /// Makes a [`Request::Asked`] of everything that comes to `inbox`.
    pub fn listen(&mut self, inbox: Inbox) {
        self.manager.add_subscriber(Box::new(Commands { inbox, requests: self.requests.clone() }));
    }

    /// The next request, waiting for one as long as it takes.
    ///
    /// # Errors
    ///
    /// The kernel's answer when waiting fails.
    pub fn next(&mut self) -> event_manager::Result<Request> {
        loop {
            if let Some(request) = self.requests.pop() {
                return Ok(request);
            }
            match self.manager.run() {
                Err(event_manager::Error::Epoll(e)) if e.errno() == libc::EINTR => {}
                other => other.map(drop)?,
            }
        }
    }
}

/// Queued signals.
struct SignalEvents {
    signals: Signals,
    requests: Requests,
}

impl MutEventSubscriber for SignalEvents {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        add(ops, self.signals.as_fd().as_raw_fd());
    }

    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        // It may be SIGCONT.
        stops::note();
        while let Some(signal) = self.signals.take() {
            self.requests.push(match signal {
                signals::CONTINUED => Request::Continued,
                signals::WINDOW => Request::WindowResized,
                signal => Request::Signal(signal),
            });
        }
    }
}

/// Commands from other threads.
struct Commands {
    inbox: Inbox,
    requests: Requests,
}

impl MutEventSubscriber for Commands {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        add(ops, self.inbox.event().as_raw_fd());
    }

    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        let _ = self.inbox.event().read();
        while let Some(asked) = self.inbox.take() {
            self.requests.push(Request::Asked(asked));
        }
    }
}

/// An eventfd that stands for one kind of request.
struct Counter<T> {
    fd: RawFd,
    source: T,
    take: fn(&T),
    request: fn() -> Request,
    requests: Requests,
}

impl<T> MutEventSubscriber for Counter<T> {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        add(ops, self.fd);
    }

    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        (self.take)(&self.source);
        self.requests.push((self.request)());
    }
}

fn add(ops: &mut EventOps<'_>, fd: RawFd) {
    if let Err(error) = ops.add(Events::new_raw(fd, EventSet::IN)) {
        // Only a lack of kernel memory or watches can be the reason (epoll_ctl(2)).
        tracing::error!("an event source cannot be watched: {error}");
    }
}
