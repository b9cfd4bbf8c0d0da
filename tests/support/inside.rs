//! A guest run by the library inside the test's own process, and controlled through its socket.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use resources::config::{self, VmSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use vmm::api::client::{Client, Error};
use vmm::api::types::ProblemDocument;
use vmm::jail::Confinement;
use vmm::{Console, Control, End, Notice, RunOptions};

use super::payload::write_elf;

const SOON: Duration = Duration::from_secs(60);

/// A guest that runs.
pub struct Guest {
    run: Option<JoinHandle<Result<vmm::Outcome, vmm::Error>>>,
    client: Client,
    input: PipeWriter,
    output: mpsc::Receiver<Vec<u8>>,
    seen: String,
    notices: mpsc::Receiver<Notice>,
    reading: Arc<AtomicBool>,
    _folder: tempfile::TempDir,
}

impl Guest {
    /// Starts `code` with what `config`, a file's text, says beside the kernel.
    pub fn start(code: &[u8], config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [kernel, socket] = ["kernel", "api.sock"].map(|name| folder.path().join(name));
        write_elf(code, &kernel);
        let listener = UnixListener::bind(&socket).unwrap();
        let text = format!("kernel = {kernel:?}\nmemory = \"128MiB\"\n{config}");
        let (input, output) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        let (notify, notices) = mpsc::channel();
        let run = thread::spawn(move || run(&text, listener, input.0, output.1, notify));
        let reading = Arc::new(AtomicBool::new(true));
        let output = collect(output.0, Arc::clone(&reading));
        let (input, seen) = (input.1, String::new());
        let client = Client::connect_within(&socket, SOON).unwrap();
        Self { run: Some(run), client, input, output, seen, notices, reading, _folder: folder }
    }

    /// What the guest tells at `/v1/PATH`.
    #[track_caller]
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> T {
        self.client.get(&format!("/v1/{path}")).unwrap()
    }

    /// Has the guest do `verb`; how long it took.
    #[track_caller]
    pub fn order(&mut self, verb: &str) -> Duration {
        let start = Instant::now();
        self.client.post(&format!("/v1/{verb}")).unwrap();
        start.elapsed()
    }

    /// Why the guest does not do `verb`.
    #[track_caller]
    pub fn refuses(&mut self, verb: &str) -> ProblemDocument {
        why(self.client.post(&format!("/v1/{verb}")))
    }

    /// Changes what is at `/v1/PATH`.
    ///
    /// # Errors
    ///
    /// Why the guest refuses it.
    pub fn change(&mut self, path: &str, change: &impl Serialize) -> Result<(), ProblemDocument> {
        let changed = self.client.patch(&format!("/v1/{path}"), change);
        if changed.is_ok() { Ok(()) } else { Err(why(changed)) }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.input.write_all(bytes).unwrap();
    }

    /// Sets what is at `/v1/PATH`.
    #[track_caller]
    pub fn put(&mut self, path: &str, value: &impl Serialize) {
        self.client.put(&format!("/v1/{path}"), value).unwrap();
    }

    /// Whether anybody reads its output.
    pub fn read(&self, reading: bool) {
        self.reading.store(reading, Ordering::Release);
    }

    /// Waits until there is output that `found` takes something from; that.
    #[track_caller]
    pub fn wait_for<T>(&mut self, found: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(found) = found(&self.seen) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("not what was waited for: {:?}", self.seen),
            }
        }
    }

    /// All output that has come; forgets it.
    pub fn take_output(&mut self) -> String {
        let more: Vec<u8> = self.output.try_iter().flatten().collect();
        self.seen.push_str(&String::from_utf8_lossy(&more));
        std::mem::take(&mut self.seen)
    }

    /// What has been told of it and not been asked for yet.
    pub fn notices(&self) -> Vec<Notice> {
        self.notices.try_iter().collect()
    }

    /// Waits for its end, which must be soon.
    #[track_caller]
    pub fn finish(mut self) -> (End, String) {
        let run = self.run.take().unwrap();
        let deadline = Instant::now() + SOON;
        while !run.is_finished() {
            assert!(Instant::now() < deadline, "still running: {:?}", self.take_output());
            thread::sleep(Duration::from_millis(1));
        }
        let outcome = run.join().unwrap().unwrap();
        // All is in the pipe by now, and its writing end closed.
        let rest: Vec<u8> = self.output.iter().flatten().collect();
        self.seen.push_str(&String::from_utf8_lossy(&rest));
        (outcome.end, std::mem::take(&mut self.seen))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if self.run.is_some() {
            let _ = self.client.post("/v1/end");
        }
    }
}

fn run(
    text: &str,
    socket: UnixListener,
    input: PipeReader,
    output: PipeWriter,
    notify: mpsc::Sender<Notice>,
) -> Result<vmm::Outcome, vmm::Error> {
    let file = config::File::parse(Path::new("test.toml"), text.into()).unwrap();
    let control = Control {
        socket: Some(socket),
        notify: Box::new(move |notice| drop(notify.send(notice.clone()))),
        ..Control::default()
    };
    vmm::run(RunOptions {
        config: config::load(Some(&file), VmSpec::default()).unwrap(),
        console: Console {
            input: Some(input.into()),
            output: Some(output.into()),
            ..Console::default()
        },
        kvm_device: PathBuf::from("/dev/kvm"),
        kernel_cache: None,
        start: Instant::now(),
        control,
        announce: |_| {},
        confinement: Confinement::none(),
        outside: None,
        pins: Vec::new(),
        pause_when_full: Vec::new(),
    })
}

#[track_caller]
fn why(done: Result<(), Error>) -> ProblemDocument {
    match done {
        Err(Error::Refused(problem)) => problem,
        other => panic!("not refused: {other:?}"),
    }
}

fn collect(mut from: PipeReader, reading: Arc<AtomicBool>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
            while !reading.load(Ordering::Acquire) {
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
    receiver
}
