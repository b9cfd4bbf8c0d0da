//! `bench startup`: how long a guest of a few instructions takes, from exec to the process's end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::stats::{median, ms};
use super::{Contender, Result, elf, sample};
use crate::cargo::{self, Profile};
use crate::host::qemu::Qemu;
use crate::workspace::Workspace;

/// Arguments of `bench startup`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Counted runs of each program
    #[arg(long, default_value_t = 40)]
    rounds: usize,
    /// The carve binary; built where it is not given
    #[arg(long, value_name = "FILE")]
    carve: Option<PathBuf>,
    /// Another peer: a shell command that ends when its guest does; {payload} stands for the guest's ELF file
    #[arg(long, value_name = "COMMAND")]
    peer: Option<String>,
}

pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let carve = match &arguments.carve {
        Some(carve) => carve.clone(),
        None => cargo::build_carve(workspace, Profile::Release, None)?,
    };
    let files = tempfile::tempdir()?;
    let (payload_file, rom_file) = (files.path().join("payload"), files.path().join("rom"));
    std::fs::write(&payload_file, elf::of(elf::POWER_OFF))?;
    std::fs::write(&rom_file, rom())?;
    let (payload, rom) = (payload_file.as_path(), rom_file.as_path());
    let qemu = Qemu::obtain(workspace)?;
    let contenders: [Contender<'_>; 2] = [
        ("carve", Box::new(|| carve_command(&carve, payload))),
        match &arguments.peer {
            Some(peer) => ("peer", Box::new(|| shell(peer, payload))),
            None => ("qemu microvm", Box::new(|| qemu_command(&qemu, rom))),
        },
    ];
    let mut wall = [vec![], vec![]];
    let mut cpu = [vec![], vec![]];
    for round in 0..=arguments.rounds {
        for (index, (_, command)) in contenders.iter().enumerate() {
            let (took, used) = sample::to_end(&mut command())?;
            // The first round warms caches.
            if round > 0 {
                wall[index].push(ms(took));
                cpu[index].push(ms(used));
            }
        }
    }
    println!("exec to process end, 1 vCPU, 128 MiB, {} rounds in turn, medians", arguments.rounds);
    let (wall, cpu) = (wall.map(median), cpu.map(median));
    for (index, (name, _)) in contenders.iter().enumerate() {
        println!("{name:14} wall {:7.2} ms   cpu {:7.2} ms", wall[index], cpu[index]);
    }
    let name = contenders[1].0;
    println!("ratio to {name}: wall {:.3}, cpu {:.3}", wall[0] / wall[1], cpu[0] / cpu[1]);
    print_timings(&carve, payload, arguments.rounds)
}

/// Where Carve's own time goes, by `--timings`: medians of each step's distance from the program's first moment.
fn print_timings(carve: &Path, payload: &Path, rounds: usize) -> Result<()> {
    let mut steps: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut order = Vec::new();
    for _ in 0..rounds {
        let mut command = carve_command(carve, payload);
        let output = command.arg("--timings").stdin(Stdio::null()).output()?;
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            let mut words = line.split_whitespace();
            let (Some(name), Some(micros)) = (words.next(), words.next()) else { continue };
            let Ok(micros) = micros.parse::<f64>() else { continue };
            if !order.contains(&name.to_owned()) {
                order.push(name.to_owned());
            }
            steps.entry(name.to_owned()).or_default().push(micros);
        }
    }
    println!("\ncarve, from its first moment (process creation and exit are outside)");
    let mut last = 0.0;
    for name in order {
        let at = median(steps.remove(&name).unwrap_or_default());
        println!("{name:14} {at:7.0} µs  +{:.0} µs", at - last);
        last = at;
    }
    Ok(())
}

fn carve_command(carve: &Path, payload: &Path) -> Command {
    let mut command = Command::new(carve);
    command.args(["run", "--log-level", "error", "--memory", "128MiB", "--kernel"]).arg(payload);
    command
}

fn qemu_command(qemu: &Qemu, rom: &Path) -> Command {
    let mut command = Command::new(qemu.path());
    command
        .args(["-M", "microvm,x-option-roms=off,pit=off,pic=off,rtc=off", "-accel", "kvm"])
        .args(["-m", "128", "-smp", "1", "-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-no-reboot", "-device", "isa-debug-exit,iobase=0x501,iosize=1", "-bios"])
        .arg(rom);
    command
}

fn shell(peer: &str, payload: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("exec {}", peer.replace("{payload}", &payload.to_string_lossy()))]);
    command
}

/// A boot ROM that ends QEMU through its debug-exit device at the first instructions the processor fetches. QEMU boots
/// nothing without a ROM, and its own one is thousands of times longer.
fn rom() -> Vec<u8> {
    const SIZE: usize = 64 << 10;
    // mov dx, 0x501; mov al, 0x34; out dx, al; hlt
    const CODE: [u8; 7] = [0xba, 0x01, 0x05, 0xb0, 0x34, 0xee, 0xf4];
    let mut rom = vec![0xf4; SIZE];
    rom[SIZE - 16..][..CODE.len()].copy_from_slice(&CODE);
    rom
}
