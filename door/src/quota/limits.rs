//! The limits of a tenant, and the answer when one is reached.

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Connections of one device when the tenant has no limit of its own: a device has one, and a
/// second one while the first is half open.
pub const DEVICE_CONNECTIONS: u64 = 8;

type Limit = Option<NonZeroU64>;

/// The limits of a tenant. `None` is no limit, except where a default is named. A burst is the
/// number of units that may come at once after a pause; without one it is a second's worth of its
/// rate, and it is never less than 20 ms of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Connections of all devices at one time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Limit,
    /// New connections in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connects_per_second: Limit,
    /// New connections at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_burst: Limit,
    /// Sessions of all devices, connected or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Limit,
    /// Subscriptions of all sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscriptions: Limit,
    /// Retained messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retained_messages: Limit,
    /// Devices that have sent readings; those of a new one are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Limit,
    /// Series: pairs of a device and a value name; readings with a new one are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series: Limit,
    /// Seconds for which readings are kept, at most as long as those of the installation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_seconds: Limit,
    /// Bytes of the readings in the store, as [`model::size`] counts them; further ones are
    /// refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_bytes: Limit,
    /// Messages of all devices in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_per_second: Limit,
    /// Messages of all devices at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_burst: Limit,
    /// Bytes of messages of all devices in a second, with their topics and headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Limit,
    /// Bytes of messages of all devices at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub byte_burst: Limit,
    /// Connections of one device at one time; [`DEVICE_CONNECTIONS`] without a limit here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_connections: Limit,
    /// Messages of one device in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_messages_per_second: Limit,
    /// Messages of one device at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_message_burst: Limit,
    /// Bytes of messages of one device in a second, with their topics and headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_bytes_per_second: Limit,
    /// Bytes of messages of one device at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_byte_burst: Limit,
    /// Calls of all callers in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls_per_second: Limit,
    /// Calls of all callers at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_burst: Limit,
    /// Calls with one API key in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_calls_per_second: Limit,
    /// Calls with one API key at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_call_burst: Limit,
    /// Streams of answers that are open at one time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Limit,
}

/// A limit by its name.
type Field = (&'static str, fn(&mut Limits) -> &mut Limit);

const FIELDS: [Field; 24] = [
    ("connections", |limits| &mut limits.connections),
    ("connects_per_second", |limits| &mut limits.connects_per_second),
    ("connect_burst", |limits| &mut limits.connect_burst),
    ("sessions", |limits| &mut limits.sessions),
    ("subscriptions", |limits| &mut limits.subscriptions),
    ("retained_messages", |limits| &mut limits.retained_messages),
    ("devices", |limits| &mut limits.devices),
    ("series", |limits| &mut limits.series),
    ("retention_seconds", |limits| &mut limits.retention_seconds),
    ("storage_bytes", |limits| &mut limits.storage_bytes),
    ("messages_per_second", |limits| &mut limits.messages_per_second),
    ("message_burst", |limits| &mut limits.message_burst),
    ("bytes_per_second", |limits| &mut limits.bytes_per_second),
    ("byte_burst", |limits| &mut limits.byte_burst),
    ("device_connections", |limits| &mut limits.device_connections),
    ("device_messages_per_second", |limits| &mut limits.device_messages_per_second),
    ("device_message_burst", |limits| &mut limits.device_message_burst),
    ("device_bytes_per_second", |limits| &mut limits.device_bytes_per_second),
    ("device_byte_burst", |limits| &mut limits.device_byte_burst),
    ("calls_per_second", |limits| &mut limits.calls_per_second),
    ("call_burst", |limits| &mut limits.call_burst),
    ("key_calls_per_second", |limits| &mut limits.key_calls_per_second),
    ("key_call_burst", |limits| &mut limits.key_call_burst),
    ("streams", |limits| &mut limits.streams),
];

/// A name that no limit has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no limit {0:.80?}: use {names}", names = Limits::names().collect::<Vec<_>>().join(", "))]
pub struct UnknownLimit(pub Box<str>);

impl Limits {
    /// Returns the names of all limits.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FIELDS.iter().map(|(name, _)| *name)
    }

    /// Returns each limit with its name.
    pub fn iter(mut self) -> impl Iterator<Item = (&'static str, Option<NonZeroU64>)> {
        FIELDS.iter().map(move |(name, field)| (*name, *field(&mut self)))
    }

    /// Sets or lifts a limit by its name.
    ///
    /// # Errors
    /// [`UnknownLimit`].
    pub fn set(&mut self, name: &str, limit: Option<NonZeroU64>) -> Result<(), UnknownLimit> {
        let found = FIELDS.iter().find(|(known, _)| *known == name);
        let (_, field) = found.ok_or_else(|| UnknownLimit(name.into()))?;
        *field(self) = limit;
        Ok(())
    }

    /// Returns the name of a limit that is larger than can be counted, if there is one.
    pub fn uncountable(&self) -> Option<&'static str> {
        let counted = [(Quota::Devices, self.devices), (Quota::Series, self.series)];
        counted.into_iter().find(|(_, limit)| !super::census::countable(*limit)).map(|(quota, _)| quota.name())
    }
}

/// Changes of its own things that a tenant may make within a minute: each is an event of its audit,
/// which is kept for ever.
pub const CHANGES_PER_MINUTE: u64 = 600;

/// The limit that was reached, named as its field in [`Limits`]; that of changes is fixed and has
/// none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quota {
    /// Connections of the tenant.
    Connections,
    /// New connections of the tenant.
    Connects,
    /// Connections of the device.
    DeviceConnections,
    /// Sessions of the tenant.
    Sessions,
    /// Subscriptions of the tenant.
    Subscriptions,
    /// Retained messages of the tenant.
    RetainedMessages,
    /// Devices of the tenant that have sent readings.
    Devices,
    /// Series of the tenant.
    Series,
    /// Bytes of the readings of the tenant in the store.
    Storage,
    /// Messages of the tenant.
    Messages,
    /// Bytes of the tenant.
    Bytes,
    /// Messages of the device.
    DeviceMessages,
    /// Bytes of the device.
    DeviceBytes,
    /// Calls of the tenant.
    Calls,
    /// Calls of the key.
    KeyCalls,
    /// Streams of the tenant.
    Streams,
    /// Changes of the tenant's own things, by its own callers.
    Changes,
}

impl Quota {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Connections,
        Self::Connects,
        Self::DeviceConnections,
        Self::Sessions,
        Self::Subscriptions,
        Self::RetainedMessages,
        Self::Devices,
        Self::Series,
        Self::Storage,
        Self::Messages,
        Self::Bytes,
        Self::DeviceMessages,
        Self::DeviceBytes,
        Self::Calls,
        Self::KeyCalls,
        Self::Streams,
        Self::Changes,
    ];

    /// Returns the name of its limit.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Connects => "connects_per_second",
            Self::DeviceConnections => "device_connections",
            Self::Sessions => "sessions",
            Self::Subscriptions => "subscriptions",
            Self::RetainedMessages => "retained_messages",
            Self::Devices => "devices",
            Self::Series => "series",
            Self::Storage => "storage_bytes",
            Self::Messages => "messages_per_second",
            Self::Bytes => "bytes_per_second",
            Self::DeviceMessages => "device_messages_per_second",
            Self::DeviceBytes => "device_bytes_per_second",
            Self::Calls => "calls_per_second",
            Self::KeyCalls => "key_calls_per_second",
            Self::Streams => "streams",
            Self::Changes => "changes_per_minute",
        }
    }

    /// True for a limit of a rate: waiting is enough to be served.
    pub fn is_rate(self) -> bool {
        match self {
            Self::Connections | Self::DeviceConnections | Self::Streams => false,
            Self::Sessions | Self::Subscriptions | Self::RetainedMessages => false,
            Self::Devices | Self::Series | Self::Storage => false,
            Self::Connects | Self::Messages | Self::Bytes | Self::DeviceMessages | Self::DeviceBytes => true,
            Self::Calls | Self::KeyCalls | Self::Changes => true,
        }
    }
}

/// A limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// The limit.
    pub quota: Quota,
    /// Its value.
    pub limit: u64,
    /// Time after which a rate has room again.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { quota, limit, retry_after } = self;
        write!(f, "the limit {} = {limit} of the tenant is reached: ", quota.name())?;
        match retry_after {
            Some(wait) => write!(f, "try again in {} ms", wait.as_millis() + 1),
            None if matches!(quota, Quota::Devices | Quota::Series) => write!(f, "known ones go on; raise the limit"),
            None if *quota == Quota::Storage => {
                write!(
                    f,
                    "readings are accepted again when older ones are deleted; shorten retention_seconds, or raise it"
                )
            }
            None => write!(f, "close one first, or raise the limit"),
        }
    }
}

impl std::error::Error for Exceeded {}
