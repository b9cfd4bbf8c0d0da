//! [`Error`]: everything that is wrong with a configuration, shown with the
//! place in the file it stands at.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Code;

/// A configuration that cannot be used: every problem found, not only the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Error {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One thing wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What kind of problem it is.
    pub code: Code,
    /// Value, reason and remedy in one sentence; the remedies apart where there are several.
    pub message: String,
    /// Where it stands, if in a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// What is too little, if it is that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shortage: Option<Shortage>,
    /// What can be done about it, one of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remedies: Vec<String>,
}

/// More asked for than there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shortage {
    /// What was asked for, with its unit.
    pub asked: String,
    /// What was free of it.
    pub free: String,
    /// The most that would have been given; less than what is free where only whole parts are.
    pub largest: String,
    /// Who has the rest and how much of it, the largest first.
    pub held_by: Vec<String>,
}

/// A place in a config file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Location {
    /// The file as it was named.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The whole line.
    pub text: String,
    /// Characters to mark from `column` on, at least 1.
    pub width: usize,
}

impl Location {
    /// The place of the bytes `span` of `source`. Spans past the end or inside
    /// a character are moved to the nearest place there is.
    #[must_use]
    pub fn of(path: &Path, source: &str, span: Range<usize>) -> Self {
        let start = source.floor_char_boundary(span.start.min(source.len()));
        let line_start = source[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = source[start..].find('\n').map_or(source.len(), |length| start + length);
        let end = source.floor_char_boundary(span.end.clamp(start, line_end));
        Self {
            path: path.to_owned(),
            line: source[..line_start].matches('\n').count() + 1,
            column: source[line_start..start].chars().count() + 1,
            text: source[line_start..line_end].trim_end().to_owned(),
            width: source[start..end].chars().count().max(1),
        }
    }
}

impl Problem {
    /// A problem without figures.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>, location: Option<Location>) -> Self {
        Self { code, message: message.into(), location, shortage: None, remedies: Vec::new() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, message, location, shortage, remedies } = self;
        if let Some(Location { path, line, column, .. }) = location {
            write!(f, "{}:{line}:{column}: ", path.display())?;
        }
        write!(f, "{message} [{code}]")?;
        let mut gutter = 0;
        if let Some(Location { line, column, text, width, .. }) = location {
            gutter = line.to_string().len();
            // Control characters would move the mark or the cursor.
            let text = text.replace(|c: char| c.is_control(), " ");
            write!(f, "\n{:gutter$} |\n{line} | {text}", "")?;
            write!(f, "\n{:gutter$} | {:skip$}{}", "", "", "^".repeat(*width), skip = column - 1)?;
        }
        if let Some(Shortage { asked, free, largest, held_by }) = shortage {
            write!(
                f,
                "\n{:gutter$} = asked: {asked}; free: {free}; largest that fits: {largest}",
                ""
            )?;
            if !held_by.is_empty() {
                write!(f, "\n{:gutter$} = held by: {}", "", held_by.join(", "))?;
            }
        }
        remedies.iter().try_for_each(|remedy| write!(f, "\n{:gutter$} = remedy: {remedy}", ""))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}
