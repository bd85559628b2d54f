//! What the boot loader is told of the installed versions: an entry of the Boot Loader Specification (type 1) and a unified
//! kernel image for each. Entries of our own, and not the images alone, because those are sorted by their version's text,
//! and the version to try is the one that was written last, whatever it is called. Pure.
//!
//! The loader counts tries in the entry's name: `furrow-VERSION+2.conf`, then `+1-1`, then `+0-2`, which it takes last;
//! systemd-bless-boot takes the count off.

/// Where entries lie on the ESP.
pub(crate) const ENTRIES: &str = "loader/entries";
/// Where images lie on the ESP: not where the loader would list them by itself.
pub(crate) const IMAGES: &str = "EFI/furrow";

/// One version that can be booted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BootEntry {
    pub(crate) version: String,
    /// The entry written last has the highest one.
    pub(crate) sequence: u32,
    /// How often it may still be tried; None once it was healthy.
    pub(crate) tries: Option<u32>,
}

impl BootEntry {
    /// File below [`ENTRIES`].
    pub(crate) fn file_name(&self) -> String {
        let tries = self.tries.map(|left| format!("+{left}")).unwrap_or_default();
        format!("furrow-{}{tries}.conf", self.version)
    }

    /// Path of its image on the ESP.
    pub(crate) fn image(&self) -> String {
        format!("{IMAGES}/furrow-{}.efi", self.version)
    }

    /// The entry's text.
    pub(crate) fn text(&self) -> String {
        let (version, sequence, image) = (&self.version, self.sequence, self.image());
        format!("title Furrow {version}\nsort-key furrow\nversion {sequence}\nefi /{image}\n")
    }

    /// Reads an entry by its file's name and text; None for what is not ours.
    pub(crate) fn parse(file_name: &str, text: &str) -> Option<BootEntry> {
        let stem = file_name.strip_prefix("furrow-")?.strip_suffix(".conf")?;
        let (version, tries) = match stem.rsplit_once('+') {
            Some((version, count)) => (version, Some(count.split('-').next()?.parse().ok()?)),
            None => (stem, None),
        };
        let sequence = text.lines().find_map(|l| l.strip_prefix("version "))?.trim().parse().ok()?;
        Some(BootEntry { version: version.to_owned(), sequence, tries })
    }

    /// Whether it was tried as often as it may be, and was never healthy.
    pub(crate) fn has_failed(&self) -> bool {
        self.tries == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tries: Option<u32>) -> BootEntry {
        BootEntry { version: "0.1.0-abc.1".into(), sequence: 7, tries }
    }

    #[test]
    fn an_entry_reads_back_as_it_was_written() {
        for tries in [None, Some(2)] {
            let written = entry(tries);
            assert_eq!(BootEntry::parse(&written.file_name(), &written.text()), Some(written));
        }
        assert_eq!(entry(None).image(), "EFI/furrow/furrow-0.1.0-abc.1.efi");
    }

    #[test]
    fn the_loaders_count_is_read() {
        let text = entry(None).text();
        let read = |name: &str| BootEntry::parse(name, &text).expect("an entry");
        assert_eq!(read("furrow-0.1.0-abc.1+1-1.conf").tries, Some(1));
        assert!(!read("furrow-0.1.0-abc.1+1-1.conf").has_failed());
        assert!(read("furrow-0.1.0-abc.1+0-2.conf").has_failed());
    }

    #[test]
    fn foreign_entries_are_left_alone() {
        assert_eq!(BootEntry::parse("debian.conf", "title Debian\n"), None);
        assert_eq!(BootEntry::parse("furrow-1+x.conf", &entry(None).text()), None);
        assert_eq!(BootEntry::parse("furrow-1.conf", "title x\n"), None);
    }
}
