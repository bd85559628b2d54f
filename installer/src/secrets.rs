//! Secrets that node.yaml only refers to: opened from a file, or by this machine's TPM, and sealed for it. The TPM is
//! spoken to by `systemd-creds`, with the secret on its standard input or output. A credential is bound to the key of
//! node.yaml that it is for and to the TPM, but to no measurement of the boot (PCR): the medium, the installed system and
//! each of its updates must open it. Refuses to show a secret, and to take one as an argument.
//!
//! ```text
//!  seal KEY:      standard input ─> [password ─> hash] ─> systemd-creds encrypt ─> node.yaml, `sealed`
//!  installation:  node.yaml ─> each `file` and `sealed` opened ─> node.yaml of the disk, with the results, mode 0600
//!  bootstrap:     the same for one that an administrator wrote later; nothing is kept but what uses it
//! ```

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use furrow_host::cmd::{Cmd, CmdError};
use furrow_model::reasons::chain;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

use crate::config::{self, Hidden, NodeConfig, Secret, SecretKey, unwrapped};
use crate::install::{WordError, with_values};
use crate::steps::StepError;

/// Where node.yaml of a running node is.
pub(crate) const DIRECTORY: &str = "/etc/furrow";
/// A token, a hash or a URL has some hundred bytes.
const MAX_BYTES: u64 = 4096;
/// A TPM that makes its storage key for the first time takes tens of seconds.
const TPM_TIMEOUT: Duration = Duration::from_secs(120);
const CREDENTIALS: &str = "/usr/bin/systemd-creds";

/// Why a secret is not had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    #[error("{key}.file: {path} cannot be read")]
    File {
        key: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{key}.file: `{path}` is not allowed, expected an absolute path: no file comes with this node.yaml")]
    NothingBeside { key: &'static str, path: String },
    #[error("{key}: what is given has more than {} bytes", MAX_BYTES)]
    TooLarge { key: &'static str },
    #[error("{key}: what is given is not allowed, expected {expected}")]
    Value { key: &'static str, expected: &'static str },
    #[error("{key}: this machine has no TPM 2.0 that could seal or open it: {reason}")]
    NoTpm { key: &'static str, reason: String },
    #[error("{key}.sealed cannot be opened, expected what `furrow-install seal {key}` printed on this very machine")]
    Open {
        key: &'static str,
        #[source]
        source: Box<CmdError>,
    },
    #[error("{key} cannot be sealed by this machine's TPM")]
    Seal {
        key: &'static str,
        #[source]
        source: Box<CmdError>,
    },
    #[error("{key}: the password cannot be hashed: {reason}")]
    Hash { key: &'static str, reason: String },
    #[error("{key}: the two entries differ")]
    Differs { key: &'static str },
    #[error("{key} cannot be read from standard input")]
    Input {
        key: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Document(#[from] WordError),
}

/// Opens a secret. `beside`: the directory of node.yaml, where there is one.
///
/// # Errors
/// When it cannot be had on this machine, or is not what its key expects.
pub(crate) async fn open(key: SecretKey, secret: &Secret, beside: Option<&Path>) -> Result<Hidden, SecretError> {
    let text = match secret {
        Secret::Value(text) => return Ok(text.clone()),
        Secret::File(path) => read(key, path, beside)?,
        Secret::Sealed(text) => unseal(key, &text.0).await?,
    };
    let text = text.trim();
    if key.accepts(text) {
        return Ok(Hidden(text.to_owned()));
    }
    Err(SecretError::Value { key: key.name(), expected: key.expected() })
}

/// A running node's configuration with these keys' secrets in their places.
///
/// # Errors
/// See [`open`].
pub(crate) async fn opened(config: &NodeConfig, keys: &[SecretKey]) -> Result<NodeConfig, SecretError> {
    let mut with = config.clone();
    for key in keys {
        if let Some(secret) = config.secret(*key) {
            with.set_secret(*key, open(*key, secret, Some(Path::new(DIRECTORY))).await?);
        }
    }
    Ok(with)
}

/// The document for the disk, with what its references lead to in their places; as it is where there are none. One that is
/// not valid is returned too: its reader says why.
///
/// # Errors
/// See [`open`].
pub(crate) async fn resolved(text: String, beside: Option<&Path>) -> Result<String, SecretError> {
    let Ok(config) = config::parse(&text) else { return Ok(text) };
    let mut values = Vec::new();
    for key in config.references() {
        if let Some(secret) = config.secret(key) {
            values.push((key.name(), open(key, secret, beside).await?.0));
        }
    }
    if values.is_empty() { Ok(text) } else { Ok(with_values(&text, &values)?) }
}

fn read(key: SecretKey, path: &str, beside: Option<&Path>) -> Result<String, SecretError> {
    let key = key.name();
    let place: PathBuf = match beside {
        // An absolute path stays as it is.
        Some(directory) => directory.join(path),
        None if path.starts_with('/') => PathBuf::from(path),
        None => return Err(SecretError::NothingBeside { key, path: path.to_owned() }),
    };
    let failed = |source| SecretError::File { key, path: place.display().to_string(), source };
    limited(key, File::open(&place).map_err(failed)?, failed)
}

/// Reads a text of bounded length.
fn limited(
    key: &'static str,
    from: impl Read,
    failed: impl FnOnce(io::Error) -> SecretError,
) -> Result<String, SecretError> {
    let mut text = String::new();
    let bytes = from.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if bytes as u64 > MAX_BYTES { Err(SecretError::TooLarge { key }) } else { Ok(text) }
}

async fn unseal(key: SecretKey, sealed: &str) -> Result<String, SecretError> {
    check_tpm(key)?;
    let name = format!("--name={}", key.credential());
    let open = Cmd::new(CREDENTIALS).args(["decrypt", "--newline=no", &name, "-", "-"]);
    let opened = open.stdin(unwrapped(sealed)).timeout(TPM_TIMEOUT).run().await;
    Ok(opened.map_err(|source| SecretError::Open { key: key.name(), source: Box::new(source) })?.text())
}

/// `furrow-install seal`: reads the secret from standard input, asking where that is a terminal, and returns it sealed, in
/// base64 on one line.
///
/// # Errors
/// When there is no TPM 2.0, or the secret is not what its key expects.
pub(crate) async fn seal(key: SecretKey) -> Result<String, SecretError> {
    check_tpm(key)?;
    let text = ask(key)?;
    let text = text.trim_end_matches(['\r', '\n']);
    let secret = match key {
        SecretKey::PasswordHash if !key.accepts(text) => hashed(key, text).await?,
        _ if key.accepts(text) => text.to_owned(),
        _ => return Err(SecretError::Value { key: key.name(), expected: key.expected() }),
    };
    let name = format!("--name={}", key.credential());
    let seal = Cmd::new(CREDENTIALS).args(["encrypt", "--with-key=tpm2", "--tpm2-pcrs=", &name, "-", "-"]);
    let sealed = seal.stdin(secret).timeout(TPM_TIMEOUT).run().await;
    Ok(unwrapped(&sealed.map_err(|source| SecretError::Seal { key: key.name(), source: Box::new(source) })?.text()))
}

async fn hashed(key: SecretKey, password: &str) -> Result<String, SecretError> {
    if password.is_empty() || password.contains(char::is_control) {
        return Err(SecretError::Value { key: key.name(), expected: "a password of one line, or its hash" });
    }
    let failed = |error: StepError| SecretError::Hash { key: key.name(), reason: chain(&error) };
    crate::settings::hash_password(password).await.map_err(failed)
}

/// What stands on standard input; on a terminal it is asked for, twice and without echo.
fn ask(key: SecretKey) -> Result<String, SecretError> {
    let name = key.name();
    let failed = |source| SecretError::Input { key: name, source };
    if !io::stdin().is_terminal() {
        return limited(name, io::stdin().lock(), failed);
    }
    let what = if key == SecretKey::PasswordHash { "root's password" } else { name };
    let first = line_without_echo(&format!("{what}: ")).map_err(failed)?;
    let second = line_without_echo("again: ").map_err(failed)?;
    if first == second { Ok(first) } else { Err(SecretError::Differs { key: name }) }
}

/// A line that a person types. The question goes to standard error: standard output is for the answer of the program.
fn line_without_echo(question: &str) -> io::Result<String> {
    let input = io::stdin();
    let before = tcgetattr(&input)?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    silent.local_flags.insert(LocalFlags::ECHONL);
    tcsetattr(&input, SetArg::TCSAFLUSH, &silent)?;
    eprint!("{question}");
    let mut line = String::new();
    let read = input.read_line(&mut line);
    tcsetattr(&input, SetArg::TCSAFLUSH, &before)?;
    read.map(|_| line)
}

fn check_tpm(key: SecretKey) -> Result<(), SecretError> {
    match missing_tpm(Path::new("/")) {
        Some(reason) => Err(SecretError::NoTpm { key: key.name(), reason }),
        None => Ok(()),
    }
}

/// Why there is no TPM 2.0; None where there is one. `root` is above `sys` and `dev`.
fn missing_tpm(root: &Path) -> Option<String> {
    let device = root.join("sys/class/tpm/tpm0");
    if !device.exists() {
        return Some("the kernel knows none; the firmware may have it switched off".to_owned());
    }
    let version = std::fs::read_to_string(device.join("tpm_version_major")).unwrap_or_default();
    if version.trim() == "1" {
        return Some("it is a TPM 1.2".to_owned());
    }
    let manager = root.join("dev/tpmrm0");
    if manager.exists() { None } else { Some(format!("{} is not there", manager.display())) }
}

#[cfg(test)]
#[path = "secrets_tests.rs"]
mod tests;
