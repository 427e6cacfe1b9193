//! The credential that a call presents.

use std::net::IpAddr;

use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap};
use identity::Denied;
use tls::Peer;

const SCHEME: &str = "bearer";
/// Maximum size of a token, in bytes.
const MAX_BYTES: usize = 8 << 10;

/// The token of a call, when it presents one. Not `Debug`: it is a secret.
pub(crate) struct Bearer(Option<String>);

impl Bearer {
    /// Takes the token out of the headers, so that no service sees it.
    ///
    /// # Errors
    /// [`Denied::Invalid`] unless there is no header `authorization`, or one of the form
    /// `Bearer {token}`.
    pub(crate) fn take(headers: &mut HeaderMap) -> Result<Self, Denied> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let token = match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => value.to_str().ok().and_then(token).map(Some).ok_or(Denied::Invalid),
            (Some(_), Some(_)) => Err(Denied::Invalid),
        };
        let token = token.map(|token| token.map(str::to_owned));
        headers.remove(AUTHORIZATION);
        token.map(Self)
    }

    /// Returns the token of a well-formed header.
    pub(crate) fn token(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

/// The token in the value of a header.
fn token(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_matches(' ');
    let good = !token.is_empty() && token.len() <= MAX_BYTES && token.bytes().all(|b| b.is_ascii_graphic());
    (good && scheme.eq_ignore_ascii_case(SCHEME)).then_some(token)
}

/// The address that a call comes from, when it is known.
pub(crate) fn peer(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<Peer>().map(|peer| peer.address().ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(values: &[&str]) -> Result<Option<String>, Denied> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        let taken = Bearer::take(&mut headers).map(|bearer| bearer.0);
        assert!(headers.is_empty(), "no service sees it");
        taken
    }

    #[test]
    fn one_header_of_the_scheme_bearer_is_a_token() {
        assert_eq!(taken(&[]), Ok(None));
        for good in ["Bearer abc", "bearer abc", "BEARER  abc "] {
            assert_eq!(taken(&[good]), Ok(Some("abc".into())), "{good}");
        }
        for bad in ["", "Bearer", "Bearer ", "Basic abc", "abc", "Bearer a b", "Bearera bc"] {
            assert_eq!(taken(&[bad]), Err(Denied::Invalid), "{bad}");
        }
        assert_eq!(taken(&["Bearer abc", "Bearer abc"]), Err(Denied::Invalid));
        assert!(taken(&[&format!("Bearer {}", "x".repeat(MAX_BYTES))]).is_ok());
        assert_eq!(taken(&[&format!("Bearer {}", "x".repeat(MAX_BYTES + 1))]), Err(Denied::Invalid));
    }
}
