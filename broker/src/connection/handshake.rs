//! From an accepted socket to a connection: CONNECT and CONNACK.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::Held;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::authenticate::{METHOD, left_until};
use super::pace::Pace;
use super::waiting::Waiting;
use super::{Connection, DISPLACED, IDLE, Stream};
use crate::Broker;
use crate::codec::connect::{self, Connect};
use crate::codec::encode::{self, ConnackProperties};
use crate::codec::{DecodeError, Version, framing, packet_type, reason};
use crate::memory::FREE_BYTES;
use crate::pending_wills;
use crate::session::Link;
use crate::sessions::Taken;
use crate::will::LastWill;
use door::quota::ConnectionPermit;
use door::{Identity, Inbox, Intake, Sender, Ticket};
use tls::Guest;

/// The reason why a connection was refused, as a metric label.
type Refused = &'static str;

/// Maximum number of QoS 1 messages that are in flight to a client.
const MAX_IN_FLIGHT: usize = 1024;
/// The reason of a refusal.
const NO_MEMORY: &str = "the server has no memory for a connection with this much in its CONNECT (memory.max_bytes)";
/// Reason for refusing a connection beyond the maximum.
pub(crate) const NO_CONNECTION: &str =
    "the server has reached its maximum number of connections (mqtt.max_connections)";
/// The first bytes of the body of an MQTT 5 CONNECT.
const V5_BEGINS: &[u8] = b"\0\x04MQTT\x05";

/// Reads CONNECT and takes up the session. The CONNACK is the first packet that the connection
/// writes.
pub(super) async fn open<I: Inbox, S: Stream>(
    broker: &Arc<Broker<I>>,
    (mut stream, stream_bytes): (S, usize),
    certificates: Vec<Vec<u8>>,
    (peer, full): (SocketAddr, bool),
    guest: Guest<bool>,
) -> Result<Connection<I, S>, Refused> {
    let mut waiting = Waiting::new(broker, peer.ip());
    // A copy of those in the stream.
    let chain: usize = certificates.iter().map(Vec::len).sum();
    if let Err(error) = waiting.begin(stream_bytes + chain).await {
        tracing::info!("refused a connection from {peer}: {error}");
        return Err("memory");
    }
    let (connect, early) =
        match read_connect(&mut stream, broker.config.max_packet_bytes as usize, &mut waiting).await? {
            Ok(read) => read,
            Err(Malformed { error, v5 }) => {
                tracing::info!("refused a connection from {peer}: {}", error.what);
                if error.reason == reason::QUOTA_EXCEEDED {
                    let (version, code) = if v5 { (Version::V5, error.reason) } else { (Version::V4, 3) };
                    refuse(&mut stream, version, code, error.what).await;
                    return Err("memory");
                }
                match error.reason {
                    _ if v5 => refuse(&mut stream, Version::V5, error.reason, error.what).await,
                    // 3.1.1 has a return code for this reason only.
                    reason::UNSUPPORTED_VERSION => refuse(&mut stream, Version::V4, 1, "").await,
                    _ => {}
                }
                return Err("malformed_connect");
            }
        };
    let version = connect.version;
    let report = |what: &str| tracing::info!("refused a connection from {peer}: {what}");
    if full {
        let code = if version == Version::V5 { reason::QUOTA_EXCEEDED } else { 3 };
        report(NO_CONNECTION);
        refuse(&mut stream, version, code, NO_CONNECTION).await;
        return Err("max_connections");
    }
    let is_known = |method: &str| method == METHOD && broker.gatekeeper.takes_tokens();
    if !connect.authentication_method.as_deref().is_none_or(is_known) {
        let what = "the authentication method is not supported: WEIR-JWT is, where devices authenticate";
        report(what);
        refuse(&mut stream, version, reason::BAD_AUTHENTICATION_METHOD, what).await;
        return Err("authentication_method");
    }
    if connect.client.is_empty() && version == Version::V4 && !connect.clean {
        report("a session that lasts needs a client id");
        refuse(&mut stream, version, 2, "").await;
        return Err("client_id");
    }
    // The memory of the CONNECT stays counted meanwhile.
    let admitted = waiting.unless_displaced(broker.admit(&connect, &certificates, peer)).await?;
    let counted = admitted.and_then(|identity| Ok((broker.count_in(&identity, &connect, peer)?, identity)));
    let (permit, identity) = match counted {
        Ok(counted) => counted,
        Err(refused) => {
            refuse(&mut stream, version, refused.code(version), &refused.reason).await;
            return Err(refused.label);
        }
    };
    // From here on it is known, and gives way to no other.
    waiting.admit()?;
    guest.leave().ok_or(DISPLACED)?;
    if let Err(reason) = broker.wait_for_takeover(&identity.tenant, &connect.client).await {
        let code = if version == Version::V5 { reason::QUOTA_EXCEEDED } else { 3 };
        refuse(&mut stream, version, code, "the client has connected again").await;
        return Err(reason);
    }
    let assigned = connect.client.is_empty().then(|| broker.make_client_id(identity.device.as_deref()));
    let own_bytes = own_bytes(&connect) + stream_bytes;
    let Ok(memory) = broker.memory.connections.acquire(own_bytes.saturating_sub(FREE_BYTES)) else {
        let code = if version == Version::V5 { reason::QUOTA_EXCEEDED } else { 3 };
        report(NO_MEMORY);
        refuse(&mut stream, version, code, NO_MEMORY).await;
        return Err("memory");
    };
    let identity = (identity, permit);
    let mut connection = broker.connect(stream, peer, connect, identity, assigned.as_deref(), (own_bytes, memory));
    connection.stalled = !early.is_empty();
    connection.partial = early;
    Ok(connection)
}

/// Bytes of a CONNECT that last as long as the connection.
fn own_bytes(connect: &Connect) -> usize {
    let will = connect.will.as_ref();
    let will = will.map_or(0, |will| will.topic.len() + will.payload.len() + will.properties.len());
    connect.client.len() + connect.user.as_ref().map_or(0, String::len) + will
}

/// An invalid CONNECT, or one that there is no memory for.
struct Malformed {
    error: DecodeError,
    v5: bool,
}

/// Reads a whole CONNECT. Returns it with the bytes that followed.
async fn read_connect<I: Inbox, S: Stream>(
    stream: &mut S,
    max_packet_bytes: usize,
    waiting: &mut Waiting<'_, I>,
) -> Result<Result<(Connect, Vec<u8>), Malformed>, Refused> {
    let mut bytes = Vec::with_capacity(256);
    loop {
        match framing(&bytes, max_packet_bytes) {
            Err(error) => return Ok(Err(Malformed { error, v5: false })),
            Ok(Some(found)) if found.first != packet_type::CONNECT << 4 => {
                let error = DecodeError { reason: reason::PROTOCOL_ERROR, what: "the first packet has to be CONNECT" };
                return Ok(Err(Malformed { error, v5: false }));
            }
            Ok(Some(found)) if bytes.len() >= found.total_bytes => {
                let body = &bytes[found.header_bytes..found.total_bytes];
                let connect =
                    connect::decode(body).map_err(|error| Malformed { error, v5: body.starts_with(V5_BEGINS) });
                return Ok(connect.map(|c| (c, bytes.split_off(found.total_bytes))));
            }
            Ok(_) => {}
        }
        if waiting.unless_displaced(stream.read_buf(&mut bytes)).await?.map_err(|_| "io")? == 0 {
            return Err("closed_before_connect");
        }
        if waiting.hold(bytes.capacity()).await.is_err() {
            let error = DecodeError { reason: reason::QUOTA_EXCEEDED, what: NO_MEMORY };
            let body = framing(&bytes, max_packet_bytes)
                .ok()
                .flatten()
                .map_or(&bytes[..0], |found| &bytes[found.header_bytes..]);
            return Ok(Err(Malformed { error, v5: body.starts_with(V5_BEGINS) }));
        }
    }
}

async fn refuse<S: Stream>(stream: &mut S, version: Version, code: u8, text: &str) {
    let mut out = Vec::new();
    let own = ConnackProperties { reason_string: Some(text), ..ConnackProperties::default() };
    encode::connack(&mut out, version, false, code, &own);
    // The client is refused anyway; it may have gone.
    stream.write_all(&out).await.ok();
}

impl<I: Inbox> Broker<I> {
    /// Returns a client id that no other connection has, of a device if there is one.
    fn make_client_id(&self, device: Option<&str>) -> String {
        let (device, colon) = device.map_or(("", ""), |device| (device, ":"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        format!("{device}{colon}{}{now:x}-{}", door::ASSIGNED, self.next_number())
    }

    fn connect<S: Stream>(
        self: &Arc<Self>,
        stream: S,
        peer: SocketAddr,
        asked: Connect,
        (identity, permit): (Identity, Option<ConnectionPermit>),
        assigned: Option<&str>,
        (own_bytes, memory): (usize, Held),
    ) -> Connection<I, S> {
        let config = &self.config;
        let v5 = asked.version == Version::V5;
        let number = self.next_number();
        let sender = Sender {
            tenant: Arc::clone(&identity.tenant),
            device: identity.device.clone(),
            meter: identity.meter.clone(),
            client: assigned.unwrap_or(&asked.client).into(),
            user: asked.user.as_deref().map(Into::into),
            peer,
            protocol: "mqtt",
        };
        let tenant = self.tenants.get(&sender.tenant);
        let intake = self.inbox.open(&sender);
        let wanted = match asked.session_expiry_secs {
            Some(secs) => secs,
            // 3.1.1 has no expiry: a session that is not clean is kept as long as the configuration
            // allows.
            None if !v5 && !asked.clean => u32::MAX,
            None => 0,
        };
        let mut expiry = wanted.min(config.max_session_expiry_secs);
        let keep_alive = match (asked.keep_alive_secs, config.max_keep_alive_secs) {
            (asked, 0) => asked,
            (0, most) => most,
            (asked, most) => asked.min(most),
        };
        let link = Arc::<Link>::default();
        let Taken { session, present, is_kept, taken_over, before } =
            self.take_session(&tenant, &sender.client, &link, asked.clean, expiry, &identity);
        if taken_over {
            self.metrics.takeovers.count(&sender.tenant, &sender.client, peer, model::clock::now());
        }
        if let Some(will) = asked.will
            && let Some(mut state) = session.owned_by(&link)
        {
            let kept_as = Some(pending_wills::topic(&config.node, self.started, number));
            let ended = identity.ended.clone();
            let meter = identity.meter.clone();
            state.last_will = Some(Box::new(LastWill { will, sender: sender.clone(), kept_as, ended, meter }));
        }
        let is_full =
            || self.metrics.sessions.get() > config.max_sessions as i64 || !self.may_keep_session(&identity, &tenant);
        if expiry > 0 && !is_kept {
            if is_full() {
                // There is room for its connection, and for no session after that.
                self.metrics.sessions_not_kept.inc();
                expiry = 0;
            } else if let Some(mut state) = session.owned_by(&link) {
                state.expiry_secs = expiry;
            }
        }
        let own = ConnackProperties {
            session_expiry_secs: (v5 && expiry != wanted).then_some(expiry),
            receive_maximum: Some(config.receive_maximum),
            maximum_packet_bytes: Some(config.max_packet_bytes),
            assigned_client: assigned,
            topic_alias_maximum: Some(config.topic_alias_maximum),
            server_keep_alive_secs: (keep_alive != asked.keep_alive_secs).then_some(keep_alive),
            authentication_method: asked.authentication_method.as_deref(),
            reason_string: None,
        };
        let mut out = Vec::new();
        encode::connack(&mut out, asked.version, present, reason::SUCCESS, &own);
        let patience = (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1500));
        let left = left_until(identity.expires);
        let first = left.into_iter().fold(patience.unwrap_or(IDLE), Duration::min);
        Connection {
            broker: Arc::clone(self),
            stream,
            is_traced: intake.is_traced(),
            intake,
            sender,
            grants: identity.grants,
            ended: identity.ended,
            authentication: asked.authentication_method.map(|_| Box::default()),
            tenant,
            pace: identity.meter.map(Pace::new),
            permit,
            number,
            version: asked.version,
            clean: asked.clean,
            session,
            link,
            before: (before.last.is_some() || before.publishing.is_some()).then_some(before),
            partial: Vec::new(),
            stalled: false,
            unfinished_since: None,
            memory,
            own_bytes,
            alias_bytes: 0,
            out_bytes: 0,
            starved: false,
            walking: present,
            out,
            written: 0,
            unflushed: false,
            pending: VecDeque::new(),
            owed: 0,
            staged: false,
            full: false,
            last_ticket: Ticket::default(),
            batches: 0,
            timed: None,
            aliases: Vec::new(),
            send_maximum: usize::from(asked.receive_maximum).min(MAX_IN_FLIGHT),
            maximum_packet_bytes: asked.maximum_packet_bytes.map_or(usize::MAX, |n| n as usize),
            problem_information: asked.problem_information && v5,
            patience,
            deadline: left.and_then(|left| Instant::now().checked_add(left)),
            timer: Box::pin(tokio::time::sleep(first)),
            last_heard: Instant::now(),
            registered: false,
            was_denied: false,
            draining: false,
            gone: false,
        }
    }
}
