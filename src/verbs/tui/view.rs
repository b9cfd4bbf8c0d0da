//! What the screen looks like.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row, Table, TableState};

use super::app::{App, View};
use crate::verbs::stats::{COLUMNS, cells};

const KEYS: &str = "enter attach  s stop  S start  p pause/unpause  l log  d remove  q quit";

/// Widths of [`COLUMNS`].
const WIDTHS: [Constraint; 9] = [
    Constraint::Min(12),
    Constraint::Length(10),
    Constraint::Length(7),
    Constraint::Length(18),
    Constraint::Length(8),
    Constraint::Length(9),
    Constraint::Length(9),
    Constraint::Length(9),
    Constraint::Length(9),
];

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, app: &App) {
    let rows = Layout::vertical([Constraint::Min(1), Constraint::Length(1), Constraint::Length(1)]);
    let [main, message, keys] = rows.areas(frame.area());
    match &app.view {
        View::Logs { name, lines, .. } => {
            let title =
                Line::from(format!("the end of what {name} said (carve logs {name})")).bold();
            let room = usize::from(main.height.saturating_sub(1));
            let last = lines.iter().skip(lines.len().saturating_sub(room));
            let lines = last.map(|line| Line::from(line.as_str()));
            let text: Vec<_> = std::iter::once(title).chain(lines).collect();
            frame.render_widget(Paragraph::new(text), main);
        }
        View::List | View::Question { .. } if app.guests.is_empty() => {
            let none = "There is no guest. `carve run -d` makes one.";
            let text = if app.looked { none } else { "Looking for guests…" };
            frame.render_widget(Paragraph::new(text), main);
        }
        View::List | View::Question { .. } => {
            let guests = app.guests.iter().map(|guest| Row::new(cells(guest)));
            let table = Table::new(guests, WIDTHS)
                .header(Row::new(COLUMNS).style(Style::new().bold()))
                .row_highlight_style(Style::new().reversed());
            let mut state = TableState::new().with_selected(Some(app.selected));
            frame.render_stateful_widget(table, main, &mut state);
        }
    }
    let (said, known) = match &app.view {
        View::Question { name, .. } => {
            (format!("Remove {name}, killing it if it runs? y: yes, any other key: no"), KEYS)
        }
        View::Logs { .. } => (app.message.clone(), "q back to the guests"),
        View::List => (app.message.clone(), KEYS),
    };
    frame.render_widget(Paragraph::new(said), message);
    frame.render_widget(Paragraph::new(known).dim(), keys);
}
