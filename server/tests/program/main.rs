//! The program as people meet it: started, asked, stopped, told wrong things.

mod cli;
mod configuration;
mod life;
mod world;
