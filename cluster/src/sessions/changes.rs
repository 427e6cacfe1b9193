//! Changes as arguments of the script that applies them: a letter, the number of arguments that
//! follow, and what `apply.lua` takes.

use std::sync::Arc;

use broker::fleet::{
    Change, Forwarded, HandOver, Interest, NextTaker, Node, Owned, Placed, Progress, SharedMessage, Source, Submitter,
};
use buffer::redis::Command;

use super::codec;
use super::config::Config;
use super::identity::Identity;
use super::scripts::APPLY;

/// Bytes and changes of one batch: the server does nothing else meanwhile.
const BATCH_BYTES: usize = 256 << 10;
const BATCH_CHANGES: usize = 256;
/// Sessions in one change.
const TAKERS: usize = 128;
/// Bytes that a change is counted with, besides its contents.
const COST: usize = 128;

/// Something to send to the server.
#[derive(Debug)]
pub(crate) enum Item {
    /// Changes, with the ticket that is durable with the last of them.
    Changes(Vec<Change>, u64, Option<Arc<dyn Submitter>>),
    /// A message for other nodes.
    Forward(Vec<Node>, Forwarded),
    /// Messages for this node were dropped, of a tenant.
    Missed(Node, Arc<str>),
    /// A client was handed over.
    HandedOver(HandOver),
    /// A claim has failed for its caller, but may have had effect: client, claim.
    Unclaim(String, String),
}

impl Item {
    /// Bytes that it is counted with while it waits.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Changes(changes, ..) => changes.iter().map(size).sum(),
            Self::Forward(nodes, forwarded) => {
                codec::size(&forwarded.message) + COST + nodes.iter().map(|node| node.len()).sum::<usize>()
            }
            Self::Missed(..) | Self::HandedOver(_) | Self::Unclaim(..) => COST,
        }
    }
}

fn size(change: &Change) -> usize {
    match change {
        Change::Message { message, takers, .. } => COST + codec::size(message) + COST * takers.len(),
        Change::Subscribe(_, filter, _) | Change::Unsubscribe(_, filter) | Change::Interest(_, filter, _) => {
            COST + filter.len()
        }
        Change::Released(_, numbers, progress) => COST + 8 * numbers.len() + 16 * progress.done.len(),
        Change::HandOn { to, .. } => match &**to {
            NextTaker::Node(_, forwarded) => COST + codec::size(&forwarded.message),
            NextTaker::Session(..) | NextTaker::Dropped => COST,
        },
        Change::Progress(_, progress) => COST + 16 * progress.done.len(),
        Change::Walks(_, walks) => {
            let bytes =
                |(filter, after): &(String, Option<String>)| filter.len() + after.as_ref().map_or(0, String::len);
            COST + walks.iter().map(bytes).sum::<usize>()
        }
        _ => COST,
    }
}

/// Changes that the server applies in one step.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) number: u64,
    arguments: Vec<Vec<u8>>,
    /// The changes.
    pub(crate) origins: Vec<Origin>,
    bytes: usize,
    /// Tickets that are durable with it.
    pub(crate) tickets: Vec<u64>,
    /// Bytes of its items, as they are counted while they wait; and of the forwarded ones.
    pub(crate) waiting: (usize, usize),
}

/// A change, when it is refused.
#[derive(Debug)]
pub(crate) struct Origin {
    /// The submitter that waits for it.
    pub(crate) submitter: Option<Arc<dyn Submitter>>,
    /// The ownership that it is made under.
    pub(crate) owned: Option<Owned>,
}

/// Divides items into batches.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    last: u64,
    /// The submitter of the item that is added.
    submitter: Option<Arc<dyn Submitter>>,
    pub(crate) ready: Vec<Batch>,
    open: Option<Batch>,
}

impl Batches {
    /// Adds an item.
    pub(crate) fn add(&mut self, item: Item) {
        let size = item.size();
        match item {
            Item::Changes(changes, ticket, submitter) => {
                self.submitter = submitter;
                for change in changes {
                    self.change(&change);
                }
                self.submitter = None;
                let open = self.open();
                open.tickets.push(ticket);
                open.waiting.0 += size;
            }
            Item::Forward(nodes, forwarded) => {
                self.forward(&nodes, &forwarded);
                self.open().waiting.1 += size;
            }
            Item::Missed(node, tenant) => {
                self.begin("G").text(&node).text(&tenant).end();
                self.open().waiting.0 += size;
            }
            Item::HandedOver(HandOver { node, request }) => {
                self.begin("A").text(&node).number(request).end();
                self.open().waiting.0 += size;
            }
            Item::Unclaim(client, claim) => {
                self.begin("C").text(&client).text(&claim).end();
                self.open().waiting.0 += size;
            }
        }
    }

    /// Ends the batch that is open.
    pub(crate) fn cut(&mut self) {
        self.ready.extend(self.open.take());
    }

    fn open(&mut self) -> &mut Batch {
        self.open.get_or_insert_with(|| {
            self.last += 1;
            Batch {
                number: self.last,
                arguments: Vec::new(),
                origins: Vec::new(),
                bytes: 0,
                tickets: Vec::new(),
                waiting: (0, 0),
            }
        })
    }

    fn begin(&mut self, kind: &str) -> Arguments<'_> {
        if self.open.as_ref().is_some_and(|open| open.bytes >= BATCH_BYTES || open.origins.len() >= BATCH_CHANGES) {
            self.cut();
        }
        let origin = Origin { submitter: self.submitter.clone(), owned: None };
        let batch = self.open();
        let first = batch.arguments.len() + 2;
        let begun = Arguments { batch, first, origin }.text(kind);
        // Counted at the end.
        begun.text("")
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Keep(owned, secs) => self.begin("K").owned(owned).number((*secs).into()).end(),
            Change::Subscribe(owned, filter, subscription) => {
                let value = serde_json::to_string(subscription).expect("it has no map with other keys");
                let is_shared = u64::from(filter.starts_with("$share/"));
                self.begin("S").owned(owned).text(filter).text(&value).number(is_shared).end();
            }
            Change::Unsubscribe(owned, filter) => self.begin("U").owned(owned).text(filter).end(),
            Change::Receipt(owned, packet) => self.begin("r").owned(owned).number((*packet).into()).end(),
            Change::ReceiptOver(owned, packet) => self.begin("R").owned(owned).number((*packet).into()).end(),
            Change::Released(owned, numbers, progress) => {
                let numbers = numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
                self.begin("L").owned(owned).text(&numbers).progress(progress).end();
            }
            Change::Progress(owned, progress) => self.begin("P").owned(owned).progress(progress).end(),
            Change::Walks(owned, walks) => {
                let value = match walks.is_empty() {
                    true => String::new(),
                    false => serde_json::to_string(walks).expect("it has no map"),
                };
                self.begin("Y").owned(owned).text(&value).end();
            }
            Change::Leave(owned) => self.begin("V").owned(owned).end(),
            Change::End(owned) => self.begin("X").owned(owned).end(),
            Change::WillOver(owned) => self.begin("W").owned(owned).end(),
            Change::Message { tenant, message, takers, source } => {
                self.message(tenant, message, takers, source.as_ref());
            }
            Change::HandOn { from, session, number, to } => {
                let out = self.begin("H").text(&codec::name(from)).number(*session).number(*number);
                match &**to {
                    NextTaker::Session(id, taker, placed) => {
                        let name = [&*from.tenant, "\0", id].concat().into_bytes();
                        out.text("s").bytes(name).number(*taker).bytes(codec::encode_placed(placed)).end();
                    }
                    NextTaker::Node(node, forwarded) => {
                        let body = codec::encode_forwarded(forwarded);
                        out.text("n").text(node.as_deref().unwrap_or_default()).bytes(body).end();
                    }
                    NextTaker::Dropped => out.text("").text("").end(),
                }
            }
            Change::Interest(tenant, filter, interest) => {
                let value = match interest {
                    None => "",
                    Some(Interest::Qos0) => "0",
                    Some(Interest::All) => "1",
                };
                self.begin("I").text(tenant).text(filter).text(value).end();
            }
        }
    }

    fn message(
        &mut self,
        tenant: &str,
        message: &SharedMessage,
        takers: &[(Arc<str>, u64, Placed)],
        source: Option<&Source>,
    ) {
        // Without takers, only the source counts.
        let body = if takers.is_empty() { Vec::new() } else { codec::encode_message(message) };
        let (mut rest, mut is_first) = (takers, true);
        loop {
            let (first, others) = rest.split_at(rest.len().min(TAKERS));
            rest = others;
            let mut out = self.begin("M").bytes(body.clone());
            out = match source {
                Some(Source::Publish(owned, packet)) if is_first => out.number((*packet).into()).owned(owned),
                Some(Source::Will(owned)) if is_first => out.text("w").owned(owned),
                // It came with the first part, and decides on this one.
                Some(_) => out.text("+"),
                None => out.text(""),
            };
            is_first = false;
            out = out.number(first.len() as u64);
            for (id, session, placed) in first {
                out = out.bytes([tenant, "\0", id].concat().into_bytes()).number(*session);
                out = out.bytes(codec::encode_placed(placed));
            }
            out.end();
            if rest.is_empty() {
                return;
            }
        }
    }

    fn forward(&mut self, nodes: &[Node], forwarded: &Forwarded) {
        let mut out = self.begin("F").bytes(codec::encode_forwarded(forwarded)).number(nodes.len() as u64);
        for node in nodes {
            out = out.text(node);
        }
        out.end();
    }
}

/// Arguments of one change.
struct Arguments<'a> {
    batch: &'a mut Batch,
    /// The place of the first, behind their number.
    first: usize,
    origin: Origin,
}

impl Arguments<'_> {
    fn bytes(self, bytes: Vec<u8>) -> Self {
        self.batch.bytes += bytes.len();
        self.batch.arguments.push(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes().to_vec())
    }

    fn number(self, number: u64) -> Self {
        self.bytes(number.to_string().into_bytes())
    }

    fn owned(mut self, owned: &Owned) -> Self {
        self.origin.owned = Some(owned.clone());
        self.text(&codec::name(&owned.client)).number(owned.session).number(owned.epoch)
    }

    fn progress(self, progress: &Progress) -> Self {
        let value = serde_json::to_string(progress).expect("it has no map");
        let ranges = progress.done.iter().map(|(from, to)| format!("{from}-{to}")).collect::<Vec<_>>().join(",");
        self.text(&value).number(progress.done_to).text(&ranges)
    }

    fn end(self) {
        let count = self.batch.arguments.len() - self.first;
        self.batch.arguments[self.first - 1] = count.to_string().into_bytes();
        self.batch.origins.push(self.origin);
    }
}

impl Batch {
    /// The call of the script, for a batch that is sent together with those from `first` on.
    pub(crate) fn call(&self, prefix: &str, first: u64, identity: &Identity, config: &Config) -> Command {
        let mut call = APPLY
            .call(prefix)
            .arg(&identity.writer)
            .arg(self.number.to_string())
            .arg(first.to_string())
            .arg(&*identity.node())
            .arg(config.max_queued_messages.to_string())
            .arg(config.max_stored_bytes.to_string())
            .arg(config.policy());
        for argument in &self.arguments {
            call.push(argument);
        }
        call
    }
}
