//! A Kafka of one node: broker and controller in one process (KRaft).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use super::{Server, find, free_address};
use crate::{checked, python};

const PROGRAM: &str = "kafka-server";
/// Id of the cluster: any UUID in base 64.
const CLUSTER: &str = "4L6g3nShT-eMCtK--X86sw";

/// A Kafka with two listeners: one without credentials and with all permissions, one with users.
#[derive(Debug)]
pub struct Kafka {
    /// Process of the server.
    pub server: Server,
    sasl: SocketAddr,
}

impl Kafka {
    /// A user with all permissions.
    pub const USER: &str = "weir";
    /// A user without permissions.
    pub const GUEST: &str = "guest";
    /// Password of both users.
    pub const PASSWORD: &str = "open-sesame";

    /// Starts a Kafka; topics are created on first write, with four partitions.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        Self::start_with(dir, "")
    }

    /// Like [`Kafka::start`], with additional lines of properties.
    ///
    /// # Errors
    /// Like [`Kafka::start`].
    pub fn start_with(dir: &Path, properties: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let home = std::path::absolute(dir)?;
        let (sasl, controller) = (free_address()?, free_address()?);
        let file = home.join("server.properties");
        let program = find(PROGRAM)?;
        // The closure chooses the port and cannot return an error.
        let mut prepared = Ok(());
        let server = Server::start(PROGRAM, dir, |port| {
            let text = settings(&home, port, sasl.port(), controller.port()) + properties;
            prepared = std::fs::write(&file, text).map_err(Into::into).and_then(|()| format(&program, &file));
            vec!["run".to_owned(), file.display().to_string()]
        });
        prepared?;
        Ok(Self { server: server?, sasl })
    }

    /// Value of `brokers` of an export.
    pub fn brokers(&self) -> String {
        self.server.address.to_string()
    }

    /// Value of `brokers` of an export with credentials.
    pub fn brokers_with_credentials(&self) -> String {
        self.sasl.to_string()
    }
}

fn format(program: &Path, file: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.arg("format").arg(file).arg(CLUSTER).stdin(Stdio::null());
    checked("kafka-server format", command.output().context("start kafka-server")?).map(drop)
}

/// Records have the times of their readings, which are fixed in some tests: none is too old to be
/// kept.
fn settings(home: &Path, port: u16, sasl: u16, controller: u16) -> String {
    let (user, guest, password) = (Kafka::USER, Kafka::GUEST, Kafka::PASSWORD);
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{sasl}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
         user_{user}=\"{password}\" user_{guest}=\"{password}\";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:{user}
log.dirs={}
num.partitions=4
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.retention.ms=-1
",
        home.join("data").display()
    )
}

/// A record as kafka-python reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i64,
    /// Offset in the partition.
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// Key.
    pub key: String,
    /// Value; one that is not text as `base64:…`.
    pub value: String,
    /// Headers.
    pub headers: BTreeMap<String, String>,
}

impl Record {
    /// A value of the reading, when the record is JSON.
    ///
    /// # Errors
    /// When the record is not a reading in JSON or has no integer of that name.
    pub fn int(&self, name: &str) -> anyhow::Result<i64> {
        let reading: serde_json::Value = serde_json::from_str(&self.value)?;
        reading["values"][name].as_i64().with_context(|| format!("no integer {name:?} in {}", self.value))
    }
}

impl Kafka {
    /// Every committed record of the topics that match a pattern, by topic, partition and offset.
    ///
    /// # Errors
    /// When kafka-python cannot read them.
    pub fn committed(&self, pattern: &str) -> anyhow::Result<Vec<Record>> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/kafka_consume.py");
        let output = Command::new(python()?).arg(script).args([&self.brokers(), pattern]).output()?;
        let text = checked("kafka_consume.py", output)?;
        let mut records = text.lines().map(record).collect::<anyhow::Result<Vec<_>>>()?;
        records.sort_by(|a, b| (&a.topic, a.partition, a.offset).cmp(&(&b.topic, b.partition, b.offset)));
        Ok(records)
    }
}

impl Kafka {
    /// Writes a record to the first partition of a topic in a transaction that is never ended, as a
    /// producer does that is killed in it.
    ///
    /// # Errors
    /// When kafka-python cannot write it.
    pub fn leave_open(&self, transactional_id: &str, topic: &str, key: &str, value: &str) -> anyhow::Result<()> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/kafka_leave_open.py");
        let arguments = [&self.brokers(), transactional_id, topic, key, value];
        let output = Command::new(python()?).arg(script).args(arguments).output()?;
        let written = String::from_utf8_lossy(&output.stdout).contains("written");
        ensure!(written, "kafka_leave_open.py: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

fn record(line: &str) -> anyhow::Result<Record> {
    let json: serde_json::Value = serde_json::from_str(line)?;
    let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
    let int = |name: &str| json[name].as_i64().with_context(|| format!("{name} in {line}"));
    let headers = json["headers"].as_object().context("headers")?.iter();
    Ok(Record {
        topic: text("topic"),
        partition: int("partition")?,
        offset: int("offset")?,
        timestamp: int("timestamp")?,
        key: text("key"),
        value: text("value"),
        headers: headers.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect(),
    })
}
