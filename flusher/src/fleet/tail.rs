//! The unflushed readings of a device, in all logs.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use model::{DeviceKey, Nanos, TimeRange};
use proto::internal::v1 as proto;
use stores::contract::{Result, Tail, TailAnswer};
use stores::{Block, BlockId};
use tonic::Status;

use super::call;
use super::readers::Reading;
use crate::readers::tail::{TailQuery, from_log};

/// Answers for every log there is.
pub(super) struct FleetTail(pub(super) Arc<Reading>);

/// The answer of a holder.
struct PeerAnswer {
    blocks: Vec<Block>,
    ends: BTreeMap<String, Nanos>,
}

#[async_trait]
impl Tail for FleetTail {
    async fn tail(&self, device: &DeviceKey, range: TimeRange, names: Option<&[Arc<str>]>) -> Result<TailAnswer> {
        let listing = self.0.directory.list().await?;
        let mut answer = TailAnswer { blocks: Vec::new(), complete_until: listing.as_of };
        if self.0.projections.purged().has(&device.tenant) {
            return Ok(answer);
        }
        let mut groups = self.0.groups(&listing);
        let mut unanswered = std::mem::take(&mut groups.unheld);

        let query = TailQuery { device, range, names };
        let mut asked = Vec::new();
        for (address, logs) in &groups.there {
            asked.push(self.ask(address, logs, &query));
        }
        for (answer_of_peer, logs) in join_all(asked).await.into_iter().zip(groups.there.values()) {
            let answer_of_peer =
                answer_of_peer.unwrap_or_else(|| PeerAnswer { blocks: Vec::new(), ends: BTreeMap::new() });
            // A log that was not sent whole is read itself.
            answer.blocks.extend(
                answer_of_peer.blocks.into_iter().filter(|block| answer_of_peer.ends.contains_key(&*block.id.log)),
            );
            answer.complete_until = answer_of_peer.ends.values().copied().fold(answer.complete_until, Nanos::min);
            unanswered.extend(logs.iter().filter(|log| !answer_of_peer.ends.contains_key(*log)).cloned());
        }

        if let Some(local) = &self.0.local {
            let held = local.0.held(&groups.here);
            let missing = |log: &&String| !held.iter().any(|held_log| held_log.lease.log == **log);
            unanswered.extend(groups.here.iter().filter(missing).cloned());
            for held_log in held {
                add(&mut answer, held_log.handle.tail.tail(device, range, names).await?);
            }
        }

        if !unanswered.is_empty() {
            // They may have a new holder.
            self.0.directory.forget();
        }
        for log in self.0.open_all(&unanswered).await? {
            let found = from_log(&*log, &query, self.0.wait).await;
            if let Some(found) = self.0.unless_gone(log.id(), found).await? {
                add(&mut answer, found);
            }
        }
        Ok(answer)
    }
}

fn add(answer: &mut TailAnswer, found: TailAnswer) {
    answer.blocks.extend(found.blocks);
    answer.complete_until = answer.complete_until.min(found.complete_until);
}

impl FleetTail {
    async fn ask(&self, address: &str, logs: &[String], query: &TailQuery<'_>) -> Option<PeerAnswer> {
        let request = proto::TailRequest {
            tenant: query.device.tenant.to_string(),
            device: query.device.id.to_string(),
            start: query.range.start,
            end: query.range.end,
            names: query.names.unwrap_or_default().iter().map(|name| name.to_string()).collect(),
            all_names: query.names.is_none(),
            logs: logs.to_vec(),
        };
        let peers = &self.0.peers;
        let mut client = call::client(peers, address)?;
        let mut parts = peers.first(address, client.tail(request)).await?;
        let rest = async {
            let mut answer_of_peer = PeerAnswer { blocks: Vec::new(), ends: BTreeMap::new() };
            while let Some(part) = parts.message().await? {
                answer_of_peer.take(query.device, part)?;
            }
            Ok(answer_of_peer)
        };
        peers.rest(address, rest).await
    }
}

impl PeerAnswer {
    fn take(&mut self, device: &DeviceKey, part: proto::TailPart) -> std::result::Result<(), Status> {
        match part.part {
            Some(proto::tail_part::Part::Block(sent)) => {
                let (log, first_offset) = (sent.log.into(), sent.first_offset);
                let id = BlockId { device: device.clone(), log, first_offset, part: 0 };
                let block = stores::codec::decode(&sent.block, id, None);
                self.blocks.push(block.map_err(|error| Status::data_loss(error.to_string()))?);
            }
            Some(proto::tail_part::Part::End(end)) => {
                self.ends.insert(end.log, end.complete_until);
            }
            // A part of a later release.
            None => {}
        }
        Ok(())
    }
}
