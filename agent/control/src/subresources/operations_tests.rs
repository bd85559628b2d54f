//! Every operation of the table, through the whole server: what is done, and what is said of what is not there.

use serde_json::{Value, json};

use super::route::{Resource, SUBRESOURCES, Work};
use super::server_tests::{Bench, message, on};

const AGENT: &str = "furrow:agent:n1";

#[tokio::test]
async fn each_on_an_object_that_is_not_there_says_so_or_that_it_is_not_carried_out() {
    let bench = Bench::new(AGENT).await;
    for known in SUBRESOURCES {
        let tail = if known.takes_port() { format!("{}/22", known.name) } else { known.name.to_owned() };
        let path = on(known.resource.plural(), "nothing", &tail);
        let (code, text) = message(&bench.jane(known.method().as_str(), &path, "").await);
        let expected = match known.work {
            Work::Later => (501, format!("{}/{} is not supported yet", known.resource.plural(), known.name)),
            Work::Stream(_) | Work::Forward => {
                (400, "this is a stream: ask for it with an upgrade to websocket".to_owned())
            }
            _ => (404, format!("{}.kubevirt.io \"nothing\" not found", known.resource.kind().to_ascii_lowercase())),
        };
        assert_eq!((code, text), expected, "{path}");
    }
    assert!(bench.seen.lock().unwrap().patches.is_empty() && bench.calls.lock().unwrap().is_empty());
    bench.server.stop().await;
}

/// KubeVirt's operations that nothing here carries out; a row that is added to the table has to be named here.
#[test]
fn what_is_not_carried_out_is_known() {
    let later = SUBRESOURCES.iter().filter(|known| known.work == Work::Later);
    let names: Vec<_> = later.map(|known| format!("{}/{}", known.resource.plural(), known.name)).collect();
    let expected = [
        "virtualmachines/memorydump",
        "virtualmachines/removememorydump",
        "virtualmachineinstances/backup",
        "virtualmachineinstances/redefine-checkpoint",
        "virtualmachineinstances/vsock",
        "virtualmachineinstances/sev/fetchcertchain",
        "virtualmachineinstances/sev/querylaunchmeasurement",
        "virtualmachineinstances/sev/setupsession",
        "virtualmachineinstances/sev/injectlaunchsecret",
    ];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn a_migration_of_a_guest_that_may_move_is_asked_for() {
    let bench = Bench::new(AGENT).await;
    let path = on(Resource::VirtualMachines.plural(), "lone", "migrate");
    let body = r#"{"addedNodeSelector": {"zone": "b"}}"#;
    assert_eq!(bench.jane("PUT", &path, body).await, (202, String::new()));
    assert_eq!(bench.jane("PUT", &path, r#"{"dryRun": ["All"]}"#).await, (202, String::new()));
    let made = std::mem::take(&mut bench.seen.lock().unwrap().patches);
    let [(path, request), (tried, _)] = made.as_slice() else { panic!("{made:?}") };
    assert!(path.contains("/shop/virtualmachineinstancemigrations") && !path.contains("dryRun"), "{path}");
    assert!(tried.contains("dryRun=All"), "{tried}");
    assert_eq!(request["spec"], json!({"vmiName": "lone", "addedNodeSelector": {"zone": "b"}}));
    bench.server.stop().await;
}

#[tokio::test]
async fn a_volume_is_written_to_the_machine_or_to_its_guest_alone() {
    let bench = Bench::new(AGENT).await;
    let body = json!({"name": "data", "disk": {"disk": {"bus": "scsi"}, "serial": "data"},
        "volumeSource": {"dataVolume": {"name": "web-data"}}})
    .to_string();
    for (resource, name) in [(Resource::VirtualMachines, "web"), (Resource::VirtualMachineInstances, "lone")] {
        let path = on(resource.plural(), name, "addvolume");
        assert_eq!(bench.jane("PUT", &path, &body).await, (202, String::new()), "{path}");
        let (code, text) = message(&bench.jane("PUT", &path, "{}").await);
        assert_eq!((code, text.as_str()), (400, "AddVolumeOptions requires name to be set"), "{path}");
        let path = on(resource.plural(), name, "removevolume");
        let (code, text) = message(&bench.jane("PUT", &path, r#"{"name": "gone"}"#).await);
        assert_eq!(code, 409);
        assert!(text.ends_with("Unable to remove volume [gone] because it does not exist"), "{text}");
    }
    let patches = std::mem::take(&mut bench.seen.lock().unwrap().patches);
    let volume = |spec: &Value| (spec["volumes"][0].clone(), spec["domain"]["devices"]["disks"][0]["name"].clone());
    let expected = (json!({"name": "data", "dataVolume": {"name": "web-data", "hotpluggable": true}}), json!("data"));
    let [(machine, written), (guest, own)] = patches.as_slice() else { panic!("{patches:?}") };
    assert_eq!(machine, "/apis/kubevirt.io/v1/namespaces/shop/virtualmachines/web");
    assert_eq!(volume(&written["spec"]["template"]["spec"]), expected);
    assert_eq!((&written["metadata"]["resourceVersion"], &written["metadata"]["uid"]), (&json!("7"), &json!("v-1")));
    assert_eq!(guest, "/apis/kubevirt.io/v1/namespaces/shop/virtualmachineinstances/lone");
    assert_eq!(volume(&own["spec"]), expected);
    assert_eq!(own["metadata"]["annotations"]["furrow.io/ephemeral-volumes"], r#"["data"]"#);
    bench.server.stop().await;
}

#[tokio::test]
async fn a_machine_that_is_sent_is_expanded_in_its_namespace() {
    let bench = Bench::new(AGENT).await;
    let path = "/apis/subresources.kubevirt.io/v1/namespaces/shop/expand-vm-spec";
    let vm = |metadata: Value, spec: Value| {
        let mut full = json!({"runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}}}}});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": metadata, "spec": full})
            .to_string()
    };
    let (code, back) = bench.jane("PUT", path, &vm(json!({"name": "sent"}), json!({}))).await;
    let back: Value = serde_json::from_str(&back).unwrap();
    assert_eq!(
        (code, &back["metadata"]["name"], &back["spec"]["runStrategy"]),
        (200, &json!("sent"), &json!("Halted"))
    );
    let refused = |body: String| {
        let bench = &bench;
        async move { message(&bench.jane("PUT", path, &body).await) }
    };
    let elsewhere = vm(json!({"name": "sent", "namespace": "bank"}), json!({}));
    assert_eq!(refused(elsewhere).await, (400, "VM namespace must be empty or shop".to_owned()));
    assert_eq!(refused(String::new()).await, (400, "empty request body".to_owned()));
    let typed = vm(json!({"name": "sent"}), json!({"instancetype": {"name": "none"}}));
    let (code, text) = refused(typed).await;
    assert_eq!(code, 400);
    assert!(text.contains("\"none\" does not exist"), "{text}");
    bench.server.stop().await;
}
