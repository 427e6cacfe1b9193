//! Will messages: published for a client whose connection broke.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::Broker;
use crate::codec::connect::Will;
use crate::session::{Link, Session};
use crate::tenant::Tenant;
use door::{Delivery, Failed, Inbox, Intake, Retained, Sender, Verdict};

/// Bytes of a will message that waits, besides its contents: a task.
const WILL_BYTES: usize = 1 << 10;

impl<I: Inbox> Broker<I> {
    /// Publishes a will message after its delay, or when the session ends before, unless the client
    /// has reconnected by then. Called while the connection behind `link` owns the session, or has
    /// lost it.
    pub(crate) fn leave_will(
        self: &Arc<Self>,
        will: Will,
        sender: Sender,
        tenant: Arc<Tenant>,
        session: &Session,
        link: &Arc<Link>,
    ) {
        let (mut pending, mut memory) = (None, None);
        let mut delay = Duration::ZERO;
        match session.owned_by(link) {
            Some(mut state) => {
                delay = Duration::from_secs(u64::from(will.delay_secs.min(state.expiry_secs)));
                let bytes = will.topic.len() + will.payload.len() + will.properties.len();
                memory = self.memory.sessions.acquire(WILL_BYTES + bytes).ok();
                if memory.is_none() {
                    // A will message that cannot wait is published now.
                    delay = Duration::ZERO;
                }
                if !delay.is_zero() {
                    let (cancel, cancelled) = oneshot::channel();
                    state.will = Some(cancel);
                    pending = Some(cancelled);
                }
            }
            // The client has reconnected and its session continues: a delayed will is not
            // published.
            None if will.delay_secs > 0 && !session.state().is_over() => return,
            None => {}
        }
        let broker = Arc::clone(self);
        self.tasks.spawn(async move {
            let _held = memory;
            if let Some(cancelled) = pending {
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    cancelled = cancelled => if cancelled.is_ok() { return },
                    // Sessions end with the process, and wills are due at the end of a session.
                    () = broker.stopping.cancelled() => {}
                }
            }
            let published = tokio::select! {
                published = broker.publish_will(&will, &sender, &tenant) => published.map_err(|error| error.to_string()),
                () = broker.abandon.cancelled() => Err("the process is stopping".to_owned()),
            };
            if let Err(error) = published {
                broker.count_dropped("will_not_stored");
                tracing::warn!("cannot publish the will message of client {} to {}: {error}", sender.client, will.topic);
            }
        });
    }

    /// A will message may be telemetry, or retained: then it is durable before subscribers get it.
    async fn publish_will(&self, will: &Will, sender: &Sender, tenant: &Tenant) -> Result<(), Failed> {
        let (topic, payload, properties) = (&*will.topic, &*will.payload, &*will.properties);
        let delivery = Delivery { retain: will.retain, ..Delivery::default() };
        let mut intake = self.inbox.open(sender);
        let verdict = intake.take(&door::Message { topic, payload, delivery });
        let keep = self.keeps(tenant, topic, will.retain);
        let copy = self.copy(topic, payload, will.qos, keep, properties);
        let keep = keep && copy.is_some();
        if keep {
            intake.retain(&Retained { topic, payload, qos: will.qos, properties });
        }
        if verdict != Verdict::Plain || keep {
            door::store(&mut intake).await?;
        }
        if let Some(message) = copy {
            self.route(tenant, &message, &sender.client);
        }
        Ok(())
    }
}
