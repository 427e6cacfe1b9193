//! Forms of values in the configuration, for `#[serde(with = "…")]` of the crates' settings.

/// `Option<T>` of a text: an empty text is `None`.
pub mod empty_is_none {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// # Errors
    /// The errors of the serializer.
    pub fn serialize<T: Serialize, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_str(""),
        }
    }

    /// # Errors
    /// When the value is not a text.
    pub fn deserialize<'de, T: From<String>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok((!text.is_empty()).then(|| T::from(text)))
    }
}

/// `Option<u64>`: 0 is `None`.
pub mod zero_is_none {
    use serde::{Deserialize, Deserializer, Serializer};

    /// # Errors
    /// The errors of the serializer.
    pub fn serialize<S: Serializer>(value: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.unwrap_or_default())
    }

    /// # Errors
    /// When the value is not a whole number.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        Ok(Some(u64::deserialize(deserializer)?).filter(|value| *value > 0))
    }
}

/// [`Duration`](std::time::Duration): whole milliseconds.
pub mod duration_ms {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    /// # Errors
    /// The errors of the serializer.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    /// # Errors
    /// When the value is not a whole number.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Ok(Duration::from_millis(u64::deserialize(deserializer)?))
    }
}

/// Seconds as `f64`: whole milliseconds.
pub mod secs_as_ms {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    use super::duration_ms;

    /// # Errors
    /// When the value is negative or too large, and those of the serializer.
    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        let value = Duration::try_from_secs_f64(*value).map_err(serde::ser::Error::custom)?;
        duration_ms::serialize(&value, serializer)
    }

    /// # Errors
    /// When the value is not a whole number.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(duration_ms::deserialize(deserializer)?.as_secs_f64())
    }
}
