//! Reads the inbox of this node.

use std::sync::Arc;
use std::time::Duration;

use broker::fleet::{Arrival, Client, HandOver, Numbered, Owned, Taking};
use buffer::redis::{AccessError, Command, Waiting};

use super::changes::Item;
use super::codec::{self, unpack};
use super::fleet::Shared;
use super::scripts::{PASSED, VERIFY};
use crate::reply::{self, Entry, strange};

/// Maximum time that the server waits for letters.
const BLOCK: Duration = Duration::from_secs(1);
/// Letters of one read.
const LETTERS: &str = "256";
/// Wait before a retry.
const PAUSE: Duration = Duration::from_millis(200);
/// Clients of one check.
const CHECKED: usize = 500;

/// Position in the inbox of a start of this node.
#[derive(Debug, Default)]
struct Position {
    node: Arc<str>,
    /// The last letter that was read, and the bytes of those that were read since the server was
    /// told.
    last: u64,
    passed: usize,
    told: u64,
}

/// Reads for ever.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut position = Position::default();
    let mut connection = None;
    loop {
        shared.arrivals.room().await;
        if let Err(error) = step(&shared, &mut position, &mut connection).await {
            tracing::debug!("read the inbox of this node: {error}");
            // The next server may be a replica that does not know the last claims.
            shared.doubt();
            connection = None;
            if error.is_unknown_script
                && let Err(error) = shared.access.run_script(&PASSED, &passed(&shared, &position)).await
            {
                tracing::debug!("load a script: {error}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn passed(shared: &Shared, position: &Position) -> Command {
    let call = PASSED.call(shared.access.prefix()).arg(&*position.node);
    call.arg(position.last.to_string()).arg(position.passed.to_string())
}

async fn step(shared: &Shared, position: &mut Position, held: &mut Option<Waiting>) -> Result<(), AccessError> {
    let node = shared.identity.node();
    if position.node != node {
        *position = Position { node, ..Position::default() };
    }
    let mut connection = match held.take() {
        Some(connection) => connection,
        None => shared.access.waiting(BLOCK).await?,
    };
    // Of the server that is read now: the one before may have known other claims.
    verify(shared, &shared.take_doubted()).await?;
    let mut commands = Vec::new();
    if position.last > position.told {
        commands.push(passed(shared, position));
    }
    let inbox = format!("{}in:{}", shared.access.prefix(), position.node);
    let read = Command::new("XREAD").arg("COUNT").arg(LETTERS).arg("BLOCK").arg(BLOCK.as_millis().to_string());
    commands.push(read.arg("STREAMS").arg(inbox).arg(format!("{}-0", position.last)));
    let answer = connection.run(&commands).await?.pop().ok_or_else(|| strange("no answer"))?;
    let letters = reply::entries(answer)?;
    if !letters.is_empty() {
        replicated(shared, &mut connection).await?;
    }
    *held = Some(connection);
    (position.told, position.passed) = (position.last, 0);
    for letter in letters {
        let is_gap = letter.id != position.last + 1;
        (position.last, position.passed) = (letter.id, position.passed + letter.size() + 128);
        if is_gap {
            shared.gap();
        }
        if let Err(error) = open(shared, letter) {
            tracing::warn!("a letter to this node cannot be read: {error}");
            shared.metrics.unreadable.inc();
        }
    }
    Ok(())
}

/// Waits until the replicas have what was read: a session must not have a message under a number
/// that another one gets after a replica has taken over.
async fn replicated(shared: &Shared, connection: &mut Waiting) -> Result<(), AccessError> {
    let Some((replicas, time)) = shared.access.replicas() else { return Ok(()) };
    loop {
        // WAIT is for what its own connection has written.
        let mark = Command::new("HSET").arg(format!("{}g", shared.access.prefix())).arg("nudge").arg("1");
        let wait = Command::new("WAIT").arg(replicas.to_string()).arg(time.to_string());
        let have = connection.run(&[mark, wait]).await?.pop().ok_or_else(|| strange("no answer"))?;
        if reply::number(have)? >= u64::from(replicas) {
            return Ok(());
        }
    }
}

/// Passes a letter on.
fn open(shared: &Shared, mut letter: Entry) -> Result<(), AccessError> {
    let bytes = letter.size();
    match letter.take("k")?.as_slice() {
        b"M" => {
            let message = codec::decode_message(&letter.take("b")?).ok_or_else(|| strange("a message"))?;
            let takers = letter.take("t")?;
            let mut rest = takers.as_slice();
            while !rest.is_empty() {
                let (owned, number, placed) = taker(&mut rest).ok_or_else(|| strange("a taker"))?;
                let numbered = Numbered { number, placed, message: Arc::clone(&message) };
                shared.locals.arrive(&owned, Arrival::Message(owned.clone(), numbered), bytes);
            }
        }
        b"T" => {
            let owned = owned(&mut letter)?;
            let taking = taking(&letter.take("v")?);
            shared.locals.arrive(&owned, Arrival::Taken(owned.clone(), taking), bytes);
        }
        b"L" => {
            let owned = owned(&mut letter)?;
            shared.locals.arrive(&owned, Arrival::Lost(owned.clone()), bytes);
        }
        b"H" => {
            let client = client(&mut letter)?;
            let hand_over = HandOver { node: letter.take_text("n")?.into(), request: letter.take_number("r")? };
            if shared.locals.has_begun(&client) {
                shared.arrivals.push([Arrival::HandOver(client, hand_over)], bytes);
            } else {
                shared.outbox.push(Item::HandedOver(hand_over));
            }
        }
        b"G" => shared.arrivals.push([Arrival::Missed(letter.take_text("t")?.into())], bytes),
        b"A" => shared.answers.answer(letter.take_number("r")?),
        b"F" => {
            let forwarded = codec::decode_forwarded(&letter.take("b")?).ok_or_else(|| strange("a message"))?;
            shared.arrivals.push([Arrival::Forwarded(forwarded)], bytes);
        }
        _ => return Err(strange("an unknown kind")),
    }
    Ok(())
}

/// The reason of a loss: see `notify_taken` in the scripts.
fn taking(letter: &[u8]) -> Taking {
    match letter {
        b"C" => Taking::Continues,
        b"A" => Taking::Anew,
        _ => Taking::Ended,
    }
}

fn client(letter: &mut Entry) -> Result<Client, AccessError> {
    codec::client(&letter.take_text("c")?).ok_or_else(|| strange("a client"))
}

fn owned(letter: &mut Entry) -> Result<Owned, AccessError> {
    Ok(Owned { client: client(letter)?, session: letter.take_number("s")?, epoch: letter.take_number("e")? })
}

/// Reads a session with its number of a message, and how it gets it.
pub(super) fn taker(rest: &mut &[u8]) -> Option<(Owned, u64, broker::fleet::Placed)> {
    let client = codec::client(std::str::from_utf8(unpack(rest)?).ok()?)?;
    let mut number = || reply::parse(unpack(rest)?).ok();
    let (session, epoch, number) = (number()?, number()?, number()?);
    Some((Owned { client, session, epoch }, number, codec::decode_placed(unpack(rest)?)?))
}

/// Finds clients that this node no longer owns, after letters were missing or changes refused.
/// After an error, all are verified later.
async fn verify(shared: &Shared, doubted: &[Owned]) -> Result<(), AccessError> {
    for owned in doubted.chunks(CHECKED) {
        let mut call = VERIFY.call(shared.access.prefix());
        for Owned { client, session, epoch } in owned {
            call = call.arg(codec::name(client)).arg(session.to_string()).arg(epoch.to_string());
        }
        let mut lost = reply::list(shared.access.run_script(&VERIFY, &call).await?)?.into_iter();
        while let Some(place) = lost.next() {
            let taking = taking(&reply::bytes(reply::next(&mut lost)?)?);
            let place = usize::try_from(reply::number(place)?).unwrap_or(usize::MAX);
            let owned = owned.get(place).ok_or_else(|| strange("a place"))?;
            shared.locals.arrive(owned, Arrival::Taken(owned.clone(), taking), 0);
        }
    }
    Ok(())
}
