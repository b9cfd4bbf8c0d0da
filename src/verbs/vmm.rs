//! The process of a detached guest: started by its monitor, never by hand.

use std::io::{self, Write};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

use vmm::guests::monitor::{FAILED, STARTED};
use vmm::guests::process::{self, Setup};
use vmm::guests::{Books, Store};
use vmm::{Console, explain};

use crate::cli::guests::VmmArgs;
use crate::exit;

/// Runs the guest and answers with the exit code of its end. Its monitor is told on standard output
/// whether it started.
pub fn run(args: &VmmArgs, start: Instant) -> ExitCode {
    super::set_process_name(c"carve-vmm");
    match guest(args, start) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let text = explain(error.as_ref()).replace('\n', " ");
            // Heard only before the start; afterwards the record has it.
            tell(&format!("{FAILED}{text}"));
            exit::own_error(error.as_ref())
        }
    }
}

fn guest(args: &VmmArgs, start: Instant) -> Result<u8, super::Error> {
    let store = Store::of_user()?;
    let entry = store.with_id(&args.id)?;
    // Before anything that may start a thread.
    let books = Rc::new(Books::open(&store, &entry, None)?);
    let setup = Setup {
        console: Console { kept: true, ..Console::default() },
        kernel_cache: super::run::kernel_cache(),
        start,
        restarts: args.restarts,
        announce: exit::say,
    };
    let outcome = process::run(&books, setup, || tell(STARTED))?;
    Ok(outcome.end.code())
}

fn tell(line: &str) {
    let mut out = io::stdout();
    // A monitor that was killed does not hear it; the guest runs all the same.
    let _ = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
}
