//! `xtask hostile`: the malicious guest of `tests/hostile.rs` for as long as one likes, another seed each time.

use std::error::Error;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::cargo::{self, Profile};
use crate::process;
use crate::workspace::Workspace;

/// Arguments of `xtask hostile`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How long to go on (10, 5m, 1h)
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = crate::host::parse_duration)]
    time: Duration,
    /// The first seed, to see again what was seen; each guest has the next one. The time where it is left out
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// One transport alone
    #[arg(long, value_name = "pci|mmio", value_parser = ["pci", "mmio"])]
    transport: Option<String>,
}

/// Guests on each transport between two looks at the clock.
const ROUNDS: u64 = 2;
/// Seeds that those take at most, as some guests break themselves.
const SEEDS: u64 = 4 * (ROUNDS + 1);
/// As in the test.
const OPERATIONS: u64 = 20_000;

/// Runs the task; an error where a guest gained something.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let carve = cargo::build_carve(workspace, Profile::Release, None)?;
    let payload = cargo::build_payload(workspace)?;
    let tests = cargo::build_tests(workspace, &["--package", "carve", "--test", "hostile"])?;
    let test = tests.iter().find(|test| test.name == "hostile");
    let test = test.ok_or("there is no target tests/hostile.rs")?;
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs());
    let first = arguments.seed.unwrap_or_else(clock);
    let (begun, mut seed, mut guests) = (Instant::now(), first, 0);
    while begun.elapsed() < arguments.time {
        println!("xtask: seeds from {seed}");
        let mut command = std::process::Command::new(&test.path);
        command.current_dir(&test.directory).args(["--test-threads", "1", "--nocapture"]);
        command.args(&arguments.transport);
        command.env("CARVE_BIN", &carve).env("CARVE_PAYLOAD", &payload);
        command.env("CARVE_REQUIRE_KVM", "1").env("CARVE_HOSTILE_SEED", seed.to_string());
        command.env("CARVE_HOSTILE_OPERATIONS", (ROUNDS * OPERATIONS).to_string());
        process::run(&mut command)?;
        seed += SEEDS;
        guests += ROUNDS;
    }
    println!("xtask: {guests} guests on each transport, of {OPERATIONS} operations each");
    Ok(())
}
