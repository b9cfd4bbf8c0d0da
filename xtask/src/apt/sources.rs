//! Derives a private list of package sources from the machine's own: its Debian stanzas, and a copy of the main one
//! with the suite replaced by the backports. Pure text in, text out; both of apt's formats are read, deb822 is written.

/// One stanza of a deb822 sources file: field names with their raw values, continuation lines included.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stanza(Vec<(String, String)>);

impl Stanza {
    fn value(&self, name: &str) -> &str {
        let field = self.0.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        field.map_or("", |(_, value)| value.as_str())
    }

    fn has(&self, field: &str, word: &str) -> bool {
        self.value(field).split_whitespace().any(|value| value == word)
    }

    /// A source of Debian itself for the release `codename` (or at least one laid out like it).
    fn is_debian(&self, codename: &str) -> bool {
        let mut suites = self.value("Suites").split_whitespace().peekable();
        self.has("Types", "deb")
            && self.has("Components", "main")
            && !self.value("Enabled").trim().eq_ignore_ascii_case("no")
            && suites.peek().is_some()
            && suites.all(|suite| {
                suite.strip_prefix(codename).is_some_and(|rest| {
                    rest.is_empty() || rest.starts_with('-') || rest.starts_with('/')
                })
            })
    }

    fn with_suite(mut self, suite: &str) -> Self {
        for (name, value) in &mut self.0 {
            if name.eq_ignore_ascii_case("Suites") {
                *value = format!(" {suite}");
            }
        }
        self
    }

    fn text(&self) -> String {
        self.0.iter().map(|(name, value)| format!("{name}:{value}\n")).collect()
    }
}

/// The private sources: every Debian stanza of `files` (name and text of each of apt's sources files), and the
/// backports of `codename`. `None` where the machine has no Debian source to derive them from.
pub fn with_backports(files: &[(String, String)], codename: &str) -> Option<String> {
    let mut stanzas: Vec<_> = files
        .iter()
        .flat_map(|(name, text)| {
            if name.ends_with(".sources") { parse_deb822(text) } else { parse_one_line(text) }
        })
        .filter(|stanza| stanza.is_debian(codename))
        .collect();
    let backports = backports_suite(codename);
    if !stanzas.iter().any(|stanza| stanza.has("Suites", &backports)) {
        stanzas.push(main_archive(&stanzas, codename)?.with_suite(&backports));
    }
    Some(stanzas.iter().map(Stanza::text).collect::<Vec<_>>().join("\n"))
}

/// Name of the backports suite of a release.
pub fn backports_suite(codename: &str) -> String {
    format!("{codename}-backports")
}

/// The stanza of the main archive: other vendors name a suite after the release too, but only the archive
/// also serves its updates from the same address.
fn main_archive(stanzas: &[Stanza], codename: &str) -> Option<Stanza> {
    let updates = format!("{codename}-updates");
    let candidates = || stanzas.iter().filter(|stanza| stanza.has("Suites", codename));
    let serves_updates = |candidate: &&Stanza| {
        stanzas.iter().any(|stanza| {
            stanza.has("Suites", &updates) && stanza.value("URIs") == candidate.value("URIs")
        })
    };
    candidates().find(serves_updates).or_else(|| candidates().next()).cloned()
}

fn parse_deb822(text: &str) -> Vec<Stanza> {
    let mut stanzas = vec![Stanza(Vec::new())];
    for line in text.lines() {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            stanzas.push(Stanza(Vec::new()));
            continue;
        }
        let fields = stanzas.last_mut().map(|stanza| &mut stanza.0);
        let Some(fields) = fields else { continue };
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.to_owned(), value.to_owned()));
        }
    }
    stanzas.retain(|stanza| !stanza.0.is_empty());
    stanzas
}

/// `deb [option=value …] URI suite component…`, one source a line.
fn parse_one_line(text: &str) -> Vec<Stanza> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Stanza> {
    let line = line.split('#').next()?.trim();
    let (kind, rest) = line.split_once(char::is_whitespace)?;
    let rest = rest.trim();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let field = |name: &str, value: String| (name.to_owned(), format!(" {value}"));
    let mut fields = vec![
        field("Types", kind.to_owned()),
        field("URIs", words.next()?.to_owned()),
        field("Suites", words.next()?.to_owned()),
        field("Components", words.collect::<Vec<_>>().join(" ")),
    ];
    for option in options.split_whitespace() {
        let (name, value) = option.split_once('=')?;
        let name = match name {
            "arch" => "Architectures",
            "lang" => "Languages",
            "target" => "Targets",
            other => other,
        };
        fields.push(field(name, value.replace(',', " ")));
    }
    Some(Stanza(fields))
}

#[cfg(test)]
#[path = "sources_test.rs"]
mod sources_test;
