//! The search for devices by labels, type and beginnings of words.
//!
//! A device is found by its terms, which each store keeps in an index: the words of its id, name,
//! type and labels in lower case, each label and the type as a whole, and a mark while it is in
//! quarantine. A search reads the ids
//! of the term that fewest devices have, and checks the other terms on the rows of these. When
//! very many devices have each of the terms, it walks through all devices instead: matches are
//! frequent then.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::Result;
use super::device::{Device, DeviceRegistry};

/// Words of a device that are searched; those of its last labels are left out first.
const MAX_WORDS: usize = 128;
/// Characters of a word that are searched.
const MAX_WORD_CHARS: usize = 64;
/// Terms of one search; further ones are checked on rows only.
const MAX_PROBED: usize = 8;
/// Ids that are read of a term before it counts as frequent.
const PROBED: usize = 5_000;
/// Rows that are read at one time.
const STEP: usize = 500;
/// Rows that are read for one page, so that a search with few matches returns.
const EXAMINED: usize = 10_000;

/// A part of a device by which it is found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Term {
    /// A label, the type, or the mark of a device in quarantine, as a whole.
    Exact(String),
    /// The beginning of a word, in lower case.
    Beginning(String),
}

impl Term {
    /// Returns the term of a label.
    pub fn label(key: &str, value: &str) -> Self {
        Self::Exact(exact(key, value))
    }

    /// Returns the term of a type.
    pub fn device_type(id: &str) -> Self {
        Self::Exact(exact("", id))
    }

    /// Returns the term of devices in quarantine.
    pub fn quarantined() -> Self {
        Self::Exact(QUARANTINED.to_owned())
    }

    /// Returns the terms of words as people type them.
    pub fn words(text: &str) -> impl Iterator<Item = Self> + '_ {
        words(text).map(Self::Beginning)
    }

    /// True when each word of `sought` is the beginning of a word of the texts.
    pub fn all_in<'a>(sought: &str, texts: impl Iterator<Item = &'a str>) -> bool {
        let known: BTreeSet<String> = texts.flat_map(words).collect();
        Self::words(sought).all(|term| term.is_of(&known))
    }

    fn is_of(&self, terms: &BTreeSet<String>) -> bool {
        match self {
            Self::Exact(term) => terms.contains(term),
            Self::Beginning(start) => {
                let from = (Bound::Included(start.as_str()), Bound::Unbounded);
                terms.range::<str, _>(from).next().is_some_and(|term| term.starts_with(start.as_str()))
            }
        }
    }
}

/// The term of devices in quarantine. No word, label or type is equal to it.
const QUARANTINED: &str = "!quarantined";

/// Returns the term of a label or, with an empty key, of a type. No word contains `=`.
fn exact(key: &str, value: &str) -> String {
    format!("{key}={value}")
}

fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(|word| word.chars().flat_map(char::to_lowercase).take(MAX_WORD_CHARS).collect())
}

/// Returns a text behind all that begin with this one.
pub(super) fn behind(start: &str) -> String {
    format!("{start}{}", char::MAX)
}

/// Returns the terms of a device.
pub(super) fn terms(device: &Device) -> BTreeSet<String> {
    let mut terms: BTreeSet<String> = BTreeSet::new();
    for word in device.texts().flat_map(words) {
        if terms.len() >= MAX_WORDS {
            break;
        }
        terms.insert(word);
    }
    terms.extend(device.labels.iter().map(|(key, value)| exact(key, value)));
    if !device.device_type.is_empty() {
        terms.insert(exact("", &device.device_type));
    }
    if device.quarantined.is_some() {
        terms.insert(QUARANTINED.to_owned());
    }
    terms
}

/// The devices that a search selects: those that have all of its terms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceQuery {
    /// The terms.
    pub terms: BTreeSet<Term>,
    /// True to select devices that were deleted, too.
    pub with_deleted: bool,
}

impl DeviceQuery {
    fn selects(&self, device: &Device) -> bool {
        if device.deleted.is_some() && !self.with_deleted {
            return false;
        }
        self.terms.is_empty() || {
            let terms = terms(device);
            self.terms.iter().all(|term| term.is_of(&terms))
        }
    }
}

/// Devices in order of their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DevicePage {
    /// The devices.
    pub devices: Vec<Device>,
    /// The id to go on after; `None` at the end.
    pub after: Option<String>,
}

impl DevicePage {
    /// Adds those of the rows that a query selects. Returns true when the page is full.
    fn add(&mut self, rows: impl IntoIterator<Item = Device>, query: &DeviceQuery, limit: usize) -> bool {
        for row in rows {
            self.after = Some(row.id.clone());
            if query.selects(&row) {
                self.devices.push(row);
                if self.devices.len() == limit {
                    return true;
                }
            }
        }
        false
    }
}

/// Returns up to `limit` devices that a query selects, in order of their ids, those after `after`.
/// There may be more although there are fewer: a search reads a bounded number of rows.
pub(crate) async fn search<R: DeviceRegistry + ?Sized>(
    registry: &R,
    tenant: &str,
    query: &DeviceQuery,
    after: &str,
    limit: usize,
) -> Result<DevicePage> {
    match source(registry, tenant, query, after).await? {
        Source::Ids { ids, is_all } => listed(registry, tenant, query, (&ids, is_all), limit).await,
        Source::Everything => walk(registry, tenant, query, after, limit).await,
    }
}

/// The devices that a search examines.
enum Source {
    /// Devices of these ids, which are in order; there are more when these are not all.
    Ids {
        ids: Vec<String>,
        is_all: bool,
    },
    Everything,
}

/// Chooses the term that fewest devices have.
async fn source<R: DeviceRegistry + ?Sized>(
    registry: &R,
    tenant: &str,
    query: &DeviceQuery,
    after: &str,
) -> Result<Source> {
    let mut best = Source::Everything;
    // Exact terms come first.
    for term in query.terms.iter().take(MAX_PROBED) {
        let (ids, is_all) = match term {
            Term::Exact(term) => {
                // Alone, it is the rarest one.
                let most = if query.terms.len() == 1 { STEP } else { PROBED };
                let ids = registry.devices_with(tenant, term, after, most).await?;
                let is_all = ids.len() < most;
                (ids, is_all)
            }
            Term::Beginning(start) => {
                let mut ids = registry.devices_beginning(tenant, start, PROBED).await?;
                if ids.len() >= PROBED {
                    continue;
                }
                ids.retain(|id| id.as_str() > after);
                ids.sort_unstable();
                ids.dedup();
                (ids, true)
            }
        };
        let is_better = match &best {
            Source::Everything => true,
            Source::Ids { ids: known, is_all: all } => is_all && (!all || ids.len() < known.len()),
        };
        if is_better {
            best = Source::Ids { ids, is_all };
        }
        if matches!(&best, Source::Ids { ids, is_all: true } if ids.len() <= STEP) {
            break;
        }
    }
    Ok(best)
}

async fn listed<R: DeviceRegistry + ?Sized>(
    registry: &R,
    tenant: &str,
    query: &DeviceQuery,
    (ids, is_all): (&[String], bool),
    limit: usize,
) -> Result<DevicePage> {
    let mut page = DevicePage::default();
    for ids in ids.chunks(STEP.min(limit.max(1) * 4)) {
        let rows = registry.devices(tenant, ids).await?.into_iter().flatten();
        if page.add(rows, query, limit) {
            return Ok(page);
        }
    }
    page.after = ids.last().filter(|_| !is_all).cloned();
    Ok(page)
}

async fn walk<R: DeviceRegistry + ?Sized>(
    registry: &R,
    tenant: &str,
    query: &DeviceQuery,
    after: &str,
    limit: usize,
) -> Result<DevicePage> {
    let mut page = DevicePage::default();
    let mut after = after.to_owned();
    let mut examined = 0;
    while examined < EXAMINED {
        let step = if query.terms.is_empty() { STEP.min(limit - page.devices.len()) } else { STEP };
        let rows = registry.devices_after(tenant, &after, step).await?;
        let read = rows.len();
        examined += read;
        if let Some(last) = rows.last() {
            after.clone_from(&last.id);
        }
        if page.add(rows, query, limit) {
            return Ok(page);
        }
        if read < step {
            page.after = None;
            return Ok(page);
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::contract::device;

    #[test]
    fn a_device_is_found_by_what_people_type() {
        let mut pump = device("a", "hall/Pump-0012");
        pump.display_name = "Kühlwasser Nord".into();
        pump.labels = [("site".into(), "Berlin 1".into()), ("rack".into(), "b1".into())].into();
        pump.device_type = "pump-v2".into();
        let finds = |text: &str| {
            let query = DeviceQuery { terms: Term::words(text).collect(), with_deleted: false };
            query.selects(&pump)
        };
        for text in ["", "pump", "PUMP-0012", "hall/pump", "0012 nord", "kühl", "berl b1", "site v2", "  hal-  "] {
            assert!(finds(text), "{text}");
        }
        for text in ["ump", "pump-0013", "pump süd", "berlin=1x", "xb1"] {
            assert!(!finds(text), "{text}");
        }
        let has = |term: Term| DeviceQuery { terms: [term].into(), with_deleted: false }.selects(&pump);
        assert!(has(Term::label("site", "Berlin 1")) && has(Term::device_type("pump-v2")));
        assert!(!has(Term::label("site", "Berlin")) && !has(Term::label("site", "berlin 1")));
        assert!(!has(Term::device_type("pump")) && !has(Term::label("", "pump")));
    }

    #[test]
    fn long_and_many_words_are_cut() {
        let mut long = device("a", "d");
        long.display_name = (0..300).map(|n| format!("w{n:03}{} ", "é".repeat(80))).collect();
        let terms = terms(&long);
        let (whole, words): (Vec<&str>, Vec<&str>) =
            terms.iter().map(String::as_str).partition(|term| term.contains('='));
        assert_eq!((words.len(), whole), (MAX_WORDS, vec!["=pump", "site=b1"]));
        assert!(words.iter().all(|word| word.chars().count() <= MAX_WORD_CHARS), "{words:?}");
        assert!(terms.contains("d"), "the words of the id come first");
    }
}
