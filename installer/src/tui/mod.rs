//! The text interface of the medium, on a screen or a serial console: questions, a typed confirmation, progress, result.
//! Owns the terminal and the order; what is asked is [`wizard`]'s, how it looks is [`view`]'s. Installs by the same
//! node.yaml and plan as an unattended installation.

pub(crate) mod facts;
pub(crate) mod form;
pub(crate) mod network_form;
pub(crate) mod view;
pub(crate) mod wizard;

use std::io::Stdout;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use furrow_model::reasons::chain;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::{execute, terminal};
use ratatui::layout::{Position, Rect};

use self::facts::Facts;
use self::wizard::{Key, Outcome, Wizard};
use crate::install::{self, InstallPlan};

/// The terminal that is drawn on.
pub(crate) type Screen = Terminal<CrosstermBackend<Stdout>>;

/// After so long without a key the screen is painted anew.
const REPAINT: Duration = Duration::from_secs(20);

/// What a person chose.
pub(crate) enum End {
    /// The plan was executed.
    Installed(Box<InstallPlan>),
    /// A shell.
    Left,
}

/// Asks, installs, shows the result.
///
/// # Errors
/// When the terminal or the disks cannot be read. A failed installation is shown and is no error.
pub(crate) async fn run() -> Result<End> {
    let medium = install::medium_disk().map_err(anyhow::Error::msg)?;
    let facts = Facts::observe(&medium).await?;
    let mut screen = open()?;
    let end = story(&mut screen, facts).await;
    close(&mut screen);
    end
}

async fn story(screen: &mut Screen, facts: Facts) -> Result<End> {
    let mut wizard = Wizard::new(facts);
    loop {
        let text = match ask(screen, &mut wizard).await? {
            None => return Ok(End::Left),
            Some(text) => text,
        };
        let config = crate::config::parse(&text).context("the answers make no valid node.yaml")?;
        let plan = match install::plan(config, text).await {
            Ok(plan) => plan,
            // Back to the summary, with the reason.
            Err(error) => {
                wizard.refusal = Some(error.to_string());
                continue;
            }
        };
        return progress(screen, plan).await;
    }
}

/// Takes the terminal.
///
/// # Errors
/// When there is none.
pub(crate) fn open() -> Result<Screen> {
    terminal::enable_raw_mode().context("no terminal")?;
    let mut out = std::io::stdout();
    execute!(out, terminal::EnterAlternateScreen)?;
    Ok(Terminal::new(CrosstermBackend::new(out))?)
}

/// Gives the terminal back.
pub(crate) fn close(screen: &mut Screen) {
    let _ = terminal::disable_raw_mode();
    let _ = execute!(screen.backend_mut(), terminal::LeaveAlternateScreen);
    let _ = screen.show_cursor();
}

/// Paints the screen whole at the next drawing, over what others wrote on it.
///
/// Not `Terminal::clear`: that asks the terminal where its cursor is, and the answer goes to whoever waits for a key.
///
/// # Errors
/// When the terminal is gone.
pub(crate) fn repaint(screen: &mut Screen) -> Result<()> {
    let area = Rect::from((Position::ORIGIN, screen.size()?));
    Ok(screen.resize(area)?)
}

/// The wizard until it is done; None for a shell.
async fn ask(screen: &mut Screen, wizard: &mut Wizard) -> Result<Option<String>> {
    loop {
        screen.draw(|frame| view::draw(frame, wizard))?;
        let Some(key) = read_key()? else {
            repaint(screen)?;
            continue;
        };
        let outcome = match wizard.key(key) {
            Outcome::Hash(password) => {
                let hash = crate::settings::hash_password(&password).await;
                wizard.hashed(hash.map_err(|error| error.to_string()))
            }
            outcome => outcome,
        };
        match outcome {
            Outcome::Stay | Outcome::Hash(_) => {}
            Outcome::Leave => return Ok(None),
            Outcome::Install(text) => return Ok(Some(text)),
        }
    }
}

fn read_key() -> Result<Option<Key>> {
    // Painted anew now and then: the kernel writes to the same console.
    if !event::poll(REPAINT)? {
        return Ok(None);
    }
    let Event::Key(key) = event::read()? else { return Ok(None) };
    Ok(key_of(key))
}

/// What a key means here; None for one that means nothing.
pub(crate) fn key_of(key: KeyEvent) -> Option<Key> {
    if key.kind == KeyEventKind::Release || key.modifiers.contains(KeyModifiers::CONTROL) {
        return None;
    }
    match key.code {
        KeyCode::Up => Some(Key::Up),
        KeyCode::Down | KeyCode::Tab => Some(Key::Down),
        KeyCode::Enter => Some(Key::Enter),
        KeyCode::Esc => Some(Key::Back),
        KeyCode::Left => Some(Key::Previous),
        KeyCode::Right => Some(Key::Next),
        KeyCode::PageUp => Some(Key::PageUp),
        KeyCode::PageDown => Some(Key::PageDown),
        KeyCode::Backspace => Some(Key::Erase),
        KeyCode::Char(' ') => Some(Key::Space),
        KeyCode::Char(c) => Some(Key::Char(c)),
        _ => None,
    }
}

async fn progress(screen: &mut Screen, plan: InstallPlan) -> Result<End> {
    let begun = Instant::now();
    let said = std::cell::RefCell::new(Vec::<String>::new());
    let shared = std::cell::RefCell::new(&mut *screen);
    let result = plan
        .execute(&|line| {
            said.borrow_mut().push(format!("[{:5.1} s] {line}", begun.elapsed().as_secs_f64()));
            // A screen that cannot be drawn must not end the installation.
            let _ = shared.borrow_mut().draw(|frame| view::draw_progress(frame, &said.borrow(), None));
        })
        .await;
    let end = match &result {
        Ok(()) => Ok("Installed. Take the medium out.".to_owned()),
        Err(error) => Err(chain(error)),
    };
    loop {
        screen.draw(|frame| view::draw_progress(frame, &said.borrow(), Some(&end)))?;
        if read_key()? == Some(Key::Enter) {
            return Ok(if result.is_ok() { End::Installed(Box::new(plan)) } else { End::Left });
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::facts::Facts;
    use super::wizard::{Key, Wizard};
    use super::*;

    fn shown(wizard: &Wizard) -> String {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("a terminal");
        terminal.draw(|frame| view::draw(frame, wizard)).expect("drawn");
        terminal.backend().to_string()
    }

    #[test]
    fn every_screen_names_its_keys_on_80_columns() {
        let mut wizard = Wizard::new(Facts::default());
        assert!(shown(&wizard).contains("Enter go on   Esc shell"));
        wizard.key(Key::Enter);
        let text = shown(&wizard);
        assert!(text.contains("Which disk does the system go to?") && text.contains("Esc back"), "{text}");
        wizard.key(Key::Enter);
        assert!(shown(&wizard).contains("there is no disk"));
    }
}
