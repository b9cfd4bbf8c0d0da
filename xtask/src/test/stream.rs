//! Running a program and passing on what it prints while it is read here, too.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::report::{Counts, Outcome};
use crate::{child, process};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Runs a program whose exit code is the verdict.
pub fn judge(command: &mut Command, complaint: &str) -> Result<Outcome> {
    let (status, counts) = stream(command)?;
    Ok(if status.success() {
        Outcome::Passed(counts)
    } else {
        Outcome::Failed(counts, complaint.to_owned())
    })
}

/// Runs a program, passes on what it prints, and counts tests in it.
pub fn stream(command: &mut Command) -> Result<(ExitStatus, Counts)> {
    let mut counts = Counts::default();
    let (mut child, output) = start(command.stdin(Stdio::null()))?;
    read(output, |line| counts.read(line))?;
    Ok((child.wait()?, counts))
}

/// Answer to a line that a program printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing is said to it.
    Silence,
    /// This line.
    Line(String),
    /// Its input ends.
    End,
}

/// Runs a program, tells it `first`, passes on what it prints, and answers that.
pub fn converse(
    command: &mut Command,
    first: &str,
    mut answer: impl FnMut(&str) -> Answer,
) -> io::Result<ExitStatus> {
    let (mut child, output) = start(command.stdin(Stdio::piped()))?;
    let mut input = child.stdin.take();
    // A program that no longer reads says so by its end.
    let mut say = |answer| match answer {
        Answer::Silence => {}
        Answer::Line(line) => {
            if let Some(input) = &mut input {
                let _ = writeln!(input, "{line}");
            }
        }
        Answer::End => input = None,
    };
    say(Answer::Line(first.to_owned()));
    read(output, |line| say(answer(line)))?;
    child.wait()
}

fn start(command: &mut Command) -> io::Result<(Child, io::PipeReader)> {
    let (reader, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    child::die_with_parent(command);
    let program = command.get_program().to_string_lossy().into_owned();
    let spawned = command.spawn().map_err(|source| process::Error::Start { program, source });
    // The command keeps our copies of the writing end, with which reading would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Ok((spawned.map_err(io::Error::other)?, reader))
}

fn read(output: io::PipeReader, mut each: impl FnMut(&str)) -> io::Result<()> {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? != 0 {
        io::stdout().write_all(&line)?;
        each(&String::from_utf8_lossy(&line));
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod stream_test {
    use super::*;

    #[test]
    fn a_program_is_told_one_line_after_the_other_until_its_input_ends() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "while read -r line; do echo \"got $line\"; done; echo end >&2; exit 3"]);
        let mut seen = Vec::new();
        let status = converse(&mut shell, "a", |line| {
            seen.push(line.trim().to_owned());
            match line.trim() {
                "got a" => Answer::Line("b".to_owned()),
                "got b" => Answer::End,
                _ => Answer::Silence,
            }
        });
        assert_eq!(
            (status.unwrap().code(), seen),
            (Some(3), vec!["got a".into(), "got b".into(), "end".to_owned()])
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error =
            converse(&mut Command::new("no-such-program"), "", |_| Answer::End).unwrap_err();
        assert!(error.to_string().contains("no-such-program"), "{error}");
    }
}
