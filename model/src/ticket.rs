//! Tickets: positions in the order of durable appends.

/// A position in the order in which a log makes submissions durable. A ticket is durable when the
/// log's durable ticket is equal or higher; tickets that one producer receives never go down. Zero
/// is durable from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ticket(pub u64);
