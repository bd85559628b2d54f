//! How the vCPUs of an instancetype look to the guest: sockets, cores, threads. Rules and words are KubeVirt's
//! (`pkg/instancetype/apply/cpu.go`, `preference/validation/cpu.go`).

use serde_json::Value;

use super::Fault;
use super::json::{count, text};

/// Threads a core where threads are spread over.
const THREADS: i64 = 2;

/// Cores a socket where a preference does not say.
const RATIO: i64 = 2;

/// What a preference wants vCPUs to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Topology {
    Sockets,
    Cores,
    Threads,
    Spread,
    Any,
}

/// What vCPUs are spread over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Across {
    SocketsCores,
    CoresThreads,
    SocketsCoresThreads,
}

/// Sockets, cores a socket, threads a core.
pub(super) type Counts = (i64, i64, i64);

fn topology_named(word: &str) -> Option<Topology> {
    Some(match word {
        "" | "sockets" | "preferSockets" => Topology::Sockets,
        "cores" | "preferCores" => Topology::Cores,
        "threads" | "preferThreads" => Topology::Threads,
        "spread" | "preferSpread" => Topology::Spread,
        "any" | "preferAny" => Topology::Any,
        _ => return None,
    })
}

fn across_named(word: &str) -> Option<Across> {
    Some(match word {
        "" | "SocketsCores" => Across::SocketsCores,
        "CoresThreads" => Across::CoresThreads,
        "SocketsCoresThreads" => Across::SocketsCoresThreads,
        _ => return None,
    })
}

/// What a preference wants; admission has seen that it is one of these.
pub(super) fn topology(preference: Option<&Value>) -> Topology {
    preference.and_then(|spec| topology_named(text(spec, "cpu.preferredCPUTopology"))).unwrap_or(Topology::Sockets)
}

/// Over what, and in which ratio.
pub(super) fn spread(preference: Option<&Value>) -> (Across, i64) {
    let Some(spec) = preference else { return (Across::SocketsCores, RATIO) };
    let across = across_named(text(spec, "cpu.spreadOptions.across")).unwrap_or(Across::SocketsCores);
    let said = [count(spec, "cpu.spreadOptions.ratio"), count(spec, "preferSpreadSocketToCoreRatio")];
    (across, said.into_iter().find(|ratio| *ratio > 0).unwrap_or(RATIO))
}

/// Places vCPUs.
///
/// # Errors
/// When they cannot be spread evenly.
pub(super) fn place(vcpus: i64, preference: Option<&Value>) -> Result<Counts, Fault> {
    let wanted = topology(preference);
    let uneven = |message: String| Fault::new("instancetype.spec.cpu.guest", message);
    let spread_says = "Spec.PreferSpreadSocketToCoreRatio or Spec.CPU.PreferSpreadOptions.Ratio of";
    let (across, ratio) = spread(preference);
    if wanted == Topology::Spread {
        let provided = format!("{vcpus} vCPUs provided by the instance type are not divisible by the");
        match across {
            Across::SocketsCores if vcpus % ratio != 0 => {
                return Err(uneven(format!("{provided} {spread_says} {ratio} provided by the preference")));
            }
            Across::CoresThreads if vcpus % ratio != 0 => {
                return Err(uneven(format!("{provided} number of threads per core {ratio}")));
            }
            Across::SocketsCoresThreads if vcpus % THREADS != 0 || (vcpus / THREADS) % ratio != 0 => {
                return Err(uneven(format!(
                    "{provided} number of threads per core {THREADS} and {spread_says} {ratio}"
                )));
            }
            _ => {}
        }
    }
    if vcpus <= 1 {
        return Ok((1, 1, 1));
    }
    Ok(match (wanted, across) {
        (Topology::Sockets | Topology::Any, _) => (vcpus, 1, 1),
        (Topology::Cores, _) => (1, vcpus, 1),
        (Topology::Threads, _) => (1, 1, vcpus),
        (Topology::Spread, Across::SocketsCores) => (vcpus / ratio, ratio, 1),
        (Topology::Spread, Across::CoresThreads) => (1, vcpus / ratio, ratio),
        (Topology::Spread, Across::SocketsCoresThreads) => (vcpus / THREADS / ratio, ratio, THREADS),
    })
}

/// What is wrong with a preference's spec. The second list warns.
#[must_use]
pub fn preference_faults(spec: &Value) -> (Vec<Fault>, Vec<String>) {
    let word = text(spec, "cpu.preferredCPUTopology");
    let Some(wanted) = topology_named(word) else {
        let message = format!("unknown preferredCPUTopology {word}");
        return (vec![Fault::new("spec.cpu.preferredCPUTopology", message)], Vec::new());
    };
    let mut faults = Vec::new();
    if wanted == Topology::Spread {
        let across = text(spec, "cpu.spreadOptions.across");
        if across_named(across).is_none() {
            faults.push(Fault::new("spec.cpu.spreadOptions.across", format!("across {across} is not supported")));
        }
        if matches!(spread(Some(spec)), (Across::CoresThreads, ratio) if ratio != THREADS) {
            let message = "only a ratio of 2 (1 core 2 threads) is allowed when spreading vCPUs over cores and threads";
            faults.push(Fault::new("spec.cpu.spreadOptions.ratio", message));
        }
    }
    let mut warnings = Vec::new();
    if let Some(rest) = word.strip_prefix("prefer") {
        let new = rest.to_ascii_lowercase();
        let what = format!("PreferredCPUTopology {word} is deprecated for removal in a future release");
        warnings.push(format!("{what}, please use {new} instead"));
    }
    (faults, warnings)
}
