//! What needs an agent in the guest: its facts, users and file systems, freezing and thawing with data intact, an agent that
//! is stopped and comes back; and a session by SSH through the API. The guest is Debian's cloud image; it boots while other
//! parts are checked.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::answer::check;
use super::domain::has;
use super::{Of, Story, VERSIONS, path, shares, tpm};
use crate::cluster::{condition, text_of};
use crate::host;
use crate::lan::H100;
use crate::scenario::Checks;
use crate::scenario::guests::{self, Ssh};
use crate::websocket::{PLAIN, Received};

const DEBIAN: &str = include_str!("../../../manifests/field-report/debian.yaml");

/// The VM of that manifest.
pub(super) const NAME: &str = "report";

/// From the import to an agent that answers, on two busy cores that emulate.
const BOOT: Duration = Duration::from_secs(900);

/// libvirt notices an agent's coming and going by its channel.
const NOTICED: Duration = Duration::from_secs(90);

/// A session by SSH is silent for no longer.
const SESSION: Duration = Duration::from_secs(60);

/// What the guest's agent does besides, a user's keys and password, and a probe that needs no agent.
const BY_AGENT: &str = "      accessCredentials:
        - sshPublicKey:
            source: {secret: {secretName: report-keys}}
            propagationMethod: {qemuGuestAgent: {users: [root]}}
        - userPassword:
            source: {secret: {secretName: report-passwords}}
            propagationMethod: {qemuGuestAgent: {}}
      readinessProbe: {httpGet: {port: 8080, path: /etc/hostname}, periodSeconds: 2, failureThreshold: 2}
";

/// Keys that come and go; nobody has their other halves.
const KEYS: [&str; 2] = [
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFurrowContractKeyNumberOneAAAAAAAAAAAAAAAAA first",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFurrowContractKeyNumberTwoAAAAAAAAAAAAAAAAA second",
];

/// A password that nobody uses.
const PASSWORD: &str = "of-the-contract-suite";

/// The Debian guest on its way.
pub(super) struct Debian {
    ssh_key: PathBuf,
}

/// Makes the VM.
pub(super) fn begin(story: &Story<'_>, image: &Path) -> Result<Debian> {
    let (ssh_key, public) = Ssh::key(story.bed)?;
    let url = story.bed.publish(image, "debian.qcow2")?;
    keys_secret(story, KEYS[0])?;
    let place = "      terminationGracePeriodSeconds: 120\n";
    let memory = "guest: 768Mi";
    let manifest = DEBIAN.replace("${URL}", &url).replace("${SSH_KEY}", &public);
    let manifest = guests::replaced(&manifest, memory, "guest: 1Gi\n          maxGuest: 2Gi")?;
    let devices = "        devices:\n";
    let manifest = guests::replaced(&manifest, devices, &format!("{devices}          tpm: {{persistent: true}}\n"))?;
    let manifest = guests::replaced(&manifest, place, &format!("{place}{BY_AGENT}"))?;
    let manifest = shares::with(story, &manifest)?;
    story.cluster.apply(&manifest)?;
    Ok(Debian { ssh_key })
}

pub(super) fn run(story: &Story<'_>, debian: Debian, checks: &mut Checks) {
    let connected = story.check(checks, "agent: the Debian guest's agent connects, and SSH lets in", || {
        host::until("AgentConnected", BOOT, || agent_connected(story, true))?;
        ssh(story, &debian)?.wait(300).map(|_| ())
    });
    if connected {
        for version in VERSIONS {
            facts(story, version, checks);
        }
        freezing(story, &debian, checks);
        story.check(checks, "agent: stopped in the guest it is gone, started again it is back", || {
            comes_and_goes(story, &debian)
        });
        story.check(checks, "agent: keys and a password of Secrets are put into place, and follow them", || {
            credentials(story, &debian)
        });
        story.check(checks, "agent: it has room for more memory, in whole blocks", || has_room(story));
        story.check(checks, "agent: after a pause the guest's clock is set", || clock(story, &debian));
        story.check(checks, "agent: a session by SSH through portforward", || session(story, &debian));
        story.check(checks, "agent: it is ready as long as its HTTP server answers", || probed(story, &debian));
        shares::run(story, &|| ssh(story, &debian), checks);
        story.check(checks, "agent: with an exec probe it is ready as long as its file is there", || {
            probed_inside(story, &debian)
        });
        story.check(checks, "agent: its TPM remembers over a stop, a start and the death of the agent", || {
            tpm::remembers(story, NAME, || ssh(story, &debian))
        });
    }
    story.check(checks, "agent: its VM is deleted", || {
        story.cluster.kubectl(&["delete", "vm", NAME, "--wait=false"])?;
        story.cluster.kubectl(&["delete", "secret", "report-keys", "report-passwords"])?;
        story.cluster.wait_gone("vmi", NAME, 180)?;
        shares::gone(story)
    });
}

fn ssh(story: &Story<'_>, debian: &Debian) -> Result<Ssh> {
    Ok(Ssh::new(story.bed, &debian.ssh_key, H100, guests::address(&story.cluster, NAME)?))
}

fn agent_connected(story: &Story<'_>, wanted: bool) -> Result<()> {
    let vmi = story.cluster.get("vmi", NAME)?;
    let told = condition(&vmi, "AgentConnected").is_some_and(|c| c["status"] == "True");
    ensure!(told == wanted, "AgentConnected is {told}, the guest {}", vmi["status"]["phase"]);
    Ok(())
}

fn ask(story: &Story<'_>, version: &str, tail: &str) -> Result<Value> {
    let answer = story.proxy.call("GET", &path(version, Of::Vmi, NAME, tail), "")?;
    check(&answer, 200, "")?;
    answer.json()
}

fn facts(story: &Story<'_>, version: &str, checks: &mut Checks) {
    story.check(checks, &format!("agent: {version}: guestosinfo tells host name, system and commands"), || {
        let told = ask(story, version, "guestosinfo")?;
        ensure!(told["hostname"] == NAME, "its host name is {}", told["hostname"]);
        ensure!(told["os"]["id"] == "debian", "its system is {}", told["os"]);
        ensure!(told["guestAgentVersion"].is_string(), "its agent's version is {}", told["guestAgentVersion"]);
        let commands = told["supportedCommands"].as_array().map_or(0, Vec::len);
        ensure!(commands > 10, "its agent knows {commands} commands");
        Ok(())
    });
    story.check(checks, &format!("agent: {version}: filesystemlist tells the root and how full it is"), || {
        let told = ask(story, version, "filesystemlist")?;
        let items = told["items"].as_array().context("there are no items")?;
        let root = items.iter().find(|item| item["mountPoint"] == "/").context("there is no root")?;
        let (used, total) = (root["usedBytes"].as_u64(), root["totalBytes"].as_u64());
        ensure!(used > Some(0) && total > used, "the root is {root}");
        Ok(())
    });
    story.check(checks, &format!("agent: {version}: userlist tells who is logged in"), || {
        let told = ask(story, version, "userlist")?;
        // Whether a session without a terminal counts is the guest's affair; a list it is.
        ensure!(told["items"].is_array() || told["items"].is_null(), "it is {told}");
        Ok(())
    });
}

fn frozen(story: &Story<'_>, wanted: bool, limit: Duration) -> Result<()> {
    host::until(&format!("fsFreezeStatus, frozen: {wanted}"), limit, || {
        let status = story.cluster.get("vmi", NAME)?["status"]["fsFreezeStatus"].clone();
        ensure!((status == "frozen") == wanted, "it is {status}");
        Ok(())
    })
}

fn freezing(story: &Story<'_>, debian: &Debian, checks: &mut Checks) {
    let put = |version: &str, tail: &str, body: &str| -> Result<()> {
        check(&story.proxy.call("PUT", &path(version, Of::Vmi, NAME, tail), body)?, 200, "")
    };
    for version in VERSIONS {
        story.check(checks, &format!("agent: {version}: freeze and unfreeze leave data as they were"), || {
            let shell = ssh(story, debian)?;
            shell.shell("head -c 3000000 /dev/urandom > /root/data && sync")?;
            let before = shell.shell("sha256sum /root/data")?;
            put(version, "freeze", "")?;
            frozen(story, true, NOTICED)?;
            let told = ask(story, version, "guestosinfo")?;
            put(version, "unfreeze", "")?;
            frozen(story, false, NOTICED)?;
            ensure!(told["fsFreezeStatus"] == "frozen", "guestosinfo said {}", told["fsFreezeStatus"]);
            shell.shell("echo more >> /root/more && sync")?;
            let after = shell.shell("sha256sum /root/data")?;
            ensure!(before == after, "the data were {before}, now they are {after}");
            Ok(())
        });
    }
    story.check(checks, "agent: a freeze with a time limit ends by itself", || {
        put("v1", "freeze", r#"{"unfreezeTimeout":"8s"}"#)?;
        frozen(story, true, Duration::from_secs(7))?;
        frozen(story, false, NOTICED)?;
        ssh(story, debian)?.shell("echo thawed > /root/thawed && sync").map(|_| ())
    });
    story.check(checks, "agent: unfreeze of what is not frozen is fine", || put("v1", "unfreeze", "{}"));
}

fn comes_and_goes(story: &Story<'_>, debian: &Debian) -> Result<()> {
    let shell = ssh(story, debian)?;
    shell.shell("systemctl stop qemu-guest-agent")?;
    host::until("the agent to be gone", NOTICED, || agent_connected(story, false))?;
    let path = path("v1", Of::Vmi, NAME, "guestosinfo");
    let refused = check(&story.proxy.call("GET", &path, "")?, 409, "VMI does not have guest agent connected");
    shell.shell("systemctl start qemu-guest-agent")?;
    host::until("the agent to be back", NOTICED, || agent_connected(story, true))?;
    refused?;
    ensure!(text_of(&ask(story, "v1", "guestosinfo")?["os"]["id"]) == "debian", "its system is not told any more");
    Ok(())
}

/// The Secrets: one key, and root's password.
fn keys_secret(story: &Story<'_>, key: &str) -> Result<()> {
    let secret = |name: &str, field: &str, value: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "default"},
            "stringData": {field: value}})
    };
    story.cluster.apply(&secret("report-keys", "key", key).to_string())?;
    story.cluster.apply(&secret("report-passwords", "root", PASSWORD).to_string()).map(|_| ())
}

fn credentials(story: &Story<'_>, debian: &Debian) -> Result<()> {
    let shell = ssh(story, debian)?;
    let has_key = |wanted: &str, other: &str| {
        host::until("the key in the guest", NOTICED, || {
            let keys = shell.shell("cat /root/.ssh/authorized_keys")?;
            ensure!(keys.contains(wanted) && !keys.contains(other), "its keys are {keys}");
            Ok(())
        })
    };
    has_key(KEYS[0], KEYS[1])?;
    let vmi = story.cluster.get("vmi", NAME)?;
    let told =
        condition(&vmi, "AccessCredentialsSynchronized").context("no condition AccessCredentialsSynchronized")?;
    ensure!(told["status"] == "True", "it says {told}");
    // In the image root has no password.
    let usable = shell.shell("passwd -S root")?;
    ensure!(usable.starts_with("root P "), "the account is {usable}");
    keys_secret(story, KEYS[1])?;
    has_key(KEYS[1], KEYS[0])?;
    // Keys of others stay: this session's own.
    shell.shell("true").map(|_| ())
}

/// The guest has room for more memory, and none of it yet; what is not whole blocks is refused. Adding some is not among it:
/// a box's kubelet keeps no groups of pods, and ends when a pod is resized.
fn has_room(story: &Story<'_>) -> Result<()> {
    let memory = story.cluster.get("vmi", NAME)?["status"]["memory"].clone();
    let told = ["guestAtBoot", "guestRequested", "guestCurrent"].map(|field| text_of(&memory[field]));
    ensure!(told == ["1024Mi"; 3], "its status is {memory}");
    let document = story.domain(NAME)?;
    has("maxMemory", &["unit='KiB'", ">2097152<"]).check(&document)?;
    has("memory", &["model='virtio-mem'", "<requested unit='KiB'>0</requested>"]).check(&document)?;
    let patch = r#"{"spec":{"template":{"spec":{"domain":{"memory":{"guest":"1537Mi"}}}}}}"#;
    let refusal = story.cluster.kubectl(&["patch", "vm", NAME, "--type=merge", "-p", patch]);
    let refusal = refusal.err().context("a size of half a block was let in")?;
    ensure!(format!("{refusal:#}").contains("Guest memory must be 2Mi aligned"), "it was refused: {refusal:#}");
    Ok(())
}

/// A guest that was stopped for a while goes on with the node's time.
fn clock(story: &Story<'_>, debian: &Debian) -> Result<()> {
    const STOPPED: Duration = Duration::from_secs(25);
    let shell = ssh(story, debian)?;
    // Nothing else may set it.
    shell.shell("systemctl stop systemd-timesyncd chrony 2>/dev/null || true")?;
    check(&story.proxy.call("PUT", &path("v1", Of::Vmi, NAME, "pause"), "")?, 200, "")?;
    std::thread::sleep(STOPPED);
    check(&story.proxy.call("PUT", &path("v1", Of::Vmi, NAME, "unpause"), "")?, 200, "")?;
    host::until("the guest's clock to be the node's", Duration::from_secs(60), || {
        let guest: u64 = shell.shell("date +%s")?.trim().parse().context("the guest's time")?;
        let node = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let late = node.saturating_sub(guest);
        ensure!(late < STOPPED.as_secs() / 2, "it is {late} s late");
        Ok(())
    })
}

/// The node asks through the guest's tap, and no agent has a part in it.
fn probed(story: &Story<'_>, debian: &Debian) -> Result<()> {
    let shell = ssh(story, debian)?;
    ready(story, false).context("before there is a server")?;
    shell.shell("systemd-run --unit probed python3 -m http.server --directory / 8080")?;
    ready(story, true).context("its server answers")?;
    shell.shell("systemctl stop probed")?;
    ready(story, false).context("its server is gone")
}

fn ready(story: &Story<'_>, wanted: bool) -> Result<()> {
    host::until(&format!("Ready: {wanted}"), NOTICED, || {
        let vmi = story.cluster.get("vmi", NAME)?;
        let told = condition(&vmi, "Ready").is_some_and(|c| c["status"] == "True");
        ensure!(told == wanted, "Ready is {told}");
        Ok(())
    })
}

/// A guest has one readiness probe: it is started anew with this one, which its agent carries out.
fn probed_inside(story: &Story<'_>, debian: &Debian) -> Result<()> {
    let probe = json!({"httpGet": null, "exec": {"command": ["test", "-e", "/run/well"]}, "timeoutSeconds": 5});
    let patch = json!({"spec": {"template": {"spec": {"readinessProbe": probe}}}}).to_string();
    story.cluster.kubectl(&["patch", "vm", NAME, "--type=merge", "-p", &patch])?;
    let before = story.uid(NAME)?;
    check(&story.proxy.call("PUT", &path("v1", Of::Vm, NAME, "restart"), "{}")?, 202, "")?;
    story.another(NAME, before.as_deref(), BOOT)?;
    host::until("its agent", BOOT, || agent_connected(story, true))?;
    let shell = ssh(story, debian)?;
    shell.wait(300)?;
    ready(story, false).context("before there is a file")?;
    shell.shell("touch /run/well")?;
    ready(story, true).context("its file is there")?;
    shell.shell("rm /run/well")?;
    ready(story, false).context("its file is gone")
}

/// What `virtctl ssh` does: a session whose connection is a port-forward.
fn session(story: &Story<'_>, debian: &Debian) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    let path = path("v1", Of::Vmi, NAME, "portforward/22/tcp");
    let mut guest = story.proxy.open(&path, Some(PLAIN))?.stream()?;
    let mut to_guest = guest.sender()?;
    std::thread::scope(|scope| {
        let told = scope.spawn(|| Ssh::through(&debian.ssh_key, &port, "hostname; head -c 3000000 /dev/zero | wc -c"));
        let (mut client, _) = listener.accept()?;
        let mut from_client = client.try_clone()?;
        scope.spawn(move || -> Result<()> {
            let mut buffer = [0; 16 << 10];
            loop {
                match from_client.read(&mut buffer)? {
                    0 => return to_guest.close(),
                    read => to_guest.send(&buffer[..read])?,
                }
            }
        });
        while let Received::Bytes(bytes) = guest.receive(SESSION)? {
            client.write_all(&bytes)?;
        }
        client.shutdown(Shutdown::Both)?;
        let told = told.join().map_err(|_| anyhow::anyhow!("the thread of ssh panicked"))??;
        ensure!(told.split_whitespace().collect::<Vec<_>>() == [NAME, "3000000"], "it printed {told}");
        Ok(())
    })
}
