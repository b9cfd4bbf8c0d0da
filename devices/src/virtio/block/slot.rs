//! One request in service, and the operations of the back end that it takes, one after the other.

use std::time::Instant;

use super::backend::{Data, Operation, Range};
use super::request::{HEADER, Request};
use crate::virtio::chain::Chain;

/// A request in service.
#[derive(Debug)]
pub(super) struct Slot {
    pub chain: Chain,
    pub request: Request,
    /// Those of a discard.
    pub ranges: Vec<Range>,
    /// Operations of it that have been started.
    pub started: usize,
    /// When it was taken off the queue.
    pub since: Instant,
}

impl Slot {
    /// Room for a request.
    pub(super) fn new(chain: Chain) -> Self {
        let request = Request::Flush;
        Self { chain, request, ranges: Vec::new(), started: 0, since: Instant::now() }
    }

    /// The operation that comes next, if there is one.
    pub(super) fn next_operation(&mut self, write_through: bool) -> Option<Operation<'_>> {
        let Self { chain, request, ranges, started, .. } = self;
        let (next, count) = match *request {
            Request::Read { offset, len } => {
                (Some(Operation::Read(offset, Data::to_fill(chain, len))), 1)
            }
            Request::Write { offset, len } => {
                (Some(Operation::Write(offset, Data::to_write(chain, HEADER, len))), 1)
            }
            Request::Flush => (Some(Operation::Flush), 1),
            Request::Discard => {
                (ranges.get(*started).map(|&range| Operation::Discard(range)), ranges.len())
            }
            Request::WriteZeroes { range, unmap } => {
                (Some(Operation::WriteZeroes(range, unmap)), 1)
            }
            Request::GetId => (None, 0),
        };
        let number = *started;
        *started += 1;
        if number < count {
            return next;
        }
        (number == count && write_through && request.modifies()).then_some(Operation::Flush)
    }
}
