//! The time that orders a value among those of its name.
//!
//! It is the reading's own time. A time that lies after its arrival is that of a wrong clock, and
//! is ordered by the arrival. While the newest value has such a time, and then until the device's
//! times have come to it, its readings are ordered by their arrival: a clock that was set back, or
//! that runs ahead, does not hide what the device sends now. Readings of one message keep the order
//! of their times.

use buffer::frame::ReadingRef;
use model::{DeviceKey, Nanos};
use stores::contract::LatestValue;

/// A clock that is ahead by more is wrong. Less is the distance between two good clocks, or the
/// part of a second that a device rounds up.
const AHEAD: Nanos = 2 * model::time::SECOND;
/// Readings of one message are received a nanosecond after each other, those of other messages at
/// equal times or later.
const MESSAGE: Nanos = 1_000_000;

/// Returns the time that orders a value of a reading, after the newest value of its name.
pub(super) fn of(reading: &ReadingRef<'_>, newest: Option<&LatestValue>) -> Nanos {
    let (time, received) = (reading.time, reading.received);
    if time > received {
        // Equal for the readings of one message.
        return received.div_euclid(MESSAGE) * MESSAGE;
    }
    match newest {
        Some(held) if is_wrong(held, time) && is_later(held, received) => received + 1,
        _ => time,
    }
}

/// True when the clock of the device was wrong at its newest value, and this time does not show
/// that it is right.
fn is_wrong(held: &LatestValue, time: Nanos) -> bool {
    let was_ahead = held.time > held.received.saturating_add(AHEAD);
    let is_behind = held.order > held.time && time >= held.time;
    time <= held.order && (was_ahead || is_behind)
}

fn is_later(held: &LatestValue, received: Nanos) -> bool {
    received == held.received || received > held.received.saturating_add(MESSAGE)
}

/// Says that a value is replaced by one with an earlier time.
pub(super) fn warn(device: &DeviceKey, name: &str, held: &LatestValue) {
    let ahead = held.time.saturating_sub(held.received);
    if ahead > AHEAD {
        tracing::warn!(
            tenant = &*device.tenant,
            device = &*device.id,
            "the clock of the device was {} s ahead and was set back: its latest `{name}` is ordered by arrival; \
             readings with the future time stay in the history",
            ahead / model::time::SECOND,
        );
    }
}
