//! A Kafka of one node: broker and controller in one process (KRaft).

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;

use super::{Server, find};
use crate::checked;

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
        let (sasl, controller) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        let (sasl, controller) = (sasl.local_addr()?, controller.local_addr()?);
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
",
        home.join("data").display()
    )
}
