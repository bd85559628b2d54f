//! Label selectors as kinds carry them: read, matched, and written as the text that autoscalers want. Refuses to select.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};

/// A selector.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn of(selector: &LabelSelector) -> Result<Selector, String> {
    Selector::try_from(selector.clone()).map_err(|error| error.to_string())
}

/// Whether labels match a selector; none does if it cannot be read.
pub(crate) fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    of(selector).is_ok_and(|selector| selector.matches(labels))
}

/// Whether a selector selects everything.
pub(crate) fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_and_expressions_must_all_match() {
        let selector: LabelSelector = serde_json::from_value(json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}],
        }))
        .unwrap();
        let labels = |tier: &str| BTreeMap::from([("app".into(), "web".into()), ("tier".into(), tier.to_owned())]);
        assert!(matches(&selector, &labels("a")));
        assert!(!matches(&selector, &labels("c")));
        assert_eq!(of(&selector).unwrap().to_string(), "app=web,tier in (a,b)");
        assert!(is_empty(&LabelSelector::default()) && !is_empty(&selector));
    }
}
