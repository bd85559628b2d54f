//! The one list of fields that are part of the API and not realised yet. Each is refused with its path: a field that is
//! ignored in silence is the worst answer. The agent refuses the same ones again (`guest::unsupported` there), since it
//! may be of another version.
//!
//! A test walks the CRDs and fails for a field that stands neither here nor in the list of realised ones.

use serde_json::Value;

use super::causes::Causes;

/// When a field counts as used.
#[derive(Debug, Clone, Copy)]
pub(crate) enum When {
    /// It says something: neither null nor false nor empty. An empty object says something, by being there.
    Set,
    /// It is set, to none of these words.
    NotIn(&'static [&'static str]),
}

/// A field that is refused.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused {
    /// Path below `spec`; `[]` stands for every element of a list.
    pub(crate) path: &'static str,
    /// When.
    pub(crate) when: When,
    /// What to tell the user, after the path.
    pub(crate) why: &'static str,
}

const fn set(path: &'static str, why: &'static str) -> Refused {
    Refused { path, when: When::Set, why }
}

const fn only(path: &'static str, words: &'static [&'static str], why: &'static str) -> Refused {
    Refused { path, when: When::NotIn(words), why }
}

const NO_UTILITY: &str = "volumes of the cluster's own, such as for a backup, are not supported yet: use addvolume";
const NO_PASSTHROUGH: &str = "passing host devices through is not supported yet";
const NO_OTHER_HOST: &str =
    "a probe asks the guest itself, never another host: use httpHeaders for a name of the guest";
const NO_TAGS: &str = "device tags are not supported yet";
const NO_BINDING: &str = "this binding is not supported: use bridge, or masquerade on the pod network";
const NO_CLUSTER_DNS: &str =
    "guests have no way to the cluster's DNS: use None with dnsConfig, or leave it out for the Subnet's name servers";

/// Below `spec` of a VirtualMachineInstance, and `spec.template.spec` of a VirtualMachine.
pub(crate) const GUEST: &[Refused] = &[
    only("architecture", &["amd64"], "only amd64 is supported"),
    set("dnsConfig.options", "DHCP tells a guest no options of its resolver: set them by cloud-init"),
    only("dnsPolicy", &["None"], NO_CLUSTER_DNS),
    set("livenessProbe.httpGet.host", NO_OTHER_HOST),
    set("livenessProbe.tcpSocket.host", NO_OTHER_HOST),
    set("readinessProbe.httpGet.host", NO_OTHER_HOST),
    set("readinessProbe.tcpSocket.host", NO_OTHER_HOST),
    set("resourceClaims", NO_PASSTHROUGH),
    set("serviceAccountName", "a guest has no pod of its own that a service account could be for"),
    only("startStrategy", &["Paused"], "only Paused is known"),
    set("utilityVolumes", NO_UTILITY),
    set("networks[].pod.vmNetworkCIDR", "the address is that of the Subnet, not a private one behind NAT"),
    set("networks[].pod.vmIPv6NetworkCIDR", "the address is that of the Subnet, not a private one behind NAT"),
    set("networks[].multus.default", "list the network first instead"),
    set("domain.firmware.acpi", "additional ACPI tables are not supported yet"),
    only(
        "domain.firmware.kernelBoot.container.imagePullPolicy",
        &["Always", "IfNotPresent"],
        "nodes keep no images: the kernel is fetched at each start",
    ),
    set("domain.launchSecurity", "confidential computing is not supported yet"),
    set("domain.devices.autoattachVSOCK", "VSOCK is not supported yet"),
    set("domain.devices.gpus", "GPUs are not supported yet"),
    set("domain.devices.hostDevices", NO_PASSTHROUGH),
    set("domain.devices.useVirtioTransitional", "legacy virtio is not supported"),
    set("domain.devices.watchdog.diag288", "this watchdog is of another architecture"),
    set("domain.devices.disks[].blockSize.custom.discardGranularity", "QEMU's own granularity is the only one yet"),
    set("domain.devices.disks[].changedBlockTracking", "changed block tracking is not supported yet"),
    set(
        "domain.devices.disks[].lun",
        "a LUN hands SCSI commands to a block device of the node, and RBD images are none: use disk",
    ),
    set("domain.devices.disks[].tag", NO_TAGS),
    set("domain.devices.interfaces[].binding", NO_BINDING),
    set("domain.devices.interfaces[].macvtap", NO_BINDING),
    set("domain.devices.interfaces[].passt", NO_BINDING),
    set("domain.devices.interfaces[].passtBinding", NO_BINDING),
    set("domain.devices.interfaces[].slirp", NO_BINDING),
    set("domain.devices.interfaces[].sriov", NO_BINDING),
    set("domain.devices.interfaces[].tag", NO_TAGS),
    set("volumes[].containerPath", "a guest has no container whose paths it could see"),
    set("volumes[].downwardAPI.fields[].mode", "the volume is read-only and all of it may be read"),
    set("volumes[].downwardAPI.fields[].resourceFieldRef", "a guest sees its own hardware: use fieldRef"),
    set("volumes[].hostDisk.shared", "a file of a node is that node's: use a claim of mode ReadWriteMany"),
    set("volumes[].memoryDump", "memory dumps are not supported yet"),
];

/// Below `spec` of a VirtualMachine, beside its template and its DataVolumes.
pub(crate) const MACHINE: &[Refused] = &[
    only(
        "runStrategy",
        &["Always", "Halted", "Manual", "Once", "RerunOnFailure"],
        "migration from another cluster is not supported yet",
    ),
    only("updateVolumesStrategy", &["Replacement"], "moving volumes is not supported yet"),
];

const NO_SOURCE: &str = "this source is not supported yet: use http, registry, pvc or blank";
const NO_IMPORT_POD: &str = "no pod fills a DataVolume, so that there is nothing it could apply to";

/// Below `spec` of a DataVolume.
pub(crate) const DATA_VOLUME: &[Refused] = &[
    set("checkpoints", "copies in several passes are not supported yet"),
    only("contentType", &["kubevirt"], "only kubevirt (a disk image) is supported"),
    set("finalCheckpoint", "copies in several passes are not supported yet"),
    set("preallocation", "blocks are allocated when they are written"),
    set("priorityClassName", NO_IMPORT_POD),
    set("serviceAccountName", NO_IMPORT_POD),
    set("sourceRef", "references to sources are not supported yet: name the source itself"),
    set("source.gcs", NO_SOURCE),
    set("source.imageio", NO_SOURCE),
    set("source.registry.imageStream", "there are no image streams outside OpenShift: name the image in url"),
    only("source.registry.pullMethod", &["pod"], "images are not taken from a node's container runtime: use pod"),
    only("source.registry.platform.architecture", &["amd64"], "only amd64 is supported"),
    set("source.s3", NO_SOURCE),
    set("source.snapshot", NO_SOURCE),
    set("source.upload", NO_SOURCE),
    set("source.vddk", NO_SOURCE),
    set("source.http.extraHeaders", "more request headers are not supported yet"),
    set("source.http.secretExtraHeaders", "more request headers are not supported yet"),
];

const OVERLAY: &str = "this belongs to an overlay network, and there is none: guests are on the VLAN itself";
const NO_ISOLATION: &str = "access rules are not supported yet";

/// Below `spec` of a Subnet.
pub(crate) const SUBNET: &[Refused] = &[
    set("acls", NO_ISOLATION),
    set("allowEWTraffic", OVERLAY),
    set("allowSubnets", NO_ISOLATION),
    set("dhcpV6Options", "IPv6 is not supported yet"),
    set("disableInterConnection", OVERLAY),
    set("enableEcmp", OVERLAY),
    set("enableExternalLBAddress", OVERLAY),
    set("enableIPv6RA", "IPv6 is not supported yet"),
    set("enableLb", OVERLAY),
    set("enableMulticastSnoop", OVERLAY),
    set("externalEgressGateway", OVERLAY),
    set("gatewayNode", OVERLAY),
    set("gatewayNodeSelectors", OVERLAY),
    only("gatewayType", &["distributed"], OVERLAY),
    set("ipv6RAConfigs", "IPv6 is not supported yet"),
    set("logicalGateway", OVERLAY),
    set("natOutgoing", OVERLAY),
    set("namespaceSelectors", "a guest names its network by a NetworkAttachmentDefinition"),
    set("namespaces", "a guest names its network by a NetworkAttachmentDefinition"),
    set("nodeNetwork", OVERLAY),
    set("policyRoutingPriority", OVERLAY),
    set("policyRoutingTableID", OVERLAY),
    set("private", NO_ISOLATION),
    only("protocol", &["IPv4"], "only IPv4 is supported yet"),
    set("routeTable", OVERLAY),
    set("u2oInterconnection", OVERLAY),
    set("u2oInterconnectionIP", OVERLAY),
    set("vips", "addresses for Vip objects are not supported yet: use excludeIps"),
    only("vpc", &["ovn-cluster"], OVERLAY),
];

/// Below `spec` of a Vlan.
pub(crate) const VLAN: &[Refused] =
    &[set("providerInterfaceName", "the NIC is named by the ProviderNetwork"), set("vlanId", "use id")];

/// Below `spec` of a ProviderNetwork.
pub(crate) const PROVIDER_NETWORK: &[Refused] = &[
    set("autoCreateVlanSubinterfaces", "VLAN interfaces of the node are left alone"),
    set("exchangeLinkName", "the bridge does not take the NIC's name"),
    set("preserveVlanInterfaces", "VLAN interfaces of the node are left alone"),
    set("vlanInterfaces", "VLAN interfaces of the node are left alone"),
];

/// Refuses the fields of a table that a spec uses. `base`: where the spec stands in its object.
pub(crate) fn refuse(base: &str, spec: &Value, table: &[Refused], causes: &mut Causes) {
    for entry in table {
        let segments: Vec<_> = entry.path.split('.').collect();
        visit(base.to_owned(), spec, &segments, &mut |path, value| {
            if counts(entry.when, value) {
                causes.unsupported(path, entry.why);
            }
        });
    }
}

fn visit(path: String, value: &Value, segments: &[&str], found: &mut impl FnMut(String, &Value)) {
    let Some((first, rest)) = segments.split_first() else { return found(path, value) };
    let name = first.trim_end_matches("[]");
    let Some(child) = value.get(name) else { return };
    let path = format!("{path}.{name}");
    match child {
        Value::Array(elements) if first.ends_with("[]") => {
            for (index, element) in elements.iter().enumerate() {
                visit(format!("{path}[{index}]"), element, rest, found);
            }
        }
        _ => visit(path, child, rest, found),
    }
}

fn counts(when: When, value: &Value) -> bool {
    let is_set = match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(elements) => !elements.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::Object(_) => true,
    };
    is_set
        && match when {
            When::Set => true,
            When::NotIn(words) => value.as_str().is_none_or(|word| !words.contains(&word)),
        }
}

#[cfg(test)]
#[path = "supported_tests.rs"]
mod tests;
