//! What happened to a guest in this run, kept for whoever asks and streamed to whoever listens.
//!
//! The journal of all guests ([`crate::guests::Journal`]) is a file and lasts; this is the last of it, for
//! clients of the control interface.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use devices::mutex::lock;
use vmm_sys_util::eventfd::EventFd;

use super::stream::{Flow, Stream};
use super::types::Event;

/// Events that are kept. A listener that is further behind is dropped.
const KEPT: usize = 256;

/// How much a stream hands out at once, in bytes; one event more at most.
const CHUNK: usize = 4096;

/// The events of a run. Clones are handles on the same list.
#[derive(Clone, Debug, Default)]
pub struct Events(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    lines: VecDeque<Vec<u8>>,
    /// How many there have been before the first of `lines`.
    gone: u64,
    over: bool,
    wake: Option<Arc<EventFd>>,
}

impl List {
    fn wake(&self) {
        if let Some(wake) = &self.wake {
            let _ = wake.write(1);
        }
    }
}

impl Events {
    /// Tells everyone of `event`.
    pub fn publish(&self, event: &Event) {
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        let mut list = lock(&self.0);
        if list.lines.len() == KEPT {
            list.lines.pop_front();
            list.gone += 1;
        }
        list.lines.push_back(line);
        list.wake();
    }

    /// No more events come.
    pub fn close(&self) {
        let mut list = lock(&self.0);
        list.over = true;
        list.wake();
    }

    /// Those kept, and with `follow` those to come, too. `wake` is written to when there are any.
    pub fn stream(&self, follow: bool, wake: &Arc<EventFd>) -> EventStream {
        let mut list = lock(&self.0);
        list.wake.get_or_insert_with(|| Arc::clone(wake));
        EventStream { events: self.clone(), next: list.gone, follow }
    }
}

/// One listener's place in the list.
#[derive(Debug)]
pub struct EventStream {
    events: Events,
    /// How many there have been before the next one.
    next: u64,
    follow: bool,
}

impl Stream for EventStream {
    fn next(&mut self, output: &mut Vec<u8>) -> Flow {
        let list = lock(&self.events.0);
        let Some(skip) = self.next.checked_sub(list.gone) else { return Flow::Lost };
        for line in list.lines.iter().skip(usize::try_from(skip).unwrap_or(KEPT)) {
            output.extend_from_slice(line);
            self.next += 1;
            if output.len() >= CHUNK {
                return Flow::More;
            }
        }
        if list.over || !self.follow { Flow::End } else { Flow::Pause }
    }
}

#[cfg(test)]
mod events_test {
    use super::*;

    fn event(number: usize) -> Event {
        Event {
            time: number as u64,
            event: "reset".into(),
            id: "1".into(),
            name: "web".into(),
            ..Event::default()
        }
    }

    fn wake() -> Arc<EventFd> {
        Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap())
    }

    /// The times of what a stream gives until it pauses or ends.
    fn times(stream: &mut EventStream) -> (Vec<usize>, Flow) {
        let mut bytes = Vec::new();
        loop {
            let mut chunk = Vec::new();
            let flow = stream.next(&mut chunk);
            bytes.extend(chunk);
            if flow != Flow::More {
                let text = String::from_utf8(bytes).unwrap();
                let event = |line| serde_json::from_str::<Event>(line).unwrap().time;
                let event = |line| usize::try_from(event(line)).unwrap();
                return (text.lines().map(event).collect(), flow);
            }
        }
    }

    #[test]
    fn listeners_get_what_was_kept_and_what_comes() {
        let (events, wake) = (Events::default(), wake());
        events.publish(&event(0));
        let mut following = events.stream(true, &wake);
        assert_eq!(times(&mut following), (vec![0], Flow::Pause));
        assert_eq!(times(&mut events.stream(false, &wake)), (vec![0], Flow::End));
        events.publish(&event(1));
        assert_eq!(wake.read().unwrap(), 1);
        assert_eq!(times(&mut following), (vec![1], Flow::Pause));
        events.close();
        assert_eq!(wake.read().unwrap(), 1);
        assert_eq!(times(&mut following), (vec![], Flow::End));
    }

    #[test]
    fn the_list_is_bounded_and_who_is_too_far_behind_is_told() {
        let (events, wake) = (Events::default(), wake());
        let mut slow = events.stream(true, &wake);
        for number in 0..KEPT + 10 {
            events.publish(&event(number));
        }
        let (kept, flow) = times(&mut events.stream(true, &wake));
        assert_eq!((kept, flow), ((10..KEPT + 10).collect(), Flow::Pause));
        assert_eq!(times(&mut slow), (vec![], Flow::Lost));
    }
}
