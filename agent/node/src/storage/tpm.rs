//! The image that keeps the state of a guest's TPM, see `furrow_model::tpm`: claimed before each start, written to whenever
//! the state changes. It is open for as long as one of these takes. Refuses to look into a state: it is ciphertext.

use std::time::Duration;

use furrow_api::reservation::ReservedVolume;
use furrow_host::rbd::{Ceph, Image, Pool, RbdError, RbdErrorKind, Writer};
use furrow_model::tpm::{IMAGE_BYTES, Kept, TpmError, Write, claim, newest, save};

use crate::guest::ports::HostError;

/// How long it may take to read a megabyte and to write half of one.
const LIMIT: Duration = Duration::from_secs(30);

/// Why a state was not read or written.
#[derive(Debug, thiserror::Error)]
enum StateError {
    #[error("could not {action} the image {image} of the TPM's state")]
    Ceph { action: &'static str, image: String, source: RbdError },
    #[error("could not {action} the image {image} of the TPM's state")]
    State { action: &'static str, image: String, source: TpmError },
}

impl From<StateError> for HostError {
    fn from(error: StateError) -> Self {
        match &error {
            StateError::Ceph { source, .. } if source.kind() == RbdErrorKind::NotFound => {
                Self::passing("VolumeNotFound", &error)
            }
            StateError::Ceph { .. } => Self::passing("VolumeUnreachable", &error),
            StateError::State { .. } => Self::permanent("StateNotRecognised", &error),
        }
    }
}

/// Makes the state a guest's own, and answers it; empty: there is none yet.
pub(super) async fn take(ceph: &Ceph, volume: &ReservedVolume, guest: &str) -> Result<Vec<u8>, HostError> {
    let guest = guest.to_owned();
    let work = move |now: Option<&Kept>| {
        let state = now.map(|kept| kept.state().to_vec()).unwrap_or_default();
        Ok((state, Some(claim(now, &guest)?)))
    };
    Ok(on_image(ceph, volume, "claim", work).await?)
}

/// Keeps a state. The same again writes nothing.
pub(super) async fn keep(ceph: &Ceph, volume: &ReservedVolume, guest: &str, state: Vec<u8>) -> Result<(), HostError> {
    let guest = guest.to_owned();
    let work = move |now: Option<&Kept>| Ok(((), save(now, &guest, &state)?));
    Ok(on_image(ceph, volume, "write to", work).await?)
}

async fn on_image<T: Send + 'static>(
    ceph: &Ceph,
    volume: &ReservedVolume,
    action: &'static str,
    work: impl FnOnce(Option<&Kept>) -> Result<(T, Option<Write>), TpmError> + Send + 'static,
) -> Result<T, StateError> {
    let name = || format!("{}/{}", volume.pool, volume.image);
    let image = volume.image.clone();
    let done = ceph.run(&volume.pool, "use the state of a TPM", LIMIT, move |pool| change(pool, &image, work));
    let done = done.await.map_err(|source| StateError::Ceph { action, image: name(), source })?;
    done.map_err(|source| StateError::State { action, image: name(), source })
}

/// Reads, decides and writes under the image's lock, so that nobody writes in between.
fn change<T>(
    pool: &Pool,
    image: &str,
    work: impl FnOnce(Option<&Kept>) -> Result<(T, Option<Write>), TpmError>,
) -> Result<Result<T, TpmError>, RbdError> {
    let image = pool.open_image(image)?;
    image.lock()?;
    let bytes = read(&image)?;
    let decided = newest(&bytes).and_then(|now| work(now.as_ref()));
    let answer = match decided {
        Ok((answer, write)) => {
            if let Some(Write { offset, bytes }) = write {
                let writer = Writer::new(&image, bytes.len());
                writer.write(offset, bytes)?;
                writer.finish()?;
            }
            Ok(answer)
        }
        Err(error) => Err(error),
    };
    image.unlock()?;
    Ok(answer)
}

fn read(image: &Image) -> Result<Vec<u8>, RbdError> {
    let mut bytes = vec![0; IMAGE_BYTES];
    // What a short image does not have is zero.
    image.read(0, &mut bytes)?;
    Ok(bytes)
}
