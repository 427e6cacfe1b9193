//! The sink of points: readings go to a store of series as they come, a batch a second. There only when such a store is
//! configured; its writes may be repeated in any cut, so ranges are not sealed.

mod place;
mod register;
mod sink;

pub(crate) use register::register;
pub(crate) use sink::PointsSink;

#[cfg(test)]
mod tests;
