//! A device on rumqttc. The library cannot resend a message with its packet id, so messages that
//! are unacknowledged when a connection ends are published as new ones on the next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS};

use super::flight::Queue;
use super::stats::{add, subtract};
use super::{Ended, Target};
use crate::ledger::Outcome;
use crate::plan::{Message, Trouble};

/// A device's connections over rumqttc.
#[derive(Debug)]
pub(super) struct Library;

/// Numbers of messages that were passed to the client and have no packet id yet, in order.
type Submitted = VecDeque<u64>;

impl Library {
    /// Runs one connection until `until`, until the queue is done, or until it breaks.
    pub(super) async fn connection(&mut self, queue: &mut Queue, target: &Target, until: Instant) -> Ended {
        let group = &Arc::clone(&queue.device.kind).group;
        let address = target.dialer.next_address();
        let mut options = MqttOptions::new(&*queue.device.id, address.ip().to_string(), address.port());
        options.set_clean_session(group.clean_start);
        options.set_inflight(group.in_flight);
        options.set_keep_alive(group.keep_alive.max(Duration::from_secs(1)));
        let login = match target.credentials.login(&queue.device.id) {
            Ok(login) => login.and_then(|login| login.password),
            Err(error) => return Ended::Failed(format!("{error:#}")),
        };
        match (login, &group.username, &group.password) {
            (Some(own), ..) => drop(options.set_credentials(&*queue.device.id, own)),
            (None, Some(name), Some(password)) => drop(options.set_credentials(name, password)),
            _ => {}
        }
        let capacity = usize::from(group.in_flight) * 2 + 2;
        let (client, mut events) = AsyncClient::new(options, capacity);
        let stats = Arc::clone(&queue.stats);
        let mut connected = false;
        let ended = talk(queue, &client, &mut events, until, &mut connected).await;
        if connected {
            subtract(&stats.connected, 1);
        }
        // The next connection assigns new packet ids.
        queue.flights.iter_mut().for_each(|flight| flight.id = 0);
        ended
    }
}

async fn talk(
    queue: &mut Queue,
    client: &AsyncClient,
    events: &mut EventLoop,
    until: Instant,
    connected: &mut bool,
) -> Ended {
    let group = &Arc::clone(&queue.device.kind).group;
    let mut submitted: Submitted = VecDeque::new();
    let mut drop_at = None;
    loop {
        let now = Instant::now();
        if now >= until {
            return Ended::Away;
        }
        if *connected && queue.is_done() {
            return leave(client, events).await;
        }
        while *connected && queue.flights.len() < usize::from(group.in_flight) {
            let Some(message) = queue.next(now) else { break };
            let Trouble { drop_before_ack, duplicate, .. } = message.trouble;
            if drop_before_ack {
                drop_at = Some(message.number);
            }
            let copy = duplicate.then(|| message.clone());
            if let Err(error) = submit(client, &message) {
                return Ended::Failed(error);
            }
            submitted.push_back(message.number);
            queue.launch(0, message, false);
            if let Some(copy) = copy {
                if let Err(error) = submit(client, &copy) {
                    return Ended::Failed(error);
                }
                submitted.push_back(copy.number);
                queue.launch(0, copy, true);
            }
        }
        let wake = queue.due().filter(|due| *due > now).map_or(until, |due| due.min(until));
        let event = tokio::select! {
            event = events.poll() => event,
            () = tokio::time::sleep_until(wake.into()) => continue,
        };
        match event {
            Err(error) => return Ended::Failed(error.to_string()),
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                *connected = true;
                add(&queue.stats.connects, 1);
                add(&queue.stats.connected, 1);
                for flight in &queue.flights {
                    add(&queue.stats.again, 1);
                    submitted.push_back(flight.message.number);
                    if let Err(error) = submit(client, &flight.message) {
                        return Ended::Failed(error);
                    }
                }
            }
            Ok(Event::Outgoing(Outgoing::Publish(id))) => {
                let number = submitted.pop_front();
                let flight = queue.flights.iter_mut().find(|f| f.id == 0 && Some(f.message.number) == number);
                if let Some(flight) = flight {
                    flight.id = id;
                }
                if number.is_some() && number == drop_at {
                    return Ended::Dropped;
                }
            }
            Ok(Event::Incoming(Packet::PubAck(ack))) => {
                let Some(place) = queue.flights.iter().position(|f| f.id == ack.pkid) else { continue };
                let copy = queue.flights[place].copy;
                let message = queue.land(place, Outcome::Acknowledged).await;
                if !copy && message.is_some_and(|m| m.trouble.drop_after_ack) {
                    return Ended::Dropped;
                }
            }
            Ok(_) => {}
        }
    }
}

/// Passes a message to the client. Never waits, because publishing and polling share one task.
fn submit(client: &AsyncClient, message: &Message) -> Result<(), String> {
    client
        .try_publish(&*message.topic, QoS::AtLeastOnce, false, message.payload.clone())
        .map_err(|error| error.to_string())
}

/// Sends DISCONNECT.
async fn leave(client: &AsyncClient, events: &mut EventLoop) -> Ended {
    if client.try_disconnect().is_ok() {
        // Until the library confirms the disconnection.
        while !matches!(events.poll().await, Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(_)) {}
    }
    Ended::Done
}
