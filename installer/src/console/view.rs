//! How the console looks on a terminal of 80 columns and 24 lines. Draws; knows no key and decides nothing.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Wrap};

use super::logs::LOGS;
use super::pages::{Page, Pages, Power};
use crate::observe::{Level, Part};
use crate::tui::view::{form_lines, mark};

/// Columns of a part's name.
const NAME: usize = 15;

/// The whole screen. `host`: the node's name.
pub(super) fn draw(frame: &mut Frame<'_>, pages: &Pages, host: &str) {
    let (lines, help) = match pages.page {
        Page::State => (state(pages, frame.area()), "N network  L logs  S shell  R restart  P power off  X reset"),
        Page::Password(_) => (password(pages), "Enter go on   Esc back"),
        Page::Network => (form_lines(&pages.form, pages.cursor), "Up Down move   Space turns   Enter go on   Esc back"),
        Page::Trial => (trial(pages), "K keep the new network   T take it back"),
        Page::Logs => (logs(pages, frame.area()), "Up Down scroll   Space newest   Enter other log   Esc back"),
        Page::Power(power) => (stop(pages, power), "type the word, then Enter   Esc back"),
        Page::Reset => (reset(pages, frame.area()), "type the name, then Enter   Up Down scroll   Esc back"),
    };
    let title = match pages.page {
        Page::State => format!(" Furrow: {host} {} ", verdict(pages)),
        Page::Logs => format!(" Furrow: {host}, log of {} ", LOGS[pages.logs.which].name),
        _ => format!(" Furrow: {host} "),
    };
    let areas = Layout::vertical([Constraint::Min(3), Constraint::Length(3), Constraint::Length(1)]);
    let [body, below, keys]: [Rect; 3] = areas.areas(frame.area());
    frame.render_widget(Paragraph::new(lines).block(Block::new().borders(Borders::ALL).title(title)), body);
    let (text, style) = detail(pages);
    frame.render_widget(Paragraph::new(text).style(style).wrap(Wrap { trim: true }), below);
    frame.render_widget(Paragraph::new(help).style(Style::new().add_modifier(Modifier::REVERSED)), keys);
}

fn verdict(pages: &Pages) -> &'static str {
    match pages.level() {
        None => "is being looked at",
        Some(Level::Well) => "is well",
        Some(Level::Warning) => "works, see below",
        Some(Level::Fault) => "IS NOT WELL",
    }
}

/// Below the page: what happened last, otherwise the chosen part whole.
fn detail(pages: &Pages) -> (String, Style) {
    if let Some((text, failed)) = &pages.notice {
        let colour = if *failed { Color::Red } else { Color::Green };
        return (text.clone(), Style::new().fg(colour).add_modifier(Modifier::BOLD));
    }
    let chosen = if pages.page == Page::State { pages.all_parts().get(pages.cursor).copied() } else { None };
    let text = chosen.map(|part| format!("{}: {}", part.name, part.text)).unwrap_or_default();
    (text, Style::new())
}

fn part_line(part: &Part, is_chosen: bool, width: usize) -> Line<'static> {
    let room = width.saturating_sub(NAME + 8);
    let mut text: String = part.text.chars().take(room).collect();
    if part.text.chars().count() > room {
        text.pop();
        text.push('>');
    }
    let style = if is_chosen { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
    Line::from(vec![
        Span::styled(format!("{}{:NAME$}", if is_chosen { ">" } else { " " }, part.name), style),
        mark(part.level),
        Span::raw(format!(" {text}")),
    ])
}

fn state(pages: &Pages, area: Rect) -> Vec<Line<'static>> {
    let parts = pages.all_parts();
    let height = usize::from(area.height.saturating_sub(6));
    // The chosen part is always in view.
    let first = (pages.cursor + 1).saturating_sub(height.max(1));
    let shown = parts.iter().enumerate().skip(first).take(height);
    shown.map(|(n, part)| part_line(part, n == pages.cursor, usize::from(area.width))).collect()
}

fn logs(pages: &Pages, area: Rect) -> Vec<Line<'static>> {
    let height = usize::from(area.height.saturating_sub(6));
    pages.logs.window(height).map(|line| Line::from(line.to_owned())).collect()
}

fn text(paragraphs: &[String]) -> Vec<Line<'static>> {
    paragraphs.iter().map(|line| Line::from(line.clone())).collect()
}

fn password(pages: &Pages) -> Vec<Line<'static>> {
    text(&["This needs root's password.".into(), String::new(), format!("Password: {}_", pages.typed.shown())])
}

fn trial(pages: &Pages) -> Vec<Line<'static>> {
    let left = pages.trial.unwrap_or_default();
    let mut lines = text(&[
        format!("The new network is in place. In {left} s the old one comes back by itself,"),
        "unless K is pressed: see first that the node is reached by its new network.".into(),
        String::new(),
    ]);
    let wanted = ["addresses", "links"];
    let parts = pages.all_parts();
    lines.extend(parts.iter().filter(|p| wanted.contains(&p.name)).map(|part| part_line(part, false, 80)));
    lines
}

fn stop(pages: &Pages, power: Power) -> Vec<Line<'static>> {
    let what = match power {
        Power::Restart => "restarts",
        Power::Off => "is switched off",
    };
    text(&[
        format!("The machine {what}. The guests that run on it are stopped with it."),
        String::new(),
        format!("Type `{}`: {}_", power.words().0, pages.typed.shown()),
    ])
}

fn reset(pages: &Pages, area: Rect) -> Vec<Line<'static>> {
    text(&pages.erasure.shown(usize::from(area.height.saturating_sub(6))))
}
