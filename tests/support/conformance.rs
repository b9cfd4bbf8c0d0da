//! An interface against its own description, by a tool that knows nothing else of it.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::Running;

/// Has schemathesis (CARVE_SCHEMATHESIS) ask what is served at `socket` for everything it describes, but for the paths
/// `excluded`; fails where an answer is another than is described.
#[track_caller]
pub fn check(socket: &Path, excluded: &[&str]) {
    let Some(schemathesis) = std::env::var_os("CARVE_SCHEMATHESIS") else {
        eprintln!("skipped: CARVE_SCHEMATHESIS, the program schemathesis, is not set");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let address = forward(socket.to_owned());
    let mut command = Command::new(schemathesis);
    command.current_dir(folder.path());
    let description = format!("http://{address}/v1/openapi.json");
    command.args(["run", &description, "--url", &format!("http://{address}")]);
    command.args(["--phases", "coverage,fuzzing", "--max-examples", "40", "--seed", "1"]);
    command.args(["--checks", "all", "--warnings", "off", "--request-timeout", "20", "--no-color"]);
    // What is taken depends on devices, files and states, of which the description knows nothing.
    command.args(["--exclude-checks", "positive_data_acceptance"]);
    for path in excluded {
        command.args(["--exclude-path", path]);
    }
    Running::start(&mut command).finish(Duration::from_secs(300)).expect(0);
}

/// Passes on what comes to a port of this machine alone to the guest's socket, for programs that speak only TCP.
fn forward(to: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(guest) = UnixStream::connect(&to) else { return };
            let (mut from_client, mut to_guest) =
                (client.try_clone().unwrap(), guest.try_clone().unwrap());
            thread::spawn(move || {
                let _ = io::copy(&mut from_client, &mut to_guest);
                let _ = to_guest.shutdown(Shutdown::Write);
            });
            let (mut from_guest, mut to_client) = (guest, client);
            thread::spawn(move || {
                let _ = io::copy(&mut from_guest, &mut to_client);
                let _ = to_client.shutdown(Shutdown::Both);
            });
        }
    });
    address
}
