//! Chosen passwords: those that people choose and type, for devices that cannot take a generated
//! secret.
//!
//! Such a password can be guessed, so it is kept under argon2id: a check takes 20 ms of a processor
//! and 19 MiB ([`Passwords`] bounds both). Argon2id gets a code of the password under a pepper,
//! which lies outside of the registry: a copy of the registry alone checks no guess.

mod common;
mod hash;
mod pool;

use serde::{Deserialize, Serialize};

use crate::CredentialId;
pub(crate) use hash::{Kept, Params};
pub use pool::Passwords;
pub(crate) use pool::{Busy, Lane};

/// Bytes of a password.
const LENGTHS: std::ops::RangeInclusive<usize> = 8..=128;

/// The form in which a password is kept. `Debug` shows the version of the pepper only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordHash {
    /// `$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH`, over a code of the password under the pepper.
    pub phc: String,
    /// Version of the pepper.
    pub pepper: u32,
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PasswordHash(pepper {})", self.pepper)
    }
}

/// Returns the id of the password of a device: there is one.
pub(crate) fn id_of(tenant: &str, device: &str) -> CredentialId {
    CredentialId::derived(&["password", tenant, device])
}

/// True for a text that may be a password of a device: no other is compared with one.
pub(crate) fn is_possible(password: &[u8]) -> bool {
    LENGTHS.contains(&password.len()) && !is_like_generated(password)
}

/// True for the beginning of a generated secret or a token.
fn is_like_generated(password: &[u8]) -> bool {
    [&b"wd_"[..], b"weir_", b"eyJ"].iter().any(|begin| password.starts_with(begin))
}

/// Checks a new password by the rules of NIST SP 800-63B: a minimum length, no rules about kinds of
/// characters, and none that a guess begins with.
///
/// # Errors
/// A reason, without the password.
pub(crate) fn check(password: &str, tenant: &str, device: &str) -> Result<(), String> {
    let (least, most) = (LENGTHS.start(), LENGTHS.end());
    if !LENGTHS.contains(&password.len()) {
        return Err(format!("it has {} bytes: use {least} to {most}", password.len()));
    }
    if password.chars().any(char::is_control) {
        return Err("it contains a control character: use letters, digits, signs and spaces".into());
    }
    if is_like_generated(password.as_bytes()) {
        return Err("it begins like a generated secret or a token: use another one".into());
    }
    let lower = password.to_lowercase();
    let (tenant, device) = (tenant.to_lowercase(), device.to_lowercase());
    if lower == device || lower == tenant || lower == format!("{tenant}/{device}") {
        return Err("it is the name of the device or the tenant: use another one".into());
    }
    if common::is_common(&lower, &[&tenant, &device]) {
        return Err("it is one of the first that are guessed: use a longer one, of several words for example".into());
    }
    Ok(())
}

/// Reads the tenant and the device from a user name: `{tenant}/{device}`, both percent-encoded, or
/// a device of the tenant `default`, as it is. Ids of devices with credentials have no slash.
pub(crate) fn read_user(user: &str) -> Option<(String, String)> {
    match user.split_once('/') {
        None => Some((model::DEFAULT_TENANT.to_owned(), user.to_owned())),
        Some((tenant, device)) => Some((decode(tenant)?, decode(device)?)),
    }
}

/// Decodes a percent-encoded text.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        let digit = |at: usize| char::from(digits[at]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.push(digit(0)? << 4 | digit(1)?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_name_names_the_device_and_its_tenant() {
        let read = |user| read_user(user).map(|(tenant, device)| format!("{tenant} {device}"));
        assert_eq!(read("d1").as_deref(), Some("default d1"));
        assert_eq!(read("50%").as_deref(), Some("default 50%"), "as it is");
        assert_eq!(read("acme/d1").as_deref(), Some("acme d1"));
        assert_eq!(read("a%2Fb/k%c3%bcche%3A1").as_deref(), Some("a/b küche:1"));
        for wrong in ["a/%", "a/%4", "a/%4x", "a%/b", "a/%ff", "a/+%+1"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(read("a/b/c").as_deref(), Some("a b/c"), "no device with a credential has this name");
    }

    #[test]
    fn short_long_and_common_passwords_are_refused_with_what_to_do() {
        let refused = |password: &str| check(password, "plant-nine", "pump-station-7").err();
        for (password, part) in [
            ("", "0 bytes: use 8"),
            ("seven77", "7 bytes: use 8"),
            (&*"x".repeat(129), "129 bytes: use 8 to 128"),
            ("a password\n", "control"),
            ("wd_aaaaaaaaaaa", "generated"),
            ("eyJhbGciOiJFUzI1NiJ9", "token"),
            ("Pump-Station-7", "name of the device"),
            ("plant-nine", "the tenant"),
            ("plant-nine/pump-station-7", "name of the device"),
            ("Password1", "guessed"),
            ("qwertyuiop", "guessed"),
            ("aaaaaaaaaaaaaaaa", "guessed"),
            ("87654321", "guessed"),
            ("pump-station-7123", "guessed"),
            ("abcabcabc", "guessed"),
        ] {
            let reason = refused(password).unwrap_or_else(|| panic!("{password} was accepted"));
            assert!(reason.contains(part), "{password}: {reason}");
            assert!(password.is_empty() || !reason.contains(password), "{reason}");
        }
        let long: String = (0..128_u8).map(|n| char::from(b'!' + n % 16 * (n / 16) % 90)).collect();
        for password in ["eight888", "correct horse battery staple", "grüne wiese", &long, "7h-pump!"] {
            assert_eq!(refused(password), None, "{password}");
        }
    }
}
