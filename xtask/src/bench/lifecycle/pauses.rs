//! How long the control interface takes to pause a guest that keeps requests of its disk in flight, and to have it go on.
//! A request and its answer are timed, over a connection that stays; no process is started for either.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Host;
use crate::bench::Result;
use crate::bench::stats::{median, ms};
use crate::workspace::Workspace;
use crate::{cargo, tsc};

/// What the guest does all the time: what, how much at once, how many at once.
const WORKLOADS: [&str; 2] = ["randread-4k-32", "randwrite-4k-32"];

/// Size of the disk in bytes.
const DISK: u64 = 64 << 20;

/// How long the guest works between two pauses.
const WORK: Duration = Duration::from_millis(20);

/// How long it has to begin.
const BEGIN: Duration = Duration::from_secs(60);

/// Pauses and resumes a guest at work, again and again.
pub(super) fn measure(
    workspace: &Workspace,
    host: &Host,
    rounds: usize,
    folder: &Path,
) -> Result<()> {
    let kernel = cargo::build_payload(workspace)?;
    // An hour of work, of which it will not see the end.
    let cycles = 3600.0 * tsc::rate();
    for workload in WORKLOADS {
        let disk = tempfile::Builder::new().prefix("carve-bench-").tempfile_in(folder)?;
        disk.as_file().set_len(DISK)?;
        let path = format!("path={},format=raw", disk.path().display());
        let cmdline = format!("bench=block cycles={cycles:.0} run={workload}");
        let kernel = kernel.to_str().ok_or("the payload's path is not UTF-8")?;
        host.output(&[
            "run",
            "-d",
            "--name",
            workload,
            "--memory",
            "256MiB",
            "--transport",
            "mmio",
            "--disk",
            &path,
            "--cmdline",
            &cmdline,
            "--kernel",
            kernel,
        ])?;
        let report: Value = serde_json::from_str(&host.output(&["inspect", workload])?)?;
        let socket = report[0]["socket"].as_str().ok_or("the guest has no socket")?;
        let times = pauses(&mut Api::connect(socket)?, rounds)?;
        host.output(&["rm", "-f", workload])?;
        print(workload, folder, &times);
    }
    Ok(())
}

/// Milliseconds of each pause and each resume.
#[derive(Default)]
struct Times {
    pauses: Vec<f64>,
    resumes: Vec<f64>,
}

fn pauses(api: &mut Api, rounds: usize) -> Result<Times> {
    let (mut times, mut done) = (Times::default(), 0);
    for round in 0..=rounds {
        let begun = Instant::now();
        // Only a guest that is at work is worth pausing.
        while api.requests()? == done {
            if begun.elapsed() > BEGIN {
                return Err("the guest does not use its disk".into());
            }
        }
        std::thread::sleep(WORK);
        let pause = api.timed("/v1/pause")?;
        done = api.requests()?;
        std::thread::sleep(WORK);
        if api.requests()? != done {
            return Err("the guest used its disk while it was paused".into());
        }
        let resume = api.timed("/v1/resume")?;
        // The first round warms caches.
        if round > 0 {
            times.pauses.push(pause);
            times.resumes.push(resume);
        }
    }
    Ok(times)
}

fn print(workload: &str, folder: &Path, times: &Times) {
    let longest = |times: &[f64]| times.iter().copied().fold(0.0, f64::max);
    println!(
        "API with {workload} in flight (disk in {}), {} rounds: pause median {:.2} ms, longest {:.2} ms; resume median \
         {:.2} ms, longest {:.2} ms",
        folder.display(),
        times.pauses.len(),
        median(times.pauses.clone()),
        longest(&times.pauses),
        median(times.resumes.clone()),
        longest(&times.resumes),
    );
}

/// A connection to a guest's control interface.
struct Api(UnixStream);

impl Api {
    fn connect(socket: &str) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self(stream))
    }

    /// How long a POST takes, in milliseconds.
    fn timed(&mut self, path: &str) -> Result<f64> {
        let request = format!("POST {path} HTTP/1.1\r\nHost: guest\r\n\r\n");
        let start = Instant::now();
        let (head, body) = self.ask(&request)?;
        let took = start.elapsed();
        if !head.starts_with("HTTP/1.1 204") {
            return Err(format!("{path}: {body}").into());
        }
        Ok(ms(took))
    }

    /// Requests to the disks so far.
    fn requests(&mut self) -> Result<u64> {
        let (_, body) = self.ask("GET /v1/stats HTTP/1.1\r\nHost: guest\r\n\r\n")?;
        let statistics: Value = serde_json::from_str(&body)?;
        let disks = statistics["disks"].as_object().ok_or("there are no disks")?;
        let of = |disk: &Value| {
            disk["reads"].as_u64().unwrap_or(0) + disk["writes"].as_u64().unwrap_or(0)
        };
        Ok(disks.values().map(of).sum())
    }

    /// Head and body of the answer to `request`.
    fn ask(&mut self, request: &str) -> Result<(String, String)> {
        self.0.write_all(request.as_bytes())?;
        let (mut heard, mut buffer) = (Vec::new(), [0; 8192]);
        loop {
            let count = self.0.read(&mut buffer)?;
            if count == 0 {
                return Err("the guest hung up".into());
            }
            heard.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&heard);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            if body.len() >= length.map_or(Ok(0), str::parse)? {
                return Ok((head.to_owned(), body.to_owned()));
            }
        }
    }
}
