//! The control queues of a multiport console (virtio 1.3, 5.3.6.2): what device and driver tell each
//! other about ports.
//!
//! What the driver is to be told is kept as the difference between what it knows and what is, never
//! as a list of messages, so that nothing grows while it provides no buffers.

use super::port::{Lane, PortInUse, pending};
use crate::rate_limit::RateLimitedLog;
use crate::virtio::queue::{Broken, Queue};

/// Events (5.3.6.2).
mod event {
    pub(super) const DEVICE_READY: u16 = 0;
    pub(super) const DEVICE_ADD: u16 = 1;
    pub(super) const PORT_READY: u16 = 3;
    pub(super) const CONSOLE_PORT: u16 = 4;
    pub(super) const RESIZE: u16 = 5;
    pub(super) const PORT_OPEN: u16 = 6;
    pub(super) const PORT_NAME: u16 = 7;
}

/// Longest name of a port in bytes.
pub(super) const MAX_NAME: usize = 64;

const HEADER: usize = 8;

/// Columns and rows of a terminal.
pub(super) type Size = (u16, u16);

/// A message as it lies in a buffer: port, event, value, and what belongs to the event.
struct Message {
    bytes: [u8; HEADER + MAX_NAME],
    len: usize,
}

impl Message {
    fn new(port: u32, event: u16, value: u16) -> Self {
        let mut message = Self { bytes: [0; HEADER + MAX_NAME], len: 0 };
        message.append(&port.to_le_bytes());
        message.append(&event.to_le_bytes());
        message.append(&value.to_le_bytes());
        message
    }

    /// Longer ones than there is room for are cut off.
    fn append(&mut self, bytes: &[u8]) {
        for (to, from) in self.bytes[self.len..].iter_mut().zip(bytes) {
            *to = *from;
            self.len += 1;
        }
    }
}

/// The control queues.
pub(super) struct Control {
    /// To the driver.
    receive: Option<Lane>,
    /// From the driver.
    transmit: Option<Lane>,
    log: RateLimitedLog,
}

impl Control {
    pub(super) fn new(receive: Option<Queue>, transmit: Option<Queue>) -> Self {
        let (receive, transmit) = (receive.map(Lane::new), transmit.map(Lane::new));
        Self { receive, transmit, log: RateLimitedLog::new() }
    }

    pub(super) fn into_queues(self) -> impl Iterator<Item = Queue> {
        [self.receive, self.transmit].into_iter().flatten().map(|lane| lane.queue)
    }

    /// Takes the driver's messages; true: there are more.
    pub(super) fn listen(&mut self, ports: &mut [PortInUse], size: Option<Size>) -> bool {
        let Some(lane) = &mut self.transmit else { return false };
        let log = &self.log;
        lane.guard(|queue, chain| {
            for _ in 0..queue.size() {
                if !queue.pop(chain)? {
                    break;
                }
                let mut header = [0; HEADER];
                if chain.read(0, &mut header).is_err() {
                    complain(log, "a control message of the guest is too short");
                } else if !obey(header, ports, size) {
                    complain(log, "a control message of the guest makes no sense");
                }
                queue.push(chain.head(), 0);
            }
            queue.signal();
            queue.enable_doorbell()
        })
    }

    /// Tells the driver what it does not know yet, as far as it provides buffers.
    pub(super) fn tell(&mut self, ports: &mut [PortInUse], size: Option<Size>) {
        let Some(lane) = &mut self.receive else { return };
        lane.guard(|queue, chain| {
            for (id, port) in (0u32..).zip(ports) {
                while let Some((message, then)) = next(id, port, size) {
                    if !queue.pop(chain)? {
                        queue.signal();
                        // A buffer provided just now rings no bell, but is seen here.
                        if queue.enable_doorbell()? {
                            continue;
                        }
                        return Ok(());
                    }
                    let bytes = &message.bytes[..message.len];
                    chain.write(0, bytes).map_err(|_| Broken::Request)?;
                    queue.push(chain.head(), u32::try_from(message.len).unwrap_or(0));
                    then.apply(port);
                }
            }
            queue.signal();
            Ok(())
        });
    }
}

/// What has become known once a message is sent.
enum Then {
    Sent(u8),
    Opened,
    Closed,
}

impl Then {
    fn apply(self, port: &mut PortInUse) {
        match self {
            Self::Sent(which) => port.guest.pending &= !which,
            Self::Opened => {
                port.guest.told_open = true;
                port.told_departures = port.host.departures();
            }
            Self::Closed => port.guest.told_open = false,
        }
    }
}

/// The next message about a port. Its order is what Linux needs: it resizes consoles only.
fn next(id: u32, port: &PortInUse, size: Option<Size>) -> Option<(Message, Then)> {
    let due = |which| port.guest.pending & which != 0;
    if due(pending::ADD) {
        return Some((Message::new(id, event::DEVICE_ADD, 1), Then::Sent(pending::ADD)));
    }
    if !port.guest.ready {
        return None;
    }
    if due(pending::CONSOLE) {
        return Some((Message::new(id, event::CONSOLE_PORT, 1), Then::Sent(pending::CONSOLE)));
    }
    if let Some(name) = port.name.as_ref().filter(|_| due(pending::NAME)) {
        let mut message = Message::new(id, event::PORT_NAME, 1);
        message.append(name.as_bytes());
        return Some((message, Then::Sent(pending::NAME)));
    }
    if let Some((columns, rows)) = size.filter(|_| due(pending::RESIZE)) {
        let mut message = Message::new(id, event::RESIZE, 0);
        // The specification's order. Linux took them for rows and columns before 5326ab737a47.
        message.append(&columns.to_le_bytes());
        message.append(&rows.to_le_bytes());
        return Some((message, Then::Sent(pending::RESIZE)));
    }
    let connected = port.host.is_connected();
    let other_peer = port.told_departures != port.host.departures();
    match port.guest.told_open {
        true if other_peer || !connected => {
            Some((Message::new(id, event::PORT_OPEN, 0), Then::Closed))
        }
        false if connected => Some((Message::new(id, event::PORT_OPEN, 1), Then::Opened)),
        _ => None,
    }
}

/// Acts on a message of the driver; false: it makes no sense.
fn obey(header: [u8; HEADER], ports: &mut [PortInUse], size: Option<Size>) -> bool {
    let [a, b, c, d, event, event_high, value, value_high] = header;
    let id = u32::from_le_bytes([a, b, c, d]);
    let event = u16::from_le_bytes([event, event_high]);
    let yes = u16::from_le_bytes([value, value_high]) != 0;
    if event == event::DEVICE_READY {
        for port in ports {
            port.start_over();
            port.guest.pending = if yes { pending::ADD } else { 0 };
        }
        return yes;
    }
    let port = usize::try_from(id).ok().and_then(|id| ports.get_mut(id));
    match (event, port) {
        (event::PORT_READY, Some(port)) => {
            port.start_over();
            port.guest.ready = yes;
            port.guest.pending = match yes {
                true => pending::NAME | console_bits(port, size),
                false => 0,
            };
            // The guest could not use it: nothing to do but to leave it alone.
            yes
        }
        (event::PORT_OPEN, Some(port)) => {
            port.guest.open = yes;
            true
        }
        _ => false,
    }
}

fn console_bits(port: &PortInUse, size: Option<Size>) -> u8 {
    match (port.console, size) {
        (true, Some(_)) => pending::CONSOLE | pending::RESIZE,
        (true, None) => pending::CONSOLE,
        (false, _) => 0,
    }
}

fn complain(log: &RateLimitedLog, what: &str) {
    if let Some(suppressed) = log.admit() {
        tracing::debug!(suppressed, "{what}");
    }
}
