//! From a failure to the pager: Weir is killed, and a simulated PagerDuty receives the alert with
//! its runbook.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::live::World;
use super::process::{Running, wait};
use super::tools::Tools;
use super::{DEPLOY, http};

/// Longer than any step from a failure to the pager with the short intervals of this run.
const BOUND: Duration = Duration::from_secs(60);

const ROUTING_KEY: &str = "0123456789abcdef0123456789abcdef";

/// A simulated PagerDuty: stores events.
pub(super) struct Page {
    pub(super) address: SocketAddr,
    events: Receiver<Value>,
}

impl Page {
    /// Starts to listen; ends with the process.
    pub(super) fn listen() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (tx, events) = sync_channel(1000);
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                if let Err(error) = take(stream, &tx) {
                    println!("observability: the pager received an invalid event: {error:#}");
                }
            }
        });
        Ok(Self { address, events })
    }

    /// Waits for an event with this action that contains `what`.
    fn event(&self, action: &str, what: &str) -> anyhow::Result<Value> {
        let begun = Instant::now();
        let mut others = Vec::new();
        while let Some(left) = BOUND.checked_sub(begun.elapsed()) {
            let Ok(event) = self.events.recv_timeout(left) else { break };
            if event["event_action"] == action && event.to_string().contains(what) {
                return Ok(event);
            }
            others.push(event["payload"]["summary"].to_string());
        }
        bail!("no {action} about {what} within {BOUND:?}, but {others:?}")
    }
}

fn take(stream: TcpStream, events: &SyncSender<Value>) -> anyhow::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut length, mut line) = (0, String::new());
    while reader.read_line(&mut line)? > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let answer = r#"{"status":"success","message":"Event processed","dedup_key":"test"}"#;
    let head = format!("HTTP/1.1 202 Accepted\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", answer.len());
    reader.get_mut().write_all(format!("{head}{answer}").as_bytes())?;
    events.send(serde_json::from_slice(&body)?).context("the receiver of events has ended")
}

/// The Alertmanager example with the pager of this run.
pub(super) fn start(tools: &Tools, world: &World, pager: SocketAddr) -> anyhow::Result<Running> {
    let mut config = std::fs::read_to_string(Path::new(DEPLOY).join("alertmanager/alertmanager.yml"))?;
    for (from, to) in [
        ("pagerduty_url: https://events.pagerduty.com/", format!("pagerduty_url: http://{pager}/")),
        ("/etc/alertmanager/pagerduty.key", "pagerduty.key".to_owned()),
        ("group_wait: 10s", "group_wait: 1s".to_owned()),
        ("group_interval: 1m", "group_interval: 1s".to_owned()),
    ] {
        ensure!(config.contains(from), "alertmanager.yml does not have {from}");
        config = config.replace(from, &to);
    }
    std::fs::write(world.scratch.join("alertmanager.yml"), config)?;
    std::fs::write(world.scratch.join("pagerduty.key"), ROUTING_KEY)?;
    let options = [
        ("--config.file", "alertmanager.yml".to_owned()),
        ("--storage.path", "alertmanager".to_owned()),
        ("--web.listen-address", world.alertmanager.to_string()),
        ("--cluster.listen-address", String::new()),
    ];
    let mut running = world.start(tools, "alertmanager", &options)?;
    wait("alertmanager is ready", || {
        running.alive()?;
        ensure!(http::get(world.alertmanager, "/-/ready")?.status == 200, "it is not ready");
        Ok(())
    })?;
    Ok(running)
}

/// Kills Weir, reads the pager, starts Weir again, reads the pager.
pub(super) fn check(world: &World, weir: Running, page: &Page) -> anyhow::Result<()> {
    let node = world.http.to_string();
    drop(weir);
    let event = page.event("trigger", &format!("Weir does not respond on {node}"))?;
    ensure!(event["routing_key"] == ROUTING_KEY, "the event has another key: {event}");
    ensure!(event["payload"]["severity"] == "critical", "the event has no severity: {event}");
    ensure!(event["payload"]["class"] == "WeirDown", "the event does not name the alert: {event}");
    let link = event["links"][0]["href"].as_str().unwrap_or_default();
    let runbook = link.strip_prefix("https://runbooks.example/").with_context(|| format!("no runbook in {event}"))?;
    ensure!(Path::new(runbook).is_file(), "the event links to {runbook}, which does not exist");
    let _weir = world.weir()?;
    let resolved = page.event("resolve", &node)?;
    ensure!(
        resolved["dedup_key"] == event["dedup_key"],
        "the resolved incident differs from the triggered one: {resolved}"
    );
    println!("observability: a killed weir triggers the pager with {runbook}, a restart resolves the incident");
    Ok(())
}
