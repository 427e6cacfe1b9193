//! Overlapping subscriptions of one client.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::Taker;
use crate::session::Place;

impl Taker {
    /// Adds the message of another subscription of the same session.
    fn add(&mut self, other: &mut Self) {
        self.qos = self.qos.max(other.qos);
        self.retain |= other.retain;
        self.subscription_ids.append(&mut other.subscription_ids);
    }

    /// The id of a session that may be at another node, which decides where it is.
    fn elsewhere(&self) -> Option<u64> {
        match self.session.place() {
            Place::Elsewhere(id) if self.share.is_none() => Some(*id),
            _ => None,
        }
    }

    /// The id of a session of the fleet that is here.
    fn here(&self) -> Option<u64> {
        let is_here = self.share.is_none() && *self.session.place() == Place::Here;
        if is_here { self.session.shared_id() } else { None }
    }
}

/// Merges the messages of overlapping subscriptions of one client into one, with the highest QoS
/// and all subscription ids. The message of a shared subscription stays one of its own: it is the
/// group's, and may go to another member.
pub(super) fn merge(takers: &mut Vec<Taker>) {
    if takers.len() < 2 {
        return;
    }
    takers.sort_by_key(|taker| (taker.share.is_some(), Arc::as_ptr(&taker.session).addr()));
    takers.dedup_by(|later, kept| {
        let same = Arc::ptr_eq(&later.session, &kept.session) && later.share.is_none() && kept.share.is_none();
        if same {
            kept.add(later);
        }
        same
    });
    merge_moving(takers);
}

/// The same for sessions that come to this node or leave it at this moment: some of their
/// subscriptions are those of a subscriber here, and others still, or already, those of another
/// node's.
fn merge_moving(takers: &mut Vec<Taker>) {
    if !takers.iter().any(|taker| taker.elsewhere().is_some()) {
        return;
    }
    let strangers: Vec<Taker> = takers.extract_if(.., |taker| taker.elsewhere().is_some()).collect();
    let here = takers.iter().enumerate().filter_map(|(at, taker)| Some((taker.here()?, at)));
    let here: HashMap<u64, usize, RandomState> = here.collect();
    for mut stranger in strangers {
        match stranger.elsewhere().and_then(|id| here.get(&id)) {
            Some(at) => takers[*at].add(&mut stranger),
            None => takers.push(stranger),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::{Journal, Ledger};
    use crate::fleet::{Client, Owned};
    use crate::session::Session;

    fn here(id: u64) -> Arc<Session> {
        let session = Arc::new(Session::elsewhere("c".into(), Place::Here));
        let owned = Owned { client: Client { tenant: "t".into(), id: "c".into() }, session: id, epoch: 1 };
        let ledger = Ledger::shared(owned, Journal::new("n", None), &Default::default(), &Default::default(), 0);
        session.keep(&mut session.state(), ledger);
        session
    }

    #[test]
    fn a_session_that_is_moving_gets_one_copy_at_the_highest_qos() {
        let stranger = |id| Arc::new(Session::elsewhere("c".into(), Place::Elsewhere(id)));
        let (near, far, other) = (here(7), stranger(7), stranger(8));
        let shared = Taker { share: Some("$share/g/a".into()), ..Taker::alone(&far, 1, false, Vec::new()) };
        let mut takers = vec![
            Taker::alone(&far, 2, false, vec![1]),
            shared,
            Taker::alone(&near, 1, true, vec![2]),
            Taker::alone(&other, 1, false, vec![3]),
            Taker::alone(&near, 0, false, vec![4]),
        ];
        merge(&mut takers);
        let merged: Vec<_> = takers.iter().filter(|taker| Arc::ptr_eq(&taker.session, &near)).collect();
        assert_eq!(merged.len(), 1);
        assert_eq!((merged[0].qos, merged[0].retain), (2, true));
        let mut ids = merged[0].subscription_ids.clone();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2, 4]);
        let others: Vec<_> = takers.iter().filter(|taker| !Arc::ptr_eq(&taker.session, &near)).collect();
        assert_eq!(others.len(), 2, "another session, and a shared subscription");
        assert!(others.iter().any(|taker| Arc::ptr_eq(&taker.session, &other)));
    }
}
