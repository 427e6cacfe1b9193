//! Readers of the logs that this process follows, and of logs that no process follows.

pub(crate) mod latest;
pub(crate) mod letters;
pub(crate) mod scan;
pub(crate) mod tail;
