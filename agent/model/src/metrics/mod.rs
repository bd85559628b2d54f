//! Metrics as data, and their text. Families are listed in tables by whoever has them, each with KubeVirt's name where there
//! is one (`docs/observability/metrics.md` there). The text is OpenMetrics 1.0
//! (<https://prometheus.io/docs/specs/om/open_metrics_spec/>), written by Prometheus' own crate. Pure. Refuses global
//! registries: what is shown is computed for each scrape from what is known then.

pub mod access;
pub mod guest;

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// The text's media type.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether a value may go down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It may.
    Gauge,
    /// It does not, and its name ends in `_total`.
    Counter,
}

/// A family of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Its name, as it is queried.
    pub name: &'static str,
    /// A sentence about it.
    pub help: &'static str,
    /// Its kind.
    pub kind: Kind,
}

/// A gauge's descriptor.
#[must_use]
pub const fn gauge(name: &'static str, help: &'static str) -> Descriptor {
    Descriptor { name, help, kind: Kind::Gauge }
}

/// A counter's descriptor.
#[must_use]
pub const fn counter(name: &'static str, help: &'static str) -> Descriptor {
    Descriptor { name, help, kind: Kind::Counter }
}

/// Names and values; a name stands once, or Prometheus refuses the whole scrape.
pub type Labels = BTreeMap<String, String>;

/// Labels from pairs; those without a value are left out, as Prometheus takes both for the same.
pub fn labels<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Labels {
    let said = pairs.into_iter().filter(|(_, value)| !value.is_empty());
    said.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A label's name made of a Kubernetes label's, as KubeVirt does it.
#[must_use]
pub fn label_name(prefix: &str, key: &str) -> String {
    let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
    prefix.chars().chain(key.chars().map(letter)).collect()
}

#[derive(Debug, Clone, PartialEq)]
struct Family {
    descriptor: Descriptor,
    samples: BTreeMap<Vec<(String, String)>, f64>,
}

/// What is shown in one scrape.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    families: BTreeMap<&'static str, Family>,
}

impl Metrics {
    /// Adds a value. One of the same family and labels is replaced.
    pub fn add(&mut self, descriptor: Descriptor, labels: Labels, value: f64) {
        let new = || Family { descriptor, samples: BTreeMap::new() };
        let family = self.families.entry(descriptor.name).or_insert_with(new);
        family.samples.insert(labels.into_iter().collect(), value);
    }

    /// The text of a scrape.
    ///
    /// # Errors
    /// Never, as long as memory suffices.
    pub fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for Family { descriptor, samples } in self.families.values() {
            // The encoder puts a counter's ending back on.
            let (name, kind) = match descriptor.kind {
                Kind::Gauge => (descriptor.name, MetricType::Gauge),
                Kind::Counter => (descriptor.name.trim_end_matches("_total"), MetricType::Counter),
            };
            let mut family = encoder.encode_descriptor(name, descriptor.help, None, kind)?;
            for (labels, value) in samples {
                if labels.is_empty() {
                    write(&mut family, descriptor.kind, *value)?;
                } else {
                    write(&mut family.encode_family(labels)?, descriptor.kind, *value)?;
                }
            }
        }
        Ok(())
    }
}

fn write(encoder: &mut MetricEncoder<'_>, kind: Kind, value: f64) -> Result<(), fmt::Error> {
    match kind {
        Kind::Gauge => encoder.encode_gauge(&value),
        Kind::Counter => encoder.encode_counter::<NoLabelSet, f64, f64>(&value, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Descriptor = gauge("furrow_up", "Whether it is up.");
    const READ: Descriptor = counter("furrow_read_bytes_total", "Bytes read.");

    #[test]
    fn the_text_is_open_metrics() {
        let mut metrics = Metrics::default();
        metrics.add(UP, Labels::new(), 1.0);
        metrics.add(READ, labels([("name", "b\"\n"), ("empty", "")]), 2.5);
        metrics.add(READ, labels([("name", "a")]), 7.0);
        metrics.add(READ, labels([("name", "a")]), 8.0);
        let expected = "# HELP furrow_read_bytes Bytes read.\n\
                        # TYPE furrow_read_bytes counter\n\
                        furrow_read_bytes_total{name=\"a\"} 8.0\n\
                        furrow_read_bytes_total{name=\"b\\\"\\n\"} 2.5\n\
                        # HELP furrow_up Whether it is up.\n\
                        # TYPE furrow_up gauge\n\
                        furrow_up 1.0\n\
                        # EOF\n";
        assert_eq!(metrics.text().expect("a text"), expected);
    }

    #[test]
    fn a_label_of_kubernetes_becomes_one_of_prometheus() {
        assert_eq!(
            label_name("kubernetes_vmi_label_", "kubevirt.io/nodeName"),
            "kubernetes_vmi_label_kubevirt_io_nodeName"
        );
        assert_eq!(label_name("p_", "a-b"), "p_a_b");
    }
}
