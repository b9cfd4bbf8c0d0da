//! [`Error`]: everything that is wrong with a configuration, shown with the
//! place in the file it stands at.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A configuration that cannot be used: every problem found, not only the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One thing wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Value, reason and remedy in one sentence.
    pub message: String,
    /// Where it stands, if in a file.
    pub location: Option<Location>,
}

/// A place in a config file.
#[derive(Clone, Debug, PartialEq, Eq)]
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

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(place) = &self.location else {
            return f.write_str(&self.message);
        };
        let (line, column) = (place.line, place.column);
        writeln!(f, "{}:{line}:{column}: {}", place.path.display(), self.message)?;
        let gutter = line.to_string().len();
        // Control characters would move the mark or the cursor.
        let text = place.text.replace(|c: char| c.is_control(), " ");
        writeln!(f, "{:gutter$} |", "")?;
        writeln!(f, "{line} | {text}")?;
        write!(f, "{:gutter$} | {:skip$}{}", "", "", "^".repeat(place.width), skip = column - 1)
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
