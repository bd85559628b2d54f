//! DataVolumes, and the templates of them in VirtualMachines.

use std::sync::Arc;

use furrow_api::datavolume::{
    DataVolumeSource, DataVolumeSpec, HttpSource, ObjectSource, RegistrySource, VolumeResources,
};
use furrow_api::{DataVolume, names, quantity};
use furrow_model::oci::Reference;
use serde_json::Value;

use super::causes::Causes;
use super::facts::{Facts, FactsError};
use super::review::{Answer, Request};
use super::{is_own, malformed, settled, supported, verdict};

/// Access modes that a block volume on RBD has.
const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// A DataVolume's spec and where it stands.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// Path of the spec.
    pub(super) base: &'a str,
    /// The spec as it was written.
    pub(super) raw: &'a Value,
    /// The attempt to write it.
    pub(super) request: &'a Request,
}

pub(super) async fn validate<F: Facts>(facts: Arc<F>, request: Request) -> Result<Answer, FactsError> {
    if settled(&request) {
        return Ok(Answer::Allowed(Vec::new()));
    }
    let mut causes = Causes::default();
    if !request.is_create() {
        causes.forbidden("spec", "Cannot update DataVolume Spec");
        return Ok(verdict(causes, Vec::new()));
    }
    let volume: DataVolume = match request.object() {
        Ok(volume) => volume,
        Err(error) => return Ok(malformed(&error)),
    };
    let context = Context { base: "spec", raw: &request.object["spec"], request: &request };
    check(facts.as_ref(), context, &volume.spec, &mut causes).await?;
    Ok(verdict(causes, Vec::new()))
}

/// Checks a spec.
pub(super) async fn check<F: Facts>(
    facts: &F,
    context: Context<'_>,
    spec: &DataVolumeSpec,
    causes: &mut Causes,
) -> Result<(), FactsError> {
    let base = context.base;
    supported::refuse(base, context.raw, supported::DATA_VOLUME, causes);
    match (&spec.source, &spec.source_ref) {
        (None, None) => causes.required(format!("{base}.source"), "Data volume should have either Source or SourceRef"),
        (Some(_), Some(_)) => {
            causes.invalid(format!("{base}.source"), "Data volume should have either Source or SourceRef, not both");
        }
        (Some(source), None) => self::source(facts, context, source, causes).await?,
        (None, Some(_)) => {}
    }
    let is_copy = spec.source.as_ref().is_some_and(|source| source.pvc.is_some());
    let target = match (&spec.pvc, &spec.storage) {
        (None, None) => {
            causes.required(format!("{base}.storage"), "Missing Data volume PVC or Storage");
            return Ok(());
        }
        (Some(_), Some(_)) => {
            causes.invalid(
                format!("{base}.pvc"),
                "Duplicate storage definition, both target storage and target pvc defined",
            );
            return Ok(());
        }
        (Some(pvc), None) => Target {
            field: format!("{base}.pvc"),
            resources: pvc.resources.as_ref(),
            modes: &pvc.access_modes,
            volume_mode: pvc.volume_mode.as_deref(),
            class: pvc.storage_class_name.as_deref(),
            sized_by_source: is_copy,
        },
        (None, Some(storage)) => Target {
            field: format!("{base}.storage"),
            resources: storage.resources.as_ref(),
            modes: &storage.access_modes,
            volume_mode: storage.volume_mode.as_deref(),
            class: storage.storage_class_name.as_deref(),
            sized_by_source: is_copy,
        },
    };
    target.check(facts, causes).await
}

/// The claim to be made, whichever of the two fields describes it.
struct Target<'a> {
    field: String,
    resources: Option<&'a VolumeResources>,
    modes: &'a [String],
    volume_mode: Option<&'a str>,
    class: Option<&'a str>,
    /// A copy without a size has that of its source.
    sized_by_source: bool,
}

impl Target<'_> {
    async fn check<F: Facts>(&self, facts: &F, causes: &mut Causes) -> Result<(), FactsError> {
        let field = &self.field;
        let size = self.resources.and_then(|resources| resources.requests.get("storage"));
        let size_field = format!("{field}.resources.requests.storage");
        match size.map(|size| (size, quantity::units(size))) {
            None if self.sized_by_source => {}
            None => causes.required(size_field, "PVC size is missing"),
            Some((_, Err(error))) => causes.invalid(size_field, error),
            Some((size, Ok(bytes))) if bytes <= 0 => {
                causes.invalid(size_field, format!("PVC size can't be equal or less than zero, is {}", size.0));
            }
            Some((_, Ok(_))) => {}
        }
        for (index, mode) in self.modes.iter().enumerate() {
            if !ACCESS_MODES.contains(&mode.as_str()) {
                causes.unsupported(format!("{field}.accessModes[{index}]"), format!("{mode:?} is not an access mode"));
            }
        }
        if let Some(mode) = self.volume_mode.filter(|mode| *mode != "Block") {
            let text = format!("volumeMode {mode} is not supported yet: a disk of a virtual machine is a Block volume");
            causes.unsupported(format!("{field}.volumeMode"), text);
        }
        let Some(class) = self.class.filter(|class| !class.is_empty()) else { return Ok(()) };
        let class_field = format!("{field}.storageClassName");
        match facts.provisioner(class).await? {
            None => causes.invalid(class_field, format!("StorageClass {class:?} does not exist")),
            Some(provisioner) if provisioner != names::CSI_DRIVER => {
                let text = format!(
                    "StorageClass {class:?} is of provisioner {provisioner}; virtual machines have their disks on {}",
                    names::CSI_DRIVER
                );
                causes.unsupported(class_field, text);
            }
            Some(_) => {}
        }
        Ok(())
    }
}

async fn source<F: Facts>(
    facts: &F,
    context: Context<'_>,
    source: &DataVolumeSource,
    causes: &mut Causes,
) -> Result<(), FactsError> {
    let field = format!("{}.source", context.base);
    let there = [
        source.blank.is_some(),
        source.gcs.is_some(),
        source.http.is_some(),
        source.imageio.is_some(),
        source.pvc.is_some(),
        source.registry.is_some(),
        source.s3.is_some(),
        source.snapshot.is_some(),
        source.upload.is_some(),
        source.vddk.is_some(),
    ];
    match there.into_iter().filter(|there| *there).count() {
        0 => causes.required(&field, "Missing Data volume source"),
        1 => {}
        _ => causes.invalid(&field, "Multiple Data volume sources"),
    }
    if let Some(http) = &source.http {
        self::http(&field, http, causes);
    }
    if let Some(registry) = &source.registry {
        self::registry(&field, registry, causes);
    }
    if let Some(pvc) = &source.pvc {
        copy(facts, context, pvc, causes).await?;
    }
    Ok(())
}

fn http(field: &str, http: &HttpSource, causes: &mut Causes) {
    let field = format!("{field}.http.url");
    let text = http.url.as_str();
    if text.is_empty() {
        return causes.required(field, "Source URL is empty");
    }
    let Ok(uri) = text.parse::<axum::http::Uri>() else {
        return causes.invalid(field, format!("Invalid source URL: {text}"));
    };
    match uri.scheme_str() {
        Some("http" | "https") if uri.host().is_some_and(|host| !host.is_empty()) => {}
        Some("http" | "https") => causes.invalid(&field, format!("Invalid source URL: {text} has no host")),
        _ => causes.invalid(&field, format!("Invalid source URL scheme: {text} is neither http:// nor https://")),
    }
    // Objects are read by many and kept in logs; a Secret is not.
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        let text =
            "Invalid source URL: it has a user or a password in it; put them into a Secret and name it in secretRef";
        causes.invalid(field, text);
    }
}

fn registry(field: &str, registry: &RegistrySource, causes: &mut Causes) {
    let field = format!("{field}.registry.url");
    match registry.url.as_deref().unwrap_or_default() {
        // One that names an image stream instead is refused for that.
        "" if registry.image_stream.is_some() => {}
        "" => causes.required(field, "Source registry is not valid: the url is missing"),
        url => {
            if let Err(error) = Reference::from_url(url) {
                causes.invalid(field, format!("Invalid source URL: {error}"));
            }
        }
    }
}

/// A copy across namespaces shows its reader what is in the other one: only who may read there may copy from there.
async fn copy<F: Facts>(
    facts: &F,
    context: Context<'_>,
    source: &ObjectSource,
    causes: &mut Causes,
) -> Result<(), FactsError> {
    let field = format!("{}.source.pvc", context.base);
    let request = context.request;
    if source.name.is_empty() {
        causes.required(format!("{field}.name"), "the name of the claim is missing");
        return Ok(());
    }
    let namespace = if source.namespace.is_empty() { request.namespace() } else { source.namespace.as_str() };
    // Control makes DataVolumes of templates, whose author was asked for when the VirtualMachine was written.
    if namespace == request.namespace() || is_own(request) {
        return Ok(());
    }
    if !facts.may_clone(&request.user_info, namespace, &source.name).await? {
        let text = format!(
            "User {} has insufficient permissions in clone source namespace {namespace}: create datavolumes/source of \
             cdi.kubevirt.io is needed there",
            request.user()
        );
        causes.forbidden(field, text);
    }
    Ok(())
}
