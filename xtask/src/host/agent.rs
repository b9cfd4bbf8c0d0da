//! The first process of the emulated host (`xtask host-agent`), or the one service that its first process starts: takes
//! one command from the port that leads outside, runs it, carries its bytes, and tells how it ended. The machine outside
//! then ends the host.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions};
use rustix::pty::{self, OpenptFlags};
use rustix::termios::{Winsize, tcsetwinsize};

use super::protocol::{Ending, Frame, Size, Start};
use super::{inside, qemu};
use crate::child;

/// Runs as the emulated host's first process. Never returns, since the kernel would panic.
pub fn run() -> ! {
    if let Err(error) = serve() {
        eprintln!("carve-host: the agent failed: {error}");
        let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    }
    loop {
        // The machine outside kills us; until then, collect orphans.
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        thread::sleep(Duration::from_millis(100));
    }
}

fn serve() -> io::Result<()> {
    let mut port = open_port()?;
    let Some(Frame::Start(start)) = receive_first(&mut port)? else {
        return Err(io::Error::other("expected to be told what to run"));
    };
    let port = Port(Arc::new(Mutex::new(port.try_clone()?)), port);
    let ending = match run_command(&start, port.clone()?) {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Ending::Exited(code),
            (None, signal) => Ending::Signalled(signal.unwrap_or(0)),
        },
        Err(error) => Ending::Failed(error.to_string()),
    };
    rustix::fs::sync();
    port.send(&Frame::Ended(ending))
}

/// The port, for reading by one thread and writing by several.
struct Port(Arc<Mutex<File>>, File);

impl Port {
    fn clone(&self) -> io::Result<Self> {
        Ok(Self(Arc::clone(&self.0), self.1.try_clone()?))
    }

    fn send(&self, frame: &Frame) -> io::Result<()> {
        frame.send(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn open_port() -> io::Result<File> {
    let ports = "/sys/class/virtio-ports";
    for _ in 0..500 {
        for entry in fs::read_dir(ports).into_iter().flatten().flatten() {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim() == qemu::AGENT_PORT {
                let device = PathBuf::from("/dev").join(entry.file_name());
                return OpenOptions::new().read(true).write(true).open(device);
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(io::Error::other("there is no port to the machine outside"))
}

/// The first frame. The port reads as ended until the kernel has learnt that the other side is there.
fn receive_first(port: &mut File) -> io::Result<Option<Frame>> {
    for _ in 0..500 {
        if let Some(frame) = Frame::receive(port)? {
            return Ok(Some(frame));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(None)
}

fn run_command(start: &Start, port: Port) -> io::Result<ExitStatus> {
    inside::set_up(start)?;
    let (program, arguments) = start.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(&start.environment).current_dir(&start.directory);
    let (streams, files) = match start.terminal {
        Some(size) => Streams::terminal(size)?,
        None => Streams::pipes()?,
    };
    let [input, output, error] = files;
    command.stdin(input).stdout(output).stderr(error);
    child::lead_session(&mut command, start.terminal.is_some());
    let spawned = command.spawn();
    // Holds our copies of the command's ends: with them open its output would never end.
    drop(command);
    let child =
        spawned.map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    port.send(&Frame::Started)?;
    let copiers = streams.copy_output(&port)?;
    let pid = Pid::from_child(&child);
    let reader = port.clone()?;
    thread::spawn(move || obey(reader, streams, pid));
    let status = wait(child)?;
    // What the command left running would keep its output open; a container's first process ends its container too.
    kill_all();
    for copier in copiers {
        let _ = copier.join();
    }
    Ok(status)
}

/// Waits for the command, and for orphans as they come, as a first process must.
fn wait(child: Child) -> io::Result<ExitStatus> {
    let pid = Pid::from_child(&child);
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == pid => {
                return Ok(ExitStatus::from_raw(status.as_raw()));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Kills every process but this one.
fn kill_all() {
    let own = std::process::id();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if let Some(pid) =
            Pid::from_raw(pid).filter(|pid| pid.as_raw_nonzero().get().cast_unsigned() != own)
        {
            // Kernel threads take no signals.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// Does what the machine outside asks while the command runs.
fn obey(port: Port, mut streams: Streams, pid: Pid) {
    let Ok(mut reader) = port.1.try_clone() else { return };
    while let Ok(Some(frame)) = Frame::receive(&mut reader) {
        match frame {
            Frame::Ping => drop(port.send(&Frame::Alive)),
            Frame::Input(bytes) => streams.write(&bytes),
            Frame::InputEnd => streams.end_input(),
            Frame::Resize(size) => streams.resize(size),
            Frame::Signal(signal) => {
                if let Some(signal) = Signal::from_named_raw(signal) {
                    let _ = rustix::process::kill_process_group(pid, signal);
                }
            }
            _ => {}
        }
    }
}

/// Our ends of the command's standard streams.
enum Streams {
    Pipes { input: Option<File>, output: File, error: File },
    Terminal(File),
}

impl Streams {
    fn pipes() -> io::Result<(Self, [Stdio; 3])> {
        let (input_reader, input) = io::pipe()?;
        let (output, output_writer) = io::pipe()?;
        let (error, error_writer) = io::pipe()?;
        let file = |fd: OwnedFd| File::from(fd);
        let streams = Self::Pipes {
            input: Some(file(input.into())),
            output: file(output.into()),
            error: file(error.into()),
        };
        Ok((streams, [input_reader.into(), output_writer.into(), error_writer.into()]))
    }

    fn terminal(size: Size) -> io::Result<(Self, [Stdio; 3])> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let controller = pty::openpt(flags)?;
        pty::grantpt(&controller)?;
        pty::unlockpt(&controller)?;
        let name = pty::ptsname(&controller, Vec::new())?;
        let flags =
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let user = rustix::fs::open(name, flags, rustix::fs::Mode::empty())?;
        let streams = Self::Terminal(controller.into());
        streams.resize(size);
        let files = [user.try_clone()?.into(), user.try_clone()?.into(), user.into()];
        Ok((streams, files))
    }

    fn copy_output(&self, port: &Port) -> io::Result<Vec<JoinHandle<()>>> {
        let copier = |from: &File, frame: fn(Vec<u8>) -> Frame| -> io::Result<JoinHandle<()>> {
            let (from, port) = (from.try_clone()?, port.clone()?);
            Ok(thread::spawn(move || copy(from, &port, frame)))
        };
        match self {
            Self::Pipes { output, error, .. } => {
                Ok(vec![copier(output, Frame::Output)?, copier(error, Frame::Error)?])
            }
            Self::Terminal(controller) => Ok(vec![copier(controller, Frame::Output)?]),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        match self {
            Self::Pipes { input, .. } => {
                if input.as_mut().is_some_and(|input| input.write_all(bytes).is_err()) {
                    *input = None;
                }
            }
            Self::Terminal(controller) => {
                let _ = controller.write_all(bytes);
            }
        }
    }

    fn end_input(&mut self) {
        if let Self::Pipes { input, .. } = self {
            *input = None;
        }
    }

    fn resize(&self, size: Size) {
        if let Self::Terminal(controller) = self {
            let size =
                Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
            let _ = tcsetwinsize(controller.as_fd(), size);
        }
    }
}

/// Copies until the end of the stream, or of the terminal, which reads as an error.
fn copy(mut from: File, port: &Port, frame: fn(Vec<u8>) -> Frame) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || port.send(&frame(buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}
