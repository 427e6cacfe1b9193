//! Commands to servers of a test, and waits for what they lead to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::server::{Server, free_port, wait_until};

/// Like [`wait_until`], for an asynchronous condition.
pub(crate) async fn wait_for(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Server {
    /// Runs a command over a separate connection. Returns the first line of the response, or a
    /// whole bulk response.
    pub(crate) fn command(&self, words: &[&str]) -> String {
        self.try_command(words).unwrap()
    }

    /// As [`Server::command`], of a server that may close the connection.
    pub(crate) fn try_command(&self, words: &[&str]) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.write_all(text.as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_owned();
        let length = line.strip_prefix('$').and_then(|length| length.parse::<usize>().ok());
        let Some(length) = length else { return Ok(line) };
        let mut bulk = vec![0; length];
        reader.read_exact(&mut bulk)?;
        Ok(String::from_utf8_lossy(&bulk).into_owned())
    }

    /// True for a replica that has received the primary's data: one that has not would take over
    /// without it.
    pub(crate) fn is_filled(&self) -> bool {
        self.command(&["INFO", "replication"]).contains("master_link_status:up")
    }

    /// Starts a replica of this server.
    pub(crate) fn replica(&self) -> Server {
        let follow = ["--replicaof".to_owned(), format!("127.0.0.1 {}", self.port)];
        Server::start(&follow.each_ref().map(String::as_str)).unwrap()
    }
}

/// Waits until one of the replicas has taken over.
pub(crate) fn until_one_is_primary(replicas: &[Server]) {
    wait_until("a replica is the primary", || {
        let asked = replicas.iter().map(|server| server.try_command(&["INFO", "replication"]));
        asked.flatten().any(|answer| answer.contains("role:master"))
    });
}

/// Three masters that share the slots: each has 5461 of them, in order.
pub(crate) fn cluster() -> Option<Vec<Server>> {
    let start = |_| {
        let bus = free_port().to_string();
        let arguments = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "3000"];
        Server::start(&arguments).map(|server| (server, bus))
    };
    let servers = (0..3).map(start).collect::<Option<Vec<_>>>()?;
    for (number, (server, _)) in servers.iter().enumerate() {
        let from = number * 5461;
        let to = if number == 2 { 16_383 } else { from + 5460 };
        // Masters with the same epoch resolve it later, and a slot that is moved meanwhile may be
        // disputed.
        let epoch = (number + 1).to_string();
        assert_eq!(server.command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]), "+OK");
        assert_eq!(server.command(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]), "+OK");
        let (first, bus) = &servers[0];
        let meet = server.command(&["CLUSTER", "MEET", "127.0.0.1", &first.port.to_string(), bus]);
        assert_eq!(meet, "+OK");
    }
    let servers: Vec<_> = servers.into_iter().map(|(server, _)| server).collect();
    let is_whole = |server: &Server| {
        let info = server.command(&["CLUSTER", "INFO"]);
        info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
    };
    wait_until("the cluster is whole", || servers.iter().all(is_whole));
    Some(servers)
}
