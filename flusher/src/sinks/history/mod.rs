//! The history sink: readings wait in memory, where queries see them, until their range is sealed
//! and written.

mod columns;
pub(crate) mod cut;
pub(crate) mod letter;
pub(crate) mod memtable;
pub(crate) mod parts;
pub(crate) mod recent;
pub(crate) mod same;
pub(crate) mod sink;

pub(crate) use sink::HistorySink;

#[cfg(test)]
mod tests;
