//! Argon2id, and the text that a hash is kept as (PHC).

use argon2::{Algorithm, Argon2, Block, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

const SALT: usize = 16;
const OUTPUT: usize = 32;
/// Most passes that a kept hash may ask for.
const MAX_PASSES: u32 = 16;

pub(crate) type Salt = [u8; SALT];
pub(super) type Output = [u8; OUTPUT];

/// The cost of a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Params {
    /// Memory in KiB.
    pub(crate) memory: u32,
    /// Passes over the memory.
    pub(crate) passes: u32,
}

impl Params {
    /// Parameters of new hashes: as much as one check of a fleet can cost (OWASP).
    pub(crate) const CURRENT: Self = Self { memory: 19_456, passes: 2 };

    /// True when a check has the memory and the time for it.
    fn is_possible(self) -> bool {
        (8..=Self::CURRENT.memory).contains(&self.memory) && (1..=MAX_PASSES).contains(&self.passes)
    }

    fn is_weaker(self, than: Self) -> bool {
        u64::from(self.memory) * u64::from(self.passes) < u64::from(than.memory) * u64::from(than.passes)
    }

    /// Hashes an input, in memory that is reused.
    pub(super) fn hash(self, input: &[u8], salt: &Salt, memory: &mut Vec<Block>) -> Output {
        let mut output = [0; OUTPUT];
        let params = argon2::Params::new(self.memory, self.passes, 1, Some(OUTPUT)).expect("possible parameters");
        memory.resize(params.block_count(), Block::new());
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let done = argon2.hash_password_into_with_memory(input, salt, &mut output, memory.as_mut_slice());
        done.expect("a short input, and memory as it is asked for");
        output
    }
}

/// A hash that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) params: Params,
    pub(crate) salt: Salt,
    output: Output,
}

impl Kept {
    pub(crate) fn new(params: Params, salt: Salt, output: Output) -> Self {
        Self { params, salt, output }
    }

    /// Reads a text; `None` when this version cannot check it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("$argon2id$v=19$m=")?;
        let (memory, rest) = rest.split_once(",t=")?;
        let (passes, rest) = rest.split_once(",p=1$")?;
        let (salt, output) = rest.split_once('$')?;
        let params = Params { memory: memory.parse().ok()?, passes: passes.parse().ok()? };
        let bytes = |text: &str| STANDARD_NO_PAD.decode(text).ok();
        let kept = Self { params, salt: bytes(salt)?.try_into().ok()?, output: bytes(output)?.try_into().ok()? };
        params.is_possible().then_some(kept)
    }

    pub(crate) fn text(&self) -> String {
        let Params { memory, passes } = self.params;
        let [salt, output] = [&self.salt[..], &self.output[..]].map(|bytes| STANDARD_NO_PAD.encode(bytes));
        format!("$argon2id$v=19$m={memory},t={passes},p=1${salt}${output}")
    }

    /// Compares in constant time.
    pub(crate) fn is(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.output, &other.output).is_ok()
    }

    /// True when a new hash would cost more.
    pub(crate) fn is_weak(&self) -> bool {
        self.params.is_weaker(Params::CURRENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_was_written_and_is_that_of_the_reference_implementation() {
        // $ printf password | argon2 0123456789abcdef -id -t 2 -k 64 -p 1 -l 32 -e
        let text = "$argon2id$v=19$m=64,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg$+4O1cR/ZHfYwtjZ33uYszRPubwxIl9hWtJVCubHpl1s";
        let params = Params { memory: 64, passes: 2 };
        let salt = *b"0123456789abcdef";
        let output = params.hash(b"password", &salt, &mut Vec::new());
        let kept = Kept::new(params, salt, output);
        assert_eq!(kept.text(), text);
        assert_eq!(Kept::parse(text), Some(kept));
        assert!(kept.is(&Kept::new(params, salt, output)) && !kept.is(&Kept::new(params, salt, [0; 32])));
        assert!(kept.is_weak());
        let again = params.hash(b"password", &salt, &mut vec![Block::new(); 100]);
        assert_eq!(again, output, "with something in the memory");
        assert_ne!(params.hash(b"passwore", &salt, &mut Vec::new()), output);
    }

    #[test]
    fn a_text_that_cannot_be_checked_is_not_a_hash() {
        let kept = Kept::new(Params::CURRENT, [1; 16], [2; 32]);
        let text = kept.text();
        assert_eq!(Kept::parse(&text), Some(kept));
        assert!(!kept.is_weak());
        for (part, other) in [
            ("argon2id", "argon2i"),
            ("v=19", "v=16"),
            ("m=19456", "m=19457"),
            ("m=19456", "m=4194304"),
            ("m=19456", "m=7"),
            ("m=19456", "m=-1"),
            ("t=2", "t=0"),
            ("t=2", "t=17"),
            ("p=1", "p=2"),
            ("AQEBAQ", "AQEB"),
            ("$AQ", "$!Q"),
            ("AgICAg", "AgICAgAA"),
        ] {
            let changed = text.replacen(part, other, 1);
            assert_ne!(changed, text);
            assert_eq!(Kept::parse(&changed), None, "{changed}");
        }
    }
}
