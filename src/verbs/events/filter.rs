//! Filters of events: `key=value`, as with Docker. Several of one key are alternatives, except labels, of
//! which all have to be there.

use vmm::api::types::Event;

/// What events have to be like to be shown.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filters {
    guests: Vec<String>,
    events: Vec<String>,
    labels: Vec<(String, Option<String>)>,
}

/// A text that is no filter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no filter; use guest=NAME, guest=ID, event=EVENT or label=KEY[=VALUE]")]
pub struct NotAFilter(String);

impl Filters {
    /// Reads filters as they were given.
    pub fn parse(texts: &[String]) -> Result<Self, NotAFilter> {
        let mut filters = Self::default();
        for text in texts {
            let refused = || NotAFilter(text.clone());
            let (key, value) = text.split_once('=').ok_or_else(refused)?;
            match key {
                _ if value.is_empty() => return Err(refused()),
                "guest" => filters.guests.push(value.to_owned()),
                "event" => filters.events.push(value.to_owned()),
                "label" => filters.labels.push(match value.split_once('=') {
                    None => (value.to_owned(), None),
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                }),
                _ => return Err(refused()),
            }
        }
        Ok(filters)
    }

    /// Whether the event passes.
    pub fn take(&self, event: &Event) -> bool {
        let is_guest = |text: &String| event.name == *text || event.id.starts_with(text.as_str());
        (self.guests.is_empty() || self.guests.iter().any(is_guest))
            && (self.events.is_empty() || self.events.contains(&event.event))
            && self.labels.iter().all(|(key, wanted)| {
                let has = event.labels.get(key);
                has.is_some_and(|has| wanted.as_ref().is_none_or(|wanted| wanted == has))
            })
    }
}

#[cfg(test)]
mod filter_test {
    use super::*;

    #[test]
    fn alternatives_of_one_key_add_up_and_keys_narrow_down() {
        let event = Event {
            event: "started".into(),
            id: "abc123".into(),
            name: "web".into(),
            labels: [("team".to_owned(), "a=b".to_owned())].into(),
            ..Event::default()
        };
        let takes = |texts: &[&str]| {
            let texts: Vec<_> = texts.iter().map(|&text| text.to_owned()).collect();
            Filters::parse(&texts).unwrap().take(&event)
        };
        assert!(takes(&[]) && takes(&["guest=web"]) && takes(&["guest=abc"]));
        assert!(!takes(&["guest=we"]), "a name is not shortened: another may begin so");
        assert!(takes(&["guest=db", "guest=web", "event=started"]));
        assert!(!takes(&["guest=web", "event=exited"]));
        assert!(takes(&["label=team", "label=team=a=b"]) && !takes(&["label=team=c"]));
        for bad in ["web", "color=red", "guest="] {
            assert_eq!(Filters::parse(&[bad.to_owned()]), Err(NotAFilter(bad.to_owned())));
        }
    }
}
