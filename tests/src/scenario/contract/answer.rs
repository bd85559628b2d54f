//! What an answer must be: its code, and for a refusal Kubernetes' Status with the same code, a reason and a sentence, by
//! which clients recognise it.

use anyhow::{Context, Result, ensure};

use crate::http::Answer;

/// An operation that is part of the API and not carried out yet.
pub(super) const NOT_YET: u16 = 501;

/// Reasons that go with codes, as Kubernetes' own helpers make them.
const REASONS: [(u16, &str); 10] = [
    (400, "BadRequest"),
    (403, "Forbidden"),
    (404, "NotFound"),
    (405, "MethodNotAllowed"),
    (409, "Conflict"),
    (413, "RequestEntityTooLarge"),
    (422, "Invalid"),
    (500, "InternalError"),
    (NOT_YET, "NotImplemented"),
    (503, "ServiceUnavailable"),
];

/// Checks an answer. `text`: a part of a refusal's sentence, or of the body when it is no refusal.
pub(super) fn check(answer: &Answer, code: u16, text: &str) -> Result<()> {
    ensure!(answer.code == code, "answered {} instead of {code}: {}", answer.code, answer.brief());
    if code < 400 {
        ensure!(answer.text().contains(text), "`{text}` is not in the answer: {}", answer.brief());
        return Ok(());
    }
    let status = answer.json()?;
    ensure!(status["kind"] == "Status" && status["apiVersion"] == "v1", "the refusal is no Status: {}", answer.brief());
    ensure!(status["status"] == "Failure" && status["code"] == code, "the Status does not say {code}: {status}");
    let expected = REASONS.iter().find(|(known, _)| *known == code).map(|(_, reason)| *reason);
    let expected = expected.with_context(|| format!("no reason is known for {code}"))?;
    ensure!(status["reason"] == expected, "the reason is {}, expected {expected}", status["reason"]);
    let message = status["message"].as_str().unwrap_or_default();
    ensure!(message.contains(text), "`{text}` is not in the message: {message}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16, body: &str) -> Answer {
        Answer { code, headers: Vec::new(), body: body.as_bytes().to_vec() }
    }

    #[test]
    fn a_refusal_is_a_status_that_says_the_same() {
        let status = |code: u16, reason: &str| {
            format!(
                "{{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"status\":\"Failure\",\"reason\":\"{reason}\",\
                 \"code\":{code},\"message\":\"VM is not running\"}}"
            )
        };
        assert!(check(&answer(409, &status(409, "Conflict")), 409, "not running").is_ok());
        for (told, code, reason, text) in
            [(409, 400, "Conflict", ""), (409, 409, "NotFound", ""), (409, 409, "Conflict", "paused")]
        {
            assert!(check(&answer(told, &status(code, reason)), 409, text).is_err(), "{code} {reason} {text}");
        }
        assert!(check(&answer(409, "no"), 409, "").is_err());
        assert!(check(&answer(202, ""), 202, "").is_ok() && check(&answer(202, ""), 200, "").is_err());
    }
}
