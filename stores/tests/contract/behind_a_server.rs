//! What only a store behind a server has to promise.
