//! All connections of a device, found by their ports or by what epoll says of them.

use std::collections::HashMap;

use slab::Slab;

use super::connection::Connection;
use super::packet::Ports;

/// Room that connections are promised together, in bytes, before they get only the least.
const BUDGET: usize = 64 << 20;
/// Each gets this part of what is left of it,
const SHARE: usize = 64;
/// but at least this much,
const LEAST: u32 = 16 << 10;
/// and at most this: more is of no use to a guest on the same machine.
pub(super) const MOST: u32 = 256 << 10;

/// Ports of the host's side of connections the host opens: like all that no program listens on,
/// far above those that some do.
const FIRST_PORT: u32 = 1 << 30;
const LAST_PORT: u32 = (1 << 31) - 1;

/// Which connection: stays the name of none when that one is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub index: u32,
    pub stamp: u32,
}

#[derive(Debug)]
pub(super) struct Table {
    slots: Slab<(u32, Connection)>,
    /// Those the guest knows of or is about to. Keyed hashing: the guest chooses ports.
    by_ports: HashMap<Ports, Token>,
    next_stamp: u32,
    next_port: u32,
    /// Room promised.
    granted: usize,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            slots: Slab::new(),
            by_ports: HashMap::new(),
            next_stamp: 0,
            next_port: FIRST_PORT,
            granted: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Room for a new connection, in bytes. Bounds what a guest can fill by opening many towards
    /// hosts that do not read.
    pub(super) fn grant(&self) -> u32 {
        let share = BUDGET.saturating_sub(self.granted) / SHARE;
        u32::try_from(share).unwrap_or(u32::MAX).clamp(LEAST, MOST)
    }

    /// What the next connection put in will be called.
    pub(super) fn next_token(&self) -> Token {
        let index = u32::try_from(self.slots.vacant_key()).unwrap_or(u32::MAX);
        Token { index, stamp: self.next_stamp }
    }

    pub(super) fn insert(&mut self, connection: Connection) -> Token {
        let token = self.next_token();
        self.next_stamp = self.next_stamp.wrapping_add(1);
        self.granted += connection.credit.buf_alloc() as usize;
        self.slots.insert((token.stamp, connection));
        token
    }

    /// Makes `token` findable by its ports, which nothing else uses.
    pub(super) fn publish(&mut self, token: Token, ports: Ports) {
        self.by_ports.insert(ports, token);
    }

    /// Makes the ports of `token` free for another connection.
    pub(super) fn unpublish(&mut self, token: Token) {
        let Some(ports) = self.get(token).map(|connection| connection.ports) else { return };
        if self.by_ports.get(&ports) == Some(&token) {
            self.by_ports.remove(&ports);
        }
    }

    pub(super) fn find(&self, ports: Ports) -> Option<Token> {
        self.by_ports.get(&ports).copied()
    }

    pub(super) fn get(&mut self, token: Token) -> Option<&mut Connection> {
        let (stamp, connection) = self.slots.get_mut(token.index as usize)?;
        (*stamp == token.stamp).then_some(connection)
    }

    /// Takes a connection out; dropping it closes its socket.
    pub(super) fn remove(&mut self, token: Token) -> Option<Connection> {
        self.unpublish(token);
        self.get(token)?;
        let (_, connection) = self.slots.try_remove(token.index as usize)?;
        self.granted -= connection.credit.buf_alloc() as usize;
        Some(connection)
    }

    /// Ports for a connection to port `guest` of the guest's. Looks at no more candidates than
    /// there are connections.
    pub(super) fn free_ports(&mut self, guest: u32) -> Ports {
        loop {
            let host = self.next_port;
            self.next_port = if host == LAST_PORT { FIRST_PORT } else { host + 1 };
            let ports = Ports { host, guest };
            if !self.by_ports.contains_key(&ports) {
                return ports;
            }
        }
    }

    /// The tokens of the connections that `pick` picks.
    pub(super) fn tokens(&self, pick: impl Fn(&Connection) -> bool) -> Vec<Token> {
        self.slots
            .iter()
            .filter(|(_, (_, connection))| pick(connection))
            .map(|(index, &(stamp, _))| Token {
                index: u32::try_from(index).unwrap_or(u32::MAX),
                stamp,
            })
            .collect()
    }

    pub(super) fn any(&self, what: impl Fn(&Connection) -> bool) -> bool {
        self.slots.iter().any(|(_, (_, connection))| what(connection))
    }
}
