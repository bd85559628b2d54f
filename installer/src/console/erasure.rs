//! The page of the console that makes the machine blank: the plan or what is against it, and the node's name to be typed.
//! Pure; what the plan is, is [`crate::reset`]'s.

use crate::tui::form::Field;
use crate::tui::wizard::Key;

/// Columns of the screen within its frame.
const COLUMNS: usize = 78;
/// Columns that a line's continuation is set in.
const INDENT: usize = 4;

/// The page.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Erasure {
    /// As they fit the screen.
    lines: Vec<String>,
    /// The name that confirms it; None where it is refused.
    name: Option<String>,
    typed: Field,
    /// The first line that is shown.
    first: usize,
}

/// What follows a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Stay,
    /// Something else was typed than this name.
    Wrong(String),
    Leave,
    Erase,
}

impl Erasure {
    /// The page with these lines. `name`: what must be typed; None where it is refused.
    pub(super) fn new(lines: &[String], name: Option<String>) -> Erasure {
        Erasure {
            lines: lines.iter().flat_map(|line| wrapped(line, COLUMNS)).collect(),
            name,
            typed: Field::text("name", "", ""),
            first: 0,
        }
    }

    /// Takes a key.
    pub(super) fn key(&mut self, key: Key) -> Answer {
        match key {
            Key::Back => return Answer::Leave,
            Key::Up => self.first = self.first.saturating_sub(1),
            Key::Down => self.first = (self.first + 1).min(self.lines.len().saturating_sub(1)),
            Key::Enter => {
                return match &self.name {
                    None => Answer::Leave,
                    Some(name) if self.typed.answer() == name => Answer::Erase,
                    Some(name) => Answer::Wrong(name.clone()),
                };
            }
            Key::Char(c) => self.typed.write(c),
            Key::Space => self.typed.write(' '),
            Key::Erase => self.typed.erase(),
            _ => {}
        }
        Answer::Stay
    }

    /// The lines for a window of this height, the question last.
    pub(super) fn shown(&self, height: usize) -> Vec<String> {
        let question =
            self.name.as_ref().map(|_| format!("Type the node's name to erase all of it: {}_", self.typed.shown()));
        let room = height.saturating_sub(if question.is_some() { 2 } else { 0 });
        let first = self.first.min(self.lines.len().saturating_sub(room));
        let mut shown: Vec<String> = self.lines.iter().skip(first).take(room).cloned().collect();
        if let Some(question) = question {
            shown.extend([String::new(), question]);
        }
        shown
    }
}

/// A line as it fits so many columns, broken between words.
fn wrapped(line: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in line.split_inclusive(' ') {
        let room = columns.saturating_sub(lines.last().map_or(0, |last| last.chars().count()));
        match lines.last_mut() {
            Some(last) if word.trim_end().chars().count() <= room => last.push_str(word),
            _ => lines.push(" ".repeat(INDENT) + word),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(lines: usize, name: Option<&str>) -> Erasure {
        let lines: Vec<String> = (0..lines).map(|n| format!("line {n}")).collect();
        Erasure::new(&lines, name.map(str::to_owned))
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrapped("one two three", 9), ["one two ", "    three"]);
        assert_eq!(wrapped("", 9), [""]);
        assert_eq!(wrapped(" 1. mark", 9), [" 1. mark"], "and keep what they are set in");
    }

    #[test]
    fn the_question_is_always_in_view() {
        let mut page = page(30, Some("n1"));
        for _ in 0..40 {
            assert!(page.shown(10).last().expect("a line").starts_with("Type the node's name"));
            assert_eq!(page.shown(10).len(), 10);
            page.key(Key::Down);
        }
        assert_eq!(page.shown(10)[7], "line 29", "and so is the last line");
    }

    #[test]
    fn nothing_is_erased_but_by_the_name() {
        let mut page = page(1, Some("n1"));
        assert_eq!(page.key(Key::Enter), Answer::Wrong("n1".into()));
        for key in [Key::Char('n'), Key::Char('2')] {
            assert_eq!(page.key(key), Answer::Stay);
        }
        assert_eq!(page.key(Key::Enter), Answer::Wrong("n1".into()));
        page.key(Key::Erase);
        page.key(Key::Char('1'));
        assert_eq!((page.key(Key::Back), page.key(Key::Enter)), (Answer::Leave, Answer::Erase));
    }

    #[test]
    fn what_is_refused_cannot_be_confirmed() {
        let mut page = page(1, None);
        assert_eq!(page.shown(10), ["line 0"]);
        assert_eq!(page.key(Key::Enter), Answer::Leave);
    }
}
