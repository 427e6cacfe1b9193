//! Wills: published for a client whose connection broke.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::Broker;
use crate::codec::connect::Will;
use crate::inbox::{Client, Inbox, Intake, Publish, Verdict};
use crate::message::Message;
use crate::metrics::Reason;
use crate::session::{Link, Session};

impl<I: Inbox> Broker<I> {
    /// Publishes a will after its delay, or when the session ends before, unless the client is back by then. To be called while
    /// the connection behind `link` still owns the session, or has lost it.
    pub(crate) fn leave_will(self: &Arc<Self>, will: Will, client: Client, session: &Session, link: &Arc<Link>) {
        let mut back = None;
        let mut delay = Duration::ZERO;
        match session.owned_by(link) {
            Some(mut state) => {
                delay = Duration::from_secs(u64::from(will.delay_secs.min(state.expiry_secs)));
                if !delay.is_zero() {
                    let (taken_back, waits) = oneshot::channel();
                    state.will = Some(taken_back);
                    back = Some(waits);
                }
            }
            // The client is back, and its session goes on: a delayed will is not sent.
            None if will.delay_secs > 0 && !session.state().is_over() => return,
            None => {}
        }
        let broker = Arc::clone(self);
        self.tasks.spawn(async move {
            if let Some(back) = back {
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    taken_back = back => if taken_back.is_ok() { return },
                    // Sessions end with the process.
                    () = broker.stopping.cancelled() => {}
                }
            }
            let published = tokio::select! {
                published = broker.publish_will(&will, &client) => published.map_err(|error| error.to_string()),
                () = broker.abandon.cancelled() => Err("the process stops".to_owned()),
            };
            if let Err(error) = published {
                broker.metrics.dropped.get_or_create(&Reason { reason: "will_not_stored" }).inc();
                tracing::warn!("publish the will of client {} to {}: {error}", client.id, will.topic);
            }
        });
    }

    /// A will for a telemetry topic is telemetry, and one to be kept is stored: both are durable before they are sent.
    async fn publish_will(&self, will: &Will, client: &Client) -> Result<(), crate::inbox::Failed> {
        let publish = Publish {
            topic: &will.topic,
            payload: &will.payload,
            qos: will.qos,
            dup: false,
            retain: will.retain,
            packet_id: 0,
            properties: &will.properties,
        };
        let mut intake = self.inbox.open(client);
        let verdict = intake.publish(&publish);
        let keep = self.keeps(&will.topic, will.retain);
        if keep {
            intake.retain(&publish);
        }
        if verdict != Verdict::Plain || keep {
            let ticket = poll_fn(|cx| intake.poll_submit(cx)).await?;
            // The submit left this task's waker with the log.
            let stored = &mut intake;
            poll_fn(move |_| match stored.durable() {
                Ok(durable) if durable >= ticket => Poll::Ready(Ok(())),
                Ok(_) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            })
            .await?;
        }
        let message = Message::new(&will.topic, &will.payload, will.qos, keep, &will.properties);
        self.route(&Arc::new(message), &client.id);
        Ok(())
    }
}
