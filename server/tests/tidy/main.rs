//! Rules of the repository that a machine can check: dependencies between crates, the size and form
//! of source files, the language of comments, and documents whose links and samples work.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod crates;
mod documents;
mod files;
mod language;
mod pieces;
mod sources;
