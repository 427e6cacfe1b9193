//! Work on blocks after they were read: comparing, merging and aggregating rows. No IO.

mod aggregate;
mod merge;
mod same;
mod window;

pub use aggregate::{Accumulator, Aggregate};
pub use merge::merge_blocks;
pub use same::{BlockRows, same_reading, same_row};
pub use window::{Window, WindowError};
