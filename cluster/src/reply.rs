//! Reads replies of the server.

use buffer::redis::{AccessError, Reply};

/// The error of an unexpected reply.
pub(crate) fn strange(what: &str) -> AccessError {
    let reason = format!("redis answers otherwise than expected: {what}");
    AccessError { reason, is_unknown_script: false, is_fault: true }
}

pub(crate) fn list(reply: Reply) -> Result<Vec<Reply>, AccessError> {
    match reply {
        Reply::List(list) => Ok(list),
        Reply::Nil => Ok(Vec::new()),
        _ => Err(strange("no list")),
    }
}

pub(crate) fn bytes(reply: Reply) -> Result<Vec<u8>, AccessError> {
    match reply {
        Reply::Bytes(bytes) => Ok(bytes),
        Reply::Number(number) => Ok(number.to_string().into_bytes()),
        _ => Err(strange("no bytes")),
    }
}

pub(crate) fn text(reply: Reply) -> Result<String, AccessError> {
    String::from_utf8(bytes(reply)?).map_err(|_| strange("no text"))
}

pub(crate) fn number(reply: Reply) -> Result<u64, AccessError> {
    match reply {
        Reply::Number(number) => u64::try_from(number).map_err(|_| strange("a number below 0")),
        other => parse(&bytes(other)?),
    }
}

pub(crate) fn parse(bytes: &[u8]) -> Result<u64, AccessError> {
    let number = std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| strange("no number"))
}

/// Takes the first of a list.
pub(crate) fn next(list: &mut impl Iterator<Item = Reply>) -> Result<Reply, AccessError> {
    list.next().ok_or_else(|| strange("a list is too short"))
}

/// An entry of a stream: its id, and values by name.
pub(crate) struct Entry {
    pub(crate) id: u64,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    fn read(reply: Reply) -> Result<Self, AccessError> {
        let mut parts = list(reply)?.into_iter();
        let id = stream_id(&bytes(next(&mut parts)?)?)?;
        let mut values = list(next(&mut parts)?)?.into_iter();
        let mut fields = Vec::new();
        while let Some(name) = values.next() {
            fields.push((bytes(name)?, bytes(next(&mut values)?)?));
        }
        Ok(Self { id, fields })
    }

    /// Takes the value of a field.
    pub(crate) fn take(&mut self, name: &str) -> Result<Vec<u8>, AccessError> {
        let found = self.fields.iter_mut().find(|(field, _)| field == name.as_bytes());
        found.map(|(_, value)| std::mem::take(value)).ok_or_else(|| strange("an entry lacks a field"))
    }

    pub(crate) fn take_text(&mut self, name: &str) -> Result<String, AccessError> {
        String::from_utf8(self.take(name)?).map_err(|_| strange("no text"))
    }

    pub(crate) fn take_number(&mut self, name: &str) -> Result<u64, AccessError> {
        parse(&self.take(name)?)
    }

    /// Bytes of the values.
    pub(crate) fn size(&self) -> usize {
        self.fields.iter().map(|(_, value)| value.len()).sum()
    }
}

/// The number of an id `NUMBER-0`.
pub(crate) fn stream_id(id: &[u8]) -> Result<u64, AccessError> {
    parse(id.strip_suffix(b"-0").ok_or_else(|| strange("an id is not of this kind"))?)
}

/// The entries that a command returns that reads one stream.
pub(crate) fn entries(reply: Reply) -> Result<Vec<Entry>, AccessError> {
    let Some(stream) = list(reply)?.into_iter().next() else { return Ok(Vec::new()) };
    let entries = list(stream)?.into_iter().nth(1).ok_or_else(|| strange("a stream without entries"))?;
    list(entries)?.into_iter().map(Entry::read).collect()
}
