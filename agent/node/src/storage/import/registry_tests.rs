//! A registry on the loopback: files by path, and what it asks for before it gives them. Everything is fetched as an import
//! fetches it; only the volume is a buffer.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use furrow_model::oci::SearchError;
use furrow_model::proxy::Proxies;
use serde_json::json;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::super::layers::{self, Flow};
use super::super::protocol::{Location, Origin};
use super::super::take;
use super::*;

const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// What the registry asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lock {
    Open,
    Basic,
    Token,
}

#[derive(Default)]
struct Content {
    files: HashMap<String, Vec<u8>>,
    asked: Vec<String>,
    /// Blobs break off after so many bytes, once.
    breaks_at: Option<usize>,
}

struct Fake {
    address: String,
    content: Arc<Mutex<Content>>,
    runtime: Runtime,
}

impl Fake {
    fn start(lock: Lock) -> Self {
        // The only failure is that a provider is installed already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let content = Arc::new(Mutex::new(Content::default()));
        let (served, place) = (Arc::clone(&content), address.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (served, place) = (Arc::clone(&served), place.clone());
                std::thread::spawn(move || drop(serve(&client.unwrap(), &place, lock, &served)));
            }
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { address, content, runtime }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    fn put(&self, path: &str, bytes: Vec<u8>) {
        self.content().files.insert(format!("/v2/disks/x/{path}"), bytes);
    }

    /// Puts an image there under a tag, and gives its digest.
    fn publish(&self, tag: &str, layers: &[(&str, Vec<u8>)]) -> Digest {
        let mut parts = Vec::new();
        for (media_type, bytes) in layers {
            let digest = Digest::of(bytes);
            parts.push(json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()}));
            self.put(&format!("blobs/{digest}"), bytes.clone());
        }
        let manifest = json!({"schemaVersion": 2, "config": {}, "layers": parts}).to_string().into_bytes();
        self.name(tag, manifest)
    }

    fn name(&self, tag: &str, document: Vec<u8>) -> Digest {
        let digest = Digest::of(&document);
        self.put(&format!("manifests/{digest}"), document.clone());
        self.put(&format!("manifests/{tag}"), document);
        digest
    }

    fn registry(&self, version: &str, login: Option<(&str, &str)>) -> Registry {
        self.registry_as(version, login, false)
    }

    fn registry_as(&self, version: &str, login: Option<(&str, &str)>, plain_http: bool) -> Registry {
        let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
        let location = Location::Registry { image: String::new(), path: None, plain_http };
        let origin = Origin { location, login: login.clone(), certificates: vec![], proxies: Proxies::default() };
        let net = Net::new(&origin, (self.runtime.handle().clone(), CancellationToken::new())).unwrap();
        Registry::new(net, &format!("{}/disks/x{version}", self.address), plain_http, login).unwrap()
    }

    /// The disk's bytes, and the image's digest.
    fn pull(&self, version: &str, path: Option<&str>) -> Result<(Vec<u8>, Digest), ImportError> {
        self.pull_as(version, path, None)
    }

    fn pull_as(
        &self,
        version: &str,
        path: Option<&str>,
        login: Option<(&str, &str)>,
    ) -> Result<(Vec<u8>, Digest), ImportError> {
        let mut registry = self.registry(version, login);
        let image = registry.image()?;
        let mut bytes = Vec::new();
        layers::find(&registry, (&image, path), &Arc::default(), 1 << 20, |disk, len| {
            disk.read_to_end(&mut bytes).map_err(ImportError::of_read)?;
            assert_eq!(bytes.len() as u64, len);
            Ok(Flow::GoOn)
        })?;
        Ok((bytes, image.digest))
    }

    fn asked(&self, what: &str) -> usize {
        self.content().asked.iter().filter(|path| path.contains(what)).count()
    }
}

fn serve(client: &TcpStream, place: &str, lock: Lock, content: &Mutex<Content>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    loop {
        let (mut request, mut login, mut from) = (String::new(), String::new(), 0);
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let lower = header.to_ascii_lowercase();
            if lower.starts_with("authorization:") {
                login = header["authorization:".len()..].trim().to_owned();
            }
            if let Some(range) = lower.strip_prefix("range: bytes=") {
                from = range.trim().trim_end_matches('-').parse().unwrap();
            }
            if header.trim().is_empty() {
                break;
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let basic = format!("Basic {}", BASE64_STANDARD.encode("joe:secret"));
        let (code, asks, body) = {
            let mut content = content.lock().unwrap();
            content.asked.push(path.clone());
            let file = content.files.get(&path).cloned();
            match lock {
                _ if path.starts_with("/token") => {
                    match login == basic && path.contains("repository%3Adisks%2Fx%3Apull") {
                        true => ("200 OK", None, br#"{"token": "t-1"}"#.to_vec()),
                        false => ("401 Unauthorized", None, Vec::new()),
                    }
                }
                Lock::Basic if login != basic => ("401 Unauthorized", Some("Basic realm=x".to_owned()), Vec::new()),
                Lock::Token if login != "Bearer t-1" => {
                    let asks = format!("Bearer realm=\"http://{place}/token\",service=\"r\"");
                    ("401 Unauthorized", Some(asks), Vec::new())
                }
                _ => match file {
                    Some(file) if from > 0 => ("206 Partial Content", None, file),
                    Some(file) => ("200 OK", None, file),
                    None => ("404 Not Found", None, Vec::new()),
                },
            }
        };
        let breaks = if path.contains("/blobs/") { content.lock().unwrap().breaks_at.take() } else { None };
        let (len, rest) = (body.len(), &body[from.min(body.len())..]);
        let mut head = format!("HTTP/1.1 {code}\r\ncontent-length: {}\r\n", rest.len());
        if let Some(asks) = asks {
            head += &format!("www-authenticate: {asks}\r\n");
        }
        if from > 0 {
            head += &format!("content-range: bytes {from}-{}/{len}\r\n", len - 1);
        }
        let mut out = client;
        out.write_all(format!("{head}\r\n").as_bytes())?;
        if let Some(at) = breaks {
            out.write_all(&rest[..at])?;
            return client.shutdown(std::net::Shutdown::Both);
        }
        out.write_all(rest)?;
    }
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A disk that does not compress to nothing.
fn disk(seed: u8) -> Vec<u8> {
    (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed).collect()
}

fn fails(result: Result<(Vec<u8>, Digest), ImportError>, part: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(part), "{error}");
}

#[test]
fn plain_gzip_and_zstd_layers_give_the_same_disk() {
    let fake = Fake::start(Lock::Open);
    let layer = tar(&[("etc/hostname", b"x"), ("disk/a.img", &disk(0))]);
    for (tag, kind, bytes) in [
        ("plain", PLAIN, layer.clone()),
        ("gzip", GZIP, gzip(&layer)),
        ("zstd", ZSTD, zstd::encode_all(layer.as_slice(), 1).unwrap()),
        // What it is, the content says.
        ("misnamed", PLAIN, gzip(&layer)),
    ] {
        let digest = fake.publish(tag, &[(kind, bytes)]);
        assert_eq!(fake.pull(&format!(":{tag}"), None).unwrap(), (disk(0), digest.clone()), "{tag}");
        assert_eq!(fake.pull(&format!("@{digest}"), Some("/disk/a.img")).unwrap().0, disk(0), "{tag}");
    }
}

#[test]
fn the_topmost_layer_counts_and_those_below_the_disk_are_not_fetched() {
    let fake = Fake::start(Lock::Open);
    let below = gzip(&tar(&[("disk/old.img", &disk(1))]));
    let (middle, top) = (tar(&[("disk/new.img", &disk(2))]), tar(&[("etc/x", b"y")]));
    fake.publish("1", &[(GZIP, below.clone()), (PLAIN, middle), (PLAIN, top)]);
    assert_eq!(fake.pull(":1", None).unwrap().0, disk(2));
    assert_eq!(fake.asked(&Digest::of(&below).to_string()), 0);
    assert_eq!(fake.pull(":1", Some("/disk/old.img")).unwrap().0, disk(1));
}

#[test]
fn a_tag_that_moved_is_another_image() {
    let fake = Fake::start(Lock::Open);
    let first = fake.publish("latest", &[(PLAIN, tar(&[("disk/a", &disk(1))]))]);
    assert_eq!(fake.pull("", None).unwrap(), (disk(1), first.clone()));
    let second = fake.publish("latest", &[(PLAIN, tar(&[("disk/a", &disk(2))]))]);
    assert_ne!(first, second);
    assert_eq!(fake.pull("", None).unwrap(), (disk(2), second));
    assert_eq!(fake.pull(&format!("@{first}"), None).unwrap(), (disk(1), first));
}

#[test]
fn an_index_is_followed_and_named_by_its_own_digest() {
    let fake = Fake::start(Lock::Open);
    let image = fake.publish("amd64", &[(PLAIN, tar(&[("disk/a", &disk(3))]))]);
    let entry = |digest: &Digest, architecture: &str| json!({"digest": digest.to_string(), "platform": {"os": "linux", "architecture": architecture}});
    let other = Digest::of(b"other");
    let index = json!({"schemaVersion": 2, "manifests": [entry(&other, "arm64"), entry(&image, "amd64")]});
    let digest = fake.name("multi", index.to_string().into_bytes());
    assert_eq!(fake.pull(":multi", None).unwrap(), (disk(3), digest));
    let index = json!({"schemaVersion": 2, "manifests": [entry(&other, "arm64")]});
    fake.name("arm", index.to_string().into_bytes());
    fails(fake.pull(":arm", None), "no image for linux/amd64, only for linux/arm64");
}

#[test]
fn what_has_another_digest_or_length_is_refused_by_name() {
    let fake = Fake::start(Lock::Open);
    let layer = tar(&[("disk/a", &disk(4))]);
    let blob = Digest::of(&layer);
    let digest = fake.publish("1", &[(PLAIN, layer.clone())]);
    let mut altered = layer.clone();
    altered[1000] ^= 1;
    fake.put(&format!("blobs/{blob}"), altered);
    fails(fake.pull(":1", None), &format!("blob {blob} has digest sha256:"));
    fake.put(&format!("blobs/{blob}"), layer[..layer.len() - 512].to_vec());
    fails(fake.pull(":1", None), &format!("bytes, {} bytes was expected", layer.len()));
    fake.put(&format!("manifests/{digest}"), b"{}".to_vec());
    let wrong = fake.pull(&format!("@{digest}"), None).unwrap_err();
    assert!(
        matches!(wrong, ImportError::Mismatch { .. }) && wrong.to_string().contains(&digest.to_string()),
        "{wrong}"
    );
    let missing = Digest::of(b"missing");
    fails(
        fake.pull(&format!("@{missing}"), None),
        &format!("404 Not Found for http://{}/v2/disks/x/manifests/{missing}", fake.address),
    );
}

#[test]
fn an_image_without_a_disk_or_with_several_is_refused() {
    let fake = Fake::start(Lock::Open);
    fake.publish("none", &[(PLAIN, tar(&[("boot/vmlinuz", b"x")]))]);
    assert!(matches!(fake.pull(":none", None), Err(ImportError::Disk(SearchError::None(_)))));
    fake.publish("two", &[(PLAIN, tar(&[("disk/a", b"x"), ("disk/b", b"y")]))]);
    fails(fake.pull(":two", None), "disk/a and disk/b");
    assert_eq!(fake.pull(":two", Some("/disk/b")).unwrap().0, b"y");
    fake.publish("garbage", &[(GZIP, gzip(&disk(5)))]);
    assert!(fake.pull(":garbage", None).is_err());
}

#[test]
fn a_password_or_a_token_is_given_to_who_asks_for_it() {
    for lock in [Lock::Basic, Lock::Token] {
        let fake = Fake::start(lock);
        fake.publish("1", &[(PLAIN, tar(&[("disk/a", &disk(6))]))]);
        assert_eq!(fake.pull_as(":1", None, Some(("joe", "secret"))).unwrap().0, disk(6));
        assert_eq!(fake.asked("/token"), usize::from(lock == Lock::Token));
        let refused = fake.pull_as(":1", None, Some(("joe", "wrong"))).unwrap_err();
        assert!(refused.severity() == Severity::Permanent && refused.to_string().contains("401"), "{refused}");
        assert!(!refused.to_string().contains("wrong"));
        assert!(fake.pull(":1", None).is_err());
    }
}

#[test]
fn an_insecure_registry_is_asked_without_tls_and_by_tls_where_it_hangs_up() {
    let fake = Fake::start(Lock::Open);
    let digest = fake.publish("1", &[(PLAIN, tar(&[("disk/a", &disk(9))]))]);
    assert_eq!(fake.registry_as(":1", None, true).image().unwrap().digest, digest);
    assert_eq!(fake.content().asked, ["/v2/", "/v2/disks/x/manifests/1"]);
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = deaf.local_addr().unwrap().to_string();
    let asked = std::thread::spawn(move || {
        let mut byte = [0];
        deaf.accept().unwrap().0.read_exact(&mut byte).unwrap();
        byte[0]
    });
    let fake = Fake { address, ..fake };
    let mut registry = fake.registry_as(":1", None, true);
    registry.settle().unwrap();
    assert_eq!((asked.join().unwrap(), registry.base.scheme()), (b'G', "https"));
}

#[test]
fn a_blob_that_broke_off_is_taken_up_where_it_was() {
    let fake = Fake::start(Lock::Open);
    let layer = gzip(&tar(&[("disk/a", &disk(7))]));
    fake.publish("1", &[(GZIP, layer)]);
    fake.content().breaks_at = Some(50_000);
    assert_eq!(fake.pull(":1", None).unwrap().0, disk(7));
    assert_eq!(fake.asked("/blobs/"), 2);
}

#[test]
fn files_come_from_the_topmost_layer_that_has_them() {
    let fake = Fake::start(Lock::Open);
    let below = gzip(&tar(&[("boot/vmlinuz", b"old"), ("boot/initrd", &disk(1))]));
    fake.publish("1", &[(GZIP, below), (PLAIN, tar(&[("boot/vmlinuz", b"new")]))]);
    let mut registry = fake.registry(":1", None);
    let image = registry.image().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let take = |path: &str| {
        let to = dir.path().join("file");
        take::write(&registry, (&image, path), &to, &Arc::default())?;
        Ok::<_, ImportError>(std::fs::read(to).unwrap())
    };
    assert_eq!(take("/boot/vmlinuz").unwrap(), b"new");
    assert_eq!(take("/boot/initrd").unwrap(), disk(1));
    assert_eq!(take("/boot/other").unwrap_err().to_string(), "the image has no file /boot/other");
}

#[test]
fn a_disk_is_measured_by_its_head() {
    let fake = Fake::start(Lock::Open);
    fake.publish("raw", &[(GZIP, gzip(&tar(&[("disk/a", &disk(8))])))]);
    let size = |tag: &str| {
        let mut registry = fake.registry(tag, None);
        let image = registry.image()?;
        layers::measure(&registry, &image, None)
    };
    assert_eq!(size(":raw").unwrap(), 200_000);
    fake.publish("empty", &[(PLAIN, tar(&[("disk/a", b"")]))]);
    assert!(matches!(size(":empty"), Err(ImportError::Empty)));
    fake.publish("packed", &[(PLAIN, tar(&[("disk/a", &gzip(b"x"))]))]);
    assert!(matches!(size(":packed"), Err(ImportError::Format { .. })));
    let mut qcow2 = vec![0u8; 1 << 20];
    let head: [(usize, &[u8]); 7] = [
        (0, b"QFI\xfb"),
        (4, &3u32.to_be_bytes()),
        (20, &16u32.to_be_bytes()),
        (24, &(5u64 << 30).to_be_bytes()),
        (36, &10u32.to_be_bytes()),
        (40, &(3u64 << 16).to_be_bytes()),
        (100, &104u32.to_be_bytes()),
    ];
    for (at, bytes) in head {
        qcow2[at..at + bytes.len()].copy_from_slice(bytes);
    }
    fake.publish("qcow2", &[(GZIP, gzip(&tar(&[("disk/a.qcow2", &qcow2)])))]);
    assert_eq!(size(":qcow2").unwrap(), 5 << 30);
}
