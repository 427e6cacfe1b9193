//! The size of readings, as the storage of a tenant is counted: the same in every store, however a
//! store compresses them, cuts them into blocks and merges these.
//!
//! ```text
//! a reading   32 bytes: its times and its sequence
//! a value     the bytes of its name, and 8 for a number, 1 for a boolean, its bytes for a text
//! ```

use crate::ValueRef;

/// Bytes of a reading without its values.
pub const READING: u64 = 32;
/// Bytes of a number.
pub const NUMBER: u64 = 8;
/// Bytes of a boolean.
pub const BOOLEAN: u64 = 1;

/// Returns the bytes of a value with its name.
pub fn of_value(name: &str, value: ValueRef<'_>) -> u64 {
    let bytes = match value {
        ValueRef::Float(_) | ValueRef::Int(_) => NUMBER,
        ValueRef::Bool(_) => BOOLEAN,
        ValueRef::Str(text) => text.len() as u64,
    };
    name.len() as u64 + bytes
}
