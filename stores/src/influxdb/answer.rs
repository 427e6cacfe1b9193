//! The meaning of an answer of InfluxDB, decided here and nowhere else.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;

use super::config::Config;
use crate::contract::{Result, StoreError};

/// Longest wait that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Longest message that is kept.
const MESSAGE_BYTES: usize = 600;

/// An answer, read completely.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// Headers by which InfluxDB names itself.
const NAMES: [&str; 2] = ["x-influxdb-version", "x-influxdb-build"];

/// The body of a refusal by InfluxDB.
#[derive(Debug, Deserialize)]
struct Fault {
    code: Option<String>,
    message: Option<String>,
    /// Of the endpoints that InfluxDB 1 had too.
    error: Option<String>,
}

impl Answer {
    /// True when the server names itself InfluxDB.
    pub(super) fn is_named(&self) -> bool {
        NAMES.iter().any(|name| self.headers.contains_key(*name))
    }

    fn fault(&self) -> Option<Fault> {
        serde_json::from_slice::<Fault>(&self.body).ok()
    }

    /// True when the server understood the request and refused it, and the server is InfluxDB: the
    /// body has the form of its refusals. That of a gateway counts for nothing.
    pub(super) fn is_refused_by_influxdb(&self) -> bool {
        let has_form = |fault: Fault| match (fault.code, fault.message, fault.error) {
            (Some(_), Some(_), _) => true,
            (_, message, error) => self.is_named() && (message.is_some() || error.is_some()),
        };
        let is_judged = self.status.is_client_error() && !matches!(self.status.as_u16(), 408 | 425 | 429);
        is_judged && self.fault().is_some_and(has_form)
    }

    /// Requires the answer to a write that was stored: 204 without a body. A page of a front is
    /// sent with 200, and stores nothing. `named` when the server has named itself before.
    ///
    /// # Errors
    /// The [`StoreError`] that the answer means.
    pub(super) fn stored(self, config: &Config, named: bool) -> Result<()> {
        let is_foreign = self.status != StatusCode::NO_CONTENT || !self.body.is_empty() || (named && !self.is_named());
        let foreign = is_foreign.then(|| {
            let found = format!("{}: {}", self.status, self.message(self.fault().as_ref()));
            not_influxdb(config, &format!("{found}; a stored write is answered with 204 and no body"))
        });
        self.verdict(config)?;
        foreign.map_or(Ok(()), Err)
    }

    /// Returns the body of a success.
    ///
    /// # Errors
    /// The [`StoreError`] that the answer means.
    pub(super) fn verdict(self, config: &Config) -> Result<Vec<u8>> {
        let fault = self.fault();
        let message = self.message(fault.as_ref());
        // Some of the points are stored, whichever the status, and the others have to be found.
        if fault.is_some() && is_refusal(&self.body) {
            let reason = if is_beyond_retention(&message) { format!("beyond_retention: {message}") } else { message };
            return Err(StoreError::Refused(reason));
        }
        let by_influxdb = self.is_refused_by_influxdb();
        let status = self.status;
        Err(match status.as_u16() {
            200..300 => return Ok(self.body),
            400 | 422 if by_influxdb => StoreError::Refused(message),
            413 => StoreError::TooLarge(message),
            401 => StoreError::NeedsOperator(format!(
                "{message}: check {} and {} ({status})",
                config.key("token"),
                config.key("url")
            )),
            403 => StoreError::NeedsOperator(format!(
                "{message}: give the token write access to bucket {:?}, or set another in {} ({status})",
                config.bucket,
                config.key("token")
            )),
            404 if by_influxdb => StoreError::NeedsOperator(missing(&message, config)),
            408 | 425 | 429 | 500..600 => {
                let reason = format!("InfluxDB at {} ({}): {message} ({status})", config.url, config.key("url"));
                StoreError::Busy { reason, retry_after: retry_after(&self.headers) }
            }
            _ => not_influxdb(config, &format!("{status}: {message}")),
        })
    }

    fn message(&self, fault: Option<&Fault>) -> String {
        let text = match fault.and_then(|fault| fault.message.as_deref().or(fault.error.as_deref())) {
            Some(message) => message.to_owned(),
            None => String::from_utf8_lossy(&self.body).into_owned(),
        };
        let text = text.trim();
        if text.is_empty() {
            return self.status.canonical_reason().unwrap_or("no message").to_lowercase();
        }
        let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= MESSAGE_BYTES).last();
        text[..end.unwrap_or(0)].to_owned()
    }
}

/// The error of an answer that no InfluxDB 2 gives; nothing counts as stored.
pub(super) fn not_influxdb(config: &Config, found: &str) -> StoreError {
    let (url, key) = (&config.url, config.key("url"));
    let path = if config.path().is_empty() { "" } else { ", and its path, which only a proxy needs" };
    StoreError::NeedsOperator(format!("the server at {url} is not InfluxDB 2: check {key}{path} ({found})"))
}

fn is_refusal(body: &[u8]) -> bool {
    let marks: [&[u8]; 2] = [b"partial write", b"field type conflict"];
    marks.iter().any(|mark| body.windows(mark.len()).any(|part| part == *mark))
}

fn is_beyond_retention(message: &str) -> bool {
    message.contains("outside retention policy")
}

/// Names the missing object of a 404 of InfluxDB.
fn missing(message: &str, config: &Config) -> String {
    let (key, value) = if message.contains("organization") {
        ("org", &config.org)
    } else if message.contains("bucket") || (config.path().is_empty() && !message.contains("path")) {
        ("bucket", &config.bucket)
    } else {
        let (key, url) = (config.key("url"), &config.url);
        return match config.path() {
            "" => format!("{message}: {key} = {url:?} is not the address of InfluxDB 2: check it (404 Not Found)"),
            path => format!(
                "{message}: InfluxDB does not answer below the path {path:?} of {key} = {url:?}: write only \
                 http://host:port, unless a proxy adds a path (404 Not Found)"
            ),
        };
    };
    format!("{message}: {} = {value:?} does not exist: create it or set another (404 Not Found)", config.key(key))
}

/// Reads `Retry-After`: seconds or a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

/// Reads the field of a type conflict, and the type that the bucket has for it, from the server's
/// message.
pub(super) fn conflicting_field(message: &str) -> Option<(String, super::types::FieldType)> {
    let (_, rest) = message.split_once("input field \"")?;
    let (name, rest) = rest.split_once("\" on measurement ")?;
    let (_, held) = rest.rsplit_once("already exists as type ")?;
    let held = held.split(|c: char| !c.is_ascii_alphabetic()).next()?;
    // The server quotes a name as Go does; one that needs quoting is left to the next check of the
    // bucket.
    (!name.contains('\\')).then_some(())?;
    Some((name.to_owned(), super::types::FieldType::parse(held)?))
}
