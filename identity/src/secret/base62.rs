//! Numbers in base 62 with a fixed count of digits, most significant first.

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Returns the value of a digit.
fn value(digit: u8) -> Option<u8> {
    Some(match digit {
        b'0'..=b'9' => digit - b'0',
        b'A'..=b'Z' => digit - b'A' + 10,
        b'a'..=b'z' => digit - b'a' + 36,
        _ => return None,
    })
}

/// True when all bytes are digits.
pub(super) fn is_digits(bytes: &[u8]) -> bool {
    bytes.iter().all(|digit| value(*digit).is_some())
}

/// Returns the last `N` digits of a number.
pub(super) fn encode<const N: usize>(mut number: u128) -> [u8; N] {
    let mut out = [b'0'; N];
    for digit in out.iter_mut().rev() {
        *digit = DIGITS[usize::try_from(number % 62).unwrap_or_default()];
        number /= 62;
    }
    out
}

/// Returns 256 bits as 43 digits.
pub(super) fn encode_256(bytes: &[u8; 32]) -> [u8; 43] {
    let mut number = *bytes;
    let mut out = [b'0'; 43];
    for digit in out.iter_mut().rev() {
        let mut rest = 0_u32;
        for byte in &mut number {
            let part = rest << 8 | u32::from(*byte);
            // Below 256: the rest was below 62.
            *byte = u8::try_from(part / 62).unwrap_or_default();
            rest = part % 62;
        }
        *digit = DIGITS[usize::try_from(rest).unwrap_or_default()];
    }
    out
}

/// Returns the 256 bits of 43 digits; `None` when they are not digits, or the number is larger.
pub(super) fn decode_256(digits: &[u8; 43]) -> Option<[u8; 32]> {
    let mut number = [0_u8; 32];
    for digit in digits {
        let mut carry = u32::from(value(*digit)?);
        for byte in number.iter_mut().rev() {
            let part = u32::from(*byte) * 62 + carry;
            *byte = u8::try_from(part & 0xff).unwrap_or_default();
            carry = part >> 8;
        }
        if carry != 0 {
            return None;
        }
    }
    Some(number)
}
