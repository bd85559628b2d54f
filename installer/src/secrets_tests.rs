//! References that are opened without a TPM, and what is said of the others.

use super::*;

const TOKEN: &str = "K10aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa::abcdef.0123456789abcdef";

fn document(more: &str) -> String {
    format!(
        "# a comment\napiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n1\nmanagement: {{interface: e, address: 10.0.0.1}}\nceph: {{disks: [{{path: /dev/b}}]}}\n{more}"
    )
}

fn hash() -> String {
    format!("$6$saltsalt${}", "a".repeat(86))
}

/// A directory with these files.
fn beside(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).expect("written");
    }
    dir
}

#[tokio::test]
async fn a_document_without_references_stays_as_it_is() {
    for text in [document(""), document(&format!("admin: {{passwordHash: '{}'}}", hash())), "no: [document".to_owned()]
    {
        assert_eq!(resolved(text.clone(), None).await.expect("unchanged"), text);
    }
}

#[tokio::test]
async fn files_beside_node_yaml_take_their_places() {
    let dir = beside(&[("token", &format!("{TOKEN}\n")), ("hash", &hash()), ("url", "http://u:p@proxy:3128\n")]);
    let text = document(
        "join: {server: 'https://a:6443', token: {file: token}}\nadmin: {passwordHash: {file: hash}}\nproxy: {https: {file: url}, noProxy: [a]}\n",
    );
    let config = config::parse(&resolved(text, Some(dir.path())).await.expect("opened")).expect("valid");
    let value = |key| config.secret(key).and_then(Secret::value).map(str::to_owned);
    assert_eq!(value(SecretKey::JoinToken).as_deref(), Some(TOKEN));
    assert_eq!(value(SecretKey::PasswordHash), Some(hash()));
    assert_eq!(value(SecretKey::ProxyHttps).as_deref(), Some("http://u:p@proxy:3128"));
    assert_eq!(value(SecretKey::ProxyHttp), None);
    assert!(config.references().is_empty());
    assert_eq!(config.proxy.map(|proxy| proxy.no_proxy), Some(vec!["a".to_owned()]));
}

#[tokio::test]
async fn an_absolute_path_needs_nothing_beside() {
    let dir = beside(&[("hash", &hash())]);
    let path = dir.path().join("hash").display().to_string();
    let opened = open(SecretKey::PasswordHash, &Secret::File(path), None).await.expect("opened");
    assert_eq!(opened.0, hash());
}

#[tokio::test]
async fn refusals_name_the_key_and_show_no_secret() {
    let long = "s3cret".repeat(1000);
    let dir = beside(&[("wrong", "s3cret"), ("lines", &format!("{}\nroot:s3cret", hash())), ("long", &long)]);
    let file = |path: &str| Secret::File(path.to_owned());
    for (key, secret, at, expected) in [
        (
            SecretKey::PasswordHash,
            file("wrong"),
            true,
            "admin.passwordHash: what is given is not allowed, expected a hash",
        ),
        (SecretKey::PasswordHash, file("lines"), true, "admin.passwordHash: what is given is not allowed"),
        (SecretKey::JoinToken, file("wrong"), true, "join.token: what is given is not allowed, expected a token as"),
        (SecretKey::ProxyHttp, file("wrong"), true, "proxy.http: what is given is not allowed, expected a URL such"),
        (SecretKey::JoinToken, file("long"), true, "join.token: what is given has more than 4096 bytes"),
        (SecretKey::JoinToken, file("none"), true, "join.token.file: /"),
        (SecretKey::JoinToken, file("token"), false, "join.token.file: `token` is not allowed, expected an absolute"),
    ] {
        let error = open(key, &secret, at.then_some(dir.path())).await.expect_err("it was opened");
        let error = chain(&error);
        assert!(error.contains(expected) && !error.contains("s3cret"), "`{error}` does not contain `{expected}`");
    }
}

#[test]
fn a_machine_without_a_tpm_2_says_what_is_missing() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path();
    assert!(missing_tpm(root).is_some_and(|reason| reason.contains("the kernel knows none")));
    std::fs::create_dir_all(root.join("sys/class/tpm/tpm0")).expect("made");
    assert!(missing_tpm(root).is_some_and(|reason| reason.contains("dev/tpmrm0 is not there")));
    std::fs::create_dir_all(root.join("dev")).expect("made");
    std::fs::write(root.join("dev/tpmrm0"), "").expect("written");
    assert_eq!(missing_tpm(root), None);
    for (version, expected) in [("1\n", Some("it is a TPM 1.2")), ("2\n", None)] {
        std::fs::write(root.join("sys/class/tpm/tpm0/tpm_version_major"), version).expect("written");
        assert_eq!(missing_tpm(root).as_deref(), expected);
    }
}

#[tokio::test]
async fn a_password_of_several_lines_is_refused() {
    for wrong in ["", "one\ntwo", "a\tb"] {
        let error = hashed(SecretKey::PasswordHash, wrong).await.expect_err("it was hashed").to_string();
        assert!(error.contains("expected a password of one line") && !error.contains("two"), "{error}");
    }
}
