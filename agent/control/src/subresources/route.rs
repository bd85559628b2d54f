//! The one table of the subresource API: which operations there are, how each is called, and whether it is carried out.
//! Paths, discovery, authorization and the answer 501 all follow from it. Pure; refuses to carry anything out.

use axum::http::Method;
use furrow_api::channel::{ForwardProtocol, GuestOperation, GuestStream};
use furrow_api::names::SUBRESOURCES_GROUP;

/// Versions, the preferred one first. They are the same but for their name.
pub(super) const VERSIONS: [&str; 2] = ["v1", "v1alpha3"];

/// What a subresource belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    VirtualMachines,
    VirtualMachineInstances,
}

impl Resource {
    /// Its name in paths and roles.
    pub(super) const fn plural(self) -> &'static str {
        match self {
            Self::VirtualMachines => "virtualmachines",
            Self::VirtualMachineInstances => "virtualmachineinstances",
        }
    }

    /// Its kind.
    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::VirtualMachines => "VirtualMachine",
            Self::VirtualMachineInstances => "VirtualMachineInstance",
        }
    }
}

/// What is done for a subresource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Start,
    Stop,
    Restart,
    ExpandSpec,
    /// Judged, and refused for as long as no migration is carried out.
    Migrate,
    Rename,
    EvacuateCancel,
    ObjectGraph,
    AddVolume,
    RemoveVolume,
    /// By the agent of the guest's node.
    Guest(GuestOperation),
    /// A WebSocket to a socket of the guest, through that agent.
    Stream(GuestStream),
    /// A WebSocket to a port of the guest, through that agent.
    Forward,
    /// Not yet.
    Later,
}

/// An operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subresource {
    pub(super) resource: Resource,
    /// Name, as in paths and roles; may hold a slash.
    pub(super) name: &'static str,
    /// It only reads, or opens a stream (GET); the others change something (PUT).
    pub(super) reads: bool,
    pub(super) work: Work,
}

impl Subresource {
    /// The method it is called by.
    pub(super) fn method(&self) -> Method {
        if self.reads { Method::GET } else { Method::PUT }
    }

    /// Whether a port and a protocol follow its name.
    pub(super) fn takes_port(&self) -> bool {
        self.name == PORT_FORWARD
    }
}

const PORT_FORWARD: &str = "portforward";

const fn vm(name: &'static str, work: Work) -> Subresource {
    Subresource { resource: Resource::VirtualMachines, name, reads: false, work }
}

const fn vmi(name: &'static str, work: Work) -> Subresource {
    Subresource { resource: Resource::VirtualMachineInstances, name, reads: false, work }
}

const fn guest(operation: GuestOperation) -> Subresource {
    Subresource { reads: operation.only_asks(), ..vmi(operation.name(), Work::Guest(operation)) }
}

const fn get(subresource: Subresource) -> Subresource {
    Subresource { reads: true, ..subresource }
}

/// All operations on objects, those of KubeVirt 1.9 and `rename`, which older clients call.
pub(super) const SUBRESOURCES: &[Subresource] = &[
    vm("start", Work::Start),
    vm("stop", Work::Stop),
    vm("restart", Work::Restart),
    get(vm("expand-spec", Work::ExpandSpec)),
    vm("migrate", Work::Migrate),
    vm("rename", Work::Rename),
    vm("addvolume", Work::AddVolume),
    vm("removevolume", Work::RemoveVolume),
    vm("memorydump", Work::Later),
    vm("removememorydump", Work::Later),
    vm("evacuate/cancel", Work::EvacuateCancel),
    get(vm("objectgraph", Work::ObjectGraph)),
    get(vm(PORT_FORWARD, Work::Forward)),
    guest(GuestOperation::Pause),
    guest(GuestOperation::Unpause),
    guest(GuestOperation::SoftReboot),
    guest(GuestOperation::Reset),
    guest(GuestOperation::Freeze),
    guest(GuestOperation::Unfreeze),
    guest(GuestOperation::GuestOsInfo),
    guest(GuestOperation::UserList),
    guest(GuestOperation::FilesystemList),
    vmi("addvolume", Work::AddVolume),
    vmi("removevolume", Work::RemoveVolume),
    vmi("backup", Work::Later),
    vmi("redefine-checkpoint", Work::Later),
    vmi("evacuate/cancel", Work::EvacuateCancel),
    get(vmi("objectgraph", Work::ObjectGraph)),
    get(vmi("console", Work::Stream(GuestStream::Console))),
    get(vmi("vnc", Work::Stream(GuestStream::Vnc))),
    get(vmi("vnc/screenshot", Work::Guest(GuestOperation::Screenshot))),
    get(vmi("usbredir", Work::Stream(GuestStream::UsbRedirection))),
    get(vmi("vsock", Work::Later)),
    get(vmi(PORT_FORWARD, Work::Forward)),
    get(vmi("sev/fetchcertchain", Work::Later)),
    get(vmi("sev/querylaunchmeasurement", Work::Later)),
    vmi("sev/setupsession", Work::Later),
    vmi("sev/injectlaunchsecret", Work::Later),
];

/// Name of the resource that a VirtualMachine is sent to, to come back expanded.
pub(super) const EXPAND_VM_SPEC: &str = "expand-vm-spec";

/// An object that an operation is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) subresource: &'static Subresource,
    /// For those that take one.
    pub(super) port: Option<(u16, ForwardProtocol)>,
}

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Path {
    /// The list of paths.
    Root,
    /// The list of groups.
    Groups,
    /// The group.
    Group,
    /// What is in a version.
    Resources(&'static str),
    /// The OpenAPI document.
    OpenApi,
    /// The index of OpenAPI's version 3.
    OpenApi3,
    /// Its document of a version.
    OpenApi3Of(&'static str),
    /// Whether the API server can be reached.
    Health,
    /// KubeVirt's version.
    Version,
    /// The image of `virtctl guestfs`.
    Guestfs,
    /// `expand-vm-spec` of a namespace.
    Expand { version: &'static str, namespace: String },
    /// An operation on an object.
    Object { version: &'static str, target: Target },
}

impl Path {
    /// Whether everybody may ask, without saying who they are. What an API consists of is no secret.
    pub(super) fn is_public(&self) -> bool {
        !matches!(self, Self::Expand { .. } | Self::Object { .. })
    }

    /// The method it is called by.
    pub(super) fn method(&self) -> Method {
        match self {
            Self::Expand { .. } => Method::PUT,
            Self::Object { target, .. } => target.subresource.method(),
            _ => Method::GET,
        }
    }
}

/// Reads a path; `None` for one that is not served. Names of objects need no escapes, so that none is undone.
pub(super) fn parse(path: &str) -> Option<Path> {
    match path.trim_end_matches('/') {
        "" => return Some(Path::Root),
        "/apis" => return Some(Path::Groups),
        "/healthz" => return Some(Path::Health),
        "/openapi/v2" => return Some(Path::OpenApi),
        "/openapi/v3" => return Some(Path::OpenApi3),
        _ => {}
    }
    if let Some(version) = path.strip_prefix("/openapi/v3/apis/").and_then(|rest| rest.strip_prefix(SUBRESOURCES_GROUP))
    {
        let version = version.strip_prefix('/')?;
        return VERSIONS.into_iter().find(|known| *known == version).map(Path::OpenApi3Of);
    }
    let path = path.strip_prefix('/').unwrap_or(path);
    let parts: Vec<&str> = path.strip_suffix('/').unwrap_or(path).split('/').collect();
    let [root, group, rest @ ..] = parts.as_slice() else { return None };
    if (*root, *group) != ("apis", SUBRESOURCES_GROUP) {
        return None;
    }
    let [version, rest @ ..] = rest else { return Some(Path::Group) };
    let version = VERSIONS.into_iter().find(|known| known == version)?;
    match rest {
        [] => Some(Path::Resources(version)),
        ["healthz"] => Some(Path::Health),
        ["version"] => Some(Path::Version),
        ["guestfs"] => Some(Path::Guestfs),
        ["namespaces", namespace, EXPAND_VM_SPEC] => {
            Some(Path::Expand { version, namespace: segment(namespace)?.to_owned() })
        }
        ["namespaces", namespace, resource, name, tail @ ..] => {
            let (namespace, name) = (segment(namespace)?.to_owned(), segment(name)?.to_owned());
            let (subresource, port) = find(resource, tail)?;
            let target = Target { namespace, name, subresource, port };
            Some(Path::Object { version, target })
        }
        _ => None,
    }
}

/// A name that can be that of an object: everything else is refused before it gets into another path.
fn segment(text: &str) -> Option<&str> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    (!text.is_empty() && text.len() <= 253 && text.chars().all(fits) && !text.starts_with('.')).then_some(text)
}

type Port = (u16, ForwardProtocol);

fn find(resource: &str, tail: &[&str]) -> Option<(&'static Subresource, Option<Port>)> {
    let whole = tail.join("/");
    let mut known = SUBRESOURCES.iter().filter(|known| known.resource.plural() == resource);
    known.find_map(|known| match tail {
        [first, rest @ ..] if known.takes_port() && *first == known.name => Some((known, Some(port(rest)?))),
        _ => (!known.takes_port() && known.name == whole).then_some((known, None)),
    })
}

/// A port, and a protocol where it is not TCP.
fn port(tail: &[&str]) -> Option<Port> {
    let (port, protocol) = match tail {
        [port] => (port, ForwardProtocol::Tcp),
        [port, protocol] => (port, ForwardProtocol::parse(protocol)?),
        _ => return None,
    };
    Some((port.parse().ok().filter(|port| *port > 0)?, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(path: &str) -> Option<(Resource, &'static str, String, String)> {
        match parse(path)? {
            Path::Object { target, .. } => {
                Some((target.subresource.resource, target.subresource.name, target.namespace, target.name))
            }
            _ => None,
        }
    }

    #[test]
    fn every_operation_is_found_by_its_path_in_both_versions() {
        for version in VERSIONS {
            for known in SUBRESOURCES {
                let tail = if known.takes_port() { "/22/tcp" } else { "" };
                let path = format!(
                    "/apis/subresources.kubevirt.io/{version}/namespaces/shop/{}/web/{}{tail}",
                    known.resource.plural(),
                    known.name
                );
                let expected = (known.resource, known.name, "shop".to_owned(), "web".to_owned());
                assert_eq!(object(&path), Some(expected), "{path}");
                assert_eq!(parse(&path).map(|p| (p.is_public(), p.method())), Some((false, known.method())), "{path}");
            }
        }
    }

    #[test]
    fn reads_the_paths_that_are_no_objects() {
        let base = "/apis/subresources.kubevirt.io";
        let check = |path: &str, expected: Path| assert_eq!(parse(path), Some(expected), "{path}");
        check("/", Path::Root);
        check("", Path::Root);
        check("/apis", Path::Groups);
        check("/apis/", Path::Groups);
        check("/healthz", Path::Health);
        check("/openapi/v2", Path::OpenApi);
        check("/openapi/v3", Path::OpenApi3);
        check("/openapi/v3/apis/subresources.kubevirt.io/v1alpha3", Path::OpenApi3Of("v1alpha3"));
        check(base, Path::Group);
        check(&format!("{base}/"), Path::Group);
        check(&format!("{base}/v1alpha3"), Path::Resources("v1alpha3"));
        check(&format!("{base}/v1/"), Path::Resources("v1"));
        check(&format!("{base}/v1/version"), Path::Version);
        check(&format!("{base}/v1/guestfs"), Path::Guestfs);
        check(&format!("{base}/v1alpha3/healthz"), Path::Health);
        let expand = Path::Expand { version: "v1", namespace: "shop".into() };
        assert_eq!((expand.is_public(), expand.method()), (false, Method::PUT));
        check(&format!("{base}/v1/namespaces/shop/expand-vm-spec"), expand);
    }

    #[test]
    fn a_port_is_of_tcp_where_nothing_else_is_said() {
        let check = |tail: &str, expected| {
            let path =
                format!("/apis/subresources.kubevirt.io/v1/namespaces/shop/virtualmachines/web/portforward/{tail}");
            let Some(Path::Object { target, .. }) = parse(&path) else { panic!("{path} is not served") };
            assert_eq!(target.port, Some(expected), "{path}");
        };
        check("22", (22, ForwardProtocol::Tcp));
        check("65535/tcp", (65_535, ForwardProtocol::Tcp));
        check("53/udp", (53, ForwardProtocol::Udp));
    }

    #[test]
    fn serves_no_other_path() {
        let base = "/apis/subresources.kubevirt.io";
        for path in [
            "/metrics".to_owned(),
            "/apis/kubevirt.io".to_owned(),
            "/openapi/v3/apis/kubevirt.io/v1".to_owned(),
            "/openapi/v3/apis/subresources.kubevirt.io/v2".to_owned(),
            format!("{base}/v2"),
            format!("{base}/v1/start-cluster-profiler"),
            format!("{base}/v1/namespaces"),
            format!("{base}/v1/namespaces/shop/virtualmachines/web"),
            format!("{base}/v1/namespaces/shop/virtualmachines/web/pause"),
            format!("{base}/v1/namespaces/shop/virtualmachines/web/start/now"),
            format!("{base}/v1/namespaces/shop/pods/web/start"),
            format!("{base}/v1/namespaces//virtualmachines/web/start"),
            format!("{base}/v1/namespaces/a%2fb/virtualmachines/web/start"),
            format!("{base}/v1/namespaces/../virtualmachines/web/start"),
            format!("{base}/v1/namespaces/shop/virtualmachines/Web/start"),
            format!("{base}/v1/namespaces/shop/virtualmachineinstances/web/portforward"),
            format!("{base}/v1/namespaces/shop/virtualmachineinstances/web/portforward/0"),
            format!("{base}/v1/namespaces/shop/virtualmachineinstances/web/portforward/70000"),
            format!("{base}/v1/namespaces/shop/virtualmachineinstances/web/portforward/22/sctp"),
        ] {
            assert_eq!(parse(&path), None, "{path}");
        }
    }

    #[test]
    fn no_operation_is_listed_twice() {
        for (index, known) in SUBRESOURCES.iter().enumerate() {
            let again = |other: &Subresource| (other.resource, other.name) == (known.resource, known.name);
            assert!(!SUBRESOURCES[index + 1..].iter().any(again), "{known:?}");
        }
    }
}
