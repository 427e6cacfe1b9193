//! The program from the outside: start, commands, stop, wrong input.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod backup;
mod broker;
mod cli;
mod configuration;
mod drain;
mod init;
mod life;
mod servers;
mod strangers;
mod words;
mod world;
