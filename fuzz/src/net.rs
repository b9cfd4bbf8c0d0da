//! What drivers of network devices ask for, and options of such devices.

use std::sync::Arc;

use devices::token_bucket::{Limits, LimitsHandle, Rate, SharedLimiter};
use devices::virtio::net::{Link, Options};
use devices::virtio::test_driver::Part;
use libfuzzer_sys::arbitrary::{self, Arbitrary};

/// The device's address.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// What a driver asks.
#[derive(Arbitrary, Clone, Debug)]
#[allow(missing_docs)]
pub enum Request {
    /// A frame of a length behind any header, cut into pieces.
    Frame { pair: u8, header: [u8; 12], len: u16, cuts: [u16; 3] },
    /// A frame of many pieces.
    Pieces { pair: u8, count: u16, len: u8 },
    /// Room for a frame.
    Room { pair: u8, rooms: [u16; 2], count: u8 },
    /// A command with whatever follows it.
    Command { class: u8, number: u8, data: Vec<u8>, room: u8 },
    /// Tables of as many addresses as they have, or say they have.
    Tables { unicast: u8, multicast: u8, claim: Option<u32> },
    /// A number behind a command that takes one.
    Number { command: u8, number: u16 },
}

impl Request {
    /// The number of a queue of a device with so many pairs, and the buffers to put there.
    pub fn parts(&self, pairs: usize) -> (usize, Vec<Part>) {
        let pair = |pair: u8| usize::from(pair) % pairs;
        let control = |class: u8, number: u8, data: Vec<u8>| {
            (2 * pairs, vec![Part::Out(vec![class, number]), Part::Out(data), Part::In(1)])
        };
        match self {
            Self::Frame { pair: number, header, len, cuts } => {
                let mut bytes = header.to_vec();
                bytes.extend(MAC);
                bytes.resize(12 + usize::from(*len), 0x55);
                let mut parts = Vec::new();
                for cut in cuts {
                    if bytes.len() > 1 {
                        let rest = bytes.split_off(1 + usize::from(*cut) % (bytes.len() - 1));
                        parts.push(Part::Out(std::mem::replace(&mut bytes, rest)));
                    }
                }
                parts.push(Part::Out(bytes));
                (2 * pair(*number) + 1, parts)
            }
            Self::Pieces { pair: number, count, len } => {
                let part = Part::Out(vec![0; (*len).into()]);
                (2 * pair(*number) + 1, vec![part; 1 + usize::from(count % 1030)])
            }
            Self::Room { pair: number, rooms, count } => {
                let rooms = rooms.iter().cycle().take(1 + usize::from(count % 40));
                (2 * pair(*number), rooms.map(|&len| Part::In(len.into())).collect())
            }
            Self::Command { class, number, data, room } => {
                let data = [&[class % 7, number % 4][..], data].concat();
                (2 * pairs, vec![Part::Out(data), Part::In((*room).into())])
            }
            Self::Tables { unicast, multicast, claim } => {
                let table = |count: u8, claim: u32| {
                    [&claim.to_le_bytes()[..], &vec![3; 6 * usize::from(count)]].concat()
                };
                let claim = claim.unwrap_or((*unicast).into());
                let tables = [table(*unicast, claim), table(*multicast, (*multicast).into())];
                control(1, 0, tables.concat())
            }
            Self::Number { command, number } => {
                let (class, command) =
                    [(4, 0), (5, 0), (2, 0), (2, 1), (0, 0)][usize::from(command % 5)];
                let mut bytes = number.to_le_bytes().to_vec();
                if class == 5 {
                    bytes.resize(8, 0);
                }
                control(class, command, bytes)
            }
        }
    }
}

/// A device on `link`, whose limits are `handle`'s in each direction.
pub fn options(link: &Arc<Link>, handle: &Arc<LimitsHandle>) -> Options {
    let limiter = || Some(Arc::new(SharedLimiter::new(Arc::clone(handle))));
    Options {
        name: "net".into(),
        mac: MAC,
        mtu: None,
        queue_size: 64,
        link: Arc::clone(link),
        receive_limit: limiter(),
        send_limit: limiter(),
    }
}

/// Bounds bytes and frames, or nothing.
pub fn limits(bytes: u16, frames: u16) -> Limits {
    let rate = |number: u16| {
        (number > 0).then(|| Rate { per_second: u64::from(number) * 1000, burst: number.into() })
    };
    Limits { bandwidth: rate(bytes), operations: rate(frames) }
}
