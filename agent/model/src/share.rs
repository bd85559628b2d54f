//! A directory of files that a guest looks into while they change: the layout of the kubelet's volumes, so that a guest
//! sees all of the old files or all of the new ones, and programs that watch `..data` work as in a pod.
//!
//! ```text
//!  colour -> ..data/colour      ..data -> ..2026_11_26_18_00_00.000000001      ..2026_11_26_.../colour
//! ```
//!
//! Owns what is done, and in which order: a new directory is filled, the link is moved to it in one step, and only then
//! does the old one go. Refuses to touch a file system.

use std::collections::BTreeMap;

/// The link to the directory that counts.
pub const DATA: &str = "..data";

/// Contents by name of the file.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A directory as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundShare {
    /// Names of all that is in it.
    pub entries: Vec<String>,
    /// Where [`DATA`] leads, and the files there.
    pub current: Option<(String, Files)>,
}

/// One step. They are done in order; one that is interrupted is made good by the next list of steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareStep {
    /// Make a directory of this name and put all files into it.
    Fill(String),
    /// Lead [`DATA`] to it, in one step.
    Point(String),
    /// Make the link from a file's name to what is in [`DATA`].
    Link(String),
    /// Remove the link of a file that is no more.
    Unlink(String),
    /// Remove a directory that does not count any more, or never did.
    Remove(String),
}

/// A file that cannot be shown under its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a file that can be shown")]
pub struct FileNameError(String);

/// What brings a directory to these files; nothing when it is there. `version`: a name for a new directory, which begins
/// with two dots and which no directory has had before.
///
/// # Errors
/// When a file has a name that leads elsewhere, or one of the layout's own.
pub fn share_steps(found: &FoundShare, wanted: &Files, version: &str) -> Result<Vec<ShareStep>, FileNameError> {
    // Kubernetes lets no key of an object be so; it is not trusted with root's hands.
    let wrong =
        |name: &&String| name.is_empty() || *name == "." || name.starts_with("..") || name.contains(['/', '\0']);
    if let Some(name) = wanted.keys().find(wrong) {
        return Err(FileNameError(name.clone()));
    }
    let mut steps = Vec::new();
    let current = match &found.current {
        Some((current, files)) if files == wanted => current.as_str(),
        _ => {
            steps.extend([ShareStep::Fill(version.to_owned()), ShareStep::Point(version.to_owned())]);
            version
        }
    };
    let missing = wanted.keys().filter(|name| !found.entries.contains(name));
    steps.extend(missing.map(|name| ShareStep::Link(name.clone())));
    let (own, shown): (Vec<_>, Vec<_>) = found.entries.iter().partition(|name| name.starts_with(".."));
    let gone = shown.into_iter().filter(|name| !wanted.contains_key(*name));
    steps.extend(gone.map(|name| ShareStep::Unlink(name.clone())));
    let old = own.into_iter().filter(|name| *name != DATA && *name != current);
    steps.extend(old.map(|name| ShareStep::Remove(name.clone())));
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::ShareStep::{Fill, Link, Point, Remove, Unlink};
    use super::*;

    fn files(all: &[(&str, &str)]) -> Files {
        all.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
    }

    fn check(entries: &[&str], current: Option<(&str, Files)>, wanted: &Files, expected: &[ShareStep]) {
        let found = FoundShare {
            entries: entries.iter().map(|name| (*name).to_owned()).collect(),
            current: current.map(|(name, files)| (name.to_owned(), files)),
        };
        let steps = share_steps(&found, wanted, "..new").expect("names of files");
        assert_eq!(steps, expected, "{found:?}");
    }

    fn name(name: &str) -> String {
        name.to_owned()
    }

    #[test]
    fn the_new_files_are_whole_before_they_count_and_the_old_ones_go_last() {
        let (old, new) = (files(&[("a", "1"), ("b", "1")]), files(&[("b", "2"), ("c", "2")]));
        check(&[], None, &new, &[Fill(name("..new")), Point(name("..new")), Link(name("b")), Link(name("c"))]);
        let expected =
            [Fill(name("..new")), Point(name("..new")), Link(name("c")), Unlink(name("a")), Remove(name("..old"))];
        check(&["..data", "..old", "a", "b"], Some(("..old", old)), &new, &expected);
    }

    #[test]
    fn the_same_files_are_left_alone() {
        let same = files(&[("a", "1")]);
        check(&["..data", "..old", "a"], Some(("..old", same.clone())), &same, &[]);
        check(&["..data", "..old"], Some(("..old", Files::new())), &Files::new(), &[]);
    }

    #[test]
    fn what_was_interrupted_is_made_good() {
        let (old, new) = (files(&[("a", "1")]), files(&[("a", "2")]));
        // Filled and never pointed to; pointed to, and neither linked nor cleared away.
        let again = [Fill(name("..new")), Point(name("..new")), Remove(name("..half")), Remove(name("..old"))];
        check(&["..half", "..data", "..old", "a"], Some(("..old", old)), &new, &again);
        check(
            &["..data", "..old", "..now"],
            Some(("..now", new.clone())),
            &new,
            &[Link(name("a")), Remove(name("..old"))],
        );
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        for wrong in ["", ".", "..", "..data", "../x", "a/b", "/etc/shadow", "a\0b"] {
            let refused = share_steps(&FoundShare::default(), &files(&[(wrong, "")]), "..new");
            assert_eq!(refused, Err(FileNameError(wrong.to_owned())));
        }
        assert!(share_steps(&FoundShare::default(), &files(&[(".hidden", ""), ("a..b", "")]), "..new").is_ok());
    }
}
