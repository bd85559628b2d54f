//! The flow table of a bridge: changed and read by ovs-ofctl in bundles, which take effect at once or not at all, and
//! a connection to the bridge's management socket that tells when vswitchd is gone, and with it every flow. Refuses to
//! know what a flow means.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::cmd::{Cmd, CmdError};

const OFCTL: &str = "/usr/bin/ovs-ofctl";

/// Where vswitchd has a socket for each bridge, `<bridge>.mgmt`.
const RUN_DIR: &str = "/run/openvswitch";

/// How long one change may take: a bundle of ten thousand flows takes under a second.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The largest OpenFlow message: its length field has 16 bits.
const MESSAGE_LIMIT: usize = 65_535;

/// OpenFlow 1.4, the version whose bundles ovs-ofctl uses too.
const VERSION: u8 = 5;
const HELLO: u8 = 0;
const ECHO_REQUEST: u8 = 2;
const ECHO_REPLY: u8 = 3;
const HEADER: usize = 8;

/// Makes the whole table of a bridge what `flows` says, one a line. Flows that are there already keep their counters.
///
/// # Errors
/// The command's: no such bridge, a flow that cannot be.
pub async fn replace_flows(bridge: &str, flows: &str) -> Result<(), CmdError> {
    ofctl(bridge, "replace-flows", flows).await
}

/// Does every line of `changes`, each beginning with `add` or `delete`, in one transaction.
///
/// # Errors
/// The command's: no such bridge, a flow that cannot be.
pub async fn change_flows(bridge: &str, changes: &str) -> Result<(), CmdError> {
    ofctl(bridge, "add-flows", changes).await
}

/// The flows of a bridge with this cookie, as ovs-ofctl prints them.
///
/// # Errors
/// The command's.
pub async fn dump_flows(bridge: &str, cookie: &str) -> Result<String, CmdError> {
    let command = Cmd::new(OFCTL).args(["--protocols=OpenFlow14", "dump-flows", bridge]);
    Ok(command.arg(format!("cookie={cookie}/-1")).timeout(TIMEOUT).run().await?.text())
}

async fn ofctl(bridge: &str, verb: &'static str, input: &str) -> Result<(), CmdError> {
    Cmd::new(OFCTL).args(["--bundle", verb, bridge, "-"]).stdin(input).timeout(TIMEOUT).run().await.map(drop)
}

/// A connection to vswitchd about one bridge, open for as long as that vswitchd lives and has the bridge.
#[derive(Debug)]
pub struct Presence {
    stream: UnixStream,
}

impl Presence {
    /// Connects and says hello.
    ///
    /// # Errors
    /// There is no such bridge, or no vswitchd.
    pub async fn connect(bridge: &str) -> io::Result<Self> {
        let path: PathBuf = [RUN_DIR, &format!("{bridge}.mgmt")].iter().collect();
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(&[VERSION, HELLO, 0, HEADER as u8, 0, 0, 0, 0]).await?;
        Ok(Self { stream })
    }

    /// Answers echoes until the connection closes, and tells why. Dropping it closes the connection.
    pub async fn ended(mut self) -> io::Error {
        let mut message = vec![0; HEADER];
        loop {
            if let Err(error) = self.answer_one(&mut message).await {
                return error;
            }
        }
    }

    async fn answer_one(&mut self, message: &mut Vec<u8>) -> io::Result<()> {
        message.resize(HEADER, 0);
        self.stream.read_exact(message).await?;
        let length = usize::from(u16::from_be_bytes([message[2], message[3]]));
        if !(HEADER..=MESSAGE_LIMIT).contains(&length) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an OpenFlow message is shorter than its header"));
        }
        message.resize(length, 0);
        self.stream.read_exact(&mut message[HEADER..]).await?;
        if message[1] == ECHO_REQUEST {
            message[1] = ECHO_REPLY;
            self.stream.write_all(message).await?;
        }
        Ok(())
    }
}
