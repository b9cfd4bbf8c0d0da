//! [`Bus`]: calls to systemd's manager over the system bus (org.freedesktop.systemd1(5)), and waiting for the jobs they
//! make.
//!
//! One thread and one socket, both of the caller's: whoever calls is about to give up what a thread of a library would
//! still have.

use std::time::{Duration, Instant};

use rustbus::connection::ll_conn::force_finish_on_error;
use rustbus::connection::{self, Timeout};
use rustbus::message_builder::{MarshalledMessage, MessageBuilder, MessageType};
use rustbus::wire::ObjectPath;
use rustbus::{RpcConn, standard_messages};

/// How long systemd may take for what it is asked: it does one thing after the other, and many guests may start at once.
const PATIENCE: Duration = Duration::from_secs(30);

const DESTINATION: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const OBJECT: &str = "/org/freedesktop/systemd1";
const JOBS: &str = "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
                    interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

/// Why systemd did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus.
    #[error("the system bus cannot be used, by which systemd is asked for control groups: {0}")]
    Bus(#[from] connection::Error),
    /// A call was answered with an error.
    #[error("systemd refuses {method}: {text} ({name})")]
    Refused {
        /// The method.
        method: &'static str,
        /// The error's name.
        name: String,
        /// In systemd's words.
        text: String,
    },
    /// What was begun came to no good end.
    #[error("systemd could not carry out {method}: the job ended as `{result}`; see journalctl -b")]
    Job {
        /// The method that made the job.
        method: &'static str,
        /// How it ended: `failed`, `timeout`, `dependency`, ...
        result: String,
    },
}

impl Error {
    /// Whether systemd refused, and with the error of this name.
    pub fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { name, .. } if name == wanted)
    }
}

/// A connection to the system bus.
pub struct Bus {
    connection: RpcConn,
    /// Of the call that was made last.
    deadline: Instant,
}

/// A call of a method of systemd's manager, to which arguments are to be added.
pub fn call(method: &'static str) -> MarshalledMessage {
    let call = MessageBuilder::new().call(method).with_interface(MANAGER);
    call.on(OBJECT).at(DESTINATION).build()
}

impl Bus {
    /// Connects, and has the bus tell of jobs that end.
    pub fn connect() -> Result<Self, Error> {
        let connection = RpcConn::system_conn(Timeout::Duration(PATIENCE))?;
        let mut bus = Self { connection, deadline: Instant::now() + PATIENCE };
        bus.ask("AddMatch", &mut standard_messages::add_match(JOBS))?;
        Ok(bus)
    }

    fn left(&self) -> Timeout {
        Timeout::Duration(self.deadline.saturating_duration_since(Instant::now()))
    }

    /// Calls, and returns the answer.
    pub fn ask(
        &mut self,
        method: &'static str,
        call: &mut MarshalledMessage,
    ) -> Result<MarshalledMessage, Error> {
        self.deadline = Instant::now() + PATIENCE;
        let left = self.left();
        let sent = self.connection.send_message(call)?.write(left).map_err(force_finish_on_error);
        let answer = self.connection.wait_response(sent?, left)?;
        if answer.typ != MessageType::Error {
            return Ok(answer);
        }
        let text = answer.body.parser().get::<&str>().unwrap_or_default().to_owned();
        let name = answer.dynheader.error_name.unwrap_or_default();
        Err(Error::Refused { method, name, text })
    }

    /// Calls a method that answers with a job, and waits for that job's end.
    pub fn carry_out(
        &mut self,
        method: &'static str,
        call: &mut MarshalledMessage,
    ) -> Result<(), Error> {
        let answer = self.ask(method, call)?;
        let job: ObjectPath<&str> = answer.body.parser().get().map_err(connection::Error::from)?;
        loop {
            let signal = self.connection.wait_signal(self.left())?;
            if signal.dynheader.member.as_deref() != Some("JobRemoved") {
                continue;
            }
            // Number, job, unit, result.
            let mut parts = signal.body.parser();
            let parts = parts.get4::<u32, ObjectPath<&str>, &str, &str>();
            let (_, ended, _, result) = parts.map_err(connection::Error::from)?;
            if ended != job {
                continue;
            }
            return match result {
                "done" => Ok(()),
                other => Err(Error::Job { method, result: other.to_owned() }),
            };
        }
    }
}
