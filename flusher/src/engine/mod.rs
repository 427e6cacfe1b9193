//! The engine that drives sinks: following, delivering, verdicts, progress.

pub(crate) mod assemble;
pub(crate) mod control;
pub(crate) mod deliver;
pub(crate) mod driver;
pub(crate) mod join_log;
pub(crate) mod progress;
pub(crate) mod recount;
pub(crate) mod register;
pub(crate) mod rounds;
pub(crate) mod traces;
pub(crate) mod verdict;
