//! The parts of servers that hold what was written, as last seen: `parts.json` in the data folder.
//!
//! A bucket or a collection that was deleted is made again, empty, by an operator or by Weir. Its
//! server then answers as before, and only the identity of the part shows that what was written is
//! gone. A part that was lost is reported until the books balance again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use model::clock::now;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use stores::contract::{BookLine, StoredPart};

use super::known::Fingerprint;
use super::state::Reason;
use crate::data_dir::{DataDir, replace};

/// The parts of all servers. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct KnownParts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    servers: Mutex<BTreeMap<String, Seen>>,
}

/// The parts of one server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Seen {
    /// Of the settings: another database has other parts, and has lost nothing.
    settings: Fingerprint,
    /// Projections that are stored there.
    sinks: Vec<String>,
    /// Identities by name.
    parts: BTreeMap<String, String>,
    /// Parts that are not those of an earlier time, each with the time when that was seen, in
    /// nanoseconds.
    lost: BTreeMap<String, i64>,
}

impl KnownParts {
    /// Reads the file. One that is missing or cannot be read knows no parts.
    pub(super) fn open(data: &DataDir) -> Self {
        let path = data.parts();
        let servers = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "cannot read the parts of servers");
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        Self(Arc::new(Inner { path, servers: Mutex::new(servers) }))
    }

    /// Notes the parts that a server has now; returns those that were lost since they were last
    /// seen.
    pub(super) fn saw(
        &self,
        server: &str,
        settings: &Fingerprint,
        sinks: &[String],
        parts: &[StoredPart],
    ) -> Vec<String> {
        if parts.is_empty() {
            return Vec::new();
        }
        let mut servers = self.0.servers.lock();
        let before = servers.get(server).filter(|seen| seen.settings == *settings).cloned();
        let mut seen = before.clone().unwrap_or_default();
        let mut lost = Vec::new();
        for part in parts {
            let held = seen.parts.insert(part.name.clone(), part.id.to_string());
            if held.is_some_and(|held| *held != *part.id) {
                seen.lost.insert(part.name.clone(), now());
                lost.push(part.name.clone());
            }
        }
        (seen.settings, seen.sinks) = (settings.clone(), sinks.to_vec());
        if before.as_ref() != Some(&seen) {
            servers.insert(server.to_owned(), seen);
            self.write(&servers);
        }
        lost
    }

    /// The parts that were lost and whose books do not balance since.
    pub(crate) fn concerns(&self) -> Vec<Reason> {
        let servers = self.0.servers.lock();
        let lost = servers.iter().flat_map(|(server, seen)| seen.lost.iter().map(move |lost| (server, seen, lost)));
        lost.map(|(server, seen, (part, at))| Reason::new(server.clone(), words(part, *at, &seen.sinks))).collect()
    }

    /// Takes the lines of books that were checked: a part whose sinks all balance is not lost any
    /// longer.
    pub(crate) fn checked(&self, lines: &[BookLine]) {
        let mut servers = self.0.servers.lock();
        let mut found = Vec::new();
        for (server, seen) in servers.iter_mut().filter(|(_, seen)| !seen.lost.is_empty()) {
            let of_server = lines.iter().filter(|line| seen.sinks.contains(&line.sink));
            let (mut any, mut all) = (false, true);
            for line in of_server {
                any |= line.held.is_some();
                all &= line.balances() && line.agrees();
            }
            if any && all {
                seen.lost.clear();
                found.push(server.clone());
            }
        }
        if !found.is_empty() {
            tracing::info!(servers = found.join(", "), "the books balance again after a part was lost");
            self.write(&servers);
        }
    }

    fn write(&self, servers: &BTreeMap<String, Seen>) {
        let text = serde_json::to_vec(servers).unwrap_or_default();
        if let Err(error) = replace(&self.0.path, &text) {
            tracing::warn!("a part that a server loses while weir is down is not noticed: {error:#}");
        }
    }
}

/// A lost part, for an operator.
fn words(part: &str, at: i64, sinks: &[String]) -> String {
    let at = crate::client::time::show(at);
    let cure = match sinks {
        [export] => format!("fill it again with `weir refill {export} --since TIME`"),
        _ => "restore it from a backup".to_owned(),
    };
    format!(
        "the {part} was deleted and made anew (seen at {at}): what was written there before is gone; {cure}, then \
         `weir books --check` ends this warning once the books balance"
    )
}

#[cfg(test)]
mod tests {
    use super::super::known::KnownSettings;
    use super::*;

    fn part(name: &str, id: &str) -> StoredPart {
        StoredPart { name: name.to_owned(), id: id.into() }
    }

    fn line(sink: &str, held: Option<u64>) -> BookLine {
        BookLine {
            tenant: "t".into(),
            sink: sink.to_owned(),
            accepted: 3,
            stored: 3,
            merged: 0,
            pending: 0,
            dead_lettered: 0,
            held,
            expected: 3,
            hours: Vec::new(),
        }
    }

    #[test]
    fn a_part_that_was_made_anew_is_reported_across_restarts_until_the_books_balance() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let settings = KnownSettings::open(&data).unwrap();
        let (here, elsewhere) = (settings.fingerprint(&"a"), settings.fingerprint(&"b"));
        let sinks = ["plant".to_owned()];
        let known = KnownParts::open(&data);
        assert!(known.saw("export plant", &here, &sinks, &[part("bucket `iot`", "1")]).is_empty(), "the first time");
        assert!(known.saw("export plant", &here, &sinks, &[]).is_empty(), "a part that is not visible");
        let known = KnownParts::open(&data);
        assert_eq!(known.saw("export plant", &here, &sinks, &[part("bucket `iot`", "2")]), ["bucket `iot`"]);
        assert!(known.saw("export plant", &here, &sinks, &[part("bucket `iot`", "2")]).is_empty(), "reported once");
        let known = KnownParts::open(&data);
        let said = serde_json::to_string(&known.concerns()).unwrap();
        for word in ["export plant", "bucket `iot`", "weir refill plant", "weir books --check"] {
            assert!(said.contains(word), "{word} is not in {said}");
        }
        for unbalanced in [vec![line("plant", Some(0))], vec![line("plant", None)], vec![line("history", Some(3))]] {
            known.checked(&unbalanced);
            assert_eq!(known.concerns().len(), 1, "{unbalanced:?}");
        }
        known.checked(&[line("plant", Some(3)), line("history", Some(0))]);
        assert!(known.concerns().is_empty());
        assert!(KnownParts::open(&data).concerns().is_empty());
        assert!(known.saw("export plant", &elsewhere, &sinks, &[part("bucket `iot`", "3")]).is_empty());
        assert!(known.concerns().is_empty(), "another server has lost nothing");
    }
}
