//! [`Jobs`]: what takes time, a thread each, so that the server waits for nothing.

use std::sync::Arc;
use std::sync::mpsc::{TryRecvError, sync_channel};
use std::thread;

use vmm_sys_util::eventfd::EventFd;

use crate::api::http::Response;
use crate::api::problem::{Kind, Problem};
use crate::api::server::Awaited;
use crate::guests::spawn;

/// Jobs at once. Clients that ask for something and go away, again and again, get no further.
const MOST: usize = 64;

/// Stack of a thread in bytes.
const STACK: usize = 512 << 10;

/// Work in progress.
#[derive(Debug, Default)]
pub struct Jobs(Arc<()>);

impl Jobs {
    /// Starts `job`, which gives a response. `wake` is written to when it is there, or will never be.
    ///
    /// # Errors
    ///
    /// [`Kind::Busy`]; [`Kind::Failed`] if the host has no thread left.
    pub fn start(
        &self,
        wake: &Arc<EventFd>,
        job: impl FnOnce() -> Response + Send + 'static,
    ) -> Result<Awaited, Problem> {
        if self.count() >= MOST {
            let detail = format!("{MOST} requests are worked on already; try again later");
            return Err(Problem::new(Kind::Busy, detail));
        }
        let (answer, answered) = sync_channel(1);
        let (at_work, woken) = (Arc::clone(&self.0), Wake(Arc::clone(wake)));
        let body = move || {
            // In this order: whoever is woken finds the response, or nobody who could give one, and one job less.
            let (_woken, _at_work, answer) = (woken, at_work, answer);
            let _ = answer.send(job());
            spawn::reap(None);
        };
        thread::Builder::new().name("job".into()).stack_size(STACK).spawn(body).map_err(
            |error| Problem::new(Kind::Failed, format!("the host has no thread left: {error}")),
        )?;
        Ok(Awaited::new(move || match answered.try_recv() {
            Ok(response) => Some(response),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                let detail = "a bug in Carve ended the work on this request; please report it";
                Some(Problem::new(Kind::Failed, detail).response())
            }
        }))
    }

    /// Whether there is any.
    pub fn is_busy(&self) -> bool {
        self.count() > 0
    }

    fn count(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

/// Wakes the server when it goes.
struct Wake(Arc<EventFd>);

impl Drop for Wake {
    fn drop(&mut self) {
        let _ = self.0.write(1);
    }
}

#[cfg(test)]
mod jobs_test {
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use super::*;

    fn wake() -> Arc<EventFd> {
        Arc::new(EventFd::new(libc::EFD_CLOEXEC).unwrap())
    }

    #[test]
    fn a_response_is_there_once_the_server_is_woken() {
        let (jobs, wake) = (Jobs::default(), wake());
        let (go, gone) = channel::<()>();
        let mut awaited = jobs
            .start(&wake, move || {
                let _ = gone.recv();
                Response::done()
            })
            .unwrap();
        assert!(awaited.take().is_none() && jobs.is_busy());
        drop(go);
        wake.read().unwrap();
        assert_eq!(awaited.take(), Some(Response::done()));
        assert!(!jobs.is_busy());
    }

    #[test]
    fn a_job_that_panics_is_answered() {
        let (jobs, wake) = (Jobs::default(), wake());
        let mut awaited = jobs.start(&wake, || panic!("as it should in this test")).unwrap();
        wake.read().unwrap();
        assert_eq!(awaited.take().unwrap().status, 500);
    }

    #[test]
    fn jobs_that_nobody_waits_for_are_bounded() {
        let (jobs, wake) = (Jobs::default(), wake());
        let (go, gone) = channel::<()>();
        let gone = Arc::new(std::sync::Mutex::new(gone));
        let start = || {
            let gone = Arc::clone(&gone);
            let job = move || {
                let _ = devices::mutex::lock(&gone).recv();
                Response::done()
            };
            jobs.start(&wake, job).map(drop)
        };
        for _ in 0..MOST {
            start().unwrap();
        }
        assert_eq!(start().unwrap_err().kind, Kind::Busy);
        drop(go);
        let until = Instant::now() + Duration::from_secs(20);
        while jobs.is_busy() && Instant::now() < until {
            thread::yield_now();
        }
        start().unwrap();
    }
}
