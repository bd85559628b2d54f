//! Bodies of requests: JSON or YAML, and none at all is legal. Refuses rules about what they say.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::failure::Failure;

/// Reads options. A body that is empty, or null, has none of them.
///
/// # Errors
/// 400 when it cannot be read.
pub(super) fn decode<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Failure> {
    match document(body)? {
        Value::Null => Ok(T::default()),
        value @ Value::Object(_) => serde_json::from_value(value).map_err(|error| unreadable(&error)),
        // Of a list serde would take the elements for the fields in their order.
        _ => Err(unreadable(&"options are an object")),
    }
}

/// Reads a document; null when there is none.
///
/// # Errors
/// As [`decode`].
pub(super) fn document(body: &[u8]) -> Result<Value, Failure> {
    let body = body.trim_ascii();
    match body.first() {
        None => Ok(Value::Null),
        Some(b'{' | b'[' | b'"') => serde_json::from_slice(body).map_err(|error| unreadable(&error)),
        Some(_) => serde_saphyr::from_slice(body).map_err(|error| unreadable(&error)),
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> Failure {
    Failure::bad_request(format!("Can not unmarshal Request body to struct, error: {error}"))
}

/// Whether an option of the query is true; Go's words for it.
pub(super) fn is_true(query: Option<&str>, option: &str) -> bool {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let mut of = pairs.filter(|(name, _)| *name == option);
    of.any(|(_, value)| matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

/// Milliseconds of a duration as Go writes it, such as `1h30m`, `5m0s`, `1.5s`, `300ms`; `None` for anything else, and for
/// negative ones.
pub(crate) fn go_duration_ms(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let number: f64 = number.parse().ok()?;
        // The longer names first: `ms` begins with `m`.
        let units = [("ns", 1e-6), ("us", 1e-3), ("µs", 1e-3), ("ms", 1.0), ("h", 3.6e6), ("m", 6e4), ("s", 1e3)];
        let (unit, factor) = units.into_iter().find(|(unit, _)| tail.starts_with(unit))?;
        total += number * factor;
        rest = &tail[unit.len()..];
    }
    // Go's own limit is 292 years.
    (total < 9.3e15).then_some(total.round() as u64)
}

#[cfg(test)]
mod tests {
    use furrow_api::subresources::{RestartOptions, StartOptions, StopOptions};

    use super::*;

    #[test]
    fn options_are_json_or_yaml_or_nothing() {
        let nothing = StartOptions::default();
        for body in ["", "  \n", "null", "{}", "---\n"] {
            assert_eq!(decode::<StartOptions>(body.as_bytes()), Ok(nothing.clone()), "{body:?}");
        }
        let asked = StartOptions { paused: true, dry_run: vec!["All".into()] };
        let json = br#"{"kind":"StartOptions","paused":true,"dryRun":["All"]}"#;
        assert_eq!(decode::<StartOptions>(json), Ok(asked.clone()));
        assert_eq!(decode::<StartOptions>(b"paused: true\ndryRun:\n- All\n"), Ok(asked));
        assert_eq!(decode::<StopOptions>(br#"{"gracePeriod":0}"#).map(|o| o.grace_period), Ok(Some(0)));
        let restart = decode::<RestartOptions>(br#"{"gracePeriodSeconds":null}"#).map(|o| o.grace_period_seconds);
        assert_eq!(restart, Ok(None));
    }

    #[test]
    fn nonsense_is_a_bad_request() {
        for body in ["{", "{\"paused\": 3}", "paused: [", "[1]", "\u{0}"] {
            let failure = decode::<StartOptions>(body.as_bytes()).expect_err(body);
            let (code, text) = failure.told();
            assert_eq!(code, 400, "{body}");
            assert!(text.starts_with("Can not unmarshal Request body to struct, error: "), "{text}");
        }
        // A list is no grace period of one second.
        for body in ["[1]", "- 1\n", "7", "\"word\""] {
            assert!(decode::<StopOptions>(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn durations_are_gos() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(go_duration_ms(text), expected, "{text}");
        check("5m0s", Some(300_000));
        check("1h2m3.5s", Some(3_723_500));
        check("300ms", Some(300));
        check("0", Some(0));
        check("0s", Some(0));
        check("1500us", Some(2));
        check("", None);
        check("5", None);
        check("-5s", None);
        check("5x", None);
        check("five", None);
    }
}
