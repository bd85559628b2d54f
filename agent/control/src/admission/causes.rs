//! What is wrong with an object: one cause a field, with the field's path. Refuses to know what is right.

use std::fmt::Display;

/// A field that an object is refused for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    /// Kubernetes' word: `FieldValueInvalid` and the like.
    pub(crate) reason: &'static str,
    /// Path from the object's root, such as `spec.volumes[0].name`.
    pub(crate) field: String,
    /// What is wrong, in a sentence; KubeVirt's name the path themselves.
    pub(crate) message: String,
}

impl Cause {
    /// The sentence with the path, for clients that show one text and no list of causes.
    pub(crate) fn with_path(&self) -> String {
        if self.message.contains(&self.field) {
            self.message.clone()
        } else {
            format!("{}: {}", self.field, self.message)
        }
    }
}

/// Causes in the order in which they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Causes {
    found: Vec<Cause>,
}

impl Causes {
    /// A value that cannot be.
    pub(crate) fn invalid(&mut self, field: impl Into<String>, text: impl Display) {
        self.push("FieldValueInvalid", field.into(), text);
    }

    /// A value that is missing.
    pub(crate) fn required(&mut self, field: impl Into<String>, text: impl Display) {
        self.push("FieldValueRequired", field.into(), text);
    }

    /// A value that something else has.
    pub(crate) fn duplicate(&mut self, field: impl Into<String>, text: impl Display) {
        self.push("FieldValueDuplicate", field.into(), text);
    }

    /// A value that means something, which this version does not do.
    pub(crate) fn unsupported(&mut self, field: impl Into<String>, text: impl Display) {
        self.push("FieldValueNotSupported", field.into(), text);
    }

    /// A value that this user may not ask for.
    pub(crate) fn forbidden(&mut self, field: impl Into<String>, text: impl Display) {
        self.push("FieldValueForbidden", field.into(), text);
    }

    /// Takes over what was found in a part of this object. `from`: the part's root in the paths; `to`: where it stands.
    pub(crate) fn adopt(&mut self, causes: Vec<Cause>, from: &str, to: &str) {
        for mut cause in causes {
            let field = match cause.field.strip_prefix(from) {
                Some(rest) => format!("{to}{rest}"),
                None => format!("{to}.{}", cause.field),
            };
            cause.message = cause.message.replace(&cause.field, &field);
            cause.field = field;
            self.found.push(cause);
        }
    }

    /// Whether nothing was found.
    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// What was found.
    pub(crate) fn into_vec(self) -> Vec<Cause> {
        self.found
    }

    fn push(&mut self, reason: &'static str, field: String, text: impl Display) {
        self.found.push(Cause { reason, field, message: text.to_string() });
    }
}

#[cfg(test)]
impl Causes {
    /// Fields and the beginning of what is said of them, for tables.
    pub(crate) fn fields(&self) -> Vec<&str> {
        self.found.iter().map(|cause| cause.field.as_str()).collect()
    }

    /// All sentences.
    pub(crate) fn text(&self) -> String {
        self.found.iter().map(Cause::with_path).collect::<Vec<_>>().join("\n")
    }
}
