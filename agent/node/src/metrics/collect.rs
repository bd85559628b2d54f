//! From what is known of the guests to metrics: which tap is which interface, which target which volume. Pure. Refuses
//! domains that are nobody's guest.

use std::collections::HashMap;
use std::sync::Arc;

use furrow_api::VirtualMachineInstance;
use furrow_model::metrics::guest::{self, Guest, GuestFilesystem};
use furrow_model::metrics::{Descriptor, Labels, Metrics, gauge};
use furrow_model::port::TapName;
use kube::ResourceExt as _;

use super::AllStats;
use crate::guest::Key;

const READY: Descriptor =
    gauge("kubevirt_virt_handler_ready_status", "Indication for a virt-handler that is ready to serve requests.");

/// The metrics of this node.
pub(super) fn collect(
    node: &str,
    guests: &[(Arc<VirtualMachineInstance>, Vec<GuestFilesystem>)],
    stats: &AllStats,
) -> Metrics {
    let mut metrics = Metrics::default();
    metrics.add(READY, Labels::new(), 1.0);
    for (vmi, filesystems) in guests {
        let key = Key { namespace: vmi.namespace().unwrap_or_default(), name: vmi.name_any() };
        if let Some(stats) = stats.get(&key.domain_name()) {
            guest::add(&mut metrics, &names(node, vmi, filesystems), stats);
        }
    }
    metrics
}

fn names(node: &str, vmi: &VirtualMachineInstance, filesystems: &[GuestFilesystem]) -> Guest {
    let uid = vmi.uid().unwrap_or_default();
    let network = |name: &str| {
        let network = vmi.spec.networks.iter().find(|network| network.name == name);
        let multus = network.and_then(|network| network.multus.as_ref());
        multus.map_or_else(|| "pod networking".to_owned(), |multus| multus.network_name.clone())
    };
    let interfaces = vmi.spec.domain.devices.interfaces.iter().map(|interface| {
        let tap = TapName::of(&uid, &interface.name).as_str().to_owned();
        (tap, (interface.name.clone(), network(&interface.name)))
    });
    let volumes = vmi.status.iter().flat_map(|status| &status.volume_status);
    Guest {
        node: node.to_owned(),
        namespace: vmi.namespace().unwrap_or_default(),
        name: vmi.name_any(),
        labels: vmi.labels().iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        interfaces: interfaces.collect(),
        drives: volumes
            .filter(|volume| !volume.target.is_empty())
            .map(|volume| (volume.target.clone(), volume.name.clone()))
            .collect::<HashMap<_, _>>(),
        filesystems: filesystems.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_guests_devices_have_the_names_of_its_spec() {
        let vmi: VirtualMachineInstance = serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u"},
            "spec": {"domain": {"devices": {"interfaces": [{"name": "lan", "bridge": {}}]}},
                "networks": [{"name": "lan", "multus": {"networkName": "shop/vlan7"}}]},
            "status": {"volumeStatus": [{"name": "root", "target": "vda"}, {"name": "none", "target": ""}]},
        }))
        .expect("a vmi");
        let tap = TapName::of("u", "lan").as_str().to_owned();
        let named = names("n1", &vmi, &[]);
        assert_eq!(named.interfaces, HashMap::from([(tap, ("lan".to_owned(), "shop/vlan7".to_owned()))]));
        assert_eq!(named.drives, HashMap::from([("vda".to_owned(), "root".to_owned())]));
        let stats = HashMap::from([
            ("shop_web".to_owned(), HashMap::from([("cpu.time".to_owned(), "1".to_owned())])),
            ("somebody-elses".to_owned(), HashMap::from([("cpu.time".to_owned(), "1".to_owned())])),
        ]);
        let text = collect("n1", &[(Arc::new(vmi), Vec::new())], &stats).text().expect("a text");
        assert_eq!(text.matches("kubevirt_vmi_cpu_usage_seconds_total{").count(), 1, "{text}");
    }
}
