//! The cluster's copies of container disks: a *golden* DataVolume for each image (by digest) and path in it, made once, of
//! which every guest's disk is a copy-on-write clone.
//!
//! A copy is bound to the repository it came from, and to the namespace whose secret was needed to get it: otherwise who
//! knows a digest could read a private image without being let in by its registry. Copies that no guest uses stay, up to
//! [`MAX_KEPT`]: beyond that those go whose last use is longest ago, when another is made. An administrator may delete one
//! at any time; clones live on, and the next guest fetches it again.

use std::time::Duration;

use super::reference::{Digest, Reference, Version};

/// So many copies are kept though nobody uses them.
pub const MAX_KEPT: usize = 32;
/// Largest disk that is copied, bytes. An image says itself how large its disk is, and what Ceph keeps of each part of one
/// that is far too large would fill the cluster.
pub const DISK_MAX_BYTES: u64 = 16 << 40;
/// A use is noted no more often than this, in seconds: a start is to write no more than it must.
pub const USE_NOTED_S: i64 = 3600;
/// First wait after a failed pull, as the kubelet's.
pub const PULL_TRIES_AGAIN_FIRST: Duration = Duration::from_secs(10);
/// No wait after a failed pull is longer, as with the kubelet.
pub const PULL_TRIES_AGAIN_LAST: Duration = Duration::from_secs(300);

/// When a registry is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// At each start.
    Always,
    /// Where there is no copy, and none is being made. A tag that moved meanwhile is not noticed, as on a node that has
    /// the image.
    IfNotPresent,
    /// Not at all.
    Never,
}

impl PullPolicy {
    /// Reads a field; without it, `latest` is asked for always and others as needed, as Kubernetes has it.
    #[must_use]
    pub fn parse(text: Option<&str>, reference: &Reference) -> Option<Self> {
        match text.unwrap_or_default() {
            "Always" => Some(Self::Always),
            "IfNotPresent" => Some(Self::IfNotPresent),
            "Never" => Some(Self::Never),
            "" if matches!(reference.version(), Version::Tag(tag) if tag == "latest") => Some(Self::Always),
            "" => Some(Self::IfNotPresent),
            _ => None,
        }
    }
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is being filled.
    Filling,
    /// It is filled.
    Ready,
    /// It was given up.
    Failed,
}

/// A copy that the cluster has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Golden {
    /// Name of its DataVolume.
    pub name: String,
    /// What it is a copy of: repository and digest.
    pub image: Reference,
    /// Path in it; `None`: the file below `disk/`.
    pub path: Option<String>,
    /// The reference it was asked for by.
    pub asked: String,
    /// The namespace whose secret was used; `None`: none was needed.
    pub secret_of: Option<String>,
    /// How far it is.
    pub state: State,
    /// When it was made, seconds since 1970.
    pub created_s: i64,
    /// When it was last cloned, seconds since 1970, within [`USE_NOTED_S`]; `created_s` if it never was.
    pub last_used_s: i64,
    /// A guest's disk is a clone of it.
    pub used: bool,
}

/// What is to be done for a guest's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Clone this copy, as soon as it is filled.
    Use(String),
    /// Ask the registry which copy it is.
    Ask,
    /// There is no copy, and the registry is not to be asked.
    NeverPulled,
}

/// Chooses for a guest of `namespace`.
#[must_use]
pub fn choose(
    policy: PullPolicy,
    (asked, reference): (&str, &Reference),
    path: Option<&str>,
    namespace: &str,
    copies: &[Golden],
) -> Choice {
    let open = |copy: &&Golden| copy.secret_of.as_deref().is_none_or(|owner| owner == namespace);
    let same = |copy: &&Golden| match reference.version() {
        Version::Digest(_) => copy.image == *reference,
        Version::Tag(_) => copy.asked == asked,
    };
    let fitting = copies.iter().filter(|copy| copy.path.as_deref() == path).filter(open).filter(same);
    // Of those that are filled the newest; only then one that is being filled.
    let usable = fitting.filter(|copy| match copy.state {
        State::Ready => true,
        State::Filling => policy == PullPolicy::IfNotPresent,
        State::Failed => false,
    });
    let best = usable.max_by_key(|copy| (copy.state == State::Ready, copy.created_s)).map(|copy| copy.name.clone());
    match (policy, best) {
        (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, None) => Choice::Ask,
        (PullPolicy::Never, None) => Choice::NeverPulled,
        (_, Some(name)) => Choice::Use(name),
    }
}

/// Name of the copy of an image at a digest: 63 characters, of which half tell the digest for people. The rest binds it
/// to repository and path.
#[must_use]
pub fn golden_name(image: &Reference, digest: &Digest, path: Option<&str>) -> String {
    let place = format!("{}/{}\0{}", image.registry(), image.repository(), path.unwrap_or_default());
    format!("containerdisk-{}-{}", &digest.hex()[..32], &Digest::of(place.as_bytes()).hex()[..16])
}

/// The copies that are too many: of those that nobody uses what could not be filled, and those not used for longest.
#[must_use]
pub fn surplus(copies: &[Golden]) -> Vec<&str> {
    let unused = |state: State| copies.iter().filter(move |copy| copy.state == state && !copy.used);
    let mut kept: Vec<_> = unused(State::Ready).collect();
    kept.sort_by_key(|copy| std::cmp::Reverse((copy.last_used_s, copy.name.as_str())));
    unused(State::Failed).chain(kept.into_iter().skip(MAX_KEPT)).map(|copy| copy.name.as_str()).collect()
}

/// Whether a use of a copy is worth a note now.
#[must_use]
pub fn use_is_news(copy: &Golden, now_s: i64) -> bool {
    now_s.saturating_sub(copy.last_used_s) >= USE_NOTED_S
}

/// How long after the n-th failure in a row an image is tried again.
#[must_use]
pub fn pull_delay(failures: u32) -> Duration {
    PULL_TRIES_AGAIN_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(PULL_TRIES_AGAIN_LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: &str = "r.example/x:1";

    fn reference(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    fn copy(content: &[u8], created_s: i64) -> Golden {
        let digest = Digest::of(content);
        let image = reference(ASKED).at(&digest);
        Golden {
            name: golden_name(&image, &digest, None),
            image,
            path: None,
            asked: ASKED.to_owned(),
            secret_of: None,
            state: State::Ready,
            created_s,
            last_used_s: created_s,
            used: false,
        }
    }

    fn check(policy: PullPolicy, asked: &str, copies: &[Golden], expected: Choice) {
        let found = choose(policy, (asked, &reference(asked)), None, "shop", copies);
        assert_eq!(found, expected, "{policy:?} {asked}");
    }

    #[test]
    fn a_copy_spares_the_registry_as_far_as_the_policy_says() {
        let (old, new) = (copy(b"old", 1), copy(b"new", 2));
        let copies = [new.clone(), old.clone()];
        let by_digest = old.image.to_string();
        check(PullPolicy::Always, &by_digest, &copies, Choice::Ask);
        check(PullPolicy::IfNotPresent, &by_digest, &copies, Choice::Use(old.name.clone()));
        check(PullPolicy::Never, &by_digest, &copies, Choice::Use(old.name.clone()));
        check(PullPolicy::IfNotPresent, ASKED, &copies, Choice::Use(new.name.clone()));
        check(PullPolicy::Never, ASKED, &copies, Choice::Use(new.name.clone()));
        check(PullPolicy::Never, "r.example/y", &copies, Choice::NeverPulled);
        check(PullPolicy::IfNotPresent, "r.example/y", &copies, Choice::Ask);
        check(PullPolicy::Never, &by_digest, &[Golden { path: Some("/a".into()), ..old }], Choice::NeverPulled);
    }

    #[test]
    fn a_crowd_waits_for_the_one_copy_that_is_being_made() {
        let filling = Golden { state: State::Filling, ..copy(b"new", 2) };
        let failed = Golden { state: State::Failed, ..copy(b"worse", 3) };
        let old = copy(b"old", 1);
        let name = filling.name.clone();
        check(PullPolicy::IfNotPresent, ASKED, &[failed.clone(), filling.clone()], Choice::Use(name));
        check(PullPolicy::IfNotPresent, ASKED, &[filling.clone(), old.clone()], Choice::Use(old.name));
        check(PullPolicy::Never, ASKED, std::slice::from_ref(&filling), Choice::NeverPulled);
        check(PullPolicy::Always, ASKED, &[filling], Choice::Ask);
        check(PullPolicy::IfNotPresent, ASKED, &[failed], Choice::Ask);
    }

    #[test]
    fn a_private_image_is_not_shared_behind_its_registrys_back() {
        let private = Golden { secret_of: Some("bank".into()), ..copy(b"x", 1) };
        let by_digest = private.image.to_string();
        check(PullPolicy::IfNotPresent, &by_digest, std::slice::from_ref(&private), Choice::Ask);
        check(PullPolicy::Never, ASKED, std::slice::from_ref(&private), Choice::NeverPulled);
        let own = [Golden { secret_of: Some("shop".into()), ..private.clone() }];
        check(PullPolicy::IfNotPresent, &by_digest, &own, Choice::Use(private.name));
        // The same digest in another repository is another image.
        let elsewhere = format!("evil.example/x@{}", Digest::of(b"x"));
        check(PullPolicy::Never, &elsewhere, &own, Choice::NeverPulled);
    }

    #[test]
    fn names_tell_images_paths_and_repositories_apart() {
        let digest = Digest::of(b"x");
        let name = |image: &str, path| golden_name(&reference(image), &digest, path);
        let first = name("r.example/x", None);
        assert_eq!(first.len(), 63);
        assert!(first.starts_with(&format!("containerdisk-{}", &digest.hex()[..32])));
        assert_eq!(first, name("r.example/x:other", None));
        assert_ne!(first, name("r.example/x", Some("/disk/a")));
        assert_ne!(first, name("s.example/x", None));
    }

    #[test]
    fn latest_is_always_asked_for() {
        let check = |text, image: &str, expected| assert_eq!(PullPolicy::parse(text, &reference(image)), expected);
        check(None, "x", Some(PullPolicy::Always));
        check(Some(""), "x:latest", Some(PullPolicy::Always));
        check(None, "x:1", Some(PullPolicy::IfNotPresent));
        check(None, &copy(b"x", 1).image.to_string(), Some(PullPolicy::IfNotPresent));
        check(Some("Never"), "x", Some(PullPolicy::Never));
        check(Some("never"), "x", None);
    }

    #[test]
    fn copies_go_that_nobody_used_for_longest_and_those_that_failed() {
        let mut copies: Vec<_> = (0..MAX_KEPT as i64 + 3).map(|n| copy(&n.to_be_bytes(), n)).collect();
        copies[0].used = true;
        copies[1].state = State::Filling;
        copies[2].last_used_s = 1000;
        assert_eq!(surplus(&copies), [copies[3].name.as_str()]);
        copies[0].state = State::Failed;
        copies[4].state = State::Failed;
        assert_eq!(surplus(&copies), [copies[4].name.as_str()], "what failed goes, unless somebody still looks at it");
        let used = Golden { last_used_s: 1000, ..copy(b"x", 1) };
        assert!(!use_is_news(&used, 1000 + USE_NOTED_S - 1) && use_is_news(&used, 1000 + USE_NOTED_S));
    }

    #[test]
    fn waits_between_tries_have_a_ceiling() {
        let waits: Vec<_> = (1..8).map(|failures| pull_delay(failures).as_secs()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
    }
}
