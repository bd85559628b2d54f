//! Fifty guests by chance over the fields that are realised and those that are refused. All are sent with a server-side dry
//! run; the admitted are started one after another, and libvirt's document read back. A run is repeated by its seed:
//! `FURROW_SEED=N tests/gate contract`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Story;
use super::domain::Expect;
use super::fields::{CLAIMS, FIELDS, least};
use super::refused::REFUSED;
use crate::http::Answer;
use crate::random::Random;
use crate::scenario::{Checks, guests};

const GUESTS: usize = 50;

/// So many in a hundred have a field that is refused.
const REFUSED_PERCENT: usize = 45;

/// A guest by chance.
struct Guest {
    name: String,
    /// Its fields, for people.
    fields: Vec<&'static str>,
    manifest: Value,
    /// What must stand in its domain.
    expects: Vec<Expect>,
    /// The path that its refusal must name, if it is to be refused.
    refused: Option<String>,
}

/// The guests of a seed.
fn generate(seed: u64) -> Result<Vec<Guest>> {
    let mut random = Random::new(seed);
    (0..GUESTS).map(|number| guest(&mut random, format!("random-{number}"))).collect()
}

fn guest(random: &mut Random, name: String) -> Result<Guest> {
    let mut manifest = least(&name);
    let (mut fields, mut expects) = (Vec::new(), Vec::new());
    let wanted = 2 + random.below(6);
    let mut left: Vec<_> = FIELDS.iter().collect();
    for _ in 0..wanted {
        let (field, set) = left.swap_remove(random.below(left.len()));
        fields.push(*field);
        expects.extend(set(random, &mut manifest["spec"]));
    }
    let mut refused = None;
    if random.chance(REFUSED_PERCENT) {
        refused = Some(random.one(REFUSED).put(&mut manifest["spec"])?);
    }
    Ok(Guest { name, fields, manifest, expects, refused })
}

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    let seed = std::env::var("FURROW_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(Random::fresh_seed);
    println!("         random guests: FURROW_SEED={seed}");
    let mut made = Vec::new();
    let ready = story.check(checks, &format!("random: seed {seed}: fifty manifests, and the disks they name"), || {
        made = generate(seed)?;
        for claim in CLAIMS {
            story.cluster.apply(&guests::data_volume("random", claim, "blank: {}", "16Mi"))?;
        }
        CLAIMS
            .iter()
            .try_for_each(|claim| story.cluster.wait(("dv", claim), "/status/phase", &["Succeeded"], 60).map(|_| ()))
    });
    for guest in made.iter().filter(|_| ready) {
        let what = format!("random: seed {seed}: {}: {}", guest.name, guest.fields.join(", "));
        let admitted = match &guest.refused {
            Some(path) => {
                story.check(checks, &format!("{what}: refused for {path}"), || refused(story, guest, path));
                continue;
            }
            None => story.check(checks, &format!("{what}: admitted"), || admitted(story, guest)),
        };
        if admitted {
            story.check(checks, &format!("{what}: its domain is what was asked for"), || {
                let result = realised(story, guest);
                story.cluster.kubectl(&["delete", "vmi", &guest.name, "--ignore-not-found", "--timeout=60s"])?;
                result.with_context(|| guest.manifest.to_string())
            });
        }
    }
    story.check(checks, "random: the disks are deleted", || {
        story.cluster.kubectl(&["delete", "dv", CLAIMS[0], CLAIMS[1], "--wait=true", "--timeout=60s"]).map(|_| ())
    });
}

fn send(story: &Story<'_>, guest: &Guest, query: &str) -> Result<Answer> {
    let path = format!("/apis/kubevirt.io/v1/namespaces/default/virtualmachineinstances?fieldValidation=Strict{query}");
    story.proxy.call("POST", &path, &guest.manifest.to_string())
}

fn admitted(story: &Story<'_>, guest: &Guest) -> Result<()> {
    let answer = send(story, guest, "&dryRun=All")?;
    ensure!(answer.code == 201, "answered {}: {} for {}", answer.code, answer.brief(), guest.manifest);
    ensure!(story.uid(&guest.name)?.is_none(), "the dry run has made it");
    Ok(())
}

fn refused(story: &Story<'_>, guest: &Guest, path: &str) -> Result<()> {
    let answer = send(story, guest, "&dryRun=All")?;
    let manifest = &guest.manifest;
    ensure!(answer.code != 201, "it was admitted: move the field to the realised ones; {manifest}");
    ensure!(answer.code == 422, "answered {}: {} for {manifest}", answer.code, answer.brief());
    let status = answer.json()?;
    let message = status["message"].as_str().unwrap_or_default();
    ensure!(message.contains(path), "the refusal does not name {path}: {message}; {manifest}");
    let causes = status["details"]["causes"].as_array().cloned().unwrap_or_default();
    let named = causes.iter().any(|cause| cause["field"].as_str().is_some_and(|field| field == path));
    ensure!(named, "no cause is of the field {path}: {}; {manifest}", status["details"]);
    Ok(())
}

fn realised(story: &Story<'_>, guest: &Guest) -> Result<()> {
    let answer = send(story, guest, "")?;
    ensure!(answer.code == 201, "answered {}: {}", answer.code, answer.brief());
    story.cluster.wait(("vmi", &guest.name), "/status/phase", &["Running"], 120)?;
    let document = crate::host::until("its domain", Duration::from_secs(10), || story.domain(&guest.name))?;
    let wrong: Vec<String> =
        guest.expects.iter().filter_map(|expect| expect.check(&document).err()).map(|e| format!("{e:#}")).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    story.cluster.kubectl(&["delete", "vmi", &guest.name, "--wait=true", "--timeout=60s"])?;
    let state = story.state(&guest.name)?;
    ensure!(state == "none", "after its deletion its domain is {state}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_one_run_and_guests_vary() {
        let told = |seed: u64| -> Vec<String> {
            generate(seed).unwrap().iter().map(|guest| format!("{} {:?}", guest.manifest, guest.refused)).collect()
        };
        assert_eq!(told(1), told(1));
        assert_ne!(told(1), told(2));
        for seed in 0..20 {
            let guests = generate(seed).unwrap();
            let refused = guests.iter().filter(|guest| guest.refused.is_some()).count();
            assert!((5..45).contains(&refused), "seed {seed}: {refused} of {} are to be refused", guests.len());
            assert!(guests.iter().any(|guest| !guest.expects.is_empty()));
        }
    }
}
