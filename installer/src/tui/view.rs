//! How the questions look on a terminal of 80 columns and 24 lines. Draws; knows no key and decides nothing.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Wrap};

use super::form::Field;
use super::wizard::{Screen, Wizard, show, unfit};
use crate::disks::holds;
use crate::observe::{Level, Part};

/// The whole screen.
pub(super) fn draw(frame: &mut Frame<'_>, wizard: &Wizard) {
    let (title, lines, help) = match wizard.screen {
        Screen::Checks => ("This machine", checks(wizard), "Enter go on   Esc shell"),
        Screen::Disk => ("Which disk does the system go to?", disks(wizard), "Up Down choose   Enter go on   Esc back"),
        Screen::Storage => (
            "Which disks does Ceph get?",
            storage(wizard),
            "Up Down move   Space take or leave   Enter go on   Esc back",
        ),
        Screen::Card => {
            let help = "Up Down choose   Space takes into a bond   Enter go on   Esc back";
            ("Which card is the management network on?", cards(wizard), help)
        }
        Screen::Address => (
            "Its address",
            form_lines(&wizard.address, wizard.cursor),
            "Up Down move   type to change   Space turns   Enter go on   Esc back",
        ),
        Screen::Node => (
            "The node",
            form_lines(&wizard.node, wizard.cursor),
            "Up Down move   type to change   Enter go on   Esc back",
        ),
        Screen::Summary => ("Summary", summary(wizard), "type the word, then Enter   Esc back"),
    };
    let refusal = wizard.refusal.clone().unwrap_or_default();
    page(frame, title, lines, &refusal, help);
}

/// The installation's progress: the newest lines that fit.
pub(super) fn draw_progress(frame: &mut Frame<'_>, said: &[String], end: Option<&Result<String, String>>) {
    let room = usize::from(frame.area().height.saturating_sub(6));
    let mut lines: Vec<Line<'_>> =
        said[said.len().saturating_sub(room)..].iter().map(|text| Line::from(text.as_str())).collect();
    let (refusal, help) = match end {
        None => (String::new(), "installing; do not switch off"),
        Some(Ok(text)) => {
            lines.push(Line::styled(text.clone(), Style::new().fg(Color::Green)));
            (String::new(), "Enter restart")
        }
        Some(Err(text)) => (text.clone(), "Enter shell"),
    };
    page(frame, "Installing", lines, &refusal, help);
}

fn page(frame: &mut Frame<'_>, title: &str, lines: Vec<Line<'_>>, refusal: &str, help: &str) {
    let areas = Layout::vertical([Constraint::Min(3), Constraint::Length(2), Constraint::Length(1)]);
    let [body, why, keys]: [Rect; 3] = areas.areas(frame.area());
    let block = Block::new().borders(Borders::ALL).title(format!(" Furrow: {title} "));
    frame.render_widget(Paragraph::new(lines).block(block).wrap(Wrap { trim: false }), body);
    let red = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
    frame.render_widget(Paragraph::new(refusal.to_owned()).style(red).wrap(Wrap { trim: true }), why);
    frame.render_widget(Paragraph::new(help.to_owned()).style(Style::new().add_modifier(Modifier::REVERSED)), keys);
}

fn checks(wizard: &Wizard) -> Vec<Line<'static>> {
    let line =
        |check: &Part| Line::from(vec![mark(check.level), Span::raw(format!("  {:15} {}", check.name, check.text))]);
    wizard.facts.checks.iter().map(line).collect()
}

/// A level's mark in its colour.
pub(crate) fn mark(level: Level) -> Span<'static> {
    let colour = match level {
        Level::Well => Color::Green,
        Level::Warning => Color::Yellow,
        Level::Fault => Color::Red,
    };
    Span::styled(level.mark(), Style::new().fg(colour))
}

/// A line of a list, marked where the cursor is.
fn item(text: String, here: bool) -> Line<'static> {
    let style = if here { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
    Line::styled(format!("{} {text}", if here { ">" } else { " " }), style)
}

fn disks(wizard: &Wizard) -> Vec<Line<'static>> {
    let lines = wizard.facts.disks.iter().enumerate();
    let line = |(n, device)| {
        let state = unfit(device).map_or_else(
            || holds(device).map_or("empty".to_owned(), |data| format!("{data}, WILL BE ERASED")),
            |reason| format!("cannot be used: {reason}"),
        );
        item(format!("{}: {state}", show(device)), n == wizard.cursor)
    };
    lines.map(line).collect()
}

fn storage(wizard: &Wizard) -> Vec<Line<'static>> {
    let lines = wizard.facts.disks.iter().enumerate();
    let line = |(n, device): (usize, _)| {
        let mark = if wizard.storage[n] { "[x]" } else { "[ ]" };
        let state = match (n == wizard.disk, holds(device)) {
            (true, _) => "what the system leaves".to_owned(),
            (false, None) => "empty".to_owned(),
            (false, Some(data)) if wizard.storage[n] => format!("{data}, WILL BE ERASED"),
            (false, Some(data)) => data,
        };
        item(format!("{mark} {}: {state}", show(device)), n == wizard.cursor)
    };
    lines.map(line).collect()
}

fn cards(wizard: &Wizard) -> Vec<Line<'static>> {
    let line = |(n, nic): (usize, &super::facts::Nic)| {
        let link = if nic.has_link { "link" } else { "no link" };
        let address = nic.address.map_or("no address".to_owned(), |(a, bits)| format!("{a}/{bits}"));
        let mark = if wizard.bonded.get(n) == Some(&true) { "[x]" } else { "[ ]" };
        item(format!("{mark} {:12} {}  {link}, {address}", nic.name, nic.mac), n == wizard.cursor)
    };
    wizard.facts.nics.iter().enumerate().map(line).collect()
}

/// The lines of a form, with the hint of the one that is written.
pub(crate) fn form_lines(fields: &[Field], cursor: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for (n, field) in fields.iter().enumerate() {
        let caret = if n == cursor && !field.is_choice() { "_" } else { "" };
        lines.push(item(format!("{:10} {}{caret}", field.name, field.shown()), n == cursor));
        if n == cursor {
            lines.push(Line::styled(format!("             {}", field.hint), Style::new().add_modifier(Modifier::DIM)));
        }
    }
    lines
}

fn summary(wizard: &Wizard) -> Vec<Line<'static>> {
    let shown = wizard.node_yaml();
    // A hash says nothing to a reader and is not for those who look over his shoulder.
    let line = |l: &str| if l.contains("passwordHash") { "  passwordHash: (hidden)".to_owned() } else { l.to_owned() };
    // First what is asked and what is lost: the document may be longer than the screen.
    let mut lines = vec![Line::from(format!("Type `{}` to install: {}_", wizard.word(), wizard.confirmation))];
    let red = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
    lines.extend(wizard.erased().into_iter().map(|text| Line::styled(format!("ERASED: {text}"), red)));
    lines.push(Line::from(""));
    lines.extend(shown.lines().map(|l| Line::from(line(l))));
    lines
}
