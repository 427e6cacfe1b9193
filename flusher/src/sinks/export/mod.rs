//! The sink of an export: readings go to another system as they come, in small batches. Its writes
//! may be repeated in any cut, so ranges are not sealed.

pub(crate) mod filter;
pub(crate) mod place;
mod sink;

pub(crate) use sink::ExportSink;

#[cfg(test)]
mod tests;
