//! The scripts that iPXE is given (ipxe.org/scripting). Pure: a host and addresses in, text out. What a machine has said of
//! itself was cleaned when its identity was read, and cannot become a command.

use std::fmt::Write;

use super::hosts::{Host, Identity};

/// How often an unknown machine asks again, half an hour in all, before it restarts.
pub(super) const MAX_TRIES: u32 = 66;
/// The longest pause between two questions, seconds.
const MAX_PAUSE_S: u32 = 30;
/// How often a download is begun again.
const MAX_DOWNLOADS: u32 = 5;

/// The first script: iPXE comes back with what it knows of its machine.
pub(super) fn first(base: &str) -> String {
    let query = "mac=${netX/mac}&uuid=${uuid}&serial=${serial:uristring}";
    again(&format!("{base}/boot?{query}"))
}

/// For a machine that nobody has approved yet. `tries`: how often it has asked, from 1.
pub(super) fn wait(base: &str, host: &Host, tries: u32) -> String {
    let Identity { mac, uuid, serial } = &host.identity;
    let name = &host.name;
    if tries > MAX_TRIES {
        return format!("#!ipxe\necho Furrow: nobody has approved {name}; this machine restarts\nsleep 10\nreboot\n");
    }
    let text = format!(
        "#!ipxe\necho\necho Furrow: this machine waits to be approved, try {tries} of {MAX_TRIES}\n\
         echo   fingerprint {name}\necho   MAC {mac}, UUID {uuid}, serial {serial}\n\
         echo where `furrow pxe serve` runs: furrow pxe approve {name} --config node.yaml\nsleep {}\n",
        pause_s(tries)
    );
    text + again(&format!("{base}/h/{}/wait?try={}", host.token, tries + 1)).trim_start_matches("#!ipxe\n")
}

/// Seconds between two questions: short at first, when somebody may stand beside it.
fn pause_s(tries: u32) -> u32 {
    (2 * tries).min(MAX_PAUSE_S)
}

/// For an approved machine: kernel, initrd, the medium as a file of the initrd, and last the configuration, which is given
/// once.
pub(super) fn boot(base: &str, host: &Host, words: &str, version: &str) -> String {
    let from = format!("{base}/h/{}", host.token);
    let mut text = format!(
        "#!ipxe\necho Furrow {version} for {}\nset tries:int32 0\n:again\nimgfree\n\
         kernel {from}/vmlinuz {words} || goto failed\ninitrd {from}/initrd || goto failed\n\
         initrd --name medium {from}/medium /furrow-medium.iso mode=600 || goto failed\n",
        host.name
    );
    if host.config.is_some() {
        let _ = writeln!(text, "initrd --name node.yaml {from}/node.yaml /furrow-node.yaml mode=600 || goto failed");
    }
    text + &format!(
        "boot || goto failed\n:failed\ninc tries\niseq ${{tries}} {MAX_DOWNLOADS} && goto given_up ||\n\
         echo Furrow: the download failed; again in 10 s\nsleep 10\ngoto again\n\
         :given_up\necho Furrow: the download failed {MAX_DOWNLOADS} times; this machine restarts\nsleep 10\nreboot\n"
    )
}

/// For a machine that has been installed: its firmware goes on to the next thing that it can boot, the disk.
pub(super) fn disk(host: &Host) -> String {
    format!(
        "#!ipxe\necho Furrow: {0} got its system from here already and boots from its disk\n\
         echo to install it again: furrow pxe forget {0}\nsleep 3\nexit 1\n",
        host.name
    )
}

/// For a machine that is not served now.
pub(super) fn refuse(reason: &str) -> String {
    format!("#!ipxe\necho Furrow: {reason}; this machine restarts in a minute\nsleep 60\nreboot\n")
}

/// Goes on with another script; the server may be away for a moment.
fn again(url: &str) -> String {
    format!(
        "#!ipxe\nset lost:int32 0\n:ask\nchain --replace {url} ||\ninc lost\niseq ${{lost}} 20 && reboot ||\n\
         echo Furrow: no answer; again in 10 s\nsleep 10\ngoto ask\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::hosts::State;
    use super::*;

    fn host(config: Option<&str>) -> Host {
        Host {
            name: "4f3a-91bc-07de".into(),
            identity: Identity::cleaned("52:54:00:00:78:01", "uuid", "S$1\necho"),
            token: "t0".into(),
            state: State::Pending,
            seen: 0,
            config: config.map(str::to_owned),
        }
    }

    #[test]
    fn an_unknown_machine_shows_its_fingerprint_and_asks_again() {
        let text = wait("http://a:1", &host(None), 3);
        assert!(text.starts_with("#!ipxe\n") && text.matches("#!ipxe").count() == 1, "{text}");
        assert!(text.contains("fingerprint 4f3a-91bc-07de\n") && text.contains("serial S_1_echo\n"), "{text}");
        assert!(
            text.contains("sleep 6\n") && text.contains("chain --replace http://a:1/h/t0/wait?try=4 ||\n"),
            "{text}"
        );
    }

    #[test]
    fn it_does_not_ask_for_ever() {
        let text = wait("http://a:1", &host(None), MAX_TRIES + 1);
        assert!(text.ends_with("reboot\n") && !text.contains("chain"), "{text}");
        let total: u32 = (1..=MAX_TRIES).map(pause_s).sum();
        assert!((1700..1900).contains(&total), "{total} s");
    }

    #[test]
    fn the_configuration_comes_last_and_only_where_there_is_one() {
        let text = boot("http://a:1", &host(Some("x")), "ro quiet", "1.0");
        assert!(text.contains("kernel http://a:1/h/t0/vmlinuz ro quiet || goto failed\n"), "{text}");
        let at = |what: &str| text.find(what).expect(what);
        assert!(at("/medium ") < at("/node.yaml ") && at("/node.yaml ") < at("\nboot "), "{text}");
        assert!(!boot("http://a:1", &host(None), "ro", "1.0").contains("node.yaml"));
    }

    #[test]
    fn the_first_script_asks_with_what_the_machine_knows() {
        let url = "http://a:1/boot?mac=${netX/mac}&uuid=${uuid}&serial=${serial:uristring}";
        assert!(first("http://a:1").contains(&format!("chain --replace {url} ||\n")));
    }
}
