//! What a VMM answers its monitor and the commands that ask it: it may be its guest's prey. The first byte says what
//! it was asked.

#![no_main]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use vmm::api::client::{Client, ConsoleOptions};
use vmm::api::types::{Event, Statistics, Vm};

/// A server that answers each connection by the bytes it is given for it, whatever is asked.
struct Server {
    path: PathBuf,
    answers: Sender<Vec<u8>>,
    _folder: TempDir,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let folder = TempDir::new_in("/dev/shm").expect("memory");
    let path = folder.path().join("api.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let (answers, given) = channel::<Vec<u8>>();
    thread::spawn(move || {
        for answer in given {
            let (mut client, _) = listener.accept().expect("a client");
            // The question first: who has an answer before it asks asks again.
            let _ = client.read(&mut [0; 1024]);
            // The client may have heard enough.
            let _ = client.write_all(&answer);
            let _ = client.shutdown(Shutdown::Write);
        }
    });
    Server { path, answers, _folder: folder }
});

fuzz_target!(|data: &[u8]| {
    let Some((choice, answer)) = data.split_first() else { return };
    SERVER.answers.send(answer.to_vec()).expect("the server");
    let mut client = Client::connect(&SERVER.path).expect("the server");
    let error = match choice % 5 {
        0 => client.get::<Vm>("/v1/vm").err(),
        1 => client.get::<Statistics>("/v1/statistics").err(),
        2 => client.get::<Event>("/v1/events").err(),
        3 => client.post("/v1/pause").err(),
        _ => match client.console(ConsoleOptions::default()) {
            Ok(mut console) => {
                // All that follows is the console's.
                let mut rest = Vec::new();
                console.stream.read_to_end(&mut rest).expect("a socket");
                assert!(answer.ends_with(&rest));
                None
            }
            Err(error) => Some(error),
        },
    };
    assert!(error.is_none_or(|error| !error.to_string().is_empty()));
});
