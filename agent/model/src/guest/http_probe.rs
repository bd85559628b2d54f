//! What a probe by HTTP or TCP asks a guest, and what the answer means: as a kubelet does it of a container (its prober of
//! Kubernetes 1.36: status 200 to 399 passes, a redirect is followed as long as it stays on the host). Pure; refuses to
//! know how a guest is reached, and every host but the guest itself.

use std::net::Ipv4Addr;

/// Redirects that are followed, as a kubelet's client follows them.
const REDIRECTS_MAX: usize = 10;

/// A request as it was asked for.
#[derive(Debug, Clone, Default)]
pub struct HttpAsked<'a> {
    /// `httpGet.path`; absent: `/`.
    pub path: Option<&'a str>,
    /// `httpGet.scheme`; absent: HTTP.
    pub scheme: Option<&'a str>,
    /// `httpGet.httpHeaders`.
    pub headers: Vec<(&'a str, &'a str)>,
}

/// Why there can be no such probe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each says what it is")]
pub enum ProbeActionError {
    #[error("scheme: {0:?} is neither HTTP nor HTTPS")]
    Scheme(String),
    #[error("httpHeaders: {0:?} is not the name of a header")]
    HeaderName(String),
    #[error("httpHeaders: the value of {0} has characters that no header has")]
    HeaderValue(String),
    #[error("port: {0} is not between 1 and 65535")]
    Number(i64),
    #[error("port: no interface has a port named {0:?}")]
    Name(String),
}

/// A request to a port of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// By TLS. Nobody verifies the certificate: there is no name that it could be of.
    pub secure: bool,
    /// The port.
    pub port: u16,
    /// Path and query, as they stand in the request's first line.
    pub target: String,
    /// Headers of its own, in order.
    pub headers: Vec<(String, String)>,
    redirects: usize,
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpVerdict {
    /// The attempt has passed.
    Passed,
    /// It has failed, for this reason.
    Failed(String),
    /// This is to be asked next.
    Follow(HttpProbe),
}

impl HttpProbe {
    /// Reads a request.
    ///
    /// # Errors
    /// Which part of it cannot be.
    pub fn parse(asked: &HttpAsked<'_>, port: u16) -> Result<Self, ProbeActionError> {
        let secure = match asked.scheme.unwrap_or_default() {
            "" | "HTTP" => false,
            "HTTPS" => true,
            other => return Err(ProbeActionError::Scheme(other.to_owned())),
        };
        let headers = asked.headers.iter().map(|(name, value)| {
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
                return Err(ProbeActionError::HeaderName((*name).to_owned()));
            }
            if value.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) {
                return Err(ProbeActionError::HeaderValue((*name).to_owned()));
            }
            Ok(((*name).to_owned(), (*value).to_owned()))
        });
        let headers = headers.collect::<Result<_, _>>()?;
        Ok(Self { secure, port, target: target(asked.path.unwrap_or_default()), headers, redirects: 0 })
    }

    /// The value of a header of its own.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// What an answer of the guest means. `location`: where it says that the thing asked for is.
    #[must_use]
    pub fn judge(&self, guest: Ipv4Addr, status: u16, location: Option<&str>) -> HttpVerdict {
        if !(200..400).contains(&status) {
            return HttpVerdict::Failed(format!("HTTP probe failed with statuscode: {status}"));
        }
        let moved = matches!(status, 301 | 302 | 303 | 307 | 308);
        let Some(location) = location.filter(|_| moved) else { return HttpVerdict::Passed };
        // Whoever sends the asker to another host has answered.
        let Some((secure, port, path)) = self.resolve(guest, location) else { return HttpVerdict::Passed };
        if self.redirects >= REDIRECTS_MAX {
            return HttpVerdict::Failed(format!("stopped after {REDIRECTS_MAX} redirects"));
        }
        let redirects = self.redirects + 1;
        HttpVerdict::Follow(Self { secure, port, target: target(&path), headers: self.headers.clone(), redirects })
    }

    /// Where on the guest a reference leads (RFC 3986 section 5.2); `None`: to another host, or nowhere that is HTTP.
    fn resolve(&self, guest: Ipv4Addr, location: &str) -> Option<(bool, u16, String)> {
        let (secure, rest) = match location.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, Some(rest)),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, Some(rest)),
            Some((scheme, _)) if scheme.chars().all(|c| c.is_ascii_alphanumeric()) => return None,
            _ => (self.secure, location.strip_prefix("//")),
        };
        if let Some(rest) = rest {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            let (host, port) = match authority.split_once(':') {
                Some((host, port)) if !port.is_empty() => (host, port.parse().ok()?),
                Some((host, _)) => (host, if secure { 443 } else { 80 }),
                None => (authority, if secure { 443 } else { 80 }),
            };
            return (host.parse() == Ok(guest)).then(|| (secure, port, path.to_owned()));
        }
        let own = self.target.split('?').next().unwrap_or("/");
        let path = if location.starts_with('/') {
            location.to_owned()
        } else if location.starts_with('?') || location.is_empty() {
            format!("{own}{location}")
        } else {
            format!("{}/{location}", own.rsplit_once('/').map_or("", |(folder, _)| folder))
        };
        Some((self.secure, self.port, path))
    }
}

/// A path with its query as a request has it: from the root, without a fragment, without `.` and `..`, and every character
/// that a first line cannot have in its percent form.
fn target(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let mut folders: Vec<&str> = Vec::new();
    let segments: Vec<_> = path.trim_start_matches('/').split('/').collect();
    for (index, segment) in segments.iter().enumerate() {
        let last = index + 1 == segments.len();
        match *segment {
            "." | ".." => {
                if *segment == ".." {
                    folders.pop();
                }
                if last {
                    folders.push("");
                }
            }
            other => folders.push(other),
        }
    }
    let mut text = String::from("/");
    encode(&folders.join("/"), &mut text);
    if let Some(query) = query {
        text.push('?');
        encode(query, &mut text);
    }
    text
}

fn encode(part: &str, text: &mut String) {
    for byte in part.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// A port as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskedPort<'a> {
    /// By its number.
    Number(i64),
    /// By the name that an interface gives it; a number in quotes is a number.
    Name(&'a str),
}

/// The number of a port. `named`: ports of the guest's interfaces.
///
/// # Errors
/// When it is none, or nobody gave a port that name.
pub fn probe_port<'a>(
    asked: AskedPort<'_>,
    named: impl IntoIterator<Item = (&'a str, i32)>,
) -> Result<u16, ProbeActionError> {
    let number = match asked {
        AskedPort::Number(number) => number,
        AskedPort::Name(name) => {
            let found = named.into_iter().find(|(own, _)| !name.is_empty() && *own == name);
            let found = found.map(|(_, port)| i64::from(port)).or_else(|| name.parse().ok());
            found.ok_or_else(|| ProbeActionError::Name(name.to_owned()))?
        }
    };
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or(ProbeActionError::Number(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 7);

    fn probe(path: &str) -> HttpProbe {
        HttpProbe::parse(&HttpAsked { path: Some(path), ..HttpAsked::default() }, 8080).expect("a probe")
    }

    #[test]
    fn a_path_is_what_a_request_can_say() {
        for (path, expected) in [
            ("", "/"),
            ("healthz", "/healthz"),
            ("/healthz?verbose=1#top", "/healthz?verbose=1"),
            ("/a b/ü", "/a%20b/%C3%BC"),
            ("/a/%20/b/", "/a/%20/b/"),
            ("/a/../b/./c/..", "/b/"),
            ("/x\r\nHost: other", "/x%0D%0AHost:%20other"),
        ] {
            assert_eq!(probe(path).target, expected, "{path}");
        }
    }

    #[test]
    fn what_cannot_be_a_request_is_named() {
        let check = |scheme: &str, headers: &[(&str, &str)], expected: Option<&str>| {
            let asked = HttpAsked { path: None, scheme: Some(scheme), headers: headers.to_vec() };
            let found = HttpProbe::parse(&asked, 80).err().map(|error| error.to_string());
            assert_eq!(found.as_deref(), expected);
        };
        check("HTTPS", &[("X-Probe", "a b"), ("Host", "example.com")], None);
        check("ftp", &[], Some("scheme: \"ftp\" is neither HTTP nor HTTPS"));
        check("", &[("a b", "")], Some("httpHeaders: \"a b\" is not the name of a header"));
        check("", &[("a", "b\nc: d")], Some("httpHeaders: the value of a has characters that no header has"));
    }

    #[test]
    fn a_status_below_400_passes() {
        for (status, passes) in
            [(199, false), (200, true), (204, true), (304, true), (399, true), (400, false), (503, false)]
        {
            let verdict = probe("/").judge(GUEST, status, None);
            assert_eq!(verdict == HttpVerdict::Passed, passes, "{status}: {verdict:?}");
        }
        let failed = HttpVerdict::Failed("HTTP probe failed with statuscode: 500".to_owned());
        assert_eq!(probe("/").judge(GUEST, 500, Some("/")), failed);
    }

    #[test]
    fn a_redirect_is_followed_on_the_guest_and_passes_elsewhere() {
        for (location, expected) in [
            ("/login", Some((false, 8080, "/login"))),
            ("login?next=1", Some((false, 8080, "/app/login?next=1"))),
            ("../x", Some((false, 8080, "/x"))),
            ("?page=2", Some((false, 8080, "/app/start?page=2"))),
            ("http://192.168.10.7/", Some((false, 80, "/"))),
            ("https://192.168.10.7:8443", Some((true, 8443, "/"))),
            ("//192.168.10.7:81/x", Some((false, 81, "/x"))),
            ("https://example.com/", None),
            ("http://192.168.10.8/", None),
            ("ftp://192.168.10.7/", None),
            ("http://192.168.10.7:99999/", None),
        ] {
            let verdict = probe("/app/start").judge(GUEST, 302, Some(location));
            let found = match &verdict {
                HttpVerdict::Follow(next) => Some((next.secure, next.port, next.target.as_str())),
                HttpVerdict::Passed => None,
                HttpVerdict::Failed(why) => panic!("{location}: {why}"),
            };
            assert_eq!(found, expected, "{location}");
        }
        let mut next = probe("/");
        for _ in 0..10 {
            next = match next.judge(GUEST, 307, Some("/again")) {
                HttpVerdict::Follow(next) => next,
                other => panic!("{other:?}"),
            };
        }
        assert_eq!(next.judge(GUEST, 307, Some("/")), HttpVerdict::Failed("stopped after 10 redirects".to_owned()));
    }

    #[test]
    fn a_port_has_a_number_or_the_name_of_an_interface() {
        let named = [("http", 8080), ("9", 99)];
        let check = |asked: AskedPort<'_>, expected: Result<u16, &str>| {
            let found = probe_port(asked, named).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{asked:?}");
        };
        check(AskedPort::Number(80), Ok(80));
        check(AskedPort::Name("http"), Ok(8080));
        check(AskedPort::Name("9"), Ok(99));
        check(AskedPort::Name("443"), Ok(443));
        check(AskedPort::Name("https"), Err("port: no interface has a port named \"https\""));
        check(AskedPort::Number(0), Err("port: 0 is not between 1 and 65535"));
        check(AskedPort::Number(70_000), Err("port: 70000 is not between 1 and 65535"));
    }
}
