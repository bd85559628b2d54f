//! Credentials that a guest's agent is to put into place while the guest runs: which commands bring what is there to what is
//! wanted. Keys that were taken away go first; keys of others are left alone. Pure. Refuses to show a password.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A password. It is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// The credentials of a guest's users, by user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// SSH public keys.
    pub keys: BTreeMap<String, BTreeSet<String>>,
    /// Passwords.
    pub passwords: BTreeMap<String, Password>,
}

impl Credentials {
    /// Adds the keys of a text, one a line as in `authorized_keys`, for a user.
    pub fn add_keys(&mut self, user: &str, text: &str) {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        self.keys.entry(user.to_owned()).or_default().extend(lines.map(str::to_owned));
    }
}

/// One command to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialStep {
    /// Take keys away from a user.
    RemoveKeys {
        /// The user.
        user: String,
        /// The keys.
        keys: Vec<String>,
    },
    /// Give keys to a user; those that are there already stay.
    AddKeys {
        /// The user.
        user: String,
        /// The keys.
        keys: Vec<String>,
    },
    /// Set a user's password.
    SetPassword {
        /// The user.
        user: String,
        /// The password.
        password: Password,
    },
}

/// What to do. `applied`: what was put into place since the agent connected.
#[must_use]
pub fn credential_steps(applied: &Credentials, wanted: &Credentials) -> Vec<CredentialStep> {
    let none = BTreeSet::new();
    let missing = |from: &BTreeMap<String, BTreeSet<String>>, of: &BTreeMap<String, BTreeSet<String>>| {
        let rows = of.iter().map(|(user, keys)| {
            let there = from.get(user).unwrap_or(&none);
            (user.clone(), keys.difference(there).cloned().collect::<Vec<_>>())
        });
        rows.filter(|(_, keys)| !keys.is_empty()).collect::<Vec<_>>()
    };
    let removed = missing(&wanted.keys, &applied.keys);
    let added = missing(&applied.keys, &wanted.keys);
    let changed = wanted.passwords.iter().filter(|(user, password)| applied.passwords.get(*user) != Some(*password));
    removed
        .into_iter()
        .map(|(user, keys)| CredentialStep::RemoveKeys { user, keys })
        .chain(added.into_iter().map(|(user, keys)| CredentialStep::AddKeys { user, keys }))
        .chain(
            changed
                .map(|(user, password)| CredentialStep::SetPassword { user: user.clone(), password: password.clone() }),
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(rows: &[(&str, &str)]) -> Credentials {
        let mut credentials = Credentials::default();
        rows.iter().for_each(|(user, text)| credentials.add_keys(user, text));
        credentials
    }

    #[test]
    fn only_what_changed_is_done_and_removals_come_first() {
        let before = keys(&[("jane", "a\nb")]);
        let after = keys(&[("jane", "b\n# comment\n\nc"), ("root", "c")]);
        let expected = [
            CredentialStep::RemoveKeys { user: "jane".into(), keys: vec!["a".into()] },
            CredentialStep::AddKeys { user: "jane".into(), keys: vec!["c".into()] },
            CredentialStep::AddKeys { user: "root".into(), keys: vec!["c".into()] },
        ];
        assert_eq!(credential_steps(&before, &after), expected);
        assert_eq!(credential_steps(&after, &after), []);
    }

    #[test]
    fn a_password_is_set_when_it_changed_and_never_shown() {
        let with = |password: &str| Credentials {
            passwords: BTreeMap::from([("root".to_owned(), Password(password.to_owned()))]),
            ..Credentials::default()
        };
        let steps = credential_steps(&with("old"), &with("new"));
        assert_eq!(steps, [CredentialStep::SetPassword { user: "root".into(), password: Password("new".into()) }]);
        assert_eq!(credential_steps(&with("new"), &with("new")), []);
        assert!(!format!("{steps:?}").contains("new"));
        assert!(!format!("{:?}", with("new")).contains("new"));
    }
}
