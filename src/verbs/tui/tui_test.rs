use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use vmm::guests::State;

use super::*;

fn seen(number: u8, name: &str, state: State) -> Seen {
    Seen {
        id: format!("{number:012x}").parse().unwrap(),
        name: name.into(),
        state,
        vcpus: 1,
        memory: 128 << 20,
        use_of_memory: None,
        rates: None,
    }
}

fn app() -> App {
    let mut app = App::default();
    app.update(vec![seen(1, "web", State::Running), seen(2, "db", State::Exited)]);
    app
}

fn press(app: &mut App, keys: &[KeyCode]) -> Option<Action> {
    keys.iter().fold(None, |_, &key| app.key(KeyEvent::new(key, KeyModifiers::NONE)))
}

/// What the screen shows, line by line.
fn screen(app: &App) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(100, 8)).unwrap();
    terminal.draw(|frame| view::draw(frame, app)).unwrap();
    let buffer = terminal.backend().buffer();
    let row = |y| (0..100).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..8).map(|y| row(y).trim_end().to_owned()).collect()
}

const fn key(letter: char) -> KeyCode {
    KeyCode::Char(letter)
}

#[test]
fn guests_are_listed_with_the_keys_there_are() {
    let shown = screen(&app());
    assert!(shown[0].starts_with("NAME") && shown[0].contains("HELD / MEMORY"), "{shown:?}");
    assert!(shown[1].starts_with("web") && shown[1].contains("running"), "{shown:?}");
    assert!(shown[2].starts_with("db") && shown[2].contains("- / 128MiB"), "{shown:?}");
    assert!(shown[7].contains("q quit"), "{shown:?}");
}

#[test]
fn nobody_is_told_that_there_is_no_guest_before_it_is_known() {
    let mut app = App::default();
    assert!(screen(&app)[0].contains("Looking"));
    app.update(Vec::new());
    assert!(screen(&app)[0].contains("carve run -d"));
}

#[test]
fn keys_act_on_the_chosen_guest() {
    let id = |number: u8| format!("{number:012x}");
    let mut app = app();
    assert_eq!(press(&mut app, &[key('s')]), Some(Action::Do(Verb::Stop, id(1))));
    assert_eq!(press(&mut app, &[key('p')]), Some(Action::Do(Verb::Pause, id(1))));
    assert_eq!(press(&mut app, &[KeyCode::Enter]), Some(Action::Attach(id(1))));
    let down = [KeyCode::Down, KeyCode::Down, key('S')];
    assert_eq!(press(&mut app, &down), Some(Action::Do(Verb::Start, id(2))));
    assert_eq!(press(&mut app, &[KeyCode::Enter]), None);
    assert!(screen(&app)[6].contains("db does not run"));
    app.update(vec![seen(3, "new", State::Paused), seen(2, "db", State::Exited)]);
    assert_eq!(app.chosen().unwrap().name, "db", "the chosen one stays chosen");
    assert_eq!(press(&mut app, &[KeyCode::Up, key('p')]), Some(Action::Do(Verb::Unpause, id(3))));
    app.update(Vec::new());
    assert_eq!(press(&mut app, &[key('s')]), None);
    assert_eq!(press(&mut app, &[key('q')]), Some(Action::Quit));
}

#[test]
fn a_guest_is_removed_only_after_a_yes() {
    let mut app = app();
    assert_eq!(press(&mut app, &[key('d')]), None);
    assert!(screen(&app)[6].starts_with("Remove web"), "{:?}", screen(&app));
    assert_eq!(press(&mut app, &[key('n')]), None);
    assert!(!screen(&app)[6].contains("Remove"));
    let removed = Some(Action::Do(Verb::Remove, format!("{:012x}", 1)));
    assert_eq!(press(&mut app, &[key('d'), key('y')]), removed);
}

#[test]
fn the_end_of_a_log_is_shown_without_what_a_terminal_would_obey() {
    let mut app = app();
    assert_eq!(press(&mut app, &[key('l')]), None);
    let View::Logs { lines, .. } = &mut app.view else { panic!("no log") };
    *lines = plain(b"first\r\n\x1b[2Jsecond\xff\n3\n4\n5\n6\n7\n8");
    let shown = screen(&app);
    assert!(shown[0].contains("carve logs web") && shown[1] == "4" && shown[5] == "8", "{shown:?}");
    assert_eq!(plain(b"\x1b[2Jsecond\xff"), ["[2Jsecond\u{fffd}"]);
    assert_eq!(press(&mut app, &[key('s'), key('q')]), None);
    assert!(matches!(app.view, View::List));
}
