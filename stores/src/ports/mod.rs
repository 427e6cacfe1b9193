//! The ports that queries go through: the tail of the log, the latest states as readers see them,
//! the books.
//!
//! The flusher answers them, from memory or by asking the flushers of other processes, and the API
//! asks. They stand in this crate because neither of the two knows the other, and because their
//! answers are made of this crate's blocks and states. They are not ports of a store: a store is
//! written through [`contract`](crate::contract).

mod books;
mod latest_view;
mod tail;

pub use books::{BookLine, Books, HourLine};
pub use latest_view::LatestView;
pub use tail::{Tail, TailAnswer};
