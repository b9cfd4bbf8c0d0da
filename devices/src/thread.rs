//! Threads by what they do. Whoever confines this process can have every thread begin by giving up
//! what its kind of work does not need, and have all of them started by one thread that may start
//! threads: nobody else needs to be able to then.
//!
//! What is given up is not decided here. Without a [`Keeper`] threads are ordinary ones.

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::sync_channel;
use std::thread::{Builder, JoinHandle};

use rustix::process::getpid;
use rustix::thread::{sched_getaffinity, sched_setaffinity};

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // Their names say it.
pub enum Role {
    Main,
    /// Starts the others.
    Nursery,
    Vcpu,
    /// A queue of a disk.
    Block,
    /// A pair of queues of a network device.
    Net,
    /// The virtio console.
    VirtioConsole,
    Vsock,
    Balloon,
    Rng,
    /// Passes console output on.
    Console,
    /// The control interface.
    Api,
    /// Follows a process that carries a network.
    Passt,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Main,
        Self::Nursery,
        Self::Vcpu,
        Self::Block,
        Self::Net,
        Self::VirtioConsole,
        Self::Vsock,
        Self::Balloon,
        Self::Rng,
        Self::Console,
        Self::Api,
        Self::Passt,
    ];

    /// What it is called in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Nursery => "nursery",
            Self::Vcpu => "vcpu",
            Self::Block => "block",
            Self::Net => "net",
            Self::VirtioConsole => "virtio-console",
            Self::Vsock => "vsock",
            Self::Balloon => "balloon",
            Self::Rng => "rng",
            Self::Console => "console",
            Self::Api => "api",
            Self::Passt => "passt",
        }
    }
}

/// Something to be done by the thread that starts threads.
pub type Job = Box<dyn FnOnce() + Send>;

/// What becomes of threads as they start.
pub trait Keeper: Send + Sync {
    /// Has `job`, which starts a thread, done by a thread that can.
    ///
    /// # Errors
    ///
    /// That thread is gone.
    fn delegate(&self, job: Job) -> io::Result<()>;

    /// Called on a new thread before it begins its work: from now on it can do only what `role` needs.
    ///
    /// # Errors
    ///
    /// The kernel's answer. The thread ends then.
    fn confine(&self, role: Role) -> io::Result<()>;
}

static KEEPER: OnceLock<Box<dyn Keeper>> = OnceLock::new();

/// Puts the threads that start from now on under `keeper`, for good. False if they are under one already.
pub fn keep(keeper: Box<dyn Keeper>) -> bool {
    KEEPER.set(keeper).is_ok()
}

/// A thread to be started.
#[derive(Debug)]
pub struct Start {
    role: Role,
    name: String,
    stack: Option<usize>,
}

impl Start {
    /// A thread called `name` (at most 15 bytes show in the host's tools).
    pub fn new(role: Role, name: impl Into<String>) -> Self {
        Self { role, name: name.into(), stack: None }
    }

    /// Bytes for its stack.
    #[must_use]
    pub fn stack(self, bytes: usize) -> Self {
        Self { stack: Some(bytes), ..self }
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// The host has no more threads, or the thread could not be confined.
    pub fn run<T: Send + 'static>(
        self,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        self.run_with(|| Ok(()), |()| body())
    }

    /// Starts it with `body`, which is given what `prepare` makes on that thread before it is confined.
    ///
    /// # Errors
    ///
    /// As of [`run`](Self::run), and those of `prepare`.
    pub fn run_with<P: 'static, T: Send + 'static>(
        self,
        prepare: impl FnOnce() -> io::Result<P> + Send + 'static,
        body: impl FnOnce(P) -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        let Self { role, name, stack } = self;
        let builder = Builder::new().name(name);
        let builder = stack.into_iter().fold(builder, Builder::stack_size);
        let keeper = KEEPER.get();
        let (answer, answered) = sync_channel(1);
        let body = move || {
            go_where_main_runs();
            let confine = || keeper.map_or(Ok(()), |keeper| keeper.confine(role));
            match prepare().and_then(|prepared| confine().map(|()| prepared)) {
                Ok(prepared) => {
                    let _ = answer.send(Ok(()));
                    Some(body(prepared))
                }
                Err(error) => {
                    let _ = answer.send(Err(error));
                    None
                }
            }
        };
        // The value is there whenever the handle has been given out.
        let body = move || body().unwrap_or_else(|| std::panic::resume_unwind(Box::new(())));
        let handle = match keeper {
            None => builder.spawn(body)?,
            Some(keeper) => {
                let (handle, handles) = sync_channel(1);
                keeper.delegate(Box::new(move || _ = handle.send(builder.spawn(body))))?;
                handles.recv().map_err(io::Error::other)??
            }
        };
        // Nothing comes from a thread that panicked while it prepared, which has been reported then.
        answered.recv().map_err(io::Error::other)??;
        Ok(handle)
    }
}

/// Lets this thread run where the main thread does. It begins where the thread runs that started it,
/// which may be a vCPU's: on the one CPU of that it would be in its way.
fn go_where_main_runs() {
    let of = |thread| sched_getaffinity(thread).ok();
    let main = of(Some(getpid()));
    if let Some(cpus) = main.filter(|main| of(None).is_some_and(|own| own != *main)) {
        // Where that is impossible it runs where it is.
        let _ = sched_setaffinity(None, &cpus);
    }
}

#[cfg(test)]
mod thread_test {
    use std::thread;

    use rustix::thread::CpuSet;

    use super::*;

    #[test]
    fn a_thread_has_its_name_and_gives_back_its_value() {
        let start = Start::new(Role::Rng, "worker").stack(64 << 10);
        let handle = start.run(|| thread::current().name().map(str::to_owned)).unwrap();
        assert_eq!(handle.join().unwrap().as_deref(), Some("worker"));
    }

    #[test]
    fn a_thread_is_not_kept_to_the_cpu_of_the_thread_that_starts_it() {
        let pinned = thread::spawn(|| {
            let all = sched_getaffinity(None).unwrap();
            let mut one = CpuSet::new();
            one.set((0..CpuSet::MAX_CPU).find(|&cpu| all.is_set(cpu)).unwrap());
            sched_setaffinity(None, &one).unwrap();
            Start::new(Role::Rng, "worker")
                .run(|| sched_getaffinity(None).unwrap())
                .unwrap()
                .join()
                .unwrap()
        });
        assert_eq!(pinned.join().unwrap(), sched_getaffinity(Some(getpid())).unwrap());
    }

    #[test]
    fn what_cannot_be_prepared_is_an_error_of_the_start() {
        let refuse = || Err::<(), _>(io::ErrorKind::OutOfMemory.into());
        let error = Start::new(Role::Rng, "worker").run_with(refuse, |()| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
    }

    #[test]
    fn every_role_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Role::ALL.map(Role::name).into();
        assert_eq!(names.len(), Role::ALL.len());
    }
}
