//! Keeps this node known to the fleet, and ends what is due: dead nodes, expired sessions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use buffer::redis::AccessError;
use parking_lot::Mutex;
use tokio::sync::Notify;

use broker::fleet::Change;

use super::changes::Item;
use super::fleet::Shared;
use super::scripts::{ANNOUNCE, JOIN, QUIT, SWEEP};
use crate::reply::{self, strange};

/// Entries of one step of the sweeper.
const CHUNK: &str = "64";
/// Interests of one item.
const INTERESTS: usize = 512;

/// Whether the server answers.
#[derive(Debug)]
pub(crate) struct Health {
    reasons: Mutex<Reasons>,
    /// A claim has found that this node is not known.
    pub(crate) lost: Notify,
}

#[derive(Debug)]
struct Reasons {
    writer: Option<String>,
    keeper: Option<String>,
    /// The time up to which the server has answered, and knew this node.
    good: Instant,
}

impl Default for Health {
    fn default() -> Self {
        let reasons = Reasons { writer: None, keeper: None, good: Instant::now() };
        Self { reasons: Mutex::new(reasons), lost: Notify::new() }
    }
}

impl Health {
    /// Returns the reason why it does not.
    pub(crate) fn reason(&self) -> Option<String> {
        let Reasons { writer, keeper, .. } = &*self.reasons.lock();
        writer.clone().or_else(|| keeper.clone())
    }

    /// True while it does not.
    pub(crate) fn is_away(&self) -> bool {
        let Reasons { writer, keeper, .. } = &*self.reasons.lock();
        writer.is_some() || keeper.is_some()
    }

    pub(crate) fn set_writer(&self, reason: Option<String>) {
        self.reasons.lock().writer = reason;
    }

    pub(crate) fn set_keeper(&self, reason: Option<String>) {
        let mut reasons = self.reasons.lock();
        if reason.is_none() {
            reasons.good = Instant::now();
        }
        reasons.keeper = reason;
    }

    /// Returns how long the server has not answered.
    pub(crate) fn silence(&self) -> Duration {
        self.reasons.lock().good.elapsed()
    }
}

/// Announces and sweeps for ever.
pub(crate) async fn run(shared: Arc<Shared>) {
    let lease = shared.config.lease;
    // After a time without the server, the other nodes get one to announce themselves.
    let mut buries_from = Instant::now() + lease;
    let mut last = Instant::now();
    loop {
        let outcome = tokio::time::timeout(lease, announce(&shared)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(strange("no answer for the time of a lease")));
        let is_away = outcome.is_err();
        match outcome {
            Ok(standing) => {
                shared.health.set_keeper(standing);
                if last.elapsed() > lease / 2 {
                    buries_from = Instant::now() + lease;
                }
                last = Instant::now();
                if let Err(error) = sweep(&shared, Instant::now() >= buries_from).await {
                    tracing::debug!("end what is due: {error}");
                }
            }
            Err(error) => {
                tracing::debug!("announce this node: {error}");
                shared.health.set_keeper(Some(error.reason));
            }
        }
        let pause = if is_away { lease / 30 } else { lease / 5 };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.health.lost.notified(), if !is_away => {}
        }
    }
}

/// Registers this start of the node.
pub(crate) async fn join(shared: &Shared) -> Result<(), AccessError> {
    let present = shared.identity.present();
    let call = JOIN.call(shared.access.prefix()).arg(&*shared.identity.name).arg(&present.start);
    let call = call.arg(shared.config.lease.as_millis().to_string());
    shared.access.run_script(&JOIN, &call).await.map(drop)
}

/// Ends the registration of this node.
pub(crate) async fn quit(shared: &Shared) -> Result<(), AccessError> {
    let call = QUIT.call(shared.access.prefix()).arg(&*shared.identity.node());
    shared.access.run_script(&QUIT, &call).await?;
    sweep(shared, false).await
}

/// Renews the registration. Returns the reason why this node cannot take part.
async fn announce(shared: &Shared) -> Result<Option<String>, AccessError> {
    let present = shared.identity.present();
    let call = ANNOUNCE.call(shared.access.prefix()).arg(&*shared.identity.name).arg(&present.start);
    let call = call.arg(shared.config.lease.as_millis().to_string());
    let earlier = shared.feed.position();
    let mut reply = reply::list(shared.access.run_script(&ANNOUNCE, &call).await?)?.into_iter();
    match reply::bytes(reply::next(&mut reply)?)?.as_slice() {
        b"here" => {
            let last = reply::number(reply::next(&mut reply)?)?;
            shared.feed.check(earlier, last);
            let mut gauge = || Ok(i64::try_from(reply::number(reply::next(&mut reply)?)?).unwrap_or(i64::MAX));
            shared.metrics.stored.set(gauge()?);
            shared.metrics.inbox.set(gauge()?);
            Ok(None)
        }
        b"replaced" => {
            shared.locals.lose_all();
            Ok(Some(format!("another process is node {} of the fleet: set another redis.node", shared.identity.name)))
        }
        _ => {
            rejoin(shared).await?;
            Ok(None)
        }
    }
}

/// The fleet has taken this node for dead, or the server has lost its data: it begins again, and
/// owns nothing.
async fn rejoin(shared: &Shared) -> Result<(), AccessError> {
    tracing::warn!(node = %shared.identity.name, "the fleet has lost this node, which joins again: its clients reconnect");
    shared.identity.renew();
    join(shared).await?;
    shared.locals.lose_all();
    shared.gap();
    let interests: Vec<_> = shared.interests.lock().iter().map(|(name, interest)| (name.clone(), *interest)).collect();
    for some in interests.chunks(INTERESTS) {
        let changes = some
            .iter()
            .map(|((tenant, filter), interest)| Change::Interest(Arc::clone(tenant), filter.clone(), Some(*interest)));
        let item = Item::Changes(changes.collect(), shared.tickets.issue(), None);
        shared.outbox.push(item);
    }
    shared.feed.reload();
    Ok(())
}

/// Ends what is due, piece by piece.
async fn sweep(shared: &Shared, may_bury: bool) -> Result<(), AccessError> {
    loop {
        let call = SWEEP.call(shared.access.prefix()).arg(if may_bury { "1" } else { "0" }).arg(CHUNK);
        let mut done = reply::list(shared.access.run_script(&SWEEP, &call).await?)?.into_iter();
        let mut next = || reply::number(reply::next(&mut done)?);
        let (buried, left, expired, deleted) = (next()?, next()?, next()?, next()?);
        shared.metrics.buried.inc_by(buried);
        shared.metrics.expired.inc_by(expired);
        if next()? > 0 {
            shared.leftovers.left.notify_one();
        }
        if next()? > 0 {
            shared.wills.0.notify_one();
        }
        if buried + left + expired + deleted == 0 {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}
