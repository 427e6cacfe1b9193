//! The program as people meet it: started, asked, stopped, told wrong things.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod cli;
mod configuration;
mod life;
mod world;
