//! Work on blocks after they were read: comparing, merging and aggregating rows. No IO.

mod aggregate;
mod clock;
mod distinct;
mod merge;
mod number;
mod same;
mod window;

pub use aggregate::{Accumulator, Aggregate};
pub use clock::Clock;
pub use distinct::Distinct;
pub use merge::{fitting, merge_blocks};
pub use number::Number;
pub use same::{BlockRows, same_reading, same_row};
pub use window::{Window, WindowError};
