//! Booleans, eight to a byte; one byte when all are equal.

use super::{CodecError, Input};

const MIXED: u8 = 2;

pub(super) fn write_bits(out: &mut Vec<u8>, bits: &[bool]) {
    match bits.first() {
        Some(first) if bits.iter().all(|b| b == first) => out.push(u8::from(*first)),
        None => out.push(0),
        Some(_) => {
            out.push(MIXED);
            out.extend(bits.chunks(8).map(|eight| eight.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit))));
        }
    }
}

pub(super) fn read_bits(input: &mut Input<'_>, count: usize) -> Result<Vec<bool>, CodecError> {
    match input.u8()? {
        all @ (0 | 1) => Ok(vec![all == 1; count]),
        MIXED => {
            let bytes = input.take(count.div_ceil(8))?;
            Ok((0..count).map(|i| bytes[i / 8] >> (i % 8) & 1 == 1).collect())
        }
        _ => Err(CodecError::Malformed),
    }
}
