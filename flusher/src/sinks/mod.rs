//! The sinks: records become the items of a store.

pub(crate) mod export;
pub(crate) mod history;
pub(crate) mod latest;
pub(crate) mod records;
