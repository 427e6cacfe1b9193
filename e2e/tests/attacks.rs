//! Clients that take as much memory and work as they can get, all at once, beside a device that
//! sends little.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use mqtt_client::{Connect, PropertyList, Publish, Subscription, Version, Will, id};
use proto::v1::telemetry_service_client::TelemetryServiceClient;
use proto::v1::{
    AggregateFunction, AggregateSpec, BatchGetLatestRequest, ListReadingsRequest, QueryAggregatesRequest,
    SeriesSelector, TimeRange,
};
use tonic::transport::Channel;
use weir_e2e::device::Device;
use weir_e2e::{Weir, read};

/// `memory.max_bytes`, and the most that the process may have in memory.
const BUDGET: u64 = 512 << 20;
/// Longest time without anything to read.
const SILENCE: Duration = Duration::from_millis(500);

/// The attacked process and the end of the attacks.
struct Target {
    mqtt: SocketAddr,
    http: SocketAddr,
    channel: Channel,
    over: AtomicBool,
    /// Rounds that the attacks have made.
    rounds: AtomicU64,
}

impl Target {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Opens a connection and sends `bytes`. The server may refuse the connection at any time.
    fn send(&self, bytes: &[u8]) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.mqtt)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        stream.write_all(bytes)?;
        Ok(stream)
    }

    /// Repeats an attack until the end. Refused connections are what attackers should get.
    fn attack(&self, mut round: impl FnMut(u64) -> std::io::Result<()>) {
        for number in 0.. {
            if self.is_over() {
                return;
            }
            if round(number).is_err() {
                std::thread::yield_now();
            }
            self.rounds.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn connect(id: &str, version: Version, clean_start: bool) -> Vec<u8> {
    let mut out = Vec::new();
    mqtt_client::connect(&mut out, &Connect { client_id: id, version, clean_start, ..Connect::default() });
    out
}

fn publish(out: &mut Vec<u8>, topic: &str, payload: &[u8], qos: u8, retain: bool) {
    let packet_id = u16::from(qos > 0);
    let publish = Publish { topic, payload, qos, retain, packet_id, ..Publish::default() };
    mqtt_client::publish(out, Version::V4, &publish);
}

/// Reads until the server is silent or closes.
fn drain(stream: &mut TcpStream) {
    let mut input = [0; 65_536];
    while stream.read(&mut input).is_ok_and(|read| read > 0) {}
}

/// One device whose every message has new names of values.
fn names(target: &Target) {
    let mut device = Device::new("names", target.mqtt);
    target.attack(|round| {
        let values: Vec<String> = (0..200).map(|n| format!("\"v{round}_{n}\":{n}")).collect();
        device.send(round, "devices/names/telemetry", format!("{{{}}}", values.join(",")).as_bytes())?;
        device.acknowledged().map(drop)
    });
}

/// One device whose readings all have one and the same time.
fn times(target: &Target, time: u64) {
    let mut device = Device::new("times", target.mqtt);
    target.attack(|round| {
        let readings: Vec<String> = (0..100).map(|n| format!("{{\"ts\":{time},\"n\":{}}}", round * 100 + n)).collect();
        device.send(round, "devices/times/telemetry", format!("[{}]", readings.join(",")).as_bytes())?;
        device.acknowledged().map(drop)
    });
}

/// Every message is of another device.
fn devices(target: &Target) {
    let mut device = Device::new("devices", target.mqtt);
    target.attack(|round| {
        for n in 0..50 {
            let number = round * 50 + n;
            device.send(number, &format!("devices/made-up-{number}/telemetry"), b"{\"n\":1}")?;
        }
        device.acknowledged().map(drop)
    });
}

/// Every message has another long topic that no route takes.
fn topics(target: &Target) {
    target.attack(|round| {
        let mut stream = target.send(&connect("topics", Version::V4, true))?;
        let name = "x".repeat(1000);
        let mut out = Vec::new();
        for n in 0..2000 {
            publish(&mut out, &format!("nowhere/{name}/{round}/{n}"), b"1", 0, false);
        }
        stream.write_all(&out)
    });
}

/// Connections that begin a large packet and do not end it.
fn halves(target: &Target, count: usize, is_connect: bool) {
    let mut held = Vec::new();
    let body = vec![b'x'; 249 << 10];
    target.attack(|round| {
        let mut out = Vec::new();
        if is_connect {
            let (client, most) = (format!("half-{round}"), &body[..60_000]);
            let will = Will { topic: "w", payload: most, ..Will::default() };
            let user = "u".repeat(60_000);
            let connect = Connect {
                client_id: &client,
                will: Some(will),
                username: Some(&user),
                password: Some(most),
                ..Connect::default()
            };
            mqtt_client::connect(&mut out, &connect);
        } else {
            out = connect(&format!("part-{round}"), Version::V4, true);
            publish(&mut out, "devices/half/telemetry", &body, 1, false);
        }
        out.truncate(out.len() - 1);
        let sent = target.send(&out)?;
        held.push(sent);
        if held.len() > count {
            held.remove(0);
        }
        Ok(())
    });
}

/// SUBSCRIBE packets of a megabyte, and filters that match every retained message.
fn filters(target: &Target) {
    target.attack(|round| {
        let mut stream = target.send(&connect(&format!("filters-{}", round % 20), Version::V4, false))?;
        let mut out = Vec::new();
        for part in 0..4_u16 {
            let filters: Vec<String> = (0..5000).map(|n| format!("+/{}{}/#", "x".repeat(150), n)).collect();
            let wild = (0..5000).map(|_| "+/#".to_owned());
            let all: Vec<String> = if part == 0 { filters } else { wild.collect() };
            let list: Vec<_> = all.iter().map(|filter| Subscription { filter, ..Subscription::default() }).collect();
            mqtt_client::subscribe(&mut out, Version::V4, part + 1, &[], &list);
        }
        stream.write_all(&out)?;
        drain(&mut stream);
        Ok(())
    });
}

/// Retained messages of almost a megabyte on ever new topics.
fn retained(target: &Target) {
    let payload = vec![b'x'; 1_000_000];
    target.attack(|round| {
        let mut stream = target.send(&connect("retained", Version::V4, true))?;
        for n in 0..10 {
            let mut out = Vec::new();
            publish(&mut out, &format!("kept/{}", round * 10 + n), &payload, 1, true);
            for n in 0..200 {
                publish(&mut out, &format!("small/{round}/{n}"), b"1", 0, true);
            }
            stream.write_all(&out)?;
        }
        drain(&mut stream);
        Ok(())
    });
}

/// Sessions that stay away while large messages are published for them; their wills are delayed.
fn sleepers(target: &Target) {
    let payload = vec![b'x'; 900_000];
    target.attack(|round| {
        let client = format!("sleeper-{round}");
        let mut out = Vec::new();
        let properties = PropertyList::new().number(id::SESSION_EXPIRY, 86_400);
        let delay = PropertyList::new().number(id::WILL_DELAY, 86_400);
        let will = Will { topic: "late", payload: &payload[..60_000], properties: delay.as_bytes(), ..Will::default() };
        let connect = Connect {
            version: Version::V5,
            client_id: &client,
            will: Some(will),
            properties: properties.as_bytes(),
            ..Connect::default()
        };
        mqtt_client::connect(&mut out, &connect);
        let subscription = Subscription { filter: "big/#", qos: 1, ..Subscription::default() };
        mqtt_client::subscribe(&mut out, Version::V5, 1, &[], &[subscription]);
        let mut stream = target.send(&out)?;
        // CONNACK and SUBACK, then the connection breaks.
        stream.read_exact(&mut [0; 8])?;
        drop(stream);
        let mut out = self::connect("publisher", Version::V4, true);
        publish(&mut out, "big/x", &payload, 1, false);
        let mut stream = target.send(&out)?;
        stream.read_exact(&mut [0; 8])
    });
}

/// Large messages that cannot be read, and the page that lists them.
fn letters(target: &Target) {
    let payload = vec![b'{'; 1_000_000];
    target.attack(|_| {
        let mut out = connect("letters", Version::V4, true);
        publish(&mut out, "devices/letters/telemetry", &payload, 1, false);
        let mut stream = target.send(&out)?;
        stream.read_exact(&mut [0; 8])?;
        drop(stream);
        let mut stream = TcpStream::connect(target.http)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET /status.json HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        drain(&mut stream);
        Ok(())
    });
}

/// Calls for as much as one call may ask for.
async fn calls(target: &Target) {
    let mut client = TelemetryServiceClient::new(target.channel.clone()).max_decoding_message_size(64 << 20);
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let now = i64::try_from(now()).unwrap_or_default();
    while !target.is_over() {
        let aggregate = QueryAggregatesRequest {
            parent: "tenants/-".to_owned(),
            range: Some(TimeRange { start_time: time(now - 30 * 86_400), end_time: time(now + 86_400) }),
            bucket: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            aggregates: vec![AggregateSpec { function: AggregateFunction::Mean.into(), percentile: 0.0 }; 16],
            fill: proto::v1::FillMode::Linear.into(),
            page_size: 10_000,
            ..Default::default()
        };
        let list = ListReadingsRequest {
            parent: "tenants/-/devices/times".to_owned(),
            range: Some(TimeRange { start_time: time(now - 3600), end_time: time(now + 3600) }),
            page_size: 10_000,
            ..Default::default()
        };
        let selector = SeriesSelector { devices: vec!["tenants/-/devices/names".to_owned()], ..Default::default() };
        let latest =
            BatchGetLatestRequest { parent: "tenants/-".to_owned(), selector: Some(selector), ..Default::default() };
        // RESOURCE_EXHAUSTED is an answer.
        let (mut second, mut third) = (client.clone(), client.clone());
        drop(tokio::join!(
            second.query_aggregates(aggregate),
            third.list_readings(list),
            client.batch_get_latest(latest)
        ));
        target.rounds.fetch_add(1, Ordering::Relaxed);
    }
}

#[expect(clippy::disallowed_methods, reason = "the time between two readings, or of an attack, is not a state")]
fn pace(time: Duration) {
    std::thread::sleep(time);
}

/// Publishes a reading every 20 ms; returns the times to the PUBACKs.
fn quiet(target: &Target) -> anyhow::Result<Vec<Duration>> {
    let mut device = Device::new("quiet", target.mqtt);
    device.connect()?;
    let mut times = Vec::new();
    while !target.is_over() {
        let begun = Instant::now();
        let number = times.len() as u64;
        // A device that hears nothing for ten seconds connects again and sends again.
        let mut sent = device.send(number, "devices/quiet/telemetry", format!("{{\"n\":{number}}}").as_bytes());
        while device.in_flight() > 0 {
            ensure!(begun.elapsed() < Duration::from_secs(60), "no PUBACK within a minute: {sent:?}");
            sent = device.connect().and_then(|()| device.acknowledged().map(drop));
        }
        times.push(begun.elapsed());
        pace(Duration::from_millis(20).saturating_sub(begun.elapsed()));
    }
    Ok(times)
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[tokio::test(flavor = "multi_thread")]
async fn attacks_at_once_stay_within_the_memory_budget_and_a_quiet_device_is_acknowledged() -> anyhow::Result<()> {
    // Manual runs take ten minutes, or choose attacks: WEIR_TEST_ATTACKS=names,times.
    let secs = std::env::var("WEIR_TEST_ATTACK_SECS").ok().and_then(|secs| secs.parse().ok()).unwrap_or(20);
    let dir = tempfile::tempdir()?;
    let budget = BUDGET.to_string();
    let mut weir = Weir::start_with(dir.path(), "127.0.0.1:0", &[("WEIR_MEMORY_MAX_BYTES", &budget)])?;
    let target = Target {
        mqtt: weir.mqtt,
        http: weir.http,
        channel: weir.channel().await?,
        over: AtomicBool::new(false),
        rounds: AtomicU64::new(0),
    };
    let at_rest = weir.resident_bytes()?;
    let quiet = run(&target, Duration::from_secs(secs)).await?;
    ensure!(weir.runs()?, "weir has ended");
    let (peak, anonymous) = (weir.memory_bytes("VmHWM")?, weir.memory_bytes("RssAnon")?);
    let mut sorted = quiet.clone();
    sorted.sort_unstable();
    let at = |share: f64| sorted.get((sorted.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!(
        "{secs} s, {} rounds of attacks; memory at rest {} MiB, at most {} MiB, now {} MiB of it anonymous; PUBACK of \
         the quiet device: {} readings, p50 {:?}, p99 {:?}, longest {:?}",
        target.rounds.load(Ordering::Relaxed),
        at_rest >> 20,
        peak >> 20,
        anonymous >> 20,
        sorted.len(),
        at(0.5),
        at(0.99),
        sorted.last().context("the quiet device has published")?,
    );
    ensure!(peak <= BUDGET, "{} MiB of {} MiB", peak >> 20, BUDGET >> 20);
    let rows = read::all_readings(&target.channel, "quiet").await?;
    ensure!(rows.len() == quiet.len(), "{} readings of {}", rows.len(), quiet.len());
    check_books(dir.path(), &weir)?;
    weir.stop()
}

fn check_books(dir: &Path, weir: &Weir) -> anyhow::Result<()> {
    weir.cli(&["books"]).with_context(|| weir_e2e::tail_of_log(dir)).map(drop)
}

type Attack<'a> = Box<dyn Fn() + Send + Sync + 'a>;

/// Runs all attacks at once for a time. Returns the times of the quiet device.
async fn run(target: &Target, time: Duration) -> anyhow::Result<Vec<Duration>> {
    let seconds = now();
    let handle = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let device = scope.spawn(|| quiet(target));
            let attacks: [(&str, Attack<'_>); 11] = [
                ("names", Box::new(|| names(target))),
                ("times", Box::new(|| times(target, seconds))),
                ("devices", Box::new(|| devices(target))),
                ("topics", Box::new(|| topics(target))),
                ("halves", Box::new(|| halves(target, 1000, false))),
                ("connects", Box::new(|| halves(target, 500, true))),
                ("filters", Box::new(|| filters(target))),
                ("retained", Box::new(|| retained(target))),
                ("sleepers", Box::new(|| sleepers(target))),
                ("letters", Box::new(|| letters(target))),
                ("calls", Box::new(|| handle.block_on(calls(target)))),
            ];
            let chosen = std::env::var("WEIR_TEST_ATTACKS").ok();
            for (name, attack) in attacks {
                if chosen.as_ref().is_none_or(|chosen| chosen.split(',').any(|choice| choice == name)) {
                    scope.spawn(attack);
                }
            }
            let begun = Instant::now();
            while begun.elapsed() < time && !device.is_finished() {
                pace(Duration::from_millis(50));
            }
            target.over.store(true, Ordering::Relaxed);
            device.join().map_err(|_| anyhow::anyhow!("the quiet device panicked"))?
        })
    })
}
