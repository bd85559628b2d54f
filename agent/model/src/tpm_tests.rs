//! Slots, claims and saves of a TPM's state; whatever part of a write arrived, one state before it or the one written is there.

use proptest::prelude::*;

use super::*;

fn blank() -> Vec<u8> {
    vec![0; IMAGE_BYTES]
}

fn put(image: &mut [u8], write: &Write, bytes: usize) {
    let offset = usize::try_from(write.offset).expect("small");
    image[offset..offset + bytes].copy_from_slice(&write.bytes[..bytes]);
}

fn put_all(image: &mut [u8], write: &Write) {
    put(image, write, write.bytes.len());
}

fn kept(image: &[u8]) -> Option<Kept> {
    newest(image).expect("an image")
}

/// A state as swtpm writes it with a key.
fn sealed(content: &[u8]) -> Vec<u8> {
    let bytes = u32::try_from(10 + content.len()).expect("small");
    [[2, 1, 0, 10, 0, 9].as_slice(), &bytes.to_be_bytes(), content].concat()
}

fn claim_for(image: &mut [u8], guest: &str) {
    let write = claim(kept(image).as_ref(), guest).expect("a claim");
    write.iter().for_each(|write| put_all(image, write));
}

fn save_for(image: &mut [u8], guest: &str, state: &[u8]) -> Result<bool, TpmError> {
    let write = save(kept(image).as_ref(), guest, state)?;
    write.iter().for_each(|write| put_all(image, write));
    Ok(write.is_some())
}

#[test]
fn a_state_outlives_the_guest_that_wrote_it() {
    let mut image = blank();
    assert_eq!(kept(&image), None);
    claim_for(&mut image, "uid-1");
    assert_eq!(kept(&image).expect("a claim").state(), b"");
    assert_eq!(save_for(&mut image, "uid-1", &sealed(b"one")), Ok(true));
    assert_eq!(save_for(&mut image, "uid-1", &sealed(b"one")), Ok(false), "the same again is not written");
    assert_eq!(save_for(&mut image, "uid-1", &sealed(b"two")), Ok(true));
    claim_for(&mut image, "uid-2");
    assert_eq!(kept(&image).expect("a state").state(), sealed(b"two"));
    assert_eq!(claim(kept(&image).as_ref(), "uid-2"), Ok(None), "claiming it twice writes once");
}

#[test]
fn a_guest_that_was_succeeded_writes_no_more() {
    let mut image = blank();
    let nobody = Err(TpmError::Claimed { guest: "nobody".to_owned() });
    assert_eq!(save_for(&mut image, "uid-1", &sealed(b"one")), nobody);
    claim_for(&mut image, "uid-1");
    claim_for(&mut image, "uid-2");
    let claimed = Err(TpmError::Claimed { guest: "uid-2".to_owned() });
    assert_eq!(save_for(&mut image, "uid-1", &sealed(b"late")), claimed);
    assert_eq!(save_for(&mut image, "uid-2", &sealed(b"two")), Ok(true));
}

#[test]
fn what_is_no_state_is_refused() {
    let mut image = blank();
    image[..11].copy_from_slice(b"file system");
    assert_eq!(newest(&image), Err(TpmError::Foreign));
    let mut image = blank();
    claim_for(&mut image, "uid-1");
    assert_eq!(save_for(&mut image, "uid-1", &sealed(b"one")), Ok(true));
    let long = sealed(&vec![1; MAX_STATE_BYTES - 9]);
    assert_eq!(save_for(&mut image, "uid-1", &long), Err(TpmError::TooLong { bytes: long.len() }));
    assert_eq!(save_for(&mut image, "uid-1", &sealed(&vec![1; MAX_STATE_BYTES - 10])), Ok(true));
    image[100] ^= 1;
    image[SLOT_BYTES + 100] ^= 1;
    assert_eq!(newest(&image), Err(TpmError::Foreign), "both were whole once");
    assert!(claim(None, "").is_err() && claim(None, &"u".repeat(65)).is_err());
}

#[test]
fn only_a_whole_state_that_is_encrypted_is_written() {
    let mut image = blank();
    claim_for(&mut image, "uid-1");
    let mut check = |state: &[u8], expected| assert_eq!(save_for(&mut image, "uid-1", state), expected, "{state:?}");
    let state = sealed(b"one");
    check(&[], Err(TpmError::NotSealed));
    check(&state[..state.len() - 1], Err(TpmError::NotSealed));
    let plain = [[2, 1, 0, 10, 0, 0, 0, 0, 0, 13].as_slice(), b"one"].concat();
    check(&plain, Err(TpmError::NotSealed));
    check(&state, Ok(true));
}

#[test]
fn a_change_is_written_at_once_and_a_failure_tried_again_ever_later() {
    let mut saving = Saving::default();
    let on_change = NextSave::OnChange { after_ms: 250 };
    assert_eq!(saving.next(Outcome::Kept), on_change);
    let pauses: Vec<_> = (0..7).map(|_| saving.next(Outcome::Failed)).collect();
    let expected = [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000].map(|ms| NextSave::After { ms });
    assert_eq!(pauses, expected);
    assert_eq!(saving.next(Outcome::Kept), on_change);
    assert_eq!(saving.next(Outcome::Failed), NextSave::After { ms: 1_000 }, "a success begins anew");
    assert_eq!(saving.next(Outcome::Superseded), NextSave::Done);
}

#[test]
fn a_key_has_a_name_of_its_own_for_each_guest_and_a_state_is_not_shown() {
    assert_eq!(secret_uuid("uid-1"), secret_uuid("uid-1"));
    assert_ne!(secret_uuid("uid-1"), secret_uuid("uid-2"));
    let mut image = blank();
    claim_for(&mut image, "uid-1");
    save_for(&mut image, "uid-1", &sealed(b"secret")).expect("saved");
    let shown = format!("{:?}", kept(&image));
    assert!(shown.contains("16 bytes") && !shown.contains("115"), "{shown}");
}

proptest! {
    /// Whatever part of the last write arrived, the image holds the state before it or the one it wrote.
    #[test]
    fn a_write_that_was_cut_short_costs_only_itself(
        states in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5000), 1..5),
        part in 0usize..10_000,
    ) {
        let mut image = blank();
        claim_for(&mut image, "uid");
        let (last, before) = states.split_last().expect("one at least");
        for state in before {
            save_for(&mut image, "uid", &sealed(state)).expect("saved");
        }
        let old = kept(&image).expect("a claim").state().to_vec();
        let last = sealed(last);
        if let Some(write) = save(kept(&image).as_ref(), "uid", &last).expect("saved") {
            put(&mut image, &write, part.min(write.bytes.len()));
        }
        let found = kept(&image).expect("a state").state().to_vec();
        prop_assert!(found == old || found == last);
    }
}
