//! The disk in an image's layers. Layers are looked through from the topmost down, and the first that has the disk is the
//! last that is read: what lies below it is hidden, and would be bytes fetched for nothing. Without a path the disk is the
//! one file directly below `disk/`, as KubeVirt and CDI have it; two of them in one layer are refused, since nobody could
//! say which is meant. What a layer deletes (OCI's whiteouts) is gone in the layers below.

use std::collections::BTreeSet;

/// Where disks are, without a path.
const FOLDER: &str = "disk";
/// OCI: `.wh.NAME` deletes NAME, and `.wh..wh..opq` everything of its folder, in the layers below.
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
/// A layer that deletes more is not one that holds a disk.
const MAX_HIDDEN: usize = 100_000;

/// What an archive's entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file with content.
    File,
    /// A link, hard or symbolic.
    Link,
    /// A folder, a device, or whatever else has no content.
    Other,
}

/// Why there is no disk, or none that can be told from others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// There is none.
    #[error("the image has no disk: one file {0} was expected")]
    None(String),
    /// There are several.
    #[error("the image has several disks, {first} and {second}: one file was expected, or a path that names it")]
    Several {
        /// One.
        first: String,
        /// Another.
        second: String,
    },
    /// It is a link.
    #[error("{0} of the image is a link: a file was expected")]
    Link(String),
    /// A layer deletes too much to be remembered.
    #[error("a layer of the image deletes more than {MAX_HIDDEN} files")]
    TooManyHidden,
}

/// Why a path cannot be a disk's; `None` for one that can. An absolute path of a file, without `.` and `..`.
#[must_use]
pub fn path_problem(path: &str) -> Option<&'static str> {
    let Some(rest) = path.strip_prefix('/') else { return Some("must be an absolute path") };
    if rest.is_empty() || rest.ends_with('/') {
        return Some("must be the path of a file");
    }
    if rest.split('/').any(|part| matches!(part, "" | "." | "..")) || rest.contains('\0') {
        return Some("must not have empty or relative elements");
    }
    None
}

/// A search through layers.
#[derive(Debug)]
pub struct Search {
    /// Without the leading slash; `None`: any file of [`FOLDER`].
    path: Option<String>,
    found: Option<String>,
    /// Files and folders that a layer above has deleted.
    hidden: BTreeSet<String>,
    /// Those that this layer deletes.
    hides: BTreeSet<String>,
}

impl Search {
    /// For the file at `path`, or the one below `disk/`.
    #[must_use]
    pub fn new(path: Option<&str>) -> Self {
        let path = path.map(|path| path.trim_start_matches('/').to_owned()).filter(|path| !path.is_empty());
        Self { path, found: None, hidden: BTreeSet::new(), hides: BTreeSet::new() }
    }

    /// An entry of the layer that is read; says whether it is the disk.
    ///
    /// # Errors
    /// When it makes the choice impossible.
    pub fn see(&mut self, name: &str, kind: Kind) -> Result<bool, SearchError> {
        let parts: Vec<_> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        let name = parts.join("/");
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", &name));
        if let Some(deleted) = file.strip_prefix(WHITEOUT) {
            let whole = if file == OPAQUE { folder.to_owned() } else { format!("{folder}/{deleted}") };
            // Nothing else can hide a disk.
            let whole = whole.trim_start_matches('/').to_owned();
            if self.concerns(&whole) {
                self.hides.insert(whole);
            }
            return if self.hides.len() > MAX_HIDDEN { Err(SearchError::TooManyHidden) } else { Ok(false) };
        }
        if !self.wanted(&name, folder) || kind == Kind::Other || self.is_hidden(&name) {
            return Ok(false);
        }
        if kind == Kind::Link {
            return Err(SearchError::Link(name));
        }
        match &self.found {
            // A layer that has a file twice means the second; the first is written already.
            Some(first) => Err(SearchError::Several { first: first.clone(), second: name }),
            None => {
                self.found = Some(name);
                Ok(true)
            }
        }
    }

    fn wanted(&self, name: &str, folder: &str) -> bool {
        self.path.as_ref().map_or(folder == FOLDER, |path| path == name)
    }

    /// Whether the deletion of this can concern a disk.
    fn concerns(&self, deleted: &str) -> bool {
        let below = |path: &str| path == deleted || path.strip_prefix(deleted).is_some_and(|r| r.starts_with('/'));
        deleted.is_empty()
            || match &self.path {
                Some(path) => below(path),
                None => deleted == FOLDER || deleted.strip_prefix(FOLDER).is_some_and(|r| r.starts_with('/')),
            }
    }

    fn is_hidden(&self, name: &str) -> bool {
        let mut above = name;
        loop {
            if self.hidden.contains(above) {
                return true;
            }
            match above.rsplit_once('/') {
                Some((folder, _)) => above = folder,
                None => return self.hidden.contains(""),
            }
        }
    }

    /// The layer is over; says whether the one below is to be read.
    pub fn next_layer(&mut self) -> bool {
        self.hidden.append(&mut self.hides);
        self.found.is_none()
    }

    /// The disk, after the last layer.
    ///
    /// # Errors
    /// When there was none.
    pub fn found(&self) -> Result<&str, SearchError> {
        let expected = || self.path.clone().unwrap_or_else(|| format!("below {FOLDER}/"));
        self.found.as_deref().ok_or_else(|| SearchError::None(expected()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks through layers, the topmost first; gives the layer and the file.
    fn search(path: Option<&str>, layers: &[&[(&str, Kind)]]) -> Result<(usize, String), SearchError> {
        let mut search = Search::new(path);
        let mut layer = 0;
        for (index, entries) in layers.iter().enumerate() {
            layer = index;
            for (name, kind) in *entries {
                search.see(name, *kind)?;
            }
            if !search.next_layer() {
                break;
            }
        }
        search.found().map(|name| (layer, name.to_owned()))
    }

    fn found(layer: usize, name: &str) -> Result<(usize, String), SearchError> {
        Ok((layer, name.to_owned()))
    }

    use Kind::{File, Link, Other};

    #[test]
    fn the_one_file_below_disk_is_found() {
        let layer: &[_] = &[("etc/passwd", File), ("disk/", Other), ("./disk/a.qcow2", File), ("disk/x/y", File)];
        assert_eq!(search(None, &[layer]), found(0, "disk/a.qcow2"));
        assert_eq!(search(None, &[&[("/disk/a", File)]]), found(0, "disk/a"));
        assert_eq!(search(None, &[&[("etc/x", File)], &[("disk/a", File)]]), found(1, "disk/a"));
        assert_eq!(search(None, &[&[("disk/a", File)], &[("disk/b", File)]]), found(0, "disk/a"));
        assert_eq!(search(Some("/custom/b.img"), &[layer, &[("custom/b.img", File)]]), found(1, "custom/b.img"));
    }

    #[test]
    fn none_several_and_links_are_refused_by_name() {
        let check = |path, layers: &[&[(&str, Kind)]], part: &str| {
            let error = search(path, layers).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check(None, &[&[("etc/x", File), ("disks/a", File)]], "no disk: one file below disk/");
        check(None, &[&[("disk/", Other)]], "no disk");
        check(None, &[], "no disk");
        check(Some("/a/b"), &[&[("disk/x", File)]], "one file a/b was expected");
        check(None, &[&[("disk/a", File), ("disk/b", File)]], "disk/a and disk/b");
        check(None, &[&[("disk/a", Link)]], "disk/a of the image is a link");
    }

    #[test]
    fn what_a_layer_deletes_is_gone_below_it_and_not_in_it() {
        let below: &[_] = &[("disk/a", File)];
        let gone = Err(SearchError::None("below disk/".into()));
        assert_eq!(search(None, &[&[("disk/.wh.a", File)], below]), gone);
        assert_eq!(search(None, &[&[(".wh.disk", File)], below]), gone);
        assert_eq!(search(None, &[&[("disk/.wh..wh..opq", File)], below]), gone);
        assert_eq!(search(None, &[&[(".wh..wh..opq", File)], below]), gone);
        assert_eq!(search(None, &[&[("disk/.wh.b", File), ("etc/.wh.disk", File)], below]), found(1, "disk/a"));
        assert_eq!(search(None, &[&[("disk/.wh.a", File), ("disk/b", File)], below]), found(0, "disk/b"));
    }

    #[test]
    fn a_path_is_absolute_and_of_a_file() {
        for (path, fits) in [("/disk/a", true), ("/a", true), ("a", false), ("/", false), ("/a/", false)] {
            assert_eq!(path_problem(path).is_none(), fits, "{path}");
        }
        assert!(path_problem("/a/../b").is_some() && path_problem("/a//b").is_some() && path_problem("").is_some());
    }
}
