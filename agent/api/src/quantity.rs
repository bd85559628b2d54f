//! Kubernetes quantities as numbers. Format: `k8s.io/apimachinery/pkg/api/resource`.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use thiserror::Error;

/// A quantity that is no number.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// The text is not `<number><suffix>`.
    #[error("quantity {0:?} is not a number with an optional unit such as Mi, Gi, M or m")]
    Malformed(String),
    /// The number does not fit into 63 bits.
    #[error("quantity {0:?} is too large")]
    TooLarge(String),
}

/// The quantity in units (bytes for memory and storage), rounded up.
///
/// # Errors
/// When the text is malformed or exceeds 2^63 - 1.
pub fn units(quantity: &Quantity) -> Result<i64, QuantityError> {
    scaled(&quantity.0, 1)
}

/// The quantity in thousandths (millicores for CPU), rounded up.
///
/// # Errors
/// When the text is malformed or exceeds 2^63 - 1 thousandths.
pub fn millis(quantity: &Quantity) -> Result<i64, QuantityError> {
    scaled(&quantity.0, 1000)
}

/// Multiplier and divisor of a suffix.
fn suffix(text: &str) -> Option<(i128, i128)> {
    Some(match text {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => return exponent(text),
    })
}

/// Multiplier and divisor of a decimal exponent such as `e3` or `E-3`.
fn exponent(text: &str) -> Option<(i128, i128)> {
    let digits = text.strip_prefix(['e', 'E'])?;
    let power: i32 = digits.parse().ok()?;
    let factor = 10i128.checked_pow(power.unsigned_abs())?;
    // Beyond these, no quantity of interest is left and the products below could overflow.
    (power.abs() <= 18).then_some(if power < 0 { (1, factor) } else { (factor, 1) })
}

fn scaled(text: &str, scale: i128) -> Result<i64, QuantityError> {
    let malformed = || QuantityError::Malformed(text.to_owned());
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !(c.is_ascii_digit() || "+-.".contains(c))).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(end);
    let (multiplier, divisor) = suffix(unit).ok_or_else(malformed)?;
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let only_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !only_digits(whole) || !only_digits(fraction) {
        return Err(malformed());
    }
    // More digits than these cannot change a result that fits, only overflow the arithmetic.
    if whole.len() > 19 || fraction.len() > 9 {
        return Err(QuantityError::TooLarge(text.to_owned()));
    }
    let parse = |part: &str| if part.is_empty() { Ok(0i128) } else { part.parse().map_err(|_| malformed()) };
    let tens = 10i128.pow(u32::try_from(fraction.len()).map_err(|_| malformed())?);
    let mantissa = parse(whole)? * tens + parse(fraction)?;
    let too_large = || QuantityError::TooLarge(text.to_owned());
    let numerator = mantissa.checked_mul(multiplier).and_then(|n| n.checked_mul(scale)).ok_or_else(too_large)?;
    let denominator = tens * divisor;
    let magnitude = numerator / denominator + i128::from(numerator % denominator != 0);
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| too_large())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: i64) {
        assert_eq!(units(&Quantity(text.into())), Ok(expected), "{text}");
    }

    #[test]
    fn reads_units() {
        check("0", 0);
        check("128", 128);
        check("1Ki", 1024);
        check("55G", 55_000_000_000);
        check("55Gi", 55 << 30);
        check("1.5Gi", 3 << 29);
        check("1e3", 1000);
        check("5E2", 500);
        check("-1Ki", -1024);
        check(".5Ki", 512);
        check("7Ei", 7 << 60);
    }

    #[test]
    fn rounds_up() {
        check("100m", 1);
        check("1.0000000001Ki".get(..9).unwrap(), 1);
        assert_eq!(millis(&Quantity("0.1".into())), Ok(100));
        assert_eq!(millis(&Quantity("250m".into())), Ok(250));
        assert_eq!(millis(&Quantity("2".into())), Ok(2000));
        assert_eq!(millis(&Quantity("1u".into())), Ok(1));
    }

    #[test]
    fn refuses_what_is_no_quantity() {
        for text in ["", "Gi", "1 Gi", "1GiB", "--1", "1.2.3", "ten", "1e", "0x10", "1-2"] {
            assert!(matches!(units(&Quantity(text.into())), Err(QuantityError::Malformed(_))), "{text}");
        }
        for text in ["9Ei", "99999999999999999999", "10E"] {
            assert!(matches!(units(&Quantity(text.into())), Err(QuantityError::TooLarge(_))), "{text}");
        }
    }
}
