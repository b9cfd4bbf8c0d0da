//! [`App`]: what is on the screen and what keys do to it. Nothing here touches guests or the terminal.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use vmm::guests::State;

use crate::verbs::stats::Seen;

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// End.
    Quit,
    /// Go to the console of the guest.
    Attach(String),
    /// Do something to the guest whose id this is.
    Do(Verb, String),
}

/// What can be done to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Start,
    Stop,
    Pause,
    Unpause,
    Remove,
}

impl Verb {
    /// What was done.
    pub fn done(self) -> &'static str {
        match self {
            Self::Start => "started",
            Self::Stop => "stopped",
            Self::Pause => "paused",
            Self::Unpause => "unpaused",
            Self::Remove => "removed",
        }
    }
}

/// What is shown.
#[derive(Clone, Debug, Default)]
pub enum View {
    /// The guests.
    #[default]
    List,
    /// The guests, and whether this one is to be removed.
    Question { id: String, name: String },
    /// The last lines a guest has said.
    Logs { id: String, name: String, lines: Vec<String> },
}

/// The state of the screen.
#[derive(Clone, Debug, Default)]
pub struct App {
    pub guests: Vec<Seen>,
    /// Somebody has looked for guests; before that nothing can be said of them.
    pub looked: bool,
    /// The place in the list; the guest itself where guests come and go.
    pub selected: usize,
    pub view: View,
    /// How the last thing that was done went.
    pub message: String,
}

impl App {
    /// Shows other guests; the one that was chosen stays chosen while it is there.
    pub fn update(&mut self, guests: Vec<Seen>) {
        let chosen = self.chosen().map(|guest| guest.id.clone());
        (self.guests, self.looked) = (guests, true);
        let place = self.guests.iter().position(|guest| Some(&guest.id) == chosen.as_ref());
        let last = self.guests.len().saturating_sub(1);
        self.selected = place.unwrap_or(self.selected.min(last));
    }

    /// The guest that keys are about.
    pub fn chosen(&self) -> Option<&Seen> {
        self.guests.get(self.selected)
    }

    /// What a key means.
    pub fn key(&mut self, key: KeyEvent) -> Option<Action> {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Some(Action::Quit);
        }
        match std::mem::take(&mut self.view) {
            View::List => self.key_in_list(key.code),
            View::Question { id, .. } => {
                let yes = matches!(key.code, KeyCode::Char('y' | 'Y'));
                yes.then_some(Action::Do(Verb::Remove, id))
            }
            logs @ View::Logs { .. } => {
                if !matches!(key.code, KeyCode::Esc | KeyCode::Char('q' | 'l')) {
                    self.view = logs;
                }
                None
            }
        }
    }

    fn key_in_list(&mut self, key: KeyCode) -> Option<Action> {
        let last = self.guests.len().saturating_sub(1);
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Action::Quit),
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.selected = (self.selected + 1).min(last),
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = last,
            _ => return self.key_for_guest(key),
        }
        None
    }

    fn key_for_guest(&mut self, key: KeyCode) -> Option<Action> {
        let guest = self.chosen()?;
        let (id, name) = (guest.id.to_string(), guest.name.clone());
        let verb = match key {
            KeyCode::Enter if guest.state.is_live() => return Some(Action::Attach(id)),
            KeyCode::Char('s') => Verb::Stop,
            KeyCode::Char('S') => Verb::Start,
            KeyCode::Char('p') if guest.state == State::Paused => Verb::Unpause,
            KeyCode::Char('p') => Verb::Pause,
            KeyCode::Char('d') => {
                self.view = View::Question { id, name };
                return None;
            }
            KeyCode::Char('l') => {
                self.view = View::Logs { id, name, lines: Vec::new() };
                return None;
            }
            KeyCode::Enter => {
                self.message = format!("{name} does not run; S starts it");
                return None;
            }
            _ => return None,
        };
        Some(Action::Do(verb, id))
    }
}
