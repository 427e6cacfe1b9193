//! Work on blocks after they were read: comparing, merging and aggregating rows. No IO.

mod aggregate;
mod distinct;
mod merge;
mod same;
mod window;

pub use aggregate::{Accumulator, Aggregate};
pub use distinct::Distinct;
pub use merge::{fitting, merge_blocks};
pub use same::{BlockRows, same_reading, same_row};
pub use window::{Window, WindowError};
