//! All subscribers of a scenario: there before the first message, and after the last one until they
//! have what was acknowledged.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Options;
use super::subscriber::{Seen, Subscriber};
use crate::ledger::deliveries::{self, EventWriter};
use crate::oracle::subscribers::Expected;
use crate::scenario::Scenario;

/// Time between two looks at what has arrived.
const AGAIN: Duration = Duration::from_millis(50);

pub(super) struct Audience {
    writer: EventWriter,
    tasks: JoinSet<()>,
    /// The deliveries to each subscriber, in the order of the groups.
    seen: Vec<Seen>,
}

impl Audience {
    /// Starts the subscribers, and waits until the broker has granted their subscriptions. None for
    /// a scenario without subscribers.
    ///
    /// # Errors
    /// When their ledger cannot be written, or a subscription is not granted in time.
    pub(super) async fn open(scenario: &Scenario, ledger: &Path, options: &Options) -> anyhow::Result<Option<Self>> {
        if scenario.subscribers.is_empty() {
            return Ok(None);
        }
        let (writer, recorder) = EventWriter::create(&deliveries::path(ledger))?;
        let failures = Arc::new(Mutex::new(String::new()));
        let (mut tasks, mut seen, mut granted) = (JoinSet::new(), Vec::new(), Vec::new());
        for group in &scenario.subscribers {
            for number in 0..group.count {
                let client = group.client(number);
                let dialer = options.broker.dialer(seen.len(), options.credentials.identity(&client));
                let dialer = dialer.with_context(|| format!("the subscriber {client}"))?;
                let (ready, is_ready) = watch::channel(false);
                let credentials = options.credentials.clone();
                let subscriber = Subscriber::new((group, number), dialer, credentials, recorder.clone(), ready);
                seen.push(subscriber.seen());
                granted.push((client, is_ready));
                tasks.spawn(subscriber.play(Arc::clone(&failures)));
            }
        }
        let deadline = tokio::time::Instant::now() + options.patience;
        for (client, mut is_ready) in granted {
            let ready = tokio::time::timeout_at(deadline, is_ready.wait_for(|ready| *ready)).await;
            if !matches!(ready, Ok(Ok(_))) {
                bail!(
                    "the subscription of {client} was not granted within {:?} by {} (last failure: {})",
                    options.patience,
                    options.broker.name(),
                    failures.lock()
                );
            }
        }
        Ok(Some(Self { writer, tasks, seen }))
    }

    /// Waits until each subscriber has what it must have, at most until the deadline, and ends
    /// them.
    ///
    /// # Errors
    /// When a ledger cannot be read or written.
    pub(super) async fn close(mut self, scenario: &Scenario, ledger: &Path, deadline: Instant) -> anyhow::Result<()> {
        let expected = Expected::read(ledger)?;
        let groups = scenario.subscribers.iter().flat_map(|group| std::iter::repeat_n(group, group.count as usize));
        let mut lacking: Vec<_> =
            groups.zip(&self.seen).map(|(group, seen)| (expected.must_reach(group), seen)).collect();
        loop {
            lacking.retain_mut(|(keys, seen)| {
                let seen = seen.lock();
                keys.retain(|key| !seen.contains(key));
                !keys.is_empty()
            });
            if lacking.is_empty() || Instant::now() >= deadline {
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
        self.tasks.shutdown().await;
        let writer = self.writer;
        tokio::task::spawn_blocking(move || writer.finish()).await.context("the ledger of deliveries")?
    }
}
