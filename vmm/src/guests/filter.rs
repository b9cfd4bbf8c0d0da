//! Filters of lists of guests: `key=value`, as with Docker. Several of one key are alternatives, except
//! labels, of which all have to be there.

use super::guest::Guest;
use super::status::State;

/// What guests have to be like to be listed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filters {
    names: Vec<String>,
    ids: Vec<String>,
    states: Vec<String>,
    labels: Vec<(String, Option<String>)>,
}

/// A text that is no filter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAFilter {
    /// It is not `key=value` with a known key.
    #[error("`{0}` is no filter; use name=TEXT, id=TEXT, state=STATE or label=KEY[=VALUE]")]
    Form(String),
    /// No guest is ever in it.
    #[error("`{0}` is no state; use one of {words}", words = State::WORDS.join(", "))]
    State(String),
}

impl Filters {
    /// Reads filters as they were given.
    ///
    /// # Errors
    ///
    /// [`NotAFilter`].
    pub fn parse(texts: &[String]) -> Result<Self, NotAFilter> {
        let mut filters = Self::default();
        for text in texts {
            let form = || NotAFilter::Form(text.clone());
            let (key, value) = text.split_once('=').ok_or_else(form)?;
            let value = value.to_owned();
            match key {
                "name" => filters.names.push(value),
                "id" => filters.ids.push(value),
                "state" | "status" if State::WORDS.contains(&value.as_str()) => {
                    filters.states.push(value)
                }
                "state" | "status" => return Err(NotAFilter::State(value)),
                "label" => filters.labels.push(match value.split_once('=') {
                    None => (value, None),
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                }),
                _ => return Err(form()),
            }
        }
        Ok(filters)
    }

    /// Whether a state is asked for.
    pub fn name_a_state(&self) -> bool {
        !self.states.is_empty()
    }

    /// Whether the guest passes.
    pub fn take(&self, guest: &Guest, state: State) -> bool {
        let one_of = |wanted: &[String], has: &dyn Fn(&str) -> bool| {
            wanted.is_empty() || wanted.iter().any(|text| has(text))
        };
        one_of(&self.names, &|text| guest.name.contains(text))
            && one_of(&self.ids, &|text| guest.id.as_str().starts_with(text))
            && one_of(&self.states, &|text| state.as_str() == text)
            && self.labels.iter().all(|(key, wanted)| {
                let has = guest.labels.get(key);
                has.is_some_and(|has| wanted.as_ref().is_none_or(|wanted| wanted == has))
            })
    }
}

#[cfg(test)]
mod filter_test {
    use super::*;

    #[test]
    fn what_is_no_filter_is_refused_with_what_would_be_one() {
        for bad in ["web", "color=red", "state=sleeping"] {
            Filters::parse(&[bad.to_owned()]).unwrap_err();
        }
        let filters = Filters::parse(&["label=a=b=c".into(), "label=x".into()]).unwrap();
        assert_eq!(filters.labels, [("a".into(), Some("b=c".into())), ("x".into(), None)]);
    }
}
