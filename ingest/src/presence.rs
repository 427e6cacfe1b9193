//! Presence messages: whether a device is online.

use crate::decode::tree::Node;
use crate::decode::{Class, Refusal};
use crate::routes::{Captures, PathContext, Presence};

/// Returns true for online. An empty payload, which clears a retained message, means offline.
pub(crate) fn read(presence: &Presence, captures: &Captures, place: PathContext<'_>) -> Result<bool, Refusal> {
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
        Err(Refusal::new(
            Class::Presence,
            format!("state {state:.80?} is neither online nor offline: add it to `online` or `offline` of the route"),
        ))
    }
}
