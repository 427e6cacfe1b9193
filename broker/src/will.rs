//! Wills: published for a client whose connection broke.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::Broker;
use crate::codec::connect::Will;
use crate::inbox::{Client, Inbox, Intake, Publish, Verdict};
use crate::message::Message;

impl<I: Inbox> Broker<I> {
    /// Publishes a will after its delay, unless the client is back by then. A will for a telemetry topic is telemetry.
    pub(crate) fn leave_will(self: &Arc<Self>, will: Will, client: Client, number: u64, session_expiry_secs: u32) {
        let broker = Arc::clone(self);
        let delay = Duration::from_secs(u64::from(will.delay_secs.min(session_expiry_secs)));
        self.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                // At the end of the process a will that waits is published at once.
                () = broker.abandon.cancelled() => {}
            }
            let delayed = !delay.is_zero();
            if delayed && broker.is_back(&client.id, number) {
                return;
            }
            if let Err(error) = broker.publish_will(&will, &client).await {
                tracing::warn!("will of client {} on {}: {error}", client.id, will.topic);
            }
        });
    }

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
        if will.retain {
            intake.retain(&publish);
        }
        if verdict != Verdict::Plain || will.retain {
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
        let message = Message::new(&will.topic, &will.payload, will.qos, will.retain, &will.properties);
        self.route(&Arc::new(message), &client.id);
        Ok(())
    }
}
