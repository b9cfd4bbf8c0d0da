//! `carve serve`: the control interface of all guests.

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;
use std::{fs, iter};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use vmm::api::host::{self, Host};
use vmm::api::server::Server;
use vmm::api::{activation, socket};
use vmm::guests::Store;
use vmm::signals::{ENDING, Signals};

use crate::cli::guests::ServeArgs;
use crate::exit;

/// Serves until a signal says to end, or nobody has been there for as long as was said.
///
/// # Errors
///
/// There is no place for guests, or nothing to listen on.
pub fn run(args: &ServeArgs) -> Result<ExitCode, super::Error> {
    let store = Store::of_user()?;
    store.folders().make().map_err(vmm::guests::Error::from)?;
    let passed = activation::listener()?;
    let mut signals = Signals::new()?;
    if passed.is_some() && args.socket.is_some() {
        return Err("a socket was passed by whoever started this; leave out --socket".into());
    }
    let (listener, file) = match passed {
        // Its file belongs to whoever made it.
        Some(listener) => (listener, None),
        None => {
            let path = args.socket.clone();
            let path = path.unwrap_or_else(|| store.folders().runtime.join("host.sock"));
            let listener = socket::bind(&path)?;
            exit::say(&format!("the guests of this user are served at {}", path.display()));
            (listener, Some(path))
        }
    };
    let alone = args.idle_exit.map(|seconds| Duration::from_secs(seconds.into()));
    // Held until the file is gone: nobody else puts theirs there meanwhile.
    let held = listener.try_clone()?;
    let server = Server::start(listener, Host::new(store), host::limits(alone))?;
    let waited = wait(&server, &mut signals);
    if let Some(path) = file {
        let _ = fs::remove_file(path);
    }
    drop((held, server));
    Ok(waited.map(|()| ExitCode::SUCCESS)?)
}

/// Waits for a signal that ends this, or for the server to end by itself.
fn wait(server: &Server, signals: &mut Signals) -> Result<(), Errno> {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(server.over(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let over = !fds[1].revents().is_empty();
        let mut told = iter::from_fn(|| signals.take());
        if over || told.any(|signal| ENDING.contains(&signal)) {
            return Ok(());
        }
    }
}
