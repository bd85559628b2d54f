//! What a guest mounts by virtiofs: there before it starts, following its objects while it runs, gone with it.

use super::*;

/// A world whose guest mounts a ConfigMap, a Secret and its own labels.
fn sharing() -> Bench {
    let bench = Bench::new();
    put(&bench, "ConfigMap", json!({"settings.ini": "colour=blue"}));
    put(&bench, "Secret", json!({"password": "b3BlbiBzZXNhbWU="}));
    bench.world.change(VMI, |vmi| {
        vmi["metadata"]["labels"] = json!({"app": "shown"});
        let names = ["map", "keys", "down"].map(|name| json!({"name": name, "virtiofs": {}}));
        vmi["spec"]["domain"]["devices"]["filesystems"] = json!(names);
        let volumes = [
            json!({"name": "map", "configMap": {"name": "o"}}),
            json!({"name": "keys", "secret": {"secretName": "o"}}),
            json!({"name": "down", "downwardAPI": {"fields": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}),
        ];
        vmi["spec"]["volumes"].as_array_mut().expect("volumes").extend(volumes);
    });
    bench
}

fn path(kind: &str) -> String {
    format!("/api/v1/namespaces/default/{}s/o", kind.to_ascii_lowercase())
}

fn put(bench: &Bench, kind: &str, data: Value) {
    let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "o"}, "data": data});
    bench.world.put(&path(kind), object);
}

fn shown(bench: &Bench, file: &str) -> Option<String> {
    std::fs::read_to_string(bench.guests.path().join(SHARES).join("uid-1").join(file)).ok()
}

#[tokio::test]
async fn files_are_there_before_the_guest_and_gone_after_it() {
    let mut bench = sharing();
    let wake = bench.pass().await.expect("the owner goes on");
    assert_eq!(bench.phase(), "Running", "{}", bench.condition("Synchronized"));
    assert!(wake <= Duration::from_secs(60), "objects are looked at within a minute, not after {wake:?}");
    assert_eq!(shown(&bench, "map/settings.ini").as_deref(), Some("colour=blue"));
    assert_eq!(shown(&bench, "keys/password").as_deref(), Some("open sesame"));
    assert!(shown(&bench, "down/labels").is_some_and(|labels| labels.contains("app=\"shown\"")));
    assert!(!bench.guests.path().join("uid-1/volume-map.iso").exists(), "nobody would read it");
    bench.assert_the_same_again_writes_nothing().await;
    bench.world.end(DOMAIN, OffReason::Shutdown);
    bench.pass().await;
    assert_eq!(bench.phase(), "Succeeded");
    bench.assert_nothing_left();
}

#[tokio::test]
async fn files_follow_their_objects_and_stay_where_there_is_none() {
    let mut bench = sharing();
    bench.pass().await;
    put(&bench, "ConfigMap", json!({"settings.ini": "colour=red", "more.ini": "size=2"}));
    bench.world.change(VMI, |vmi| vmi["metadata"]["labels"]["app"] = json!("changed"));
    bench.world.state().objects.remove(&path("Secret"));
    bench.pass().await;
    assert!(shown(&bench, "down/labels").is_some_and(|labels| labels.contains("app=\"changed\"")), "told at once");
    assert_eq!(shown(&bench, "map/settings.ini").as_deref(), Some("colour=blue"), "not asked for at each pass");
    // What an agent does first, and what one does that has waited long enough.
    bench.restart_agent();
    bench.pass().await;
    assert_eq!(shown(&bench, "map/settings.ini").as_deref(), Some("colour=red"));
    assert_eq!(shown(&bench, "map/more.ini").as_deref(), Some("size=2"));
    assert_eq!(shown(&bench, "keys/password").as_deref(), Some("open sesame"));
    assert_eq!(bench.phase(), "Running");
    assert!(bench.condition("Synchronized").is_null(), "a guest that runs does not fail for it");
}

#[tokio::test]
async fn a_guest_does_not_start_without_its_files() {
    let mut bench = sharing();
    bench.world.state().objects.remove(&path("Secret"));
    bench.pass().await;
    assert!(bench.world.state().started.is_empty());
    assert_eq!(bench.condition("Synchronized")["reason"], "VolumeSourceUnavailable");
    put(&bench, "Secret", json!({}));
    bench.pass().await;
    assert_eq!(bench.phase(), "Running");
}
