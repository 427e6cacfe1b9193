//! The deliveries of a message that a session, or a shared subscription, is owed.

use std::collections::BTreeMap;

use crate::model::Number;

/// The part of a session, or of a shared subscription, in a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owed {
    pub(crate) must: bool,
    /// Lowest and highest QoS of a delivery.
    pub(crate) low: u8,
    pub(crate) high: u8,
    pub(crate) got: u32,
    /// Further copies: after a connection that ended without an acknowledgement.
    pub(crate) extra: u32,
}

/// The state of a message for subscribers at this moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) must: bool,
    pub(crate) low: u8,
    pub(crate) high: u8,
}

/// Joins what was expected of a message with what is expected now. A message that is sent for the
/// `first` time begins; one that is sent again and routed `anew` must be delivered as of now.
pub(crate) fn merge(
    owed: &mut BTreeMap<Number, Owed>,
    number: Number,
    expected: Option<Expected>,
    first: bool,
    anew: bool,
) {
    match (owed.get_mut(&number), expected) {
        (None, None) => {}
        (None, Some(Expected { must, low, high })) => {
            owed.insert(number, Owed { must: must && (first || anew), low, high, got: 0, extra: 0 });
        }
        (Some(held), None) => held.must = false,
        (Some(held), Some(Expected { must, low, high })) => {
            held.must = must && (held.must || anew);
            (held.low, held.high) = (held.low.min(low), held.high.max(high));
        }
    }
}
