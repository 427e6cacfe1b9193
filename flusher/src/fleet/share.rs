//! The share of each flusher: each decides for itself, from the list that all of them read.

use buffer::{Holder, LogInfo};

/// The next step of a flusher.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Logs without a flusher that it may take.
    pub(super) claim: Vec<String>,
    /// Logs that it gives to others.
    pub(super) release: Vec<String>,
}

/// An even share: no flusher holds more than the logs divided by the flushers, rounded up. So no
/// log changes hands while the shares are kept, and all shares together cover all logs.
pub(super) fn plan(logs: &[LogInfo], alive: &[Holder], own: &str, able: impl Fn(&str) -> bool) -> Plan {
    let others = alive.iter().filter(|holder| holder.name != own).count();
    let share = logs.len().div_ceil(others + 1);
    let holds = |log: &&LogInfo| log.holder.as_ref().is_some_and(|holder| holder.name == own);
    let held: Vec<&LogInfo> = logs.iter().filter(holds).collect();
    if held.len() > share {
        // The newest ones: the fewest of their records are in memory.
        let release = held[share..].iter().map(|log| log.id.clone()).collect();
        return Plan { claim: Vec::new(), release };
    }
    let free = logs.iter().filter(|log| log.holder.is_none() && able(&log.id));
    Plan { claim: free.take(share - held.len()).map(|log| log.id.clone()).collect(), release: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(name: &str) -> Holder {
        Holder { name: name.to_owned(), address: String::new() }
    }

    fn logs(holders: &[&str]) -> Vec<LogInfo> {
        let log = |(i, name): (usize, &&str)| LogInfo {
            id: format!("log{i}"),
            written: true,
            holder: (!name.is_empty()).then(|| holder(name)),
        };
        holders.iter().enumerate().map(log).collect()
    }

    #[test]
    fn a_flusher_alone_takes_every_log() {
        let plan = plan(&logs(&["", "", "a"]), &[holder("a")], "a", |_| true);
        assert_eq!(plan, Plan { claim: vec!["log0".into(), "log1".into()], release: vec![] });
    }

    #[test]
    fn a_second_flusher_gets_half_and_then_nothing_moves() {
        let alive = [holder("a"), holder("b")];
        let mut all = logs(&["a", "a", "a", "a", "a"]);
        assert_eq!(plan(&all, &alive, "b", |_| true), Plan::default());
        let given = plan(&all, &alive, "a", |_| true);
        assert_eq!(given, Plan { claim: vec![], release: vec!["log3".into(), "log4".into()] });
        all.iter_mut().filter(|log| given.release.contains(&log.id)).for_each(|log| log.holder = None);
        assert_eq!(plan(&all, &alive, "a", |_| true), Plan::default(), "a released log is not taken back");
        assert_eq!(plan(&all, &alive, "b", |_| true).claim, ["log3", "log4"]);
        all[3].holder = Some(holder("b"));
        all[4].holder = Some(holder("b"));
        for name in ["a", "b"] {
            assert_eq!(plan(&all, &alive, name, |_| true), Plan::default());
        }
    }

    #[test]
    fn shares_cover_any_number_of_logs() {
        for (count, flushers) in [(1, 3), (3, 2), (7, 3), (10, 4)] {
            let names: Vec<String> = (0..flushers).map(|i| format!("f{i}")).collect();
            let alive: Vec<Holder> = names.iter().map(|name| holder(name)).collect();
            let mut all = logs(&vec![""; count]);
            for name in &names {
                for id in plan(&all, &alive, name, |_| true).claim {
                    all.iter_mut().find(|log| log.id == id).unwrap().holder = Some(holder(name));
                }
            }
            assert!(all.iter().all(|log| log.holder.is_some()), "{count} logs, {flushers} flushers");
        }
    }

    #[test]
    fn a_log_that_failed_here_a_moment_ago_is_left_to_others() {
        assert_eq!(plan(&logs(&["", ""]), &[holder("a")], "a", |id| id != "log0").claim, ["log1"]);
    }
}
