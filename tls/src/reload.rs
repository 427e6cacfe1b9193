//! Changed files, without a restart.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::certificate::now;
use crate::server::{Contents, Server};

/// Days before the expiry at which the log begins to warn.
const SOON: i64 = 14;
const DAY: i64 = 86_400;

/// Requests to read files again: SIGHUP.
#[derive(Debug)]
pub struct Hangup(Option<Signal>);

impl Hangup {
    /// Requests from now on. The signal no longer ends the process.
    pub fn new() -> Self {
        Self(signal(SignalKind::hangup()).ok())
    }

    /// Resolves at the next request.
    pub async fn next(&mut self) {
        let came = match &mut self.0 {
            Some(signal) => signal.recv().await,
            None => None,
        };
        if came.is_none() {
            // There will be none.
            std::future::pending().await
        }
    }
}

impl Default for Hangup {
    fn default() -> Self {
        Self::new()
    }
}

impl Server {
    /// Reads changed files every `interval` and at SIGHUP, until `stop`; warns once a day of a
    /// certificate that expires soon.
    pub async fn watch(&self, interval: Duration, stop: CancellationToken) {
        let mut asked = Hangup::new();
        let mut ticks = tokio::time::interval(interval);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
                () = asked.next() => tracing::info!("SIGHUP: reading the files of `{}`", self.files.certificate.key),
            }
            self.reload();
            self.warn_of_expiry(now());
        }
    }

    /// Uses the files when they have changed. A fault leaves the previous ones in use; it is logged
    /// once.
    pub fn reload(&self) {
        let replaced = Contents::read(&self.files).and_then(|contents| self.replace(&contents));
        let mut reported = self.reported.lock();
        match replaced {
            Ok(replaced) => {
                if replaced {
                    self.metrics.reloads("loaded").inc();
                    reported.1 = 0;
                }
                if replaced || reported.0.take().is_some() {
                    let current = self.current();
                    let (key, subject, not_after) = &current.expiry[0];
                    let days = (not_after - now()).div_euclid(DAY);
                    tracing::info!(key, subject, days, "the certificate files are in use");
                }
            }
            Err(error) if reported.0.as_ref() != Some(&error) => {
                self.metrics.reloads("failed").inc();
                tracing::error!("{error}; the previous certificate stays in use");
                reported.0 = Some(error);
            }
            Err(_) => {}
        }
    }

    fn warn_of_expiry(&self, now: i64) {
        let mut reported = self.reported.lock();
        if now - reported.1 < DAY {
            return;
        }
        for (key, subject, not_after) in &self.current().expiry {
            let days = (not_after - now).div_euclid(DAY);
            if *not_after < now {
                tracing::error!(key, subject, "the certificate has expired: clients refuse it; replace the file");
            } else if days < SOON {
                tracing::warn!(key, subject, days, "the certificate expires soon: replace the file");
            } else {
                continue;
            }
            reported.1 = now;
        }
    }
}
