//! What is done to blocks after they were read: merging and aggregating. No IO.

mod aggregate;
mod merge;
mod window;

pub use aggregate::{Accumulator, Aggregate};
pub use merge::merge_blocks;
pub use window::{Window, WindowError};
