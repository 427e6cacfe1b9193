//! Denials, gathered for the audit: one event a minute for each tenant, principal or address, and
//! reason, so that a flood of them does not fill the disk.

use std::net::IpAddr;

use hashbrown::HashMap;
use model::Nanos;
use model::time::SECOND;
use parking_lot::Mutex;

use crate::registry::Denial;

const WINDOW: Nanos = 60 * SECOND;
/// Kinds for each tenant within a minute. Further ones are counted without principal and address.
const MAX_OF_TENANT: usize = 16;
/// Kinds of all tenants within a minute. Further ones are counted, and logged.
const MAX: usize = 2048;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    tenant: String,
    principal: String,
    method: String,
    address: Option<IpAddr>,
    reason: String,
}

#[derive(Debug, Clone, Copy)]
struct Tally {
    first: Nanos,
    count: u64,
}

#[derive(Debug, Default)]
pub(super) struct Denials(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    kinds: HashMap<Kind, Tally>,
    of_tenant: HashMap<String, usize>,
    /// Denials that found no place.
    uncounted: u64,
}

impl Table {
    fn add(&mut self, mut kind: Kind, tally: Tally) {
        if !self.kinds.contains_key(&kind) {
            let of_tenant = self.of_tenant.get(&kind.tenant).copied().unwrap_or_default();
            if of_tenant >= MAX_OF_TENANT {
                (kind.principal, kind.address) = (String::new(), None);
            }
            // The kinds without principal are few: methods and reasons are fixed.
            if !self.kinds.contains_key(&kind) {
                if self.kinds.len() >= MAX {
                    self.uncounted += tally.count;
                    return;
                }
                *self.of_tenant.entry(kind.tenant.clone()).or_default() += 1;
            }
        }
        let known = self.kinds.entry(kind).or_insert(Tally { first: tally.first, count: 0 });
        known.count += tally.count;
        known.first = known.first.min(tally.first);
    }
}

impl Denials {
    pub(super) fn add(
        &self,
        tenant: &str,
        principal: &str,
        method: &str,
        address: Option<IpAddr>,
        reason: &str,
        now: Nanos,
    ) {
        let kind = Kind {
            tenant: tenant.to_owned(),
            principal: principal.to_owned(),
            method: method.to_owned(),
            address,
            reason: reason.to_owned(),
        };
        self.0.lock().add(kind, Tally { first: now, count: 1 });
    }

    /// Takes out those whose minute has passed, or all of them. The clock may have been set back.
    pub(super) fn take(&self, now: Nanos, all: bool) -> Vec<(Key, Denial)> {
        let mut table = self.0.lock();
        if table.uncounted > 0 {
            tracing::warn!(
                count = table.uncounted,
                "denials of too many kinds within a minute: some have no audit event"
            );
            table.uncounted = 0;
        }
        let is_due = |tally: &Tally| !(tally.first..tally.first + WINDOW).contains(&now);
        let taken: Vec<_> = table.kinds.extract_if(|_, tally| all || is_due(tally)).collect();
        for (kind, _) in &taken {
            if let Some(count) = table.of_tenant.get_mut(&kind.tenant) {
                *count -= 1;
                if *count == 0 {
                    table.of_tenant.remove(&kind.tenant);
                }
            }
        }
        taken.into_iter().map(|(kind, tally)| (Key(kind.clone()), denial(kind, tally))).collect()
    }

    /// Counts denials again whose events could not be written.
    pub(super) fn give_back(&self, taken: Vec<(Key, Denial)>) {
        let mut table = self.0.lock();
        for (key, denial) in taken {
            table.add(key.0, Tally { first: denial.at, count: denial.count });
        }
    }
}

/// The kind of a denial that was taken out.
#[derive(Debug)]
pub(super) struct Key(Kind);

fn denial(kind: Kind, tally: Tally) -> Denial {
    Denial {
        tenant: kind.tenant,
        principal: kind.principal,
        method: kind.method,
        address: kind.address,
        reason: kind.reason,
        at: tally.first,
        count: tally.count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_of_a_minute_are_one_event_with_their_count() {
        let denials = Denials::default();
        for second in 0..50 {
            denials.add("t", "", "Connect", Some([10, 0, 0, 1].into()), "wrong", second * SECOND);
        }
        assert!(denials.take(59 * SECOND, false).is_empty());
        let taken = denials.take(60 * SECOND, false);
        assert_eq!((taken.len(), taken[0].1.count, taken[0].1.at), (1, 50, 0));
        assert!(denials.take(61 * SECOND, true).is_empty());
        denials.give_back(taken);
        assert_eq!(denials.take(61 * SECOND, false)[0].1.count, 50);
    }

    #[test]
    fn a_clock_that_is_set_back_holds_no_events_up() {
        let denials = Denials::default();
        denials.add("t", "", "Connect", None, "wrong", 3600 * SECOND);
        let taken = denials.take(0, false);
        assert_eq!((taken.len(), taken[0].1.at), (1, 3600 * SECOND));
    }

    #[test]
    fn a_flood_from_many_addresses_is_a_few_events() {
        let denials = Denials::default();
        for n in 0..10_000_u32 {
            denials.add("t", "", "Connect", Some(n.to_be_bytes().into()), "wrong", 0);
        }
        denials.add("other", "", "Connect", None, "wrong", 0);
        let taken = denials.take(0, true);
        assert_eq!(taken.len(), MAX_OF_TENANT + 2);
        assert_eq!(taken.iter().map(|(_, denial)| denial.count).sum::<u64>(), 10_001);
        assert!(denials.0.lock().of_tenant.is_empty());
    }
}
