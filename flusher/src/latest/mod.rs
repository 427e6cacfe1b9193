//! The latest-state sink: the newest value of each name of each device, in memory for readers, now and then in the store.

mod map;
mod sink;
mod view;

pub(crate) use map::LatestMap;
pub(crate) use sink::LatestSink;
pub(crate) use view::View;

#[cfg(test)]
mod tests;
