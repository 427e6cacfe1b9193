//! The cost of a reading in mongod: blocks of 15 readings of 10,000 devices, compared with one
//! insert for each reading, and the latest states of the same devices. Three values a reading;
//! every write is acknowledged by a majority and journalled.
//!
//! `cargo run --release -p weir-stores --example mongo_cpu -- mongodb://127.0.0.1:27017`
//!
//! The server must be used by nothing else and started with `--replSet` (a new one is initiated):
//! all its processor time, commands and documents are counted.

use std::sync::Arc;
use std::time::Instant;

use model::{DeviceKey, Nanos, TimeRange, Value};
use mongodb::bson::{Document, doc};
use mongodb::options::{ClientOptions, WriteConcern};
use mongodb::{Client, Database};
use weir_stores::contract::{History, Latest, LatestState, LatestValue};
use weir_stores::mongodb::{Config, MongoStore};
use weir_stores::{Block, BlockId, Column, ColumnData};

const START: Nanos = 1_700_000_000 * model::time::SECOND;
const DEVICES: usize = 10_000;
const ROWS: usize = 15;
const ROUNDS: usize = 8;
/// Readings that are inserted one by one.
const SINGLE: usize = 40_000;
const AT_A_TIME: usize = 16;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Work of the server so far.
struct Done {
    cpu_micros: i64,
    commands: i64,
    documents: i64,
    at: Instant,
}

fn number(document: &Document, path: &[&str]) -> i64 {
    let Some((last, above)) = path.split_last() else { return 0 };
    let inner = above.iter().try_fold(document, |d, key| d.get_document(key).ok());
    inner.and_then(|d| d.get(last)).and_then(|v| v.as_i64().or(v.as_i32().map(Into::into))).unwrap_or_default()
}

async fn look(database: &Database) -> Outcome<Done> {
    // Unwritten pages would be counted later.
    database.run_command(doc! { "fsync": 1 }).await?;
    let status = database.run_command(doc! { "serverStatus": 1 }).await?;
    let commands = |name: &str| number(&status, &["metrics", "commands", name, "total"]);
    Ok(Done {
        cpu_micros: number(&status, &["extra_info", "user_time_us"])
            + number(&status, &["extra_info", "system_time_us"]),
        commands: commands("insert") + commands("update"),
        documents: number(&status, &["opcounters", "insert"]) + number(&status, &["opcounters", "update"]),
        at: Instant::now(),
    })
}

fn report(what: &str, count: usize, before: &Done, after: &Done) {
    let each = |n: i64| n as f64 / count as f64;
    println!(
        "{what:<32} {:>8} in {:>6.2} s   {:>8.3} µs of mongod, {:.5} documents, {:.6} commands each",
        count,
        (after.at - before.at).as_secs_f64(),
        each(after.cpu_micros - before.cpu_micros),
        each(after.documents - before.documents),
        each(after.commands - before.commands),
    );
}

fn key(device: usize) -> DeviceKey {
    DeviceKey::new("default", &format!("device-{device:05}")).expect("a good id")
}

fn figure(device: usize, row: usize, value: usize) -> f64 {
    ((device * 31 + row * 7 + value * 1_009) % 10_000) as f64 / 100.0
}

fn block(device: usize, round: usize) -> Block {
    let rows = round * ROWS..(round + 1) * ROWS;
    let times: Vec<Nanos> = rows.clone().map(|r| START + r as i64 * model::time::SECOND).collect();
    let column = |(at, name): (usize, &&str)| Column {
        name: (*name).into(),
        present: Vec::new(),
        data: ColumnData::Float(rows.clone().map(|row| figure(device, row, at)).collect()),
    };
    Block {
        id: BlockId {
            device: key(device),
            log: "0123456789abcdef".into(),
            first_offset: (round * ROWS * DEVICES + device) as u64,
            part: 0,
        },
        received: times.iter().map(|t| t + 5_000_000).collect(),
        seqs: rows.clone().map(|row| Some(row as u64)).collect(),
        claimed: Vec::new(),
        device_timed: Vec::new(),
        columns: ["battery", "humidity", "temperature"].iter().enumerate().map(column).collect(),
        times,
    }
}

fn state(device: usize, round: usize) -> LatestState {
    let time = START + round as i64 * model::time::SECOND;
    let value = |(at, name): (usize, &&str)| LatestValue {
        name: (*name).into(),
        value: Value::Float(figure(device, round, at)),
        time,
        order: time,
        seq: Some(round as u64),
        received: time,
    };
    LatestState {
        device: key(device),
        first_seen: START,
        last_seen: time,
        readings: round as u64,
        clock_skew: 0,
        values: ["battery", "humidity", "temperature"].iter().enumerate().map(value).collect(),
    }
}

async fn insert_single(database: Database, from: usize) -> Outcome<()> {
    let readings = database.collection::<Document>("single");
    for reading in (from..SINGLE).step_by(AT_A_TIME) {
        let (device, row) = (reading % DEVICES, reading / DEVICES);
        let time = START + row as i64 * model::time::SECOND;
        let values = doc! {
            "battery": figure(device, row, 0), "humidity": figure(device, row, 1), "temperature": figure(device, row, 2),
        };
        readings
            .insert_one(doc! {
                "w": "default", "d": &*key(device).id, "t": time, "r": time + 5_000_000, "s": row as i64, "v": values,
            })
            .write_concern(WriteConcern::builder().w(mongodb::options::Acknowledgment::Majority).journal(true).build())
            .await?;
    }
    Ok(())
}

/// One of three values of one device.
async fn read(store: &MongoStore, admin: &Database) -> Outcome<()> {
    const BLOCKS: usize = 4_000;
    let (device, all) = (key(DEVICES), TimeRange::ALL);
    store.write((0..BLOCKS).map(|round| block(DEVICES, round)).collect()).await?;
    let before = look(admin).await?;
    let metas = store.find(&device, all).await?;
    store.fetch(&device, &metas, Some(&["humidity".into()])).await?;
    let after = look(admin).await?;
    report("readings read in blocks", BLOCKS * ROWS, &before, &after);
    Ok(())
}

/// Initiates a new server as a replica set of one.
async fn initiate(uri: &str) -> Outcome<()> {
    let mut options = ClientOptions::parse(uri).await?;
    options.direct_connection = Some(true);
    let host = options.hosts.first().ok_or("no host")?.to_string();
    let admin = Client::with_options(options)?.database("admin");
    let name = admin.run_command(doc! { "getCmdLineOpts": 1 }).await?;
    let name = name.get_document("parsed")?.get_document("replication")?.get_str("replSet")?.to_owned();
    let set = doc! { "_id": name, "members": [{ "_id": 0, "host": host }] };
    match admin.run_command(doc! { "replSetInitiate": set }).await {
        Ok(_) => println!("initiated a replica set of one"),
        Err(error) => println!("not initiated: {}", error.kind),
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let Some(uri) = std::env::args().nth(1) else { return Err("give the server's connection string".into()) };
    initiate(&uri).await?;
    let config = Config { uri: uri.clone(), database: "weir_cpu".into(), ..Config::default() };
    let client = Client::with_uri_str(&uri).await?;
    let (data, admin) = (client.database(&config.database), client.database("admin"));
    data.drop().await?;
    let store = MongoStore::new(config, Arc::default());

    let mut before = look(&admin).await?;
    for round in 0..ROUNDS {
        store.write((0..DEVICES).map(|device| block(device, round)).collect()).await?;
    }
    let mut after = look(&admin).await?;
    report("readings in blocks of 15", ROUNDS * DEVICES * ROWS, &before, &after);

    data.collection::<Document>("single")
        .create_index(mongodb::IndexModel::builder().keys(doc! { "w": 1, "d": 1, "t": 1 }).build())
        .await?;
    before = look(&admin).await?;
    let mut writers = tokio::task::JoinSet::new();
    (0..AT_A_TIME).for_each(|from| drop(writers.spawn(insert_single(data.clone(), from))));
    for outcome in writers.join_all().await {
        outcome?;
    }
    after = look(&admin).await?;
    report("readings one by one", SINGLE, &before, &after);

    for name in ["states of new devices", "states of known devices"] {
        before = look(&admin).await?;
        for devices in 0..5 {
            let of = devices * DEVICES / 5..(devices + 1) * DEVICES / 5;
            store.store(of.map(|device| state(device, name.len())).collect()).await?;
        }
        after = look(&admin).await?;
        report(name, DEVICES, &before, &after);
    }

    read(&store, &admin).await?;

    before = look(&admin).await?;
    let counts = History::count(&store).await?;
    after = look(&admin).await?;
    report("blocks counted for the books", ROUNDS * DEVICES, &before, &after);
    println!("held: {counts:?}");
    data.drop().await?;
    store.close().await;
    client.shutdown().immediate(true).await;
    Ok(())
}
