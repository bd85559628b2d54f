//! A form: lines of text that are written and choices that are turned, on any terminal. Pure; knows no meaning.

/// A line of a form.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) hint: &'static str,
    pub(crate) value: Value,
}

/// What a line holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(String),
    /// Written but not shown.
    Hidden(String),
    /// One of these.
    Choice(&'static [&'static str], usize),
}

/// Longer than any answer; an SSH key of RSA has 700.
const MAX_TEXT: usize = 1000;

impl Field {
    /// A line of text.
    pub(crate) fn text(name: &'static str, hint: &'static str, value: impl Into<String>) -> Field {
        Field { name, hint, value: Value::Text(value.into()) }
    }

    /// A line whose text is shown as stars.
    pub(crate) fn hidden(name: &'static str, hint: &'static str) -> Field {
        Field { name, hint, value: Value::Hidden(String::new()) }
    }

    /// One of several; `now` counts from 0.
    pub(crate) fn choice(name: &'static str, hint: &'static str, of: &'static [&'static str], now: usize) -> Field {
        Field { name, hint, value: Value::Choice(of, now) }
    }

    /// What was written or chosen. A hidden text as it is: passwords may begin with a blank.
    pub(crate) fn answer(&self) -> &str {
        match &self.value {
            Value::Text(text) => text.trim(),
            Value::Hidden(text) => text,
            Value::Choice(of, now) => of.get(*now).copied().unwrap_or_default(),
        }
    }

    /// What the screen shows.
    pub(crate) fn shown(&self) -> String {
        match &self.value {
            Value::Text(text) => text.clone(),
            Value::Hidden(text) => "*".repeat(text.chars().count()),
            Value::Choice(_, _) => format!("< {} >", self.answer()),
        }
    }

    /// Replaces a text.
    pub(crate) fn set(&mut self, text: impl Into<String>) {
        if let Value::Text(old) = &mut self.value {
            *old = text.into();
        }
    }

    /// Writes a character; a blank turns a choice.
    pub(crate) fn write(&mut self, c: char) {
        match &mut self.value {
            Value::Text(text) | Value::Hidden(text) if text.len() < MAX_TEXT => text.push(c),
            Value::Choice(_, _) if c == ' ' => self.turn(true),
            _ => {}
        }
    }

    /// Takes the last character away.
    pub(crate) fn erase(&mut self) {
        if let Value::Text(text) | Value::Hidden(text) = &mut self.value {
            text.pop();
        }
    }

    /// The next or the previous choice. Says whether this is one.
    pub(crate) fn turn(&mut self, forward: bool) {
        if let Value::Choice(of, now) = &mut self.value {
            *now = (*now + if forward { 1 } else { of.len() - 1 }) % of.len().max(1);
        }
    }

    /// Whether this line is a choice.
    pub(crate) fn is_choice(&self) -> bool {
        matches!(self.value, Value::Choice(_, _))
    }
}

/// The items of a list with commas or blanks between.
pub(crate) fn items(text: &str) -> Vec<&str> {
    text.split([',', ' ']).filter(|item| !item.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_turns_both_ways_and_takes_no_text() {
        let mut field = Field::choice("mode", "", &["a", "b", "c"], 0);
        field.turn(false);
        assert_eq!(field.answer(), "c");
        field.write(' ');
        field.write('x');
        field.erase();
        assert_eq!((field.answer(), field.shown().as_str()), ("a", "< a >"));
    }

    #[test]
    fn a_hidden_text_is_kept_and_not_shown() {
        let mut field = Field::hidden("password", "");
        " pä".chars().for_each(|c| field.write(c));
        assert_eq!((field.answer(), field.shown().as_str()), (" pä", "***"));
        field.erase();
        assert_eq!(field.answer(), " p");
    }

    #[test]
    fn lists_take_commas_and_blanks() {
        assert_eq!(items("a, b  c,,"), ["a", "b", "c"]);
        assert!(items(" , ").is_empty());
    }
}
