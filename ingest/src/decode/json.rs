//! JSON, streamed: objects inside objects are joined with `.`, arrays count from 0, an array of objects is many readings.

use std::fmt;

use model::ValueRef;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{Refusal, Scratch};
use crate::limits::Limits;

/// Reads a JSON document. A bare value is named `bare`; with a `prefix` every name begins with it and a dot.
pub(crate) fn json(
    payload: &[u8],
    prefix: &str,
    bare: &str,
    limits: &Limits,
    scratch: &mut Scratch,
) -> Result<(), Refusal> {
    let mut reader = serde_json::Deserializer::from_slice(payload);
    scratch.path.push_str(prefix);
    let node = Node { scratch, limits, depth: 0, bare };
    node.deserialize(&mut reader).and_then(|()| reader.end()).map_err(|error| format!("not readable as JSON: {error}"))
}

/// The next value of the document, whatever it is.
struct Node<'s> {
    scratch: &'s mut Scratch,
    limits: &'s Limits,
    /// Objects and arrays around it.
    depth: usize,
    bare: &'s str,
}

impl Node<'_> {
    fn add<E: Error>(self, value: ValueRef<'_>) -> Result<(), E> {
        if self.scratch.rows.is_empty() {
            self.scratch.begin_row(self.limits).map_err(E::custom)?;
        }
        if self.scratch.path.is_empty() {
            self.scratch.path.push_str(self.bare);
        }
        self.scratch.add(value, self.limits).map_err(E::custom)
    }

    fn deeper<E: Error>(&self) -> Result<(), E> {
        if self.depth == self.limits.max_depth {
            return Err(E::custom(format!("nested deeper than {} levels", self.limits.max_depth)));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<(), E> {
        self.add(ValueRef::Bool(v))
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<(), E> {
        self.add(ValueRef::Int(v))
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<(), E> {
        match i64::try_from(v) {
            Ok(v) => self.add(ValueRef::Int(v)),
            // Kept to the last digit.
            Err(_) => self.add(ValueRef::Str(&v.to_string())),
        }
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<(), E> {
        self.add(ValueRef::Float(v))
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<(), E> {
        self.add(ValueRef::Str(v))
    }

    /// Absent.
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.deeper()?;
        // At the top, or directly inside the array at the top, an object is a reading of its own.
        if self.depth == 0 || self.scratch.rows.is_empty() {
            self.scratch.begin_row(self.limits).map_err(A::Error::custom)?;
        }
        let length = self.scratch.path.len();
        while map.next_key_seed(Key(&mut self.scratch.path))?.is_some() {
            let node = Node { scratch: self.scratch, limits: self.limits, depth: self.depth + 1, bare: self.bare };
            map.next_value_seed(node)?;
            self.scratch.path.truncate(length);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.deeper()?;
        let length = self.scratch.path.len();
        if self.depth == 0 {
            while seq
                .next_element_seed(Element { scratch: self.scratch, limits: self.limits, bare: self.bare })?
                .is_some()
            {
                self.scratch.path.truncate(length);
            }
            return Ok(());
        }
        for index in 0_usize.. {
            join(&mut self.scratch.path, &index.to_string());
            let node = Node { scratch: self.scratch, limits: self.limits, depth: self.depth + 1, bare: self.bare };
            let more = seq.next_element_seed(node)?.is_some();
            self.scratch.path.truncate(length);
            if !more {
                break;
            }
        }
        Ok(())
    }
}

/// An element of the array at the top: an object, which is a reading.
struct Element<'s> {
    scratch: &'s mut Scratch,
    limits: &'s Limits,
    bare: &'s str,
}

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Element<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object: an array at the top holds readings")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        // Depth 0: it begins a row.
        Node { scratch: self.scratch, limits: self.limits, depth: 0, bare: self.bare }.visit_map(map)
    }
}

/// Appends a member's name to the path.
struct Key<'s>(&'s mut String);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<(), E> {
        join(self.0, v);
        Ok(())
    }
}

fn join(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}
