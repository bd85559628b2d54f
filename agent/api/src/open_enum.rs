//! Enumerations whose words upstream may add to: an unknown word is kept as it came, so that reading and writing back an
//! object never changes it.

/// Declares such an enumeration.
///
/// `listed` puts the known words into the schema, so that the API server refuses others; it is for what users write.
/// `any` leaves the schema open; it is for what controllers write, where an older reader must not choke on a newer word.
macro_rules! open_enum {
    ($(#[$meta:meta])* $schema:ident enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$vmeta])* $variant,)+
            /// A word that this version does not know.
            Other(String),
        }

        impl $name {
            /// The word on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Other(text) => text,
                }
            }

            /// Whether the word is empty, which on the wire is the same as absent.
            pub fn is_unset(&self) -> bool {
                self.as_str().is_empty()
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                match text {
                    $($text => Self::$variant,)+
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                crate::open_enum::first_word!($($text),+).into()
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Ok(text.as_ref().into())
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                crate::open_enum::word_schema!($schema $($text),+)
            }
        }
    };
}

/// The first of some words: the default of an enumeration.
macro_rules! first_word {
    ($first:literal $(, $rest:literal)*) => {
        $first
    };
}

/// The schema of an enumeration, see [`open_enum`].
macro_rules! word_schema {
    (listed $($text:literal),+) => {
        schemars::json_schema!({ "type": "string", "enum": [$($text),+] })
    };
    (any $($text:literal),+) => {
        schemars::json_schema!({ "type": "string" })
    };
}

pub(crate) use {first_word, open_enum, word_schema};

#[cfg(test)]
mod tests {
    use crate::vmi::{DiskBus, VmiPhase};

    #[test]
    fn a_known_word_is_a_variant_and_back() {
        let bus: DiskBus = serde_json::from_str("\"virtio\"").unwrap();
        assert_eq!(bus, DiskBus::Virtio);
        assert_eq!(serde_json::to_string(&bus).unwrap(), "\"virtio\"");
    }

    #[test]
    fn an_unknown_word_is_kept() {
        let phase: VmiPhase = serde_json::from_str("\"Hibernated\"").unwrap();
        assert_eq!(phase, VmiPhase::Other("Hibernated".into()));
        assert_eq!(serde_json::to_string(&phase).unwrap(), "\"Hibernated\"");
    }

    #[test]
    fn the_default_is_the_first_word() {
        assert_eq!(VmiPhase::default(), VmiPhase::Unset);
        assert!(VmiPhase::default().is_unset());
    }
}
