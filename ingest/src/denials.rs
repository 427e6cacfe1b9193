//! Log lines about denied messages: one a minute for each client, however often it connects.

use hashbrown::HashMap;
use model::Nanos;
use model::time::SECOND;
use parking_lot::Mutex;

/// Time between two lines about one client.
const APART: Nanos = 60 * SECOND;
/// Clients that are remembered; there are no lines about further ones.
const CLIENTS: usize = 1_000;

/// The last line of one connection.
#[derive(Debug, Default)]
pub(crate) struct Recent(Option<Nanos>);

impl Recent {
    /// True when another line may be due.
    pub(crate) fn is_due(&mut self, now: Nanos) -> bool {
        let due = self.0.is_none_or(|last| now - last >= APART);
        if due {
            self.0 = Some(now);
        }
        due
    }
}

/// The last lines of all connections, by the hash of the client.
#[derive(Debug, Default)]
pub(crate) struct Denials(Mutex<HashMap<u64, Nanos, foldhash::fast::RandomState>>);

impl Denials {
    /// True when a line about the client is due now.
    pub(crate) fn is_due(&self, client: u64, now: Nanos) -> bool {
        let mut last = self.0.lock();
        if last.get(&client).is_some_and(|last| now - last < APART) {
            return false;
        }
        if last.len() >= CLIENTS {
            last.retain(|_, last| now - *last < APART);
        }
        let has_place = last.len() < CLIENTS || last.contains_key(&client);
        if has_place {
            last.insert(client, now);
        }
        has_place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_minute_is_due_for_each_client_and_the_table_is_bounded() {
        let (denials, mut one) = (Denials::default(), Recent::default());
        let due: Vec<_> = (0..300).filter(|n| denials.is_due(1, n * SECOND)).collect();
        assert_eq!(due, [0, 60, 120, 180, 240]);
        assert_eq!((0..300).filter(|n| one.is_due(n * SECOND)).collect::<Vec<_>>(), due);
        let now = 300 * SECOND;
        assert_eq!((0..5_000).filter(|client| denials.is_due(*client, now)).count(), CLIENTS);
        assert_eq!(denials.0.lock().len(), CLIENTS);
        assert!(!denials.is_due(4_000, now) && denials.is_due(4_000, now + APART));
        assert_eq!(denials.0.lock().len(), 1);
    }
}
