//! From an accepted socket to a connection: CONNECT and CONNACK.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use model::Held;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::admission::Proof;
use super::authenticate::{METHOD, left_until};
use super::connack::{accepting, fits, keep_alive};
use super::pace::Pace;
use super::waiting::Waiting;
use super::{Connection, DISPLACED, IDLE, Stream};
use crate::Broker;
use crate::codec::connect::{self, Connect};
use crate::codec::encode::{self, ConnackProperties};
use crate::codec::{DecodeError, Version, framing, packet_type, reason};
use crate::durable::Outbox;
use crate::fleet::{Claim, StoredWill};
use crate::in_flight::MAX_IN_FLIGHT;
use crate::link::Link;
use crate::listener::{Arrival, Guests};
use crate::memory::FREE_BYTES;
use crate::pending_wills;
use crate::sessions::Taken;
use crate::view::ConnectionReport;
use crate::will::LastWill;
use door::quota::ConnectionPermit;
use door::{Identity, Inbox, Intake, Sender, Ticket};

/// The reason why a connection was refused, as a metric label.
type Refused = &'static str;

/// The reason of a refusal.
const NO_MEMORY: &str = "the server has no memory for a connection with this much in its CONNECT (memory.max_bytes)";
/// The reason why a session is not kept.
const NO_SESSION: &str =
    "the session ends with its connection: mqtt.max_sessions or the limit sessions of the tenant is reached";
/// The reason why a client that may have a session in the fleet is refused.
const NOT_NOW: &str = "the sessions of the fleet cannot be reached for the moment: connect again";
/// The reason why a session is not kept in a fleet.
const NO_FLEET: &str = "the session ends with its connection: the sessions of the fleet cannot be reached";
/// Reason for refusing a client whose Maximum Packet Size is smaller than the CONNACK.
const TOO_SMALL: &str = "the CONNACK is larger than the maximum packet size of the client";

/// Reads CONNECT and takes up the session. The CONNACK is the first packet that the connection
/// writes.
pub(super) async fn open<I: Inbox, S: Stream>(
    broker: &Arc<Broker<I>>,
    mut stream: S,
    proof: Proof,
    (arrival, listener): (Arrival, Arc<str>),
    guests: Guests,
) -> Result<Box<Connection<I, S>>, Refused> {
    let Arrival { peer, stream_bytes, .. } = arrival;
    // There is time left to answer.
    let claimed_by = Instant::now() + broker.connect_timeout() * 3 / 4;
    let mut waiting = Waiting::new(broker, peer.ip());
    // A copy of those in the stream.
    if let Err(error) = waiting.begin(stream_bytes + proof.bytes()).await {
        tracing::info!("refused a connection from {peer}: {error}");
        return Err("memory");
    }
    let (connect, early) =
        match read_connect(&mut stream, broker.config.max_packet_bytes as usize, &mut waiting).await? {
            Ok(read) => read,
            Err(Malformed { error, form }) => {
                tracing::info!("refused a connection from {peer}: {}", error.what);
                let v5 = form.version == Version::V5;
                if error.reason == reason::QUOTA_EXCEEDED {
                    let code = if v5 { error.reason } else { 3 };
                    refuse(&mut stream, form, code, error.what).await;
                    return Err("memory");
                }
                match error.reason {
                    _ if v5 => refuse(&mut stream, form, error.reason, error.what).await,
                    // 3.1.1 has a return code for this reason only.
                    reason::UNSUPPORTED_VERSION => refuse(&mut stream, form, 1, "").await,
                    _ => {}
                }
                return Err("malformed_connect");
            }
        };
    let version = connect.version;
    let form = Form { version, most: connect.maximum_packet_bytes };
    let report = |what: &str| tracing::info!("refused a connection from {peer}: {what}");
    if let Some(early) = arrival.early {
        let code = if version == Version::V5 { early.code } else { 3 };
        report(early.what);
        let elsewhere = (code == reason::USE_ANOTHER_SERVER).then_some(&*broker.config.server_reference);
        refuse_for(&mut stream, form, code, early.what, elsewhere).await;
        return Err(early.label);
    }
    let is_known = |method: &str| method == METHOD && broker.gatekeeper.takes_tokens();
    if !connect.authentication_method.as_deref().is_none_or(is_known) {
        let what = "the authentication method is not supported: WEIR-JWT is, where devices authenticate";
        report(what);
        refuse(&mut stream, form, reason::BAD_AUTHENTICATION_METHOD, what).await;
        return Err("authentication_method");
    }
    // 3.1 has no empty ids; longer ones than its 23 characters are accepted.
    if connect.client.is_empty() && version == Version::V4 && (connect.is_3_1 || !connect.clean) {
        report("a session that lasts needs a client id, and so does each client of MQTT 3.1");
        refuse(&mut stream, form, 2, "").await;
        return Err("client_id");
    }
    // The memory of the CONNECT stays counted meanwhile.
    let admitted = waiting.unless_displaced(broker.admit(&connect, &proof, peer)).await?;
    let counted = admitted.and_then(|identity| Ok((broker.count_in(&identity, &connect, peer)?, identity)));
    let (permit, identity) = match counted {
        Ok(counted) => counted,
        Err(refused) => {
            refuse(&mut stream, form, refused.code(version), &refused.reason).await;
            return Err(refused.label);
        }
    };
    // From here on it is known, and gives way to no other.
    waiting.admit()?;
    guests.leave().ok_or(DISPLACED)?;
    if let Err(reason) = broker.wait_for_takeover(&identity.tenant, &connect.client).await {
        let code = if version == Version::V5 { reason::QUOTA_EXCEEDED } else { 3 };
        refuse(&mut stream, form, code, "the client has connected again").await;
        return Err(reason);
    }
    if connect.clean {
        broker.unread.begin_anew(&identity.tenant, &connect.client);
    }
    broker.hand_over(&identity.tenant, &connect.client).await;
    let assigned = connect.client.is_empty().then(|| broker.make_client_id(identity.device.as_deref()));
    let most_keep_alive = arrival.max_keep_alive_secs.unwrap_or(broker.config.max_keep_alive_secs);
    if !fits(&broker.config, most_keep_alive, &connect, assigned.as_deref()) {
        report(TOO_SMALL);
        refuse(&mut stream, form, reason::PACKET_TOO_LARGE, TOO_SMALL).await;
        return Err("too_large_for_client");
    }
    let own_bytes = own_bytes(&connect) + stream_bytes;
    let Ok(memory) = broker.memory.connections.acquire(own_bytes.saturating_sub(FREE_BYTES)) else {
        let code = if version == Version::V5 { reason::QUOTA_EXCEEDED } else { 3 };
        report(NO_MEMORY);
        refuse(&mut stream, form, code, NO_MEMORY).await;
        return Err("memory");
    };
    let client = assigned.as_deref().unwrap_or(&connect.client);
    let stored = connect.will.as_ref().filter(|_| broker.fleet.is_some()).map(|will| StoredWill {
        delay_secs: will.delay_secs,
        body: pending_wills::encode_stored(will, client, connect.user.as_deref(), identity.device.as_deref()),
    });
    let (claim, claiming) = match broker.claim(&identity.tenant, client, connect.clean, stored, claimed_by).await {
        Ok(claimed) => claimed,
        Err(unavailable) => {
            let code = if version == Version::V5 { reason::SERVER_UNAVAILABLE } else { 3 };
            report(&unavailable.to_string());
            refuse(&mut stream, form, code, NOT_NOW).await;
            return Err("fleet_unavailable");
        }
    };
    let identity = (identity, permit);
    let assigned = assigned.as_deref();
    let mut connection =
        broker.connect(stream, (arrival, listener), connect, (identity, claim), assigned, (own_bytes, memory));
    drop(claiming);
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

/// The form of a refusal that the client can read.
#[derive(Clone, Copy)]
struct Form {
    version: Version,
    /// Maximum Packet Size, when given.
    most: Option<u32>,
}

/// An invalid CONNECT, or one that there is no memory for.
struct Malformed {
    error: DecodeError,
    form: Form,
}

impl Malformed {
    /// `body` is as much of the CONNECT as has arrived.
    fn new(error: DecodeError, body: &[u8]) -> Self {
        let (version, most) = connect::form(body);
        Self { error, form: Form { version, most } }
    }
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
            Err(error) => return Ok(Err(Malformed::new(error, &[]))),
            Ok(Some(found)) if found.first != packet_type::CONNECT << 4 => {
                let error = DecodeError { reason: reason::PROTOCOL_ERROR, what: "the first packet has to be CONNECT" };
                return Ok(Err(Malformed::new(error, &[])));
            }
            Ok(Some(found)) if bytes.len() >= found.total_bytes => {
                let body = &bytes[found.header_bytes..found.total_bytes];
                let connect = connect::decode(body).map_err(|error| Malformed::new(error, body));
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
            return Ok(Err(Malformed::new(error, body)));
        }
    }
}

/// Sends a CONNACK with the reason, as far as the client accepts its size.
async fn refuse<S: Stream>(stream: &mut S, form: Form, code: u8, text: &str) {
    refuse_for(stream, form, code, text, None).await;
}

/// As [`refuse`], with the server that the client is to use.
async fn refuse_for<S: Stream>(stream: &mut S, form: Form, code: u8, text: &str, server_reference: Option<&str>) {
    let mut out = Vec::new();
    let most = form.most.map_or(usize::MAX, |most| most as usize);
    for reason_string in [Some(text), None] {
        let own = ConnackProperties { reason_string, server_reference, ..ConnackProperties::default() };
        out.clear();
        encode::connack(&mut out, form.version, false, code, &own);
        if out.len() <= most {
            break;
        }
    }
    if out.len() <= most {
        // The client is refused anyway; it may have gone.
        stream.write_all(&out).await.ok();
    }
    // WebSocket and TLS announce the end.
    stream.shutdown().await.ok();
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
        (arrival, listener): (Arrival, Arc<str>),
        mut asked: Connect,
        ((identity, permit), mut claim): ((Identity, Option<ConnectionPermit>), Claim),
        assigned: Option<&str>,
        (own_bytes, memory): (usize, Held),
    ) -> Box<Connection<I, S>> {
        let config = &self.config;
        let v5 = asked.version == Version::V5;
        let number = self.next_number();
        let sender = Sender {
            tenant: Arc::clone(&identity.tenant),
            device: identity.device.clone(),
            meter: identity.meter.clone(),
            client: assigned.unwrap_or(&asked.client).into(),
            user: asked.user.as_deref().map(Into::into),
            peer: arrival.peer,
            protocol: "mqtt",
        };
        let tenant = self.tenants.get(&sender.tenant);
        let intake = Outbox::new(self.inbox.open(&sender));
        let wanted = match asked.session_expiry_secs {
            Some(secs) => secs,
            // 3.1.1 has no expiry.
            None if !v5 && !asked.clean => config.v3_session_expiry_secs,
            None => 0,
        };
        let longest = if arrival.is_internal { u32::MAX } else { config.max_session_expiry_secs };
        let mut expiry = wanted.min(longest);
        let most_keep_alive = arrival.max_keep_alive_secs.unwrap_or(config.max_keep_alive_secs);
        let keep_alive = keep_alive(most_keep_alive, &asked);
        let link = Link::new(&self.arrivals);
        let Taken { session, present, has_new_expiry, taken_over, mut before } =
            self.take_session(&tenant, &sender.client, &link, (asked.clean, expiry), &mut claim, &identity);
        let (due_will, pending_will) = claim.take_wills();
        before.of_another = due_will.and_then(|due| self.read_due_will(due));
        before.elsewhere = pending_will;
        self.begin_arrivals(&claim);
        if taken_over {
            self.metrics.takeovers.count(&sender.tenant, &sender.client, arrival.peer, model::clock::now());
        }
        if let Some(mut state) = session.owned_by(&link) {
            state.connection = Some(Arc::new(ConnectionReport {
                since: model::clock::now(),
                peer: arrival.peer,
                listener,
                device: identity.device.clone(),
                protocol_version: match (v5, asked.is_3_1) {
                    (true, _) => "5.0",
                    (false, true) => "3.1",
                    (false, false) => "3.1.1",
                },
                keep_alive_secs: keep_alive,
                clean_start: asked.clean,
            }));
        }
        if let Some(will) = asked.will.take()
            && let Some(mut state) = session.owned_by(&link)
        {
            let owned = claim.keeps_will().cloned();
            let kept_as = owned.is_none().then(|| pending_wills::topic(&config.node, self.started, number));
            let ended = identity.ended.clone();
            let meter = identity.meter.clone();
            state.last_will = Some(Box::new(LastWill { will, sender: sender.clone(), owned, kept_as, ended, meter }));
        }
        let is_full =
            || self.metrics.sessions.get() > config.max_sessions as i64 || !self.may_keep_session(&identity, &tenant);
        let mut reason_string = None;
        if expiry > 0 && !present {
            if !claim.may_last() {
                reason_string = Some(NO_FLEET);
                expiry = 0;
            } else if !arrival.is_internal && is_full() {
                reason_string = Some(NO_SESSION);
                // There is room for its connection, and for no session after that.
                self.metrics.sessions_not_kept.inc();
                expiry = 0;
            } else if let Some(mut state) = session.owned_by(&link) {
                state.expiry_secs = expiry;
                session.keep(&mut state, self.new_ledger(&tenant, &claim));
            }
        }
        let maximum_packet_bytes = asked.maximum_packet_bytes.map_or(usize::MAX, |n| n as usize);
        let mut own = ConnackProperties {
            session_expiry_secs: (v5 && expiry != wanted).then_some(expiry),
            topic_alias_maximum: Some(config.topic_alias_maximum),
            reason_string: reason_string.filter(|_| asked.problem_information),
            ..accepting(config, most_keep_alive, &asked, assigned)
        };
        let mut out = Vec::new();
        // 3.1 has no such flag.
        let says_present = present && !asked.is_3_1;
        encode::connack(&mut out, asked.version, says_present, reason::SUCCESS, &own);
        if out.len() > maximum_packet_bytes {
            own.reason_string = None;
            out.clear();
            encode::connack(&mut out, asked.version, says_present, reason::SUCCESS, &own);
        }
        if out.len() > maximum_packet_bytes {
            // A client that is told of no topic aliases uses none.
            own.topic_alias_maximum = None;
            out.clear();
            encode::connack(&mut out, asked.version, says_present, reason::SUCCESS, &own);
        }
        self.metrics.replies.inc();
        let patience = (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1500));
        let left = left_until(identity.expires);
        let first = left.into_iter().fold(patience.unwrap_or(IDLE), Duration::min);
        Box::new(Connection {
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
            is_bridge: asked.is_bridge || arrival.is_internal,
            is_3_1: asked.is_3_1,
            session,
            arrival: Waker::from(Arc::clone(&link)),
            has_yielded: false,
            handing_over: None,
            earlier: before.earlier.clone(),
            link,
            keeps_session: has_new_expiry || !present,
            before: before.is_any().then(|| Box::new(before)),
            partial: Vec::new(),
            stalled: false,
            awaits_routing: false,
            unfinished_since: None,
            memory,
            own_bytes,
            alias_bytes: 0,
            out_bytes: 0,
            delivers_later: false,
            walking: present,
            out,
            written: 0,
            unflushed: false,
            pending: VecDeque::new(),
            routed: 0,
            owed: 0,
            has_released: false,
            staged: false,
            full: false,
            last_ticket: Ticket::default(),
            batches: 0,
            timed: None,
            aliases: Vec::new(),
            sent_aliases: None,
            sent_aliases_most: asked.topic_alias_maximum.min(config.sent_topic_aliases),
            send_maximum: usize::from(asked.receive_maximum).min(MAX_IN_FLIGHT),
            maximum_packet_bytes,
            problem_information: asked.problem_information && v5,
            patience,
            deadline: left.and_then(|left| Instant::now().checked_add(left)),
            timer: Box::pin(tokio::time::sleep(first)),
            last_heard: Instant::now(),
            registered: false,
            was_denied: false,
            is_forwarding: false,
            draining: false,
            is_moved: false,
            gone: false,
        })
    }
}
