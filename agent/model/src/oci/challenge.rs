//! What a registry asks for with status 401: a token of another server (`Bearer`, the distribution specification's token
//! protocol), or a password (`Basic`).

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// A token.
    Bearer {
        /// URL of the server that gives it.
        realm: String,
        /// What it is for.
        service: Option<String>,
        /// What it must allow.
        scope: Option<String>,
    },
    /// User and password.
    Basic,
}

impl Challenge {
    /// Reads a `WWW-Authenticate` header; `None` for a scheme that is not known.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameters = parameters(rest);
        let value = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        Some(Self::Bearer { realm: value("realm")?, service: value("service"), scope: value("scope") })
    }
}

/// `key="value",key=value`; a quoted value may have commas in it.
fn parameters(mut text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Some((key, rest)) = text.split_once('=') {
        let key = key.trim_matches([',', ' ']).to_ascii_lowercase();
        let rest = rest.trim_start();
        let (value, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(',').unwrap_or((rest, "")),
        };
        found.push((key, value.trim().to_owned()));
        text = after;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_log_in_are_read() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
            })
        };
        for (header, expected) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://a.b/token\",service=\"r\",scope=\"repository:x:pull,push\"",
                bearer("https://a.b/token", Some("r"), Some("repository:x:pull,push")),
            ),
            ("bearer service=r, realm=https://a.b/t", bearer("https://a.b/t", Some("r"), None)),
            ("Bearer realm=\"unclosed", bearer("unclosed", None, None)),
            ("Bearer scope=\"x\"", None),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }
}
