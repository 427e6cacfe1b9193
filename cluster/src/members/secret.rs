//! The secret of a fleet.

use std::fmt;

use tonic::metadata::{Ascii, MetadataValue};

/// The text by which processes of a fleet know each other, as every call has it in its header
/// `authorization`. Cheap to clone.
#[derive(Clone)]
pub struct Secret(MetadataValue<Ascii>);

impl Secret {
    /// The secret of the configuration.
    ///
    /// # Errors
    /// A sentence when it cannot be sent in a header.
    pub fn new(text: &str) -> Result<Self, String> {
        let mut header: MetadataValue<Ascii> = format!("Bearer {text}")
            .parse()
            .map_err(|_| "`fleet.secret` holds a line break or another control character")?;
        header.set_sensitive(true);
        Ok(Self(header))
    }

    /// The value of the header.
    pub(super) fn header(&self) -> MetadataValue<Ascii> {
        self.0.clone()
    }

    /// True when the header of a call has the secret. In constant time for a guess of any prefix.
    pub(super) fn is(&self, given: &[u8]) -> bool {
        let own = self.0.as_bytes();
        let wrong = given.iter().zip(own).fold(given.len() ^ own.len(), |wrong, (a, b)| wrong | usize::from(a ^ b));
        wrong == 0
    }
}

impl fmt::Debug for Secret {
    /// Without the text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_secret_is_it_and_it_is_not_shown() {
        let secret = Secret::new("0123456789abcdef").unwrap();
        assert!(secret.is(b"Bearer 0123456789abcdef"));
        for other in ["", "Bearer ", "0123456789abcdef", "Bearer 0123456789abcdeg", "Bearer 0123456789abcdef0"] {
            assert!(!secret.is(other.as_bytes()), "{other}");
        }
        assert!(!format!("{secret:?}").contains("0123"));
        assert!(Secret::new("with\na line break").unwrap_err().contains("`fleet.secret`"));
    }
}
