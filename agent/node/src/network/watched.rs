//! What a Kubernetes watch has told so far: a small map, reduced to what the network needs, complete or not. Owns the
//! reading of watch events; refuses to keep whole objects (a node's list of images alone would be megabytes).

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::runtime::watcher::Event;

/// Objects of one kind, by name, as the last complete list and the events after it say.
#[derive(Debug)]
pub(crate) struct Watched<T> {
    known: BTreeMap<String, T>,
    listing: Option<BTreeMap<String, T>>,
    complete: bool,
}

impl<T: PartialEq> Watched<T> {
    /// Nothing known yet.
    pub(crate) fn new() -> Self {
        Self { known: BTreeMap::new(), listing: None, complete: false }
    }

    /// The objects; `None` until a first list is complete, because acting on half a list removes what is wanted.
    pub(crate) fn objects(&self) -> Option<&BTreeMap<String, T>> {
        self.complete.then_some(&self.known)
    }

    /// Takes one event in and tells whether the objects changed by it.
    pub(crate) fn apply<K: ResourceExt>(&mut self, event: Event<K>, reduce: impl Fn(&K) -> T) -> bool {
        match event {
            Event::Init => {
                self.listing = Some(BTreeMap::new());
                false
            }
            Event::InitApply(object) => {
                self.listing.get_or_insert_default().insert(object.name_any(), reduce(&object));
                false
            }
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                let changed = !self.complete || listed != self.known;
                (self.known, self.complete) = (listed, true);
                changed
            }
            Event::Apply(object) => {
                let reduced = reduce(&object);
                let changed = self.known.get(&object.name_any()) != Some(&reduced);
                self.known.insert(object.name_any(), reduced);
                self.complete && changed
            }
            Event::Delete(object) => self.known.remove(&object.name_any()).is_some() && self.complete,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Node;

    fn node(name: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some(name.to_owned());
        node
    }

    #[test]
    fn tells_nothing_before_the_first_list_is_complete() {
        let mut watched = Watched::new();
        assert!(!watched.apply(Event::Init, |_: &Node| 1));
        assert!(!watched.apply(Event::InitApply(node("a")), |_| 1));
        assert_eq!(watched.objects(), None);
        assert!(watched.apply(Event::<Node>::InitDone, |_| 1));
        assert_eq!(watched.objects().map(BTreeMap::len), Some(1));
    }

    #[test]
    fn a_new_list_drops_what_it_does_not_name() {
        let mut watched = Watched::new();
        for event in [Event::Init, Event::InitApply(node("a")), Event::InitDone] {
            watched.apply(event, |_| 1);
        }
        assert!(watched.apply(Event::Apply(node("b")), |_| 1));
        assert!(!watched.apply(Event::Apply(node("b")), |_| 1), "nothing of interest changed");
        for event in [Event::Init, Event::InitApply(node("b"))] {
            assert!(!watched.apply(event, |_| 1));
        }
        assert!(watched.apply(Event::<Node>::InitDone, |_| 1));
        assert_eq!(watched.objects().map(|known| known.keys().cloned().collect::<Vec<_>>()), Some(vec!["b".into()]));
        assert!(watched.apply(Event::Delete(node("b")), |_| 1));
    }
}
