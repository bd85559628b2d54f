//! What the cases share: the client, the kinds as discovery tells them, and short words for what is asked often. Refuses to
//! judge anything.

use anyhow::{Context, Result, bail, ensure};
use kube::api::{Api, DynamicObject};
use kube::core::GroupVersionKind;
use kube::discovery::pinned_kind;
use kube::runtime::wait::await_condition;
use kube::{Client, Config, Error};
use serde_json::Value;

/// Where everything is.
pub(crate) const NAMESPACE: &str = "default";

/// The VM that the cases are about.
pub(crate) const NAME: &str = "by-kube-rs";

/// The client and the kinds.
pub(crate) struct World {
    pub(crate) client: Client,
    /// As it came on standard input.
    pub(crate) vm: Value,
    pub(crate) vms: Api<DynamicObject>,
    pub(crate) vmis: Api<DynamicObject>,
    pub(crate) replica_sets: Api<DynamicObject>,
}

impl World {
    /// Connects as the kubeconfig says, and asks for the kinds.
    pub(crate) async fn new(vm: Value) -> Result<World> {
        let config = Config::infer().await.context("the kubeconfig")?;
        let client = Client::try_from(config).context("the client")?;
        let api = async |kind: &str| -> Result<Api<DynamicObject>> {
            let kind = GroupVersionKind::gvk("kubevirt.io", "v1", kind);
            let (resource, _) = pinned_kind(&client, &kind).await.with_context(|| format!("discovery of {kind:?}"))?;
            Ok(Api::namespaced_with(client.clone(), NAMESPACE, &resource))
        };
        let vms = api("VirtualMachine").await?;
        let vmis = api("VirtualMachineInstance").await?;
        let replica_sets = api("VirtualMachineInstanceReplicaSet").await?;
        Ok(World { client, vm, vms, vmis, replica_sets })
    }

    /// PUT of an operation on the VM or, with `virtualmachineinstances`, on its guest.
    pub(crate) async fn operate(&self, plural: &str, operation: &str, body: &str) -> kube::Result<String> {
        let group = "/apis/subresources.kubevirt.io/v1";
        let uri = format!("{group}/namespaces/{NAMESPACE}/{plural}/{NAME}/{operation}");
        let request = http::Request::put(uri).header("content-type", "application/json");
        let request = request.body(body.as_bytes().to_vec()).map_err(kube::Error::HttpError)?;
        self.client.request_text(request).await
    }
}

/// An object that is to be made.
pub(crate) fn object(document: Value) -> Result<DynamicObject> {
    serde_json::from_value(document).context("an object")
}

/// Waits by a watch until an object is as it should be; `None` stands for one that is not there.
pub(crate) async fn until(
    api: &Api<DynamicObject>,
    name: &str,
    wanted: impl Fn(Option<&DynamicObject>) -> bool,
) -> Result<Option<DynamicObject>> {
    await_condition(api.clone(), name, wanted).await.with_context(|| format!("the watch of {name}"))
}

/// Whether an object's JSON pointer, below all but its metadata, has this text.
pub(crate) fn says(object: Option<&DynamicObject>, pointer: &str, text: &str) -> bool {
    object.and_then(|object| object.data.pointer(pointer)).is_some_and(|value| value == text)
}

/// Whether it was refused with this code, reason and text.
pub(crate) fn refused<T>(result: kube::Result<T>, code: u16, reason: &str, text: &str) -> Result<()> {
    match result {
        Ok(_) => bail!("it was accepted, but it should have been refused with {code}"),
        Err(Error::Api(status)) => {
            ensure!(status.code == code && status.reason == reason, "it was refused as {status:?}");
            ensure!(status.message.contains(text), "the refusal does not say `{text}`: {}", status.message);
            Ok(())
        }
        Err(error) => Err(error).context("the refusal is no Status"),
    }
}
