//! How HTTP clients go through a node's proxies: those of node.yaml and no others, least of all the environment's. Refuses
//! to decide which they are, and to make a client: bounds and certificates are its callers'.

use reqwest::{ClientBuilder, NoProxy, Proxy};

/// Sends what is not in `direct` (as in `NO_PROXY`) through the proxy for its protocol, and through no others.
///
/// # Errors
/// When one of them is no URL of a proxy.
pub fn through(
    builder: ClientBuilder,
    (http, https): (Option<&str>, Option<&str>),
    direct: &str,
) -> reqwest::Result<ClientBuilder> {
    let mut builder = builder.no_proxy();
    let direct = || NoProxy::from_string(direct);
    if let Some(url) = http {
        builder = builder.proxy(Proxy::http(url)?.no_proxy(direct()));
    }
    if let Some(url) = https {
        builder = builder.proxy(Proxy::https(url)?.no_proxy(direct()));
    }
    Ok(builder)
}
