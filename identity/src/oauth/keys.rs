//! The keys of one issuer, kept and refreshed.
//!
//! ```text
//! fetched ──── fresh (cache-control, 5 min … 24 h, 1 h) ────┬──── stale, 24 h ────┬── unavailable
//!                            refresh at 80 %  ┘             └ only after failures ┘
//! ```
//! A key that is not in the set is looked for in a new one, at most once in 30 seconds: a rotation
//! is found by its first token, and forged ids cost the issuer no more than that.

use std::sync::Arc;
use std::time::Duration;

use model::time::SECOND;
use model::{Clock, Nanos};
use parking_lot::Mutex;
use serde::Deserialize;

use super::fetch::{Fetch, Fetched, Reach};
use super::issuer::{Algorithm, check_address};
use super::key::KeySet;

const DEFAULT_AGE: Duration = Duration::from_secs(3600);
const MIN_AGE: Duration = Duration::from_secs(300);
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// Time for which keys are used beyond their age while the issuer does not answer.
const STALE: Nanos = 24 * 3600 * SECOND;
/// Time between two refreshes for keys that are not in the set.
const UNKNOWN: Nanos = 30 * SECOND;
/// Time after a failure until the next attempt.
const RETRY: Nanos = 10 * SECOND;
const OPENID: &str = "/.well-known/openid-configuration";
const OAUTH: &str = "/.well-known/oauth-authorization-server";

/// The reason why there is no key.
#[derive(Debug)]
pub(super) enum KeysError {
    /// The issuer has no such key.
    Unknown,
    /// The keys cannot be read.
    Unavailable(Arc<str>),
}

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Keys {
    url: String,
    reach: Reach,
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Held during a refresh.
    refresh: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    set: Option<Arc<KeySet>>,
    /// Count of successful refreshes.
    count: u64,
    refresh_at: Nanos,
    fresh_until: Nanos,
    /// Time of the last refresh for a key that was not in the set.
    asked_at: Option<Nanos>,
    failed: Option<(Nanos, Arc<str>)>,
    date: Option<String>,
}

/// True within a time from `since`, which the clock may have been set back before.
fn is_within(since: Nanos, span: Nanos, now: Nanos) -> bool {
    (since..since.saturating_add(span)).contains(&now)
}

impl Keys {
    pub(super) fn new(url: &str, reach: Reach, fetch: Arc<dyn Fetch>, clock: Arc<dyn Clock>) -> Self {
        let (state, refresh) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { url: url.to_owned(), reach, fetch, clock, state, refresh }
    }

    /// Returns the set that has a key; the issuer is asked when the set is missing, too old, or
    /// lacks the key.
    pub(super) async fn having(&self, id: &str, algorithm: Algorithm) -> Result<Arc<KeySet>, KeysError> {
        let (set, count) = match self.usable() {
            Some(known) => known,
            None => self.first().await?,
        };
        if set.get(id, algorithm).is_some() {
            return Ok(set);
        }
        let set = self.asked_again(count).await?;
        if set.get(id, algorithm).is_some() { Ok(set) } else { Err(KeysError::Unknown) }
    }

    /// Returns the set, unless it is too old.
    fn usable(&self) -> Option<(Arc<KeySet>, u64)> {
        let (state, now) = (self.state.lock(), self.clock.now());
        let is_usable = now < state.fresh_until.saturating_add(if state.failed.is_some() { STALE } else { 0 });
        state.set.clone().filter(|_| is_usable).map(|set| (set, state.count))
    }

    /// Reads the set for the first time, or anew when it is too old.
    async fn first(&self) -> Result<(Arc<KeySet>, u64), KeysError> {
        let _one = self.refresh.lock().await;
        if let Some(known) = self.usable() {
            return Ok(known);
        }
        let failed = self.state.lock().failed.clone();
        if let Some((_, reason)) = failed.filter(|(at, _)| is_within(*at, RETRY, self.clock.now())) {
            return Err(KeysError::Unavailable(reason));
        }
        let read = self.read().await;
        // After the first failure, keys of a day before are used on.
        match (self.usable(), read) {
            (Some(known), _) => Ok(known),
            (None, Err(reason)) => Err(KeysError::Unavailable(reason)),
            (None, Ok(())) => Err(KeysError::Unavailable("its keys are too old".into())),
        }
    }

    /// Returns the set after a refresh for a key that the set of `count` lacks.
    async fn asked_again(&self, count: u64) -> Result<Arc<KeySet>, KeysError> {
        let _one = self.refresh.lock().await;
        let now = self.clock.now();
        {
            let mut state = self.state.lock();
            if let (Some(set), false) = (&state.set, state.count == count) {
                // Another call has refreshed it meanwhile.
                return Ok(Arc::clone(set));
            }
            if state.asked_at.is_some_and(|at| is_within(at, UNKNOWN, now)) {
                let failed = state.failed.as_ref().map(|(_, reason)| Arc::clone(reason));
                return Err(failed.map_or(KeysError::Unknown, KeysError::Unavailable));
            }
            state.asked_at = Some(now);
        }
        self.read().await.map_err(KeysError::Unavailable)?;
        self.state.lock().set.clone().ok_or(KeysError::Unknown)
    }

    /// True when the keys are due to be read again: at 80 % of their age, or a while after a
    /// failure.
    pub(super) fn is_due(&self) -> bool {
        let (state, now) = (self.state.lock(), self.clock.now());
        let waits = state.failed.as_ref().is_some_and(|(at, _)| is_within(*at, RETRY, now));
        now >= state.refresh_at && !waits
    }

    /// Reads the keys again if they are due. Returns the new set.
    pub(super) async fn refresh(&self) -> Option<Arc<KeySet>> {
        let _one = self.refresh.lock().await;
        if !self.is_due() {
            return None;
        }
        self.read().await.ok()?;
        self.state.lock().set.clone()
    }

    /// Returns the set, also when it is old.
    pub(super) fn current(&self) -> Option<Arc<KeySet>> {
        self.state.lock().set.clone()
    }

    /// Returns how often the keys were read.
    pub(super) fn count(&self) -> u64 {
        self.state.lock().count
    }

    /// Returns the header `date` of the last answer.
    pub(super) fn date(&self) -> Option<String> {
        self.state.lock().date.clone()
    }

    /// Reads the keys now.
    pub(super) async fn read(&self) -> Result<(), Arc<str>> {
        let read = self.discover().await;
        let now = self.clock.now();
        let mut state = self.state.lock();
        match read {
            Ok((set, fetched)) => {
                let age = fetched.max_age.unwrap_or(DEFAULT_AGE).clamp(MIN_AGE, MAX_AGE);
                let age = Nanos::try_from(age.as_nanos()).unwrap_or(Nanos::MAX);
                (state.set, state.failed, state.date) = (Some(Arc::new(set)), None, fetched.date);
                state.count += 1;
                state.refresh_at = now.saturating_add(age / 10 * 8);
                state.fresh_until = now.saturating_add(age);
                Ok(())
            }
            Err(reason) => {
                let reason: Arc<str> = reason.into();
                if state.failed.is_none() {
                    tracing::warn!(issuer = self.url, %reason, "the keys of an issuer cannot be read");
                }
                state.failed = Some((now, Arc::clone(&reason)));
                Err(reason)
            }
        }
    }

    /// Reads the document of the issuer and the keys that it names.
    async fn discover(&self) -> Result<(KeySet, Fetched), String> {
        #[derive(Deserialize)]
        struct Document {
            issuer: String,
            jwks_uri: String,
        }
        let (url, document) = self.document().await?;
        let document: Document =
            serde_json::from_slice(&document.body).map_err(|error| format!("cannot use {url}: {error}"))?;
        if document.issuer != self.url {
            let named: String = document.issuer.chars().take(200).collect();
            return Err(format!("{url} is of the issuer {named:?}: give the issuer exactly this URL"));
        }
        let url = document.jwks_uri;
        check_address(&url).map_err(|reason| format!("cannot use `jwks_uri` of {}: {reason}", self.url))?;
        let fetched = self.get(&url).await?;
        if fetched.status != 200 {
            return Err(format!("{url} answers {}", fetched.status));
        }
        let set = KeySet::parse(&fetched.body).map_err(|reason| format!("cannot use {url}: {reason}"))?;
        Ok((set, fetched))
    }

    /// Returns the document of the issuer: that of OpenID Connect, or that of OAuth (RFC 8414).
    async fn document(&self) -> Result<(String, Fetched), String> {
        let openid = format!("{}{OPENID}", self.url.trim_end_matches('/'));
        let first = self.get(&openid).await?;
        if first.status == 200 {
            return Ok((openid, first));
        }
        let scheme = self.url.find("://").map_or(0, |at| at + 3);
        let (host, path) = self.url.split_at(self.url[scheme..].find('/').map_or(self.url.len(), |at| at + scheme));
        let oauth = format!("{host}{OAUTH}{}", path.trim_end_matches('/'));
        let second = self.get(&oauth).await?;
        if second.status == 200 {
            return Ok((oauth, second));
        }
        Err(format!("{openid} answers {}, {oauth} answers {}", first.status, second.status))
    }

    async fn get(&self, url: &str) -> Result<Fetched, String> {
        self.fetch.get(url, self.reach).await.map_err(|error| error.to_string())
    }
}
