//! KubeVirt's API by kube-rs, the way that operators and tools in Rust use it: discovery, server-side apply, watches,
//! conditions that are waited for, finalizers, scale, and the operations of `subresources.kubevirt.io` as plain requests.
//!
//! usage: kube-client < VM.json, with `KUBECONFIG`. The VM is one that is stopped. Prints a line a case, `ok NAME` or
//! `FAIL NAME: why`, then `end`. Cases build on each other. Refuses to know anything of Furrow but its API.

mod cases;
mod world;

use std::time::Duration;

use anyhow::{Context, Result};

use self::world::World;

/// A case that takes longer has failed.
const CASE: Duration = Duration::from_secs(240);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // The first use of TLS would choose one itself if there were only one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let vm = std::io::read_to_string(std::io::stdin()).context("standard input")?;
    let world = World::new(serde_json::from_str(&vm).context("the VM on standard input")?).await?;
    for (name, case) in cases::ALL {
        let result = tokio::time::timeout(CASE, case(&world)).await;
        match result.with_context(|| format!("it took longer than {} s", CASE.as_secs())).and_then(|result| result) {
            Ok(()) => println!("ok {name}"),
            Err(error) => {
                let why = format!("{error:#}");
                let why: Vec<&str> = why.split_whitespace().collect();
                println!("FAIL {name}: {}", why.join(" "));
            }
        }
    }
    println!("end");
    Ok(())
}
