//! Limits of tenants as messages.

use std::num::NonZeroU64;

use identity::quota::Limits;
use proto::v1;

macro_rules! each_limit {
    ($apply:ident) => {
        $apply!(
            connections,
            connects_per_second,
            connect_burst,
            messages_per_second,
            message_burst,
            bytes_per_second,
            byte_burst,
            device_connections,
            device_messages_per_second,
            device_message_burst,
            device_bytes_per_second,
            device_byte_burst,
            calls_per_second,
            call_burst,
            key_calls_per_second,
            key_call_burst,
            streams,
            sessions,
            subscriptions,
            retained_messages,
            devices,
            series,
            retention_seconds,
            storage_bytes
        )
    };
}

/// Returns limits as a message, in which 0 is none.
pub fn to_proto(limits: &Limits) -> v1::Limits {
    macro_rules! convert {
        ($($name:ident),*) => { v1::Limits { $($name: limits.$name.map_or(0, NonZeroU64::get)),* } };
    }
    each_limit!(convert)
}

/// Returns the limits of a message.
pub fn from_proto(limits: &v1::Limits) -> Limits {
    macro_rules! convert {
        ($($name:ident),*) => { Limits { $($name: NonZeroU64::new(limits.$name)),* } };
    }
    each_limit!(convert)
}
