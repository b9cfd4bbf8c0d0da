//! Whether a process was ended by the host's out-of-memory killer, as the host's kernel says in its log
//! (Documentation/ABI/testing/dev-kmsg). Not every user may read that.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::clock::now;

/// What the log says about the end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It was killed because the host had no memory left.
    Host,
    /// It was killed because its control group had none left.
    Group,
    /// It was not killed for that.
    Neither,
}

/// Longest record of the log; the kernel's own are below 1 KiB.
const RECORD: usize = 8192;
/// The log's clock and the wall clock are compared at different moments.
const TOLERANCE: Duration = Duration::from_secs(2);

/// What the log says about the process `pid`, which was started at `since`, in milliseconds since 1970. Nothing if it
/// cannot be read, or does not go back that far.
pub(super) fn told(pid: i32, since: u64) -> Option<Told> {
    let passed = Duration::from_millis(now().saturating_sub(since)) + TOLERANCE;
    let clock = Duration::try_from(clock_gettime(ClockId::Monotonic)).ok()?;
    let begin = clock.saturating_sub(passed);
    let mut options = OpenOptions::new();
    let mut log = options.read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok()?;
    let mut bytes = [0; RECORD];
    let mut whole = false;
    loop {
        let count = match log.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => count,
            // Overwritten before it could be read: the next one follows.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                whole = false;
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let record = String::from_utf8_lossy(&bytes[..count]);
        let Some((sequence, time, text)) = parse(&record) else { continue };
        whole |= sequence == 0 || time <= begin;
        if time >= begin
            && let Some(told) = of(text, pid)
        {
            return Some(told);
        }
    }
    whole.then_some(Told::Neither)
}

/// Number, time since the host's start and text of a record that the kernel wrote itself.
fn parse(record: &str) -> Option<(u64, Duration, &str)> {
    let (prefix, text) = record.split_once(';')?;
    let mut fields = prefix.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let sequence = fields.next()?.parse().ok()?;
    let time = Duration::from_micros(fields.next()?.parse().ok()?);
    // Above the three bits of the level is the facility; 0 is the kernel, and no program can write as that.
    (priority >> 3 == 0).then_some((sequence, time, text))
}

/// What a text says about the process `pid`.
fn of(text: &str, pid: i32) -> Option<Told> {
    let (why, who) = text.split_once("Killed process ")?;
    let (killed, _) = who.split_once(' ')?;
    let group = why.starts_with("Memory cgroup");
    (killed.parse() == Ok(pid)).then_some(if group { Told::Group } else { Told::Host })
}

#[cfg(test)]
mod oom_test {
    use super::*;

    #[test]
    fn the_kernels_words_about_a_process_are_understood() {
        let host = "3,1021,5140900,-;Out of memory: Killed process 412 (carve) total-vm:9kB, anon-rss:1kB\n";
        let (sequence, time, text) = parse(host).unwrap();
        assert_eq!((sequence, time), (1021, Duration::from_micros(5_140_900)));
        assert_eq!((of(text, 412), of(text, 41)), (Some(Told::Host), None));
        let group = "Memory cgroup out of memory: Killed process 7 (carve) total-vm:9kB";
        assert_eq!(of(group, 7), Some(Told::Group));
    }

    #[test]
    fn what_a_program_wrote_into_the_log_does_not_count() {
        assert_eq!(parse("12,7,5,-;Out of memory: Killed process 412 (carve)\n"), None);
        assert_eq!(parse("no record"), None);
    }

    #[test]
    fn a_process_that_nobody_killed_is_told_apart_where_the_log_can_be_read() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(matches!(told(pid, now()), None | Some(Told::Neither)));
    }
}
