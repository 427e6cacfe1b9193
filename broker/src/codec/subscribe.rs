//! SUBSCRIBE and UNSUBSCRIBE (sections 3.8 and 3.10).

use super::properties::{self, Carrier, id};
use super::{DecodeError, Reader, Version};
use crate::trie::MAX_LEVELS;

/// The condition for sending retained messages to a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetainHandling {
    /// At each SUBSCRIBE.
    #[default]
    Always,
    /// If the subscription is new.
    IfNew,
    /// Never.
    Never,
}

/// Options of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Maximum QoS.
    pub qos: u8,
    /// Messages of the client itself are not sent.
    pub no_local: bool,
    /// Forwarded messages keep their retain flag.
    pub retain_as_published: bool,
    /// Sending of retained messages.
    pub retain_handling: RetainHandling,
}

/// A SUBSCRIBE packet, borrowed from the bytes that it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Packet id.
    pub packet_id: u16,
    /// Subscription id, sent with each message.
    pub subscription_id: Option<u32>,
    /// Filters that are well-formed, of any number of levels: one with more than [`MAX_LEVELS`] has
    /// a reason code of its own in the SUBACK.
    pub filters: Vec<(&'a str, Options)>,
}

/// Reads the body of a SUBSCRIBE.
///
/// # Errors
/// [`DecodeError`].
pub fn decode(body: &[u8], version: Version) -> Result<Subscribe<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    let own = if version == Version::V5 { properties::read(&mut reader, Carrier::Subscribe)? } else { &[] };
    let mut filters = Vec::new();
    while !reader.is_empty() {
        let filter = well_formed(reader.text()?)?;
        let bits = reader.u8()?;
        let reserved = if version == Version::V5 { 0xC0 } else { 0xFC };
        let retain_handling = match bits >> 4 & 3 {
            0 => RetainHandling::Always,
            1 => RetainHandling::IfNew,
            2 => RetainHandling::Never,
            _ => return Err(DecodeError::protocol("retain handling 3 does not exist")),
        };
        if bits & 3 == 3 || bits & reserved != 0 {
            return Err(DecodeError::malformed("subscription options are malformed"));
        }
        let options =
            Options { qos: bits & 3, no_local: bits & 4 != 0, retain_as_published: bits & 8 != 0, retain_handling };
        if options.no_local && filter.starts_with("$share/") {
            return Err(DecodeError::protocol("a shared subscription cannot be no-local"));
        }
        filters.push((filter, options));
    }
    if filters.is_empty() {
        return Err(DecodeError::protocol("SUBSCRIBE has no filter"));
    }
    Ok(Subscribe { packet_id, subscription_id: properties::number(own, id::SUBSCRIPTION_ID), filters })
}

fn well_formed(filter: &str) -> Result<&str, DecodeError> {
    let checked = model::topic::check_filter(filter);
    checked.map(|()| filter).map_err(|_| DecodeError::malformed("a topic filter is malformed"))
}

/// True when a filter has no more levels than the tree of subscriptions.
pub fn fits(filter: &str) -> bool {
    filter.split('/').count() <= MAX_LEVELS
}

/// True for a text that a client can subscribe to: a well-formed filter that fits.
pub(crate) fn is_accepted(text: &str) -> bool {
    well_formed(text).is_ok() && fits(text)
}

/// An UNSUBSCRIBE packet, borrowed from the bytes that it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Packet id.
    pub packet_id: u16,
    /// Topic filters.
    pub filters: Vec<&'a str>,
}

/// Reads the body of an UNSUBSCRIBE.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_unsubscribe(body: &[u8], version: Version) -> Result<Unsubscribe<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    if version == Version::V5 {
        properties::read(&mut reader, Carrier::Unsubscribe)?;
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        filters.push(well_formed(reader.text()?)?);
    }
    if filters.is_empty() {
        return Err(DecodeError::protocol("UNSUBSCRIBE has no filter"));
    }
    Ok(Unsubscribe { packet_id, filters })
}
