//! Durations as text: `250ms`, `90s`, `1h 30m`.

use std::time::Duration;

/// Parses a duration.
///
/// # Errors
/// The error has examples of the format.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("cannot parse {text:?} as a length of time: use \"250ms\", \"90s\" or \"1h 30m\"");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let signed: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(signed).map_err(|_| wrong())
}

/// For `#[serde(with = …)]`.
pub(crate) mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, out: S) -> Result<S::Ok, S::Error> {
        let text = jiff::SignedDuration::try_from(*duration).map_err(serde::ser::Error::custom)?;
        out.collect_str(&format_args!("{text:#}"))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(input)?;
        super::parse_duration(&text).map_err(D::Error::custom)
    }
}
