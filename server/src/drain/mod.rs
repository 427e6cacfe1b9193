//! Draining a process on request: `weir drain`, and the orders that it sends.

mod command;
mod offer;

pub(crate) use command::run;
pub(crate) use offer::{Offer, Order, PATH};
