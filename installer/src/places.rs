//! Where in a YAML text each key's value stands, so that a value which the type allows and the meaning does not is
//! refused with its line. Knows nothing of the document's meaning.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// The shape of a document, each value with its place.
enum Shape {
    Mapping(BTreeMap<String, Spanned<Shape>>),
    Sequence(Vec<Spanned<Shape>>),
    Scalar,
}

/// The line, from 1, of the value at a path such as `ceph.disks[0].minSize`; of the nearest value around it where the
/// document does not give that key. None when nothing on the way is there.
pub(crate) fn line_of(text: &str, path: &str) -> Option<u64> {
    let mut place = serde_saphyr::from_str::<Spanned<Shape>>(text).ok()?;
    let mut line = None;
    for part in path.split(['.', '[']) {
        let next = match place.value {
            Shape::Mapping(mut keys) => keys.remove(part),
            Shape::Sequence(mut items) => {
                let index = part.trim_end_matches(']').parse().ok().filter(|n| *n < items.len());
                index.map(|n: usize| items.swap_remove(n))
            }
            Shape::Scalar => None,
        };
        let Some(next) = next else { break };
        line = Some(next.referenced.line());
        place = next;
    }
    line
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shape, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

/// Every scalar is the same here.
macro_rules! scalars {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E>(self, _: $type) -> Result<Shape, E> { Ok(Shape::Scalar) })*
    };
}

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML")
    }

    scalars!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_none<E>(self) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut keys = BTreeMap::new();
        while let Some(key) = map.next_key::<Option<String>>()? {
            match key {
                Some(key) => keys.insert(key, map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                    None
                }
            };
        }
        Ok(Shape::Mapping(keys))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(Shape::Sequence(all))
    }
}

#[cfg(test)]
mod tests {
    use super::line_of;

    const TEXT: &str = "kind: Node\nceph:\n  disks:\n    - path: /dev/b\n    - {model: BIG,\n       wipe: true}\n";

    #[test]
    fn a_value_is_found_by_its_path() {
        assert_eq!(line_of(TEXT, "kind"), Some(1));
        assert_eq!(line_of(TEXT, "ceph.disks[0].path"), Some(4));
        assert_eq!(line_of(TEXT, "ceph.disks[1].wipe"), Some(6));
    }

    #[test]
    fn an_absent_key_has_the_place_around_it() {
        assert_eq!(line_of(TEXT, "ceph.disks[1].minSize"), Some(5));
        assert_eq!(line_of(TEXT, "ceph.osdMemoryMib"), Some(3));
        assert_eq!(line_of(TEXT, "hostname"), None);
    }
}
