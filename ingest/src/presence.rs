//! Whether a device is online, as its message says it.

use crate::decode::tree::Node;
use crate::decode::{Class, Refusal};
use crate::routes::{Captures, Place, Presence};

/// True for online. An empty payload, which withdraws a retained message, is offline.
pub(crate) fn read(presence: &Presence, captures: &Captures, place: Place<'_>) -> Result<bool, Refusal> {
    if *place.document == Node::Absent {
        return Ok(false);
    }
    let state = presence.state.iter().find_map(|state| state.render(captures, Some(place)).ok());
    let state = state.ok_or_else(|| Refusal::new(Class::Presence, "the message has no state"))?;
    let word = state.trim().to_lowercase();
    if presence.online.contains(&word) {
        Ok(true)
    } else if presence.offline.contains(&word) {
        Ok(false)
    } else {
        Err(Refusal::new(Class::Presence, format!("state {state:.80?} means neither online nor offline")))
    }
}
