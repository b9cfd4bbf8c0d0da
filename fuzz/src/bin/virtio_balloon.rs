//! The balloon behind its queues: any pages, any reports, any statistics.

#![no_main]

use std::sync::Arc;
use std::time::Duration;

use carve_fuzz::device::Host;
use devices::virtio::balloon::{Balloon, Handle, Options};
use devices::virtio::test_driver::Part;
use libfuzzer_sys::arbitrary::{self, Arbitrary};

struct Operator(Arc<Handle>);

#[derive(Arbitrary, Clone, Debug)]
enum Request {
    /// Runs of pages in this order: first and count.
    Inflate(Vec<(Page, u8)>),
    Deflate(Vec<(Page, u8)>),
    /// Tags and values, and a ragged end.
    Statistics(Vec<(u8, u64)>, Vec<u8>),
    Report(Vec<u16>),
}

/// A page, most often one there is; no ring is in those.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Page {
    Inside(u16),
    Any(u32),
}

#[derive(Arbitrary, Clone, Debug)]
enum Action {
    Target(u32),
    TargetBytes(u64),
    Poll,
    Look,
}

fn numbers(runs: &[(Page, u8)]) -> Part {
    let run = |&(page, count): &(Page, u8)| {
        let first = match page {
            Page::Inside(page) => 0x2000 + u32::from(page % 0x2000),
            Page::Any(page) => page,
        };
        (0..u32::from(count)).map(move |i| first.wrapping_add(i))
    };
    Part::Out(runs.iter().flat_map(run).flat_map(u32::to_le_bytes).collect())
}

impl Host for Operator {
    type Device = Balloon;
    type Request = Request;
    type Action = Action;

    fn new() -> Self {
        Self(Handle::new(16).expect("descriptors"))
    }

    fn device(&self) -> Balloon {
        let statistics_interval = Some(Duration::from_millis(1));
        let options = Options { deflate_on_oom: true, reporting: true, statistics_interval };
        Balloon::new(options, Arc::clone(&self.0))
    }

    fn request(&mut self, request: &Request) -> (usize, Vec<Part>) {
        match request {
            Request::Inflate(runs) => (0, vec![numbers(runs)]),
            Request::Deflate(runs) => (1, vec![numbers(runs)]),
            Request::Statistics(values, rest) => {
                let entry = |&(tag, value): &(u8, u64)| {
                    u16::from(tag % 20).to_le_bytes().into_iter().chain(value.to_le_bytes())
                };
                let bytes = values.iter().flat_map(entry).chain(rest.iter().copied());
                (2, vec![Part::Out(bytes.collect())])
            }
            Request::Report(lens) => {
                (4, lens.iter().take(32).map(|&len| Part::In(16 * usize::from(len))).collect())
            }
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Target(pages) => self.0.set_target_pages(*pages),
            Action::TargetBytes(bytes) => self.0.set_target_bytes(*bytes),
            Action::Poll => self.0.poll_statistics(),
            Action::Look => drop((self.0.statistics(), self.0.actual_pages())),
        }
    }
}

carve_fuzz::virtio_queues!(Operator);
