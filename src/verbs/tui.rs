//! `carve tui`: guests and what they use on the whole terminal, and keys for what is done most.

use std::io::{self, IsTerminal};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use vmm::explain;
use vmm::guests::log::{Query, Reader};
use vmm::guests::{Store, life};

use self::app::{Action, App, Verb, View};
use super::stats::{Seen, Watch, Which};
use crate::terminal;

mod app;
mod view;

/// How often guests are looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long a key or a change waits at most for the other.
const TICK: Duration = Duration::from_millis(100);

/// How long a guest has to react to its power button.
const STOP: Duration = Duration::from_secs(10);

/// How much of a log is kept to be shown, in lines and in bytes of each.
const LINES: usize = 200;
const LINE: usize = 400;

/// Bytes of a log that are read at most: its lines may be as long as the guest likes.
const LOG: usize = 256 << 10;

/// No terminal to draw on.
#[derive(Debug, thiserror::Error)]
#[error("carve tui needs a terminal; use carve ps and carve stats elsewhere")]
struct NoTerminal;

/// What threads beside the screen tell it.
enum News {
    Guests(Vec<Seen>),
    Message(String),
}

/// Draws until the user has enough.
///
/// # Errors
///
/// There is no terminal or no place for guests.
pub fn run() -> Result<ExitCode, super::Error> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(NoTerminal.into());
    }
    let store = Store::of_user()?;
    // Watched over by a process that puts the terminal right, however this one ends. Before any thread.
    let mut raw = terminal::Raw::enter()?;
    let (sender, news) = mpsc::channel();
    watch(store.clone(), sender.clone())?;
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal, &mut raw, &store, &sender, &news);
    ratatui::try_restore()?;
    shown?;
    Ok(ExitCode::SUCCESS)
}

fn show(
    terminal: &mut DefaultTerminal,
    raw: &mut Option<terminal::Raw>,
    store: &Store,
    sender: &Sender<News>,
    news: &Receiver<News>,
) -> Result<(), super::Error> {
    let mut app = App::default();
    loop {
        let mut again = false;
        for news in news.try_iter() {
            match news {
                News::Guests(guests) => {
                    app.update(guests);
                    again = true;
                }
                News::Message(message) => app.message = message,
            }
        }
        if let View::Logs { id, lines, .. } = &mut app.view
            && (again || lines.is_empty())
        {
            *lines = log_of(store, id).unwrap_or_else(|error| vec![error.to_string()]);
        }
        terminal.draw(|frame| view::draw(frame, &app))?;
        if !event::poll(TICK)? {
            continue;
        }
        let action = match event::read()? {
            Event::Key(key) if key.kind == KeyEventKind::Press => app.key(key),
            _ => None,
        };
        match action {
            None => {}
            Some(Action::Quit) => return Ok(()),
            Some(Action::Attach(id)) => {
                ratatui::try_restore()?;
                // What it was like before is what the other command is to find.
                drop(raw.take());
                app.message = attach(&id)?;
                *raw = terminal::Raw::enter()?;
                *terminal = ratatui::try_init()?;
            }
            Some(Action::Do(verb, id)) => {
                app.message.clear();
                act(store.clone(), verb, id, sender.clone())?;
            }
        }
    }
}

/// Looks at the guests again and again, so that none that hangs keeps keys from being heard.
fn watch(store: Store, sender: Sender<News>) -> io::Result<()> {
    let mut watch = Watch::new(store, Which::All);
    thread::Builder::new().name("watch".to_owned()).spawn(move || {
        loop {
            let news = match watch.look() {
                Ok(guests) => News::Guests(guests),
                Err(error) => News::Message(error.to_string()),
            };
            if sender.send(news).is_err() {
                return;
            }
            thread::sleep(INTERVAL);
        }
    })?;
    Ok(())
}

/// Does something to a guest meanwhile.
fn act(store: Store, verb: Verb, id: String, sender: Sender<News>) -> io::Result<()> {
    thread::Builder::new().name("act".to_owned()).spawn(move || {
        let said = match store.find(&id) {
            Err(error) => explain(&error),
            Ok(mut entry) => {
                let done = match verb {
                    Verb::Start => life::start(&mut entry),
                    Verb::Stop => life::stop(&mut entry, STOP),
                    Verb::Pause => life::pause(&entry, true),
                    Verb::Unpause => life::pause(&entry, false),
                    Verb::Remove => life::remove(&store, &mut entry, true),
                };
                match done {
                    Ok(()) => format!("{} was {}", entry.guest.name, verb.done()),
                    Err(error) => explain(&error),
                }
            }
        };
        // Nobody waits for it once the screen is gone.
        let _ = sender.send(News::Message(said));
    })?;
    Ok(())
}

/// Leaves the terminal to the guest's console until the user detaches; what to say afterwards.
fn attach(id: &str) -> io::Result<String> {
    let status = Command::new("/proc/self/exe").arg0("carve").args(["attach", id]).status();
    Ok(match status {
        Ok(status) if status.success() => String::new(),
        Ok(_) => "carve attach ended with an error, or with the guest".to_owned(),
        Err(error) => format!("carve attach cannot be started: {error}"),
    })
}

/// The end of what the guest said, in lines without anything that a terminal would obey.
fn log_of(store: &Store, id: &str) -> Result<Vec<String>, super::Error> {
    let entry = store.find(id)?;
    let mut reader =
        Reader::open(entry.state_folder(), &Query { tail: Some(LINES), ..Query::default() })?;
    let mut bytes = Vec::new();
    while let Some(piece) = reader.read()? {
        bytes.extend_from_slice(&piece.bytes);
        if bytes.len() > 2 * LOG {
            bytes.drain(..bytes.len() - LOG);
        }
    }
    Ok(plain(&bytes))
}

fn plain(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let visible =
        |line: &str| line.chars().filter(|one| !one.is_control()).take(LINE).collect::<String>();
    text.lines().map(visible).collect()
}

#[cfg(test)]
#[path = "tui/tui_test.rs"]
mod tui_test;
