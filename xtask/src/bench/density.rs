//! `bench density`: what each of many idle guests takes of its host, Carve beside QEMU microvm: by what the kernel says
//! is left, which page tables, KVM and the guest's own memory are part of, and by what each process is charged with.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::memory::{Private, private_kib};
use super::stats::median;
use super::{Contender, Result, Subject, boot, sample, thp};
use crate::host::qemu::Qemu;
use crate::workspace::Workspace;

/// Until guests have done what they do after their boot.
const SETTLE: Duration = Duration::from_secs(5);

/// Arguments of `bench density`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    subject: Subject,
    /// Guests of each contender that run at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    guests: u16,
    /// Memory of each in MiB
    #[arg(long, default_value_t = 96)]
    memory: u32,
    /// Which of the guest's images to boot with
    #[arg(long, default_value = "standard")]
    initrd: String,
}

/// What guests took, in MiB.
#[derive(Debug, Default)]
struct Taken {
    /// Of the memory that was available before the first of them, each.
    host: f64,
    /// How many would have fitted into that.
    fit: f64,
    /// Private memory of a process, guest memory included; the median.
    private: f64,
    /// That, and its part of what is shared.
    proportional: f64,
}

pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let qemu = Qemu::obtain(workspace)?;
    if !arguments.subject.here {
        return arguments.subject.there(workspace);
    }
    let carve = arguments.subject.carve(workspace)?;
    let guest = arguments.subject.guest(workspace)?;
    let initrd = guest.initrds.get(&arguments.initrd).ok_or("there is no such initrd")?;
    let memory = arguments.memory;
    let contenders: [Contender<'_>; 2] = [
        ("carve", Box::new(|| boot::carve_command(&carve, &guest, initrd, memory, &[]))),
        ("qemu microvm", Box::new(|| boot::qemu_command(&qemu, &guest, initrd, memory))),
    ];
    println!(
        "{} idle guests of each at once: {}, 1 vCPU, {memory} MiB; MiB for each guest",
        arguments.guests, guest.version
    );
    thp::in_both_modes(|| {
        let taken = contenders.each_ref().map(|(_, command)| {
            // The first one warms caches, that of extracted kernels included.
            start(1, command)?;
            measure(arguments, command)
        });
        let [ours, theirs] = taken;
        print(&contenders, [&ours?, &theirs?]);
        Ok(())
    })
}

fn measure(arguments: &Arguments, command: &dyn Fn() -> Command) -> Result<Taken> {
    let before = available()?;
    let guests = start(arguments.guests, command)?;
    std::thread::sleep(SETTLE);
    let host = (before - available()?) / f64::from(arguments.guests);
    let smaps = guests.0.iter().map(|guest| {
        let file = format!("/proc/{}/smaps", guest.id());
        std::fs::read_to_string(file)
    });
    let smaps = smaps.collect::<std::io::Result<Vec<_>>>()?;
    // No mapping left out: guest memory counts here.
    let each = |value: fn(&Private) -> f64| {
        median(smaps.iter().map(|smaps| value(&private_kib(smaps, 0)) / 1024.0).collect())
    };
    Ok(Taken {
        host,
        fit: (before / host).floor(),
        private: each(|private| private.dirty + private.clean),
        proportional: each(|private| private.proportional),
    })
}

/// A line of the table.
type Row = (&'static str, fn(&Taken) -> f64);

fn print(contenders: &[Contender<'_>; 2], [ours, theirs]: [&Taken; 2]) {
    println!("{:40} {:>12} {:>12} {:>6}", "", contenders[0].0, contenders[1].0, "ratio");
    let rows: [Row; 4] = [
        ("of the host's available memory", |taken| taken.host),
        ("private to the process, median", |taken| taken.private),
        ("with its part of what is shared, median", |taken| taken.proportional),
        ("guests that fit into this host", |taken| taken.fit),
    ];
    for (name, value) in rows {
        let (ours, theirs) = (value(ours), value(theirs));
        println!("{name:40} {ours:12.2} {theirs:12.2} {:6.2}", ours / theirs);
    }
}

/// Guests that run, killed in the end.
struct Guests(Vec<Child>);

impl Drop for Guests {
    fn drop(&mut self) {
        for guest in &mut self.0 {
            let _ = guest.kill();
            let _ = guest.wait();
        }
    }
}

/// Starts `count` guests, one after the other: booting at once they would only wait for each other.
fn start(count: u16, command: &dyn Fn() -> Command) -> Result<Guests> {
    let mut guests = Guests(Vec::new());
    for _ in 0..count {
        let mut command = command();
        // A console at its end would end the guest's shell.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        guests.0.push(command.spawn()?);
        let started = guests.0.last_mut().ok_or("no guest")?;
        if !sample::wait_for(started, boot::READY)? {
            return Err(format!("{command:?} ended before its guest was ready").into());
        }
    }
    Ok(guests)
}

/// What can be had without swapping, in MiB (proc_meminfo(5)).
fn available() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).ok_or("no MemAvailable")?;
    Ok(f64::from(kib.parse::<u32>()?) / 1024.0)
}
