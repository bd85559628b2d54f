//! What stands in libvirt's document of a domain, as far as the suite asks: whether there is an element of a name that holds
//! certain texts. Refuses to be an XML parser: libvirt writes these documents, one element a line, quotes always the same.

use anyhow::{Result, ensure};

/// What a document is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expect {
    /// Name of an element.
    pub(super) element: &'static str,
    /// Texts that one such element holds, all of them: attributes with single quotes, elements within, its text as `>text<`.
    pub(super) holds: Vec<String>,
    /// Whether there is to be one.
    pub(super) there: bool,
}

/// One element is to hold these.
pub(super) fn has(element: &'static str, holds: &[&str]) -> Expect {
    Expect { element, holds: holds.iter().map(|text| (*text).to_owned()).collect(), there: true }
}

/// No element is to hold these.
pub(super) fn lacks(element: &'static str, holds: &[&str]) -> Expect {
    Expect { there: false, ..has(element, holds) }
}

impl Expect {
    /// Checks a document.
    pub(super) fn check(&self, document: &str) -> Result<()> {
        let found = elements(document, self.element);
        let there = found.iter().any(|element| self.holds.iter().all(|text| element.contains(text.as_str())));
        let wanted = if self.there { "no" } else { "a" };
        let (element, holds) = (self.element, self.holds.join(" "));
        ensure!(there == self.there, "there is {wanted} <{element}> with {holds}; its like: {}", found.join(" "));
        Ok(())
    }
}

/// The whole texts of all elements of a name.
fn elements<'a>(document: &'a str, name: &str) -> Vec<&'a str> {
    let (begin, end) = (format!("<{name}"), format!("</{name}>"));
    let mut found = Vec::new();
    let mut rest = document;
    while let Some(at) = rest.find(&begin) {
        let element = &rest[at..];
        rest = &element[begin.len()..];
        if !rest.starts_with(['>', ' ', '/', '\n']) {
            continue;
        }
        let head = element.find('>').map_or(element.len(), |close| close + 1);
        let length = if element[..head].ends_with("/>") {
            head
        } else {
            element.find(&end).map_or(element.len(), |at| at + end.len())
        };
        found.push(&element[..length]);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "<domain type='qemu'>
  <vcpu placement='static'>2</vcpu>
  <devices>
    <disk type='file' device='disk'>
      <source file='/seed.iso'/>
      <readonly/>
      <alias name='ua-seed'/>
    </disk>
    <disk type='network' device='cdrom'>
      <serial>s-1</serial>
      <alias name='ua-b'/>
    </disk>
    <serial type='unix'/>
    <memballoon model='none'/>
  </devices>
</domain>";

    #[test]
    fn one_element_holds_all_that_is_asked_for() {
        let check = |expect: Expect, good: bool| assert_eq!(expect.check(DOCUMENT).is_ok(), good, "{expect:?}");
        check(has("vcpu", &[">2<"]), true);
        check(has("vcpu", &[">3<"]), false);
        check(has("disk", &["ua-b", "device='cdrom'", "<serial>s-1</serial>"]), true);
        check(has("disk", &["ua-b", "<readonly/>"]), false);
        check(lacks("disk", &["ua-b", "<readonly/>"]), true);
        check(has("serial", &["type='unix'"]), true);
        check(lacks("serial", &["type='unix'"]), false);
        check(lacks("graphics", &[]), true);
        check(has("memballoon", &["model='none'"]), true);
        check(has("mem", &[]), false);
    }
}
