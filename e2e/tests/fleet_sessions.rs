//! Sessions, subscriptions and retained messages of a fleet: each node answers for its own, and one
//! that does not is named.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};
use weir_e2e::services::skipped;
use weir_e2e::site::Site;
use weir_e2e::{Weir, wait_until};

const WAIT: Duration = Duration::from_secs(60);

/// A client of MQTT 5 with a session of an hour, and one subscription.
struct Client(TcpStream);

impl Client {
    fn connect(id: &str, to: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut client = Self(stream);
        let mut body = b"\0\x04MQTT\x05\0\0\0\x05\x11\0\0\x0e\x10\0".to_vec();
        body.push(id.len() as u8);
        body.extend_from_slice(id.as_bytes());
        client.send(0x10, &body)?;
        ensure!(client.packet()?.0 == 0x20, "CONNACK");
        client.send(0x82, b"\0\x01\0\0\x03n/#\x01")?;
        ensure!(client.packet()?.0 == 0x90, "SUBACK");
        Ok(client)
    }

    fn send(&mut self, first: u8, body: &[u8]) -> anyhow::Result<()> {
        Ok(self.0.write_all(&[&[first, body.len() as u8], body].concat())?)
    }

    fn packet(&mut self) -> anyhow::Result<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head)?;
        let mut body = vec![0; head[1].into()];
        self.0.read_exact(&mut body)?;
        Ok((head[0], body))
    }
}

/// Columns of a list, row by row.
fn rows(weir: &Weir, words: &[&str], columns: [&str; 2]) -> anyhow::Result<Vec<String>> {
    let text = weir.cli(&[words, &["--format", "json"]].concat())?;
    let row = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line)?;
        let column = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        Ok(columns.map(column).join(" "))
    };
    text.lines().map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_process_lists_the_sessions_of_all_and_names_the_one_that_does_not_answer() -> anyhow::Result<()> {
    if skipped("every_process_lists_the_sessions_of_all", &["redis-server", "mongod"])? {
        return Ok(());
    }
    // A process that hangs counts as one until then.
    let site = Site::new(false, &[("WEIR_FLEET_LEASE_MS", "60000")]).await?;
    // With the role ingest alone, with all roles, and without ingest.
    let one = site.start("one", "ingest", "127.0.0.1:0")?;
    let two = site.start("two", "ingest,flusher,api", "127.0.0.1:0")?;
    let api = site.start("api", "api", "127.0.0.1:0")?;
    let mut clients = Vec::new();
    for n in 0..6 {
        clients.push(Client::connect(&format!("c{n}"), if n % 2 == 0 { one.mqtt } else { two.mqtt })?);
    }
    let expected = ["c0 one", "c1 two", "c2 one", "c3 two", "c4 one", "c5 two"];
    let sessions = |weir: &Weir, limit: &str| rows(weir, &["sessions", "list", "--limit", limit], ["client", "node"]);
    for weir in [&two, &api] {
        wait_until("both nodes have announced themselves", WAIT, || async {
            let found = sessions(weir, "100")?;
            ensure!(found == expected, "{found:?}");
            Ok(())
        })
        .await?;
        ensure!(sessions(weir, "3")? == expected[..3], "a page of both");
        let found = rows(weir, &["subscriptions", "match", "n/1"], ["client", "node"])?;
        ensure!(found == expected, "{found:?}");
    }

    // A client of the node that has no api is disconnected through another process.
    api.cli(&["sessions", "kick", "c0"])?;
    let (first, body) = clients[0].packet()?;
    ensure!((first, body[0]) == (0xE0, 0x98), "{first} {body:?}");
    api.cli(&["sessions", "kick", "c1", "--end-session"])?;
    ensure!(clients[1].packet()?.0 == 0xE0, "DISCONNECT");
    wait_until("one session is left of the two", WAIT, || async {
        let found = rows(&api, &["sessions", "list", "--away"], ["client", "node"])?;
        ensure!(found == ["c0 one"], "{found:?}");
        Ok(())
    })
    .await?;

    // Each node has its retained messages, and a topic is listed once.
    for (client, topic) in [(2, b"n/1"), (3, b"n/2")] {
        clients[client].send(0x33, &[&b"\0\x03"[..], topic, b"\0\x02\0on"].concat())?;
        // The client gets its own message, too, before the PUBACK or after it.
        while clients[client].packet()?.0 != 0x40 {}
    }
    wait_until("both are kept", WAIT, || async {
        let found = rows(&api, &["retained", "list"], ["topic", "topic"])?;
        ensure!(found == ["n/1 n/1", "n/2 n/2"], "{found:?}");
        Ok(())
    })
    .await?;
    api.cli(&["retained", "clear", "n/#", "--yes"])?;
    ensure!(rows(&api, &["retained", "list"], ["topic", "node"])?.is_empty(), "all are cleared");

    // A node that does not run: its sessions are missing, and that is said.
    one.freeze()?;
    let frozen = api.cli(&["sessions", "list"]).err().context("a list without a node is not a success")?.to_string();
    ensure!(frozen.contains("without those of node one: ") && frozen.contains("c3"), "{frozen}");
    let kick = api.cli(&["sessions", "kick", "c2"]).err().context("its node does not answer")?.to_string();
    ensure!(kick.contains("there is no answer from one"), "{kick}");
    one.thaw()?;
    let left = ["c0 one", "c2 one", "c3 two", "c4 one", "c5 two"];
    wait_until("it answers again", WAIT, || async {
        let found = sessions(&api, "100")?;
        ensure!(found == left, "{found:?}");
        Ok(())
    })
    .await?;
    // The sessions of one that stops are on Redis, and so are those of one that is started again.
    one.stop()?;
    of_no_node(&two, &api, &mut clients[3]).await?;
    let one = site.start("one", "ingest", "127.0.0.1:0")?;
    wait_until("the sessions of its start before are listed", WAIT, || async {
        let found = rows(&api, &["sessions", "list", "--away"], ["client", "node"])?;
        ensure!(found == ["c0 one", "c4 one"], "{found:?}");
        Ok(())
    })
    .await?;
    one.stop()
}

/// Lists, shows and ends sessions whose node has stopped: of the clients c0, c2 and c4.
async fn of_no_node(two: &Weir, api: &Weir, publisher: &mut Client) -> anyhow::Result<()> {
    let away = ["c0 one", "c2 one", "c4 one"];
    wait_until("they are away", WAIT, || async {
        let found = rows(api, &["sessions", "list", "--away"], ["client", "node"])?;
        ensure!(found == away, "{found:?}");
        Ok(())
    })
    .await?;
    for weir in [two, api] {
        let all = rows(weir, &["sessions", "list"], ["client", "state"])?;
        ensure!(all == ["c0 away", "c2 away", "c3 connected", "c4 away", "c5 connected"], "{all:?}");
        ensure!(rows(weir, &["sessions", "list", "--limit", "2"], ["client", "node"])? == away[..2], "a page");
        ensure!(rows(weir, &["sessions", "list", "--client", "*4"], ["client", "node"])? == away[2..], "by client");
        let connected = rows(weir, &["sessions", "list", "--connected"], ["client", "node"])?;
        ensure!(connected == ["c3 two", "c5 two"], "{connected:?}");
        let subscriptions = rows(weir, &["subscriptions", "list"], ["client", "filter"])?;
        ensure!(subscriptions == ["c0 n/#", "c2 n/#", "c3 n/#", "c4 n/#", "c5 n/#"], "{subscriptions:?}");
        let matching = rows(weir, &["subscriptions", "match", "n/1"], ["client", "node"])?;
        ensure!(matching == ["c0 one", "c2 one", "c3 two", "c4 one", "c5 two"], "{matching:?}");
    }
    // A message that is acknowledged waits for them.
    publisher.send(0x32, b"\0\x03n/1\0\x07\0on")?;
    while publisher.packet()?.0 != 0x40 {}
    let shown = api.cli(&["sessions", "show", "c2", "--format", "json"])?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    let facts = ["state", "queued", "subscriptions", "expiry_secs"].map(|name| shown[name].to_string());
    let queued = facts[1].parse::<u64>()?;
    ensure!(facts[0] == "\"away\"" && queued >= 1 && facts[2..] == ["1", "3600"], "{shown}");
    ensure!(shown["left_at"].is_string() && shown["expires"].is_string(), "{shown}");
    let kick = api.cli(&["sessions", "kick", "c2"]).err().context("it is not connected")?.to_string();
    ensure!(kick.contains("--end-session"), "{kick}");
    api.cli(&["sessions", "kick", "c2", "--end-session"])?;
    let left = rows(api, &["sessions", "list", "--away"], ["client", "node"])?;
    ensure!(left == ["c0 one", "c4 one"], "it is gone when the command has returned: {left:?}");
    let again = api.cli(&["sessions", "kick", "c2", "--end-session"]).err().context("it is gone")?.to_string();
    ensure!(again.contains("c2"), "{again}");
    Ok(())
}
