//! What a CSI request asks for, checked: names, sizes, capabilities. Pure.
//!
//! Refuses everything that is not realised with the reason, before anything is touched. Limits
//! and codes are those of the CSI specification 1.12.

use std::collections::HashMap;

use tonic::Status;
use uuid::Uuid;

use super::proto::volume_capability::{AccessType, access_mode::Mode};
use super::proto::{CapacityRange, VolumeCapability};
use crate::storage::images::Size;

/// Namespace of the name-based UUIDs in image names: the same request always means one image.
const NAMES: Uuid = Uuid::from_u128(0x0f26_71c4_9a55_4f2f_8d7e_63b0_9c1e_5a10);
/// Sizes are rounded up to this many bytes.
const GRAIN: u64 = 1 << 20;
/// Size of a volume when the request names none, in bytes: 1 GiB.
const DEFAULT_BYTES: u64 = 1 << 30;
/// Larger volumes are refused: 1 PiB, beyond any cluster this is made for.
const MAX_BYTES: u64 = 1 << 50;
/// The specification's bound on names.
const MAX_NAME: usize = 128;
/// Parameters that external-provisioner adds with `--extra-create-metadata`.
const OWN_PREFIX: &str = "csi.storage.k8s.io/";

/// An image in a pool, as it stands in handles: `<pool>/<image>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageId {
    pub(super) pool: String,
    pub(super) image: String,
}

impl ImageId {
    /// The image of the volume that was asked for by `name`.
    pub(super) fn of_volume(pool: &str, name: &str) -> Result<Self, Status> {
        Self::named(pool, "csi-vol", name)
    }

    /// The image of the snapshot that was asked for by `name`.
    pub(super) fn of_snapshot(pool: &str, name: &str) -> Result<Self, Status> {
        Self::named(pool, "csi-snap", name)
    }

    fn named(pool: &str, prefix: &str, name: &str) -> Result<Self, Status> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(Status::invalid_argument(format!("the name must have 1 to {MAX_NAME} bytes")));
        }
        let uuid = Uuid::new_v5(&NAMES, name.as_bytes());
        Ok(Self { pool: pool.to_owned(), image: format!("{prefix}-{uuid}") })
    }

    /// Reads a handle; `None` when it is none of this driver's.
    pub(super) fn parse(handle: &str) -> Option<Self> {
        let (pool, image) = handle.split_once('/')?;
        let plain = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        (plain(pool) && plain(image)).then(|| Self { pool: pool.to_owned(), image: image.to_owned() })
    }

    pub(super) fn handle(&self) -> String {
        format!("{}/{}", self.pool, self.image)
    }
}

/// What the parameters of a StorageClass and of the provisioner say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) pool: String,
    /// Namespace and name of the claim.
    pub(super) claim: Option<(String, String)>,
}

impl Parameters {
    pub(super) fn parse(given: &HashMap<String, String>) -> Result<Self, Status> {
        if let Some(unknown) = given.keys().find(|k| *k != "pool" && !k.starts_with(OWN_PREFIX)) {
            return Err(Status::invalid_argument(format!("unknown parameter {unknown:?}: only \"pool\" is known")));
        }
        let pool = given.get("pool").map_or(furrow_api::names::CEPH_POOL, String::as_str);
        if ImageId::parse(&format!("{pool}/x")).is_none() {
            return Err(Status::invalid_argument(format!("the pool's name {pool:?} is malformed")));
        }
        let claim = |what: &str| given.get(&format!("{OWN_PREFIX}pvc/{what}")).cloned();
        Ok(Self { pool: pool.to_owned(), claim: claim("namespace").zip(claim("name")) })
    }
}

/// The size that a range asks for; `from_content`: the volume copies another, which sets it.
pub(super) fn size(range: Option<&CapacityRange>, from_content: bool) -> Result<Size, Status> {
    let bytes = |n: i64| u64::try_from(n).map_err(|_| Status::invalid_argument("a capacity is below zero"));
    let (required, limit) = match range {
        Some(range) => (bytes(range.required_bytes)?, bytes(range.limit_bytes)?),
        None => (0, 0),
    };
    let required = match (required, from_content) {
        (0, true) => 0,
        (0, false) => {
            if limit > 0 {
                DEFAULT_BYTES.min(limit)
            } else {
                DEFAULT_BYTES
            }
        }
        (n, _) => n,
    };
    if required > MAX_BYTES {
        return Err(Status::out_of_range(format!(
            "{required} bytes are more than the {MAX_BYTES} that a volume may have"
        )));
    }
    let rounded = required.next_multiple_of(GRAIN);
    let limit = (limit > 0).then_some(limit);
    if let Some(limit) = limit.filter(|limit| rounded > *limit) {
        return Err(Status::out_of_range(format!(
            "sizes are multiples of {GRAIN} bytes: none between {required} and {limit}"
        )));
    }
    Ok(Size { required: rounded, limit })
}

/// Checks that every capability is one that is realised.
pub(super) fn capabilities(asked: &[VolumeCapability]) -> Result<(), Status> {
    if asked.is_empty() {
        return Err(Status::invalid_argument("no volume capability is given"));
    }
    for capability in asked {
        match capability.access_type {
            Some(AccessType::Block(_)) => {}
            Some(AccessType::Mount(_)) => {
                return Err(Status::invalid_argument(
                    "volumeMode Filesystem is not served yet: ask for volumeMode Block",
                ));
            }
            None => return Err(Status::invalid_argument("a volume capability has no access type")),
        }
        let mode = capability.access_mode.as_ref().map_or(Mode::Unknown, |mode| mode.mode());
        if mode == Mode::Unknown {
            return Err(Status::invalid_argument("a volume capability has no access mode that is known"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(required: i64, limit: i64) -> CapacityRange {
        CapacityRange { required_bytes: required, limit_bytes: limit }
    }

    #[test]
    fn one_name_is_one_image() {
        let id = |name| ImageId::of_volume("volumes", name).unwrap();
        assert_eq!(id("pvc-1"), id("pvc-1"));
        assert_ne!(id("pvc-1"), id("pvc-2"));
        assert!(id("pvc-1").image.starts_with("csi-vol-"));
        assert_eq!(ImageId::parse(&id("pvc-1").handle()), Some(id("pvc-1")));
        assert!(ImageId::of_volume("volumes", "").is_err());
    }

    #[test]
    fn foreign_handles_are_not_believed() {
        for bad in ["", "volumes", "volumes/", "/x", "volumes/a@b", "volumes/../x", "a/b/c"] {
            assert_eq!(ImageId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_rounded_up_within_their_limit() {
        let check = |range: Option<CapacityRange>, content, expected: Option<u64>| {
            assert_eq!(size(range.as_ref(), content).ok().map(|s| s.required), expected, "{range:?}");
        };
        check(None, false, Some(1 << 30));
        check(None, true, Some(0));
        check(Some(range(1, 0)), false, Some(1 << 20));
        check(Some(range((1 << 20) + 1, 1 << 21)), false, Some(1 << 21));
        check(Some(range((1 << 20) + 1, (1 << 20) + 2)), false, None);
        check(Some(range(-1, 0)), false, None);
        check(Some(range(i64::MAX, 0)), false, None);
    }

    #[test]
    fn unknown_parameters_are_named() {
        let given = HashMap::from([("pool".to_owned(), "volumes".to_owned()), ("stripes".to_owned(), "2".to_owned())]);
        assert!(Parameters::parse(&given).unwrap_err().message().contains("stripes"));
        let given = HashMap::from([
            ("csi.storage.k8s.io/pvc/name".to_owned(), "c".to_owned()),
            ("csi.storage.k8s.io/pvc/namespace".to_owned(), "ns".to_owned()),
        ]);
        let parsed = Parameters::parse(&given).unwrap();
        assert_eq!(parsed.pool, "volumes");
        assert_eq!(parsed.claim, Some(("ns".to_owned(), "c".to_owned())));
    }
}
