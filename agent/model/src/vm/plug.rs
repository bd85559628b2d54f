//! Sizes of a guest that runs: which change is carried out in place, and which waits for a restart. The texts are
//! KubeVirt's (`pkg/virt-controller/watch/vm`, `handleCPUChangeRequest`): people search for them. Memory is
//! `super::memory`'s. Refuses to plug anything.

use super::memory::ClusterRoom;

/// How many sockets a guest has and how many it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sockets {
    /// What the template says.
    pub wanted: i64,
    /// What the guest's spec says.
    pub current: i64,
    /// What its domain has room for.
    pub most: i64,
    /// An earlier change is still being carried out.
    pub plugging: bool,
    /// The guest is moving to another node.
    pub migrating: bool,
}

/// What becomes of a change of size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plug {
    /// There is nothing to change.
    Nothing,
    /// Change it now.
    Now,
    /// Try again when the guest has changed. With the reason in words.
    Later(&'static str),
    /// It waits for a restart. With the reason in words.
    Restart(&'static str),
}

/// Judges a change of sockets.
#[must_use]
pub fn sockets(sockets: Sockets) -> Plug {
    match sockets {
        Sockets { wanted, current, .. } if wanted == current => Plug::Nothing,
        Sockets { plugging: true, .. } => Plug::Later("another CPU hotplug is in progress"),
        Sockets { migrating: true, .. } => Plug::Later("CPU hotplug is not allowed while VMI is migrating"),
        Sockets { wanted, most, .. } if wanted > most => {
            Plug::Restart("CPU sockets updated in template spec to a value higher than what's available")
        }
        Sockets { wanted, current, .. } if wanted < current => {
            Plug::Restart("Reduction of CPU socket count requires a restart")
        }
        _ => Plug::Now,
    }
}

/// The most sockets a guest's domain has room for when its spec names none: what the cluster's settings say, or else four
/// times as many as it starts with, as KubeVirt has it, within the processors that the machine takes. All of them positive.
#[must_use]
pub fn room([sockets, cores, threads]: [i64; 3], vcpus_max: i64, cluster: ClusterRoom) -> i64 {
    /// KubeVirt's default of `liveUpdateConfiguration.maxHotplugRatio`.
    const RATIO: i64 = 4;
    let each = cores.max(1).saturating_mul(threads.max(1));
    let ratio = cluster.ratio.unwrap_or(RATIO).max(1);
    let most = cluster.max_sockets.unwrap_or_else(|| sockets.saturating_mul(ratio));
    most.min(vcpus_max / each).max(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Sockets = Sockets { wanted: 2, current: 2, most: 8, plugging: false, migrating: false };

    #[test]
    fn sockets_are_added_within_the_room_and_never_taken() {
        let check = |change: Sockets, expected| assert_eq!(sockets(change), expected, "{change:?}");
        check(TWO, Plug::Nothing);
        check(Sockets { plugging: true, migrating: true, ..TWO }, Plug::Nothing);
        check(Sockets { wanted: 3, ..TWO }, Plug::Now);
        check(Sockets { wanted: 8, ..TWO }, Plug::Now);
        let above = Plug::Restart("CPU sockets updated in template spec to a value higher than what's available");
        check(Sockets { wanted: 9, ..TWO }, above);
        check(Sockets { wanted: 1, ..TWO }, Plug::Restart("Reduction of CPU socket count requires a restart"));
        check(Sockets { wanted: 3, plugging: true, ..TWO }, Plug::Later("another CPU hotplug is in progress"));
        let moving = Plug::Later("CPU hotplug is not allowed while VMI is migrating");
        check(Sockets { wanted: 3, migrating: true, ..TWO }, moving);
    }

    #[test]
    fn the_room_is_four_times_the_size_within_the_machine() {
        let check =
            |size: [i64; 3], expected| assert_eq!(room(size, 255, ClusterRoom::default()), expected, "{size:?}");
        check([1, 1, 1], 4);
        check([2, 4, 2], 8);
        check([16, 4, 2], 31);
        check([200, 1, 1], 255);
        // What is too large already is admission's to refuse.
        check([300, 1, 1], 300);
    }

    #[test]
    fn the_room_is_what_the_cluster_says() {
        let check = |max_sockets, ratio, expected| {
            let cluster = ClusterRoom { max_sockets, ratio, ..ClusterRoom::default() };
            assert_eq!(room([2, 1, 1], 255, cluster), expected, "{cluster:?}");
        };
        check(None, Some(2), 4);
        check(None, Some(1), 2);
        check(Some(6), Some(2), 6);
        check(Some(1), None, 2);
        check(Some(1000), None, 255);
    }
}
