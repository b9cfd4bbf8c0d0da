//! Running the command on this machine, which is a KVM host itself.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use rustix::process::{Pid, Signal};

use super::{Arguments, Error, Share, TIMED_OUT, exit_code, io};
use crate::{child, process};

/// Runs the command to its end or the time limit.
pub fn run(arguments: &Arguments, share: &Share) -> Result<u8, Error> {
    let mut command = Command::new(&arguments.command[0]);
    command.args(&arguments.command[1..]).env_clear().envs(arguments.environment(share));
    if arguments.no_stdin {
        command.stdin(Stdio::null());
    }
    // On a terminal the command must stay in the foreground group, which gets Ctrl-C as we do.
    let group = !arguments.on_terminal();
    if group {
        command.process_group(0);
    }
    child::die_with_parent(&mut command);
    let signals = super::emulated::Signals::catch()?;
    let mut child = command.spawn().map_err(|source| process::Error::Start {
        program: arguments.command[0].clone(),
        source,
    })?;
    let pid = Pid::from_child(&child);
    let deadline = arguments.time_limit.map(|limit| Instant::now() + limit);
    let (sender, ended) = mpsc::channel();
    std::thread::scope(|scope| {
        let sender_of_signals = sender.clone();
        let handle = signals.handle();
        scope.spawn(move || {
            signals.forward(|signal| sender_of_signals.send(Event::Signal(signal)).is_ok());
        });
        scope.spawn(|| wait(&mut child, &sender));
        let result = watch(&ended, deadline, pid, group);
        handle.close();
        result
    })
}

enum Event {
    Ended(std::io::Result<ExitStatus>),
    Signal(i32),
}

fn wait(child: &mut Child, sender: &mpsc::Sender<Event>) {
    let _ = sender.send(Event::Ended(child.wait()));
}

fn watch(
    events: &mpsc::Receiver<Event>,
    deadline: Option<Instant>,
    pid: Pid,
    group: bool,
) -> Result<u8, Error> {
    let mut timed_out = false;
    loop {
        let event = match deadline.filter(|_| !timed_out) {
            Some(deadline) => {
                events.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
            }
            None => events.recv().ok(),
        };
        match event {
            Some(Event::Ended(status)) => {
                let status = status.map_err(io("wait for the command"))?;
                let code = exit_code(status.code(), status.signal());
                return Ok(if timed_out { TIMED_OUT } else { code });
            }
            Some(Event::Signal(signal)) => {
                if let Some(signal) = Signal::from_named_raw(signal).filter(|_| group) {
                    let _ = rustix::process::kill_process_group(pid, signal);
                }
            }
            None => {
                timed_out = true;
                let _ = if group {
                    rustix::process::kill_process_group(pid, Signal::KILL)
                } else {
                    rustix::process::kill_process(pid, Signal::KILL)
                };
            }
        }
    }
}
