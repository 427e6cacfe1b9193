//! Another broker that the test plays: it keeps a session, and breaks where it is asked to.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use mqtt_client::{Ack, Packet, PropertyList, Publish, Version};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Where the other broker breaks the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Break {
    /// At a PUBLISH, which it has not taken.
    BeforePublish,
    /// At a PUBLISH that it has taken, before PUBREC or PUBACK.
    BeforeAnswer,
    /// After PUBREC or PUBACK.
    AfterAnswer,
    /// At PUBREL, which it has not taken.
    BeforePubrel,
    /// At PUBREL that it has taken, before PUBCOMP.
    BeforePubcomp,
    AfterPubcomp,
    /// At a PUBLISH, which it has not taken: the connection stays open, and nothing comes.
    Silence,
}

/// The settings of the other broker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manner {
    pub(crate) version: Version,
    /// Properties of CONNACK.
    pub(crate) properties: PropertyList,
    /// CONNECT with the bit of bridges is refused.
    pub(crate) refuses_bridges: bool,
    /// The answers to the next SUBSCRIBEs; granted when there is none.
    pub(crate) subacks: Arc<Mutex<VecDeque<u8>>>,
    /// Messages are answered with this code.
    pub(crate) code: u8,
    /// Messages are not answered until so many have come.
    pub(crate) withholds: usize,
}

/// Knowledge of the other broker, which outlasts its connections.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Payloads of messages, each at its first arrival.
    pub(crate) messages: Vec<String>,
    /// Topic, QoS, retain flag and properties of the last message.
    pub(crate) last: (String, u8, bool, Vec<u8>),
    /// Messages that were received, those marked DUP included.
    pub(crate) arrivals: usize,
    /// Packet ids of QoS 2 messages that were not released.
    pub(crate) unreleased: BTreeSet<u16>,
    /// PUBRELs for packet ids that were not held.
    pub(crate) needless: usize,
    /// Protocol levels of CONNECTs.
    pub(crate) levels: Vec<u8>,
    /// Packet ids of SUBSCRIBEs.
    pub(crate) subscribes: Vec<u16>,
    has_session: bool,
    breaks: VecDeque<(Break, usize)>,
    /// Answers that are withheld.
    withheld: Vec<u8>,
}

/// Another broker.
pub(crate) struct Remote {
    pub(crate) address: SocketAddr,
    pub(crate) known: Arc<Mutex<Known>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Remote {
    pub(crate) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let known = Arc::<Mutex<Known>>::default();
        let task = tokio::spawn({
            let known = Arc::clone(&known);
            async move {
                let mut silent = Vec::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    silent.extend(serve(stream, &known, &manner).await);
                }
            }
        });
        Self { address, known, task }
    }

    /// Breaks at the packets with these numbers, from the last break on.
    pub(crate) fn breaks(&self, at: impl IntoIterator<Item = (Break, usize)>) {
        self.known.lock().breaks.extend(at);
    }

    pub(crate) fn breaks_left(&self) -> usize {
        self.known.lock().breaks.len()
    }

    pub(crate) fn messages(&self) -> Vec<String> {
        self.known.lock().messages.clone()
    }

    /// Forgets the session.
    pub(crate) fn forget(&self) {
        let mut known = self.known.lock();
        (known.has_session, known.unreleased) = (false, BTreeSet::new());
    }
}

/// Serves a connection to its end. Returns it when it is to stay open in silence.
async fn serve(mut stream: TcpStream, known: &Mutex<Known>, manner: &Manner) -> Option<TcpStream> {
    let mut bytes = Vec::new();
    loop {
        while let Some(found) = mqtt_client::framing(&bytes).unwrap().filter(|found| bytes.len() >= found.total_bytes) {
            let packet: Vec<u8> = bytes.drain(..found.total_bytes).collect();
            let mut out = Vec::new();
            let next = handle(&packet, &packet[found.header_bytes..], &mut known.lock(), manner, &mut out);
            stream.write_all(&out).await.ok()?;
            match next {
                Next::Goes => {}
                Next::Ends => return None,
                Next::IsSilent => return Some(stream),
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

enum Next {
    Goes,
    Ends,
    IsSilent,
}

fn handle(packet: &[u8], body: &[u8], known: &mut Known, manner: &Manner, out: &mut Vec<u8>) -> Next {
    match packet[0] >> 4 {
        1 => return connect(body[6], known, manner, out),
        8 => {
            let packet_id = [body[0], body[1]];
            known.subscribes.push(u16::from_be_bytes(packet_id));
            let code = manner.subacks.lock().pop_front().unwrap_or(2);
            match manner.version {
                Version::V4 => out.extend_from_slice(&[0x90, 3, packet_id[0], packet_id[1], code]),
                Version::V5 => out.extend_from_slice(&[0x90, 4, packet_id[0], packet_id[1], 0, code]),
            }
        }
        12 => out.extend_from_slice(&[0xD0, 0]),
        14 => return Next::Ends,
        _ => match mqtt_client::decode(packet, manner.version).unwrap().unwrap().0 {
            Packet::Publish(publish) => return take(&publish, known, manner, out),
            Packet::Ack { ack: Ack::Pubrel, packet_id, .. } => return release(packet_id, known, manner, out),
            other => panic!("{other:?}"),
        },
    }
    Next::Goes
}

fn connect(level: u8, known: &mut Known, manner: &Manner, out: &mut Vec<u8>) -> Next {
    known.levels.push(level);
    if manner.refuses_bridges && level & 0x80 != 0 {
        out.extend_from_slice(&[0x20, 2, 0, 1]);
        return Next::Ends;
    }
    let present = u8::from(std::mem::replace(&mut known.has_session, true));
    match manner.version {
        Version::V4 => out.extend_from_slice(&[0x20, 2, present, 0]),
        Version::V5 => {
            let own = manner.properties.as_bytes();
            out.extend_from_slice(&[0x20, 3 + own.len() as u8, present, 0, own.len() as u8]);
            out.extend_from_slice(own);
        }
    }
    Next::Goes
}

/// True when the connection is to break here.
fn breaks(known: &mut Known, wanted: &[Break]) -> Option<Break> {
    let (at, left) = known.breaks.front_mut()?;
    if !wanted.contains(at) {
        return None;
    }
    *left = left.saturating_sub(1);
    if *left > 0 {
        return None;
    }
    known.breaks.pop_front().map(|(at, _)| at)
}

fn take(publish: &Publish<'_>, known: &mut Known, manner: &Manner, out: &mut Vec<u8>) -> Next {
    match breaks(known, &[Break::BeforePublish, Break::Silence]) {
        Some(Break::Silence) => return Next::IsSilent,
        Some(_) => return Next::Ends,
        None => {}
    }
    known.arrivals += 1;
    if publish.qos < 2 || known.unreleased.insert(publish.packet_id) {
        known.messages.push(String::from_utf8(publish.payload.to_vec()).unwrap());
        known.last = (publish.topic.to_owned(), publish.qos, publish.retain, publish.properties.to_vec());
    }
    if breaks(known, &[Break::BeforeAnswer]).is_some() {
        return Next::Ends;
    }
    let ack = if publish.qos == 1 { Ack::Puback } else { Ack::Pubrec };
    if publish.qos > 0 {
        mqtt_client::ack(&mut known.withheld, manner.version, ack, publish.packet_id, manner.code);
    }
    if known.arrivals >= manner.withholds {
        out.append(&mut known.withheld);
    }
    if manner.code >= 0x80 {
        known.unreleased.remove(&publish.packet_id);
    }
    if breaks(known, &[Break::AfterAnswer]).is_some() { Next::Ends } else { Next::Goes }
}

fn release(packet_id: u16, known: &mut Known, manner: &Manner, out: &mut Vec<u8>) -> Next {
    if breaks(known, &[Break::BeforePubrel]).is_some() {
        return Next::Ends;
    }
    let is_held = known.unreleased.remove(&packet_id);
    known.needless += usize::from(!is_held);
    if breaks(known, &[Break::BeforePubcomp]).is_some() {
        return Next::Ends;
    }
    mqtt_client::ack(out, manner.version, Ack::Pubcomp, packet_id, if is_held { 0 } else { 0x92 });
    if breaks(known, &[Break::AfterPubcomp]).is_some() { Next::Ends } else { Next::Goes }
}
