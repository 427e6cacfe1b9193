//! Shared subscriptions in the model: any member may get a message, and one must.

use crate::model::{Message, Model};
use crate::owed::Expected;
use crate::topics::{is_shared, members, share_of};

impl Model {
    /// Any member may get a message, at its QoS.
    pub(crate) fn expected_of_share(&self, share: &str, message: &Message) -> Option<Expected> {
        let held = || members(share).iter().filter_map(|client| self.sessions[*client].filters.get(share));
        if message.topic != share_of(share) || !held().any(|filter| filter.possible.iter().any(Option::is_some)) {
            return None;
        }
        let must = message.qos > 0 && !message.is_brief && self.has_member(share, None);
        Some(Expected { must, low: message.qos.min(1), high: message.qos })
    }

    /// True when a shared subscription has a member for certain, apart from a client.
    pub(crate) fn has_member(&self, share: &str, except: Option<usize>) -> bool {
        let others = members(share).iter().filter(|member| Some(**member) != except);
        let mut held = others.filter_map(|member| self.sessions[*member].filters.get(share));
        held.any(|held| !held.possible.is_empty() && held.is_certain())
    }

    /// Messages of shared subscriptions that a session has go to other members at its end, if there
    /// are any by then.
    pub(crate) fn left_over(&mut self, client: usize, shares: &[&'static str], is_orphan: bool) {
        for share in shares {
            let has_other = self.has_member(share, Some(client));
            for owed in self.shares.entry(share).or_default().values_mut() {
                // A QoS 2 message that was sent goes to no other (MQTT-4.8.2-5).
                owed.must &= has_other && owed.high < 2 && !is_orphan;
            }
        }
    }

    /// The broker of a connection is killed, and its session ends with it: messages of shared
    /// subscriptions that it may have had go to no other member.
    pub(crate) fn shares_lost(&mut self, client: usize) {
        for share in self.sessions[client].shares() {
            self.shares.entry(share).or_default().values_mut().for_each(|owed| owed.must = false);
        }
    }

    /// A client leaves a shared subscription. Without a member, messages that another one has left
    /// over go to none.
    pub(crate) fn member_leaves(&mut self, client: usize, filter: &'static str) {
        if self.in_fleet && is_shared(filter) && !self.has_member(filter, Some(client)) {
            self.shares.entry(filter).or_default().values_mut().for_each(|owed| owed.must = false);
        }
    }
}
