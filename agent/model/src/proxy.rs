//! The proxy by which a node reaches servers outside, as `/etc/furrow/proxy.env` holds it. The file is an environment file
//! because Kubernetes and containerd read it so; Furrow's own programs read the file instead of their environment, where
//! the Kubernetes client would find it too, and a change would need a restart. Refuses to decide who is reached through
//! it: HTTP clients know the rules of `NO_PROXY`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where `furrow-install` writes it.
pub const FILE: &str = "/etc/furrow/proxy.env";

/// Proxies for each protocol, and what is reached without them.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxies {
    /// URL of the proxy for http; it may hold a login.
    pub http: Option<String>,
    /// URL of the proxy for https.
    pub https: Option<String>,
    /// Hosts, domains and networks with commas between.
    pub direct: String,
}

/// Without the logins.
impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |url: &Option<String>| if url.is_some() { "(hidden)" } else { "none" };
        write!(f, "proxies: http {}, https {}, direct {}", shown(&self.http), shown(&self.https), self.direct)
    }
}

impl Proxies {
    /// Reads the file's text. What is no line of ours is passed over: an empty text means that there is no proxy.
    pub fn parse(text: &str) -> Proxies {
        let value = |name: &str| {
            let of =
                |line: &str| line.strip_prefix(name)?.strip_prefix('=').map(|value| value.trim_matches('"').to_owned());
            text.lines().find_map(of).filter(|value| !value.is_empty())
        };
        Proxies {
            http: value("HTTP_PROXY"),
            https: value("HTTPS_PROXY"),
            direct: value("NO_PROXY").unwrap_or_default(),
        }
    }

    /// The file's text; empty without a proxy. Names stand in both cases, because programs differ in which they read.
    pub fn environment(&self) -> String {
        if self.is_none() {
            return String::new();
        }
        let mut text = "# Written by furrow-install from node.yaml.\n".to_owned();
        for (name, value) in
            [("HTTP_PROXY", self.http.as_ref()), ("HTTPS_PROXY", self.https.as_ref()), ("NO_PROXY", Some(&self.direct))]
        {
            if let Some(value) = value {
                text += &format!("{name}=\"{value}\"\n{}=\"{value}\"\n", name.to_lowercase());
            }
        }
        text
    }

    /// Whether everything is reached directly.
    pub fn is_none(&self) -> bool {
        self.http.is_none() && self.https.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(http: Option<&str>, https: Option<&str>, direct: &str) -> Proxies {
        Proxies { http: http.map(str::to_owned), https: https.map(str::to_owned), direct: direct.to_owned() }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for proxies in [
            proxies(None, None, ""),
            proxies(Some("http://u:p=1@proxy:3128"), None, "localhost,10.0.0.0/8"),
            proxies(None, Some("http://proxy:3128"), ".svc"),
            proxies(Some("http://a"), Some("https://b:1"), ""),
        ] {
            assert_eq!(Proxies::parse(&proxies.environment()), proxies);
        }
    }

    #[test]
    fn names_stand_in_both_cases() {
        let text = proxies(Some("http://a"), None, "b").environment();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(lines, ["HTTP_PROXY=\"http://a\"", "http_proxy=\"http://a\"", "NO_PROXY=\"b\"", "no_proxy=\"b\""]);
    }

    #[test]
    fn a_login_is_not_shown() {
        let shown = format!("{:?}", proxies(Some("http://user:word@a"), None, "b"));
        assert_eq!(shown, "proxies: http (hidden), https none, direct b");
    }
}
