//! Claims of clients.

use std::collections::HashMap;
use std::time::Duration;

use broker::fleet::{Claimed, Client, DueWill, Numbered, Owned, StoredSession, StoredWill, Unavailable};
use buffer::redis::{AccessError, Reply};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::changes::Item;
use super::codec;
use super::fleet::Shared;
use super::scripts::{CLAIM, MESSAGES};
use super::wills;
use crate::reply::{self, strange};
use crate::unique::unique;

/// Wait until this node, which the fleet has lost, may have joined again.
const PAUSE: Duration = Duration::from_millis(50);
/// Messages of one reply, unless they have more than a megabyte.
const PIECE: u64 = 256;

/// Requests to other nodes to hand a client over.
#[derive(Debug, Default)]
pub(crate) struct Answers(Mutex<HashMap<u64, oneshot::Sender<()>>>);

impl Answers {
    fn expect(&self, request: u64) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().insert(request, sender);
        receiver
    }

    pub(crate) fn answer(&self, request: u64) {
        if let Some(sender) = self.0.lock().remove(&request)
            && sender.send(()).is_err()
        {
            tracing::debug!("a claim has not waited for the answer of the other node");
        }
    }

    fn forget(&self, request: u64) {
        self.0.lock().remove(&request);
    }
}

/// A claim under way. Unless it has ended well it is taken back: it may have had effect.
struct Claim<'a> {
    shared: &'a Shared,
    client: &'a Client,
    will: Option<&'a StoredWill>,
    id: u64,
    is_sent: bool,
    outcome: Option<Owned>,
}

impl<'a> Claim<'a> {
    fn begin(shared: &'a Shared, client: &'a Client, will: Option<&'a StoredWill>) -> Self {
        shared.locals.claiming(client);
        Self { shared, client, will, id: unique(), is_sent: false, outcome: None }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.shared.answers.forget(self.id);
        if self.is_sent && self.outcome.is_none() {
            let item = Item::Unclaim(codec::name(self.client), self.id.to_string());
            self.shared.outbox.push(item);
            // An earlier ownership of this node may be over.
            self.shared.doubt();
        }
        self.shared.locals.claimed(self.client, self.outcome.as_ref());
    }
}

pub(crate) async fn claim(
    shared: &Shared,
    client: &Client,
    clean: bool,
    new: u64,
    will: Option<&StoredWill>,
) -> Result<Claimed, Unavailable> {
    if let Some(reason) = shared.health.reason() {
        shared.metrics.unavailable.inc();
        return Err(shared.unavailable(reason));
    }
    let begun = std::time::Instant::now();
    let mut claim = Claim::begin(shared, client, will);
    let limit = shared.config.claim;
    let outcome = tokio::time::timeout(limit, claim.run(clean, new)).await;
    let silent = || format!("no answer to a claim within {} ms", limit.as_millis());
    let outcome = match outcome {
        Ok(outcome) => outcome.map_err(|error| shared.unavailable(error.reason)),
        Err(_) => Err(shared.unavailable(silent())),
    };
    match &outcome {
        Ok(claimed) => {
            claim.outcome = Some(claimed.owned.clone());
            shared.metrics.claim.observe(begun.elapsed().as_secs_f64());
        }
        Err(_) => drop(shared.metrics.unavailable.inc()),
    }
    outcome
}

impl Claim<'_> {
    async fn run(&mut self, clean: bool, new: u64) -> Result<Claimed, AccessError> {
        // This node may have submitted the end of the client's session a moment ago.
        self.shared.outbox.flushed().await;
        self.is_sent = true;
        let answer = self.shared.answers.expect(self.id);
        let mut reply = self.ask(clean, new, false).await?;
        while reply.kind == b"gone" {
            self.shared.health.lost.notify_one();
            tokio::time::sleep(PAUSE).await;
            reply = self.ask(clean, new, false).await?;
        }
        if reply.kind == b"wait" {
            let waited = tokio::time::timeout(self.shared.config.hand_over, answer).await;
            if waited.is_err() {
                tracing::debug!(client = %self.client.id, "the other node does not hand the client over in time");
            }
            reply = self.ask(clean, new, true).await?;
        }
        match reply.kind.as_slice() {
            b"claimed" => self.read(reply.rest).await,
            b"gone" => Err(AccessError::passing("this node is not known to the fleet at the moment".into())),
            _ => Err(strange("a claim")),
        }
    }

    async fn ask(&self, clean: bool, new: u64, force: bool) -> Result<Answer, AccessError> {
        let flag = |set: bool| if set { "1" } else { "0" };
        let call = CLAIM
            .call(self.shared.access.prefix())
            .arg(codec::name(self.client))
            .arg(&*self.shared.identity.node())
            .arg(flag(clean))
            .arg(new.to_string())
            .arg(self.id.to_string())
            .arg(flag(force))
            .arg(self.id.to_string())
            .arg(PIECE.to_string())
            .arg(self.will.map(|will| will.delay_secs.to_string()).unwrap_or_default())
            .arg(self.will.map(|will| &*will.body).unwrap_or_default())
            .arg(self.shared.config.max_stored_bytes.to_string())
            .arg(self.shared.config.lease.as_millis().to_string());
        let mut rest = reply::list(self.shared.access.run_script(&CLAIM, &call).await?)?.into_iter();
        Ok(Answer { kind: reply::bytes(reply::next(&mut rest)?)?, rest })
    }

    async fn read(&self, mut rest: std::vec::IntoIter<Reply>) -> Result<Claimed, AccessError> {
        let (session, epoch) = (reply::number(reply::next(&mut rest)?)?, reply::number(reply::next(&mut rest)?)?);
        let taken_over = reply::bytes(reply::next(&mut rest)?)? == b"1";
        let fields = reply::list(reply::next(&mut rest)?)?;
        let messages = reply::next(&mut rest)?;
        if reply::number(reply::next(&mut rest)?)? > 0 {
            self.shared.leftovers.left.notify_one();
        }
        let keeps_will = reply::number(reply::next(&mut rest)?)? == 1;
        let due_will = self.will(reply::next(&mut rest)?)?;
        let due_will = due_will.map(|(owned, body)| DueWill { owned, body: body.into() });
        let pending_will = self.will(reply::next(&mut rest)?)?.map(|(owned, _)| owned);
        let owned = Owned { client: self.client.clone(), session, epoch };
        let since = reply::parse(&reply::bytes(reply::next(&mut rest)?)?)?;
        if fields.is_empty() {
            return Ok(Claimed { owned, since, taken_over, keeps_will, due_will, pending_will, session: None });
        }
        let mut stored = stored(fields)?;
        stored.messages = numbered(messages)?;
        while let Some(last) = stored.messages.last().map(|message| message.number)
            && last < stored.last
        {
            let piece = piece(self.shared, &owned, last).await?;
            if piece.is_empty() {
                break;
            }
            stored.messages.extend(piece);
        }
        // Later ones arrive.
        stored.messages.retain(|message| message.number <= stored.last);
        Ok(Claimed { owned, since, taken_over, keeps_will, due_will, pending_will, session: Some(stored) })
    }

    /// Reads the will message of an earlier connection of the client, if there is one.
    fn will(&self, reply: Reply) -> Result<Option<(Owned, Vec<u8>)>, AccessError> {
        let mut parts = reply::list(reply)?.into_iter();
        if parts.len() == 0 {
            return Ok(None);
        }
        let owned = wills::owned(self.client.clone(), &mut parts)?;
        Ok(Some((owned, parts.next().map(reply::bytes).transpose()?.unwrap_or_default())))
    }
}

struct Answer {
    kind: Vec<u8>,
    rest: std::vec::IntoIter<Reply>,
}

/// Returns all messages of a session behind a number.
pub(crate) async fn messages(shared: &Shared, owned: &Owned, after: u64) -> Result<Vec<Numbered>, AccessError> {
    let mut all = Vec::new();
    let mut after = after;
    loop {
        let piece = piece(shared, owned, after).await?;
        let Some(last) = piece.last() else { return Ok(all) };
        after = last.number;
        all.extend(piece);
    }
}

async fn piece(shared: &Shared, owned: &Owned, after: u64) -> Result<Vec<Numbered>, AccessError> {
    let call = MESSAGES
        .call(shared.access.prefix())
        .arg(codec::name(&owned.client))
        .arg(owned.session.to_string())
        .arg(owned.epoch.to_string())
        .arg(after.to_string())
        .arg(PIECE.to_string());
    numbered(shared.access.run_script(&MESSAGES, &call).await?)
}

pub(crate) fn numbered(reply: Reply) -> Result<Vec<Numbered>, AccessError> {
    let read = |item| {
        let mut parts = reply::list(item)?.into_iter();
        let number = reply::stream_id(&reply::bytes(reply::next(&mut parts)?)?)?;
        let placed = codec::decode_placed(&reply::bytes(reply::next(&mut parts)?)?);
        let message = codec::decode_message(&reply::bytes(reply::next(&mut parts)?)?);
        let (Some(placed), Some(message)) = (placed, message) else { return Err(strange("a stored message")) };
        Ok(Numbered { number, placed, message })
    };
    reply::list(reply)?.into_iter().map(read).collect()
}

/// Reads the entry of a client.
fn stored(fields: Vec<Reply>) -> Result<StoredSession, AccessError> {
    let mut stored = StoredSession::default();
    let mut fields = fields.into_iter();
    while let Some(name) = fields.next() {
        let (name, value) = (reply::text(name)?, reply::text(reply::next(&mut fields)?)?);
        let json = |_| strange("an entry of a client");
        match name.split_once(':') {
            Some(("f", filter)) => {
                stored.subscriptions.push((filter.to_owned(), serde_json::from_str(&value).map_err(json)?));
            }
            Some(("r", packet)) => stored.receipts.push(packet.parse().map_err(|_| strange("a packet id"))?),
            _ => match name.as_str() {
                "k" => stored.expiry_secs = value.parse().map_err(|_| strange("a time"))?,
                "n" => stored.last = reply::parse(value.as_bytes())?,
                "g" => stored.progress = serde_json::from_str(&value).map_err(json)?,
                "R" => {
                    let numbers = value.split(',').filter(|number| !number.is_empty());
                    stored.released =
                        numbers.map(|number| reply::parse(number.as_bytes())).collect::<Result<_, _>>()?;
                }
                "y" => stored.walks = serde_json::from_str(&value).map_err(json)?,
                "lost" => stored.is_lost = true,
                _ => {}
            },
        }
    }
    let StoredSession { released, progress, .. } = &mut stored;
    released.retain(|number| !progress.has(*number));
    stored.subscriptions.sort_by(|(a, _), (b, _)| a.cmp(b));
    stored.receipts.sort_unstable();
    Ok(stored)
}
