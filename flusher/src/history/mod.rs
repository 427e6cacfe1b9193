//! The history sink: readings wait in memory, where queries see them, until their range is sealed and written.

pub(crate) mod cut;
pub(crate) mod letter;
pub(crate) mod memtable;
mod recent;
pub(crate) mod sink;
mod tail;

pub(crate) use recent::Recent;
pub(crate) use sink::HistorySink;
pub(crate) use tail::{HistoryTail, Source, Wanted, from_log};

#[cfg(test)]
mod tests;
