//! One measured run of a program: wall time, the kernel's account of its CPU time, and when a text came.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::Result;

/// CPU time of a process, as `/proc/PID/stat` has it (proc(5); resolution of one tick, 10 ms).
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    /// In user mode, guest code left out.
    pub user: Duration,
    /// In the kernel.
    pub system: Duration,
    /// Running guest code.
    pub guest: Duration,
}

/// A run until it printed a text.
#[derive(Debug, Clone, Copy)]
pub struct UntilText {
    /// From before the process was made until the text was read.
    pub wall: Duration,
    /// Until then.
    pub cpu: Cpu,
}

/// Runs `command` to its end; wall time from before it was made, and CPU time to the microsecond (getrusage(2)).
pub fn to_end(command: &mut Command) -> Result<(Duration, Duration)> {
    let before = children_cpu();
    let start = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    Ok((start.elapsed(), children_cpu().saturating_sub(before)))
}

/// CPU time of all children that have been waited for.
#[allow(unsafe_code)]
fn children_cpu() -> Duration {
    // SAFETY: an all-zero rusage is valid storage for the answer.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is ours.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    let time = |t: libc::timeval| {
        let micros = t.tv_sec.saturating_mul(1_000_000).saturating_add(t.tv_usec);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Runs `command` until its standard output holds `text`, then kills it.
pub fn until_text(command: &mut Command, text: &str) -> Result<UntilText> {
    let start = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let seen = wait_for(&mut child, text);
    let wall = start.elapsed();
    let cpu = cpu_of(&child);
    child.kill()?;
    // The zombie keeps its account until it is waited for, but the times are wanted as of the text.
    let pid = Pid::from_child(&child);
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
    child.wait()?;
    if !seen? {
        return Err(format!("{command:?} ended without printing {text:?}").into());
    }
    Ok(UntilText { wall, cpu: cpu? })
}

/// Reads the child's output until it holds `text`; false if it ended before.
pub fn wait_for(child: &mut Child, text: &str) -> Result<bool> {
    let mut output = child.stdout.take().ok_or("the output is not a pipe")?;
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let count = output.read(&mut buffer)?;
        if count == 0 {
            return Ok(false);
        }
        seen.extend_from_slice(&buffer[..count]);
        if seen.windows(text.len()).any(|window| window == text.as_bytes()) {
            // Kept open: a guest that goes on must not find its reader gone.
            child.stdout = Some(output);
            return Ok(true);
        }
    }
}

fn cpu_of(child: &Child) -> Result<Cpu> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
    // The name in parentheses may hold anything; fields are counted behind it, from number 3.
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let tick = Duration::from_secs(1) / u32::try_from(rustix::param::clock_ticks_per_second())?;
    let field = |number: usize| -> Result<Duration> {
        let value = fields.get(number - 3).ok_or("a short /proc/PID/stat")?;
        Ok(tick * value.parse::<u32>()?)
    };
    let (user, system, guest) = (field(14)?, field(15)?, field(43)?);
    Ok(Cpu { user: user.saturating_sub(guest), system, guest })
}
