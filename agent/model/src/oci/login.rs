//! The login for a registry in a pull secret: `.dockerconfigjson` (type kubernetes.io/dockerconfigjson) or the older
//! `.dockercfg`, which is its inner part. The entry with the longest path that the image is below counts, as with the
//! kubelet. Refuses patterns in hosts, and identity tokens, which are for another protocol.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::reference::Reference;

/// Why a secret says nothing. Shows nothing of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// It is no such document.
    #[error("it is no document of registry logins")]
    Malformed,
    /// An entry is no login.
    #[error("its entry for the registry is no user and password")]
    Entry,
}

#[derive(Deserialize)]
struct Outer {
    auths: BTreeMap<String, Auth>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
}

/// User and password for an image's registry; `None` when the document has none for it.
///
/// # Errors
/// When it is malformed.
pub fn login(document: &[u8], reference: &Reference) -> Result<Option<(String, String)>, LoginError> {
    let outer = serde_json::from_slice::<Outer>(document).map(|outer| outer.auths);
    let auths = outer.or_else(|_| serde_json::from_slice(document)).map_err(|_| LoginError::Malformed)?;
    let image = format!("{}/{}", reference.registry(), reference.repository());
    let fits = auths.iter().filter_map(|(key, auth)| {
        let place = place(key);
        let below = image.strip_prefix(place.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        below.then_some((place.len(), auth))
    });
    fits.max_by_key(|(length, _)| *length).map(|(_, auth)| pair(auth)).transpose()
}

/// Host and path of an entry's key, which may be a URL of an API's version.
fn place(key: &str) -> String {
    let key = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    match key {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

fn pair(auth: &Auth) -> Result<(String, String), LoginError> {
    if !auth.username.is_empty() {
        return Ok((auth.username.clone(), auth.password.clone()));
    }
    let bytes = BASE64_STANDARD.decode(auth.auth.trim()).map_err(|_| LoginError::Entry)?;
    let text = String::from_utf8(bytes).map_err(|_| LoginError::Entry)?;
    let (user, password) = text.split_once(':').filter(|(user, _)| !user.is_empty()).ok_or(LoginError::Entry)?;
    Ok((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(document: &Value, image: &str, expected: Result<Option<(&str, &str)>, LoginError>) {
        let found = login(document.to_string().as_bytes(), &Reference::parse(image).unwrap());
        let expected = expected.map(|pair| pair.map(|(user, password)| (user.to_owned(), password.to_owned())));
        assert_eq!(found, expected, "{image} with {document}");
    }

    #[test]
    fn the_longest_path_above_the_image_counts() {
        let encoded = BASE64_STANDARD.encode("joe:with:colon");
        let auths = json!({
            "r.example:5000": {"username": "all", "password": "1"},
            "https://r.example:5000/team": {"auth": encoded},
            "https://index.docker.io/v1/": {"username": "hub", "password": "2"},
        });
        let document = json!({"auths": auths});
        check(&document, "r.example:5000/x/y", Ok(Some(("all", "1"))));
        check(&document, "r.example:5000/team/y", Ok(Some(("joe", "with:colon"))));
        check(&document, "r.example:5000/teams/y", Ok(Some(("all", "1"))));
        check(&document, "cirros", Ok(Some(("hub", "2"))));
        check(&document, "r.example/x", Ok(None));
        check(&auths, "cirros", Ok(Some(("hub", "2"))));
    }

    #[test]
    fn what_is_no_login_is_said_without_its_content() {
        check(&json!([]), "x", Err(LoginError::Malformed));
        check(&json!({"auths": {"docker.io": {"auth": "?"}}}), "x", Err(LoginError::Entry));
        check(&json!({"auths": {"docker.io": {"identitytoken": "t"}}}), "x", Err(LoginError::Entry));
    }
}
