//! Who may read metrics: whoever has a token that the API server knows and whose user it allows to `get /metrics`, as with a
//! kubelet's. Here is what needs no API server: the header, and what was answered a moment ago. Refuses to keep an answer
//! for long or many of them: a token that is withdrawn must not be good for ever, and anybody may send tokens.

use std::collections::HashMap;

/// An answer of the API server is good for this long, in milliseconds.
const GOOD_MS: i64 = 60_000;
/// Answers kept. Past it the oldest goes.
const KEPT: usize = 64;
/// Longer tokens are not asked about; a service account's has a thousand or two.
const LONGEST: usize = 16 << 10;

/// The token of an `Authorization` header; `None` when there is none that could be one.
#[must_use]
pub fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= LONGEST).then_some(token)
}

/// What the API server said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It may.
    Allowed,
    /// It is somebody, who may not.
    Forbidden,
    /// It is nobody.
    Unknown,
}

/// Answers of a moment ago.
#[derive(Debug, Default)]
pub struct Decisions {
    /// By token, with when it was said.
    kept: HashMap<String, (Decision, i64)>,
}

impl Decisions {
    /// What was said of a token a moment ago.
    #[must_use]
    pub fn find(&self, token: &str, now_ms: i64) -> Option<Decision> {
        let (decision, said_ms) = self.kept.get(token)?;
        (now_ms.saturating_sub(*said_ms) < GOOD_MS).then_some(*decision)
    }

    /// Keeps an answer.
    pub fn keep(&mut self, token: &str, decision: Decision, now_ms: i64) {
        self.kept.retain(|_, (_, said_ms)| now_ms.saturating_sub(*said_ms) < GOOD_MS);
        if self.kept.len() >= KEPT {
            let oldest = self.kept.iter().min_by_key(|(_, (_, said_ms))| *said_ms).map(|(token, _)| token.clone());
            oldest.and_then(|oldest| self.kept.remove(&oldest));
        }
        self.kept.insert(token.to_owned(), (decision, now_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearers_token_is_one() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        for header in ["Basic abc", "Bearer", "Bearer ", "abc", ""] {
            assert_eq!(bearer(header), None, "{header:?}");
        }
        assert_eq!(bearer(&format!("Bearer {}", "x".repeat(LONGEST + 1))), None);
    }

    #[test]
    fn an_answer_is_good_for_a_minute() {
        let mut decisions = Decisions::default();
        decisions.keep("t", Decision::Allowed, 1_000);
        assert_eq!(decisions.find("t", 60_999), Some(Decision::Allowed));
        assert_eq!(decisions.find("t", 61_000), None);
        assert_eq!(decisions.find("other", 1_000), None);
    }

    #[test]
    fn nobody_can_make_the_memory_of_answers_large() {
        let mut decisions = Decisions::default();
        for number in 0..1_000 {
            decisions.keep(&number.to_string(), Decision::Unknown, number);
        }
        assert_eq!(decisions.kept.len(), KEPT);
        assert_eq!(decisions.find("999", 1_000), Some(Decision::Unknown));
        assert_eq!(decisions.find("0", 1_000), None);
    }
}
