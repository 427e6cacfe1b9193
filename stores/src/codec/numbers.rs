//! Numbers: a few as differences of variable length, many through a numeric codec.

use pco::ChunkConfig;
use pco::standalone::{simple_compress, simple_decompress};

use super::{CodecError, Input, varint};

/// For fewer values the header of the numeric codec costs more than it saves.
const FEW: usize = 48;

const DELTAS: u8 = 0;
const PACKED: u8 = 1;
/// Floats as integers times a power of ten; the power follows.
const DECIMAL: u8 = 2;
const RAW: u8 = 3;

pub(super) fn write_integers(out: &mut Vec<u8>, values: &[i64]) {
    if values.len() >= FEW
        && let Ok(packed) = simple_compress(values, &ChunkConfig::default())
    {
        out.push(PACKED);
        out.extend_from_slice(&packed);
        return;
    }
    out.push(DELTAS);
    write_deltas(out, values);
}

pub(super) fn read_integers(bytes: &[u8], count: usize) -> Result<Vec<i64>, CodecError> {
    let mut input = Input(bytes);
    match input.u8()? {
        DELTAS => read_deltas(&mut input, count),
        PACKED => unpack(input.0, count),
        _ => Err(CodecError::Malformed),
    }
}

pub(super) fn write_floats(out: &mut Vec<u8>, values: &[f64]) {
    if values.len() >= FEW {
        if let Ok(packed) = simple_compress(values, &ChunkConfig::default()) {
            out.push(PACKED);
            out.extend_from_slice(&packed);
            return;
        }
    } else if let Some((power, scaled)) = (0..=6).find_map(|power| Some((power, decimal(values, power)?))) {
        out.extend_from_slice(&[DECIMAL, power]);
        write_deltas(out, &scaled);
        return;
    }
    out.push(RAW);
    values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
}

pub(super) fn read_floats(bytes: &[u8], count: usize) -> Result<Vec<f64>, CodecError> {
    let mut input = Input(bytes);
    match input.u8()? {
        PACKED => unpack(input.0, count),
        DECIMAL => {
            let power = input.u8()?;
            if power > 6 {
                return Err(CodecError::Malformed);
            }
            let scaled = read_deltas(&mut input, count)?;
            Ok(scaled.into_iter().map(|n| n as f64 / 10_f64.powi(i32::from(power))).collect())
        }
        RAW => {
            let bytes = input.take(count.checked_mul(8).ok_or(CodecError::Malformed)?)?;
            Ok(bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes"))).collect())
        }
        _ => Err(CodecError::Malformed),
    }
}

/// Returns the values as integers of 10^-power, if each can be restored to the last bit.
fn decimal(values: &[f64], power: u8) -> Option<Vec<i64>> {
    let scale = 10_f64.powi(i32::from(power));
    let exact = |v: &f64| {
        let n = (v * scale).round();
        // Through the integer, as it is read back: a negative zero is not restored.
        let fits = n.abs() < 9e15 && (n as i64 as f64 / scale).to_bits() == v.to_bits();
        fits.then_some(n as i64)
    };
    values.iter().map(exact).collect()
}

/// Writes the largest power of ten that divides all, then the differences, zigzag.
fn write_deltas(out: &mut Vec<u8>, values: &[i64]) {
    let unit = [1_000_000_000, 1_000_000, 1_000].into_iter().find(|u| values.iter().all(|v| v % u == 0)).unwrap_or(1);
    varint(out, unit.unsigned_abs());
    let mut last = 0_i64;
    for value in values {
        let value = value / unit;
        let delta = value.wrapping_sub(last);
        varint(out, (delta << 1 ^ delta >> 63).cast_unsigned());
        last = value;
    }
}

fn read_deltas(input: &mut Input<'_>, count: usize) -> Result<Vec<i64>, CodecError> {
    let unit = input.varint()?.cast_signed();
    let mut last = 0_i64;
    let mut values = Vec::with_capacity(count.min(input.0.len()));
    for _ in 0..count {
        let zigzag = input.varint()?;
        last = last.wrapping_add((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed());
        values.push(last.wrapping_mul(unit));
    }
    Ok(values)
}

fn unpack<T: pco::data_types::Number>(bytes: &[u8], count: usize) -> Result<Vec<T>, CodecError> {
    let values = simple_decompress::<T>(bytes).map_err(|_| CodecError::Malformed)?;
    if values.len() == count { Ok(values) } else { Err(CodecError::Malformed) }
}
