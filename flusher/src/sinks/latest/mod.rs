//! The latest-state sink: the newest value of each name of each device, in memory for readers, and
//! from time to time in the store.

mod map;
mod order;
mod question;
mod sink;
mod states;
mod values;

pub(crate) use map::{Bounds, LatestMap};
pub(crate) use question::Question;
pub(crate) use sink::LatestSink;
pub(crate) use states::States;

#[cfg(test)]
mod tests;
