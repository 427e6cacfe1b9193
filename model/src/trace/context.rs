//! Trace contexts and their text formats: `traceparent` (W3C Trace Context, level 1) and
//! `uber-trace-id` (Jaeger clients).

use std::fmt;

/// Bytes of a context in a record of the log: trace id, span id, flags.
pub const TRACE_BYTES: usize = 25;

const SAMPLED: u8 = 1;
/// Flag of Jaeger: sampled regardless of samplers.
const DEBUG: u8 = 2;

/// A position in a trace: the span that is the parent of the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// Id of the trace; never all zero.
    pub trace_id: [u8; 16],
    /// Id of the span; never all zero.
    pub span_id: [u8; 8],
    /// Bit 0: sampled.
    pub flags: u8,
}

impl TraceContext {
    /// True when its spans are recorded.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Reads a `traceparent`: `00-<32 hex>-<16 hex>-<2 hex>`, in lower case. Later versions may
    /// have additional fields. Returns None when it is invalid or an id is zero.
    pub fn from_traceparent(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let [version] = hex::<1>(bytes.get(..2)?, Case::Small)?;
        let whole = match version {
            0 => bytes.len() == 55,
            255 => false,
            _ => bytes.len() == 55 || bytes.get(55) == Some(&b'-'),
        };
        if !whole || bytes[2] != b'-' || bytes[35] != b'-' || bytes[52] != b'-' {
            return None;
        }
        let [flags] = hex::<1>(&bytes[53..55], Case::Small)?;
        Self { trace_id: hex(&bytes[3..35], Case::Small)?, span_id: hex(&bytes[36..52], Case::Small)?, flags }.named()
    }

    /// Reads an `uber-trace-id`: `<trace id>:<span id>:<parent id>:<flags>` in hex, with or without
    /// leading zeros, with colons or `%3A`. Returns None when it is invalid or an id is zero.
    pub fn from_uber_trace_id(text: &str) -> Option<Self> {
        let mut rest = text.as_bytes();
        let mut field = || {
            let end = rest.iter().position(|b| matches!(b, b':' | b'%')).unwrap_or(rest.len());
            let (field, tail) = rest.split_at(end);
            rest = match tail {
                [b':', tail @ ..] | [b'%', b'3', b'a' | b'A', tail @ ..] => tail,
                [] => &[],
                _ => return None,
            };
            Some((field, !tail.is_empty()))
        };
        let (Some((trace, true)), Some((span, true)), Some((_, true)), Some((flags, false))) =
            (field(), field(), field(), field())
        else {
            return None;
        };
        let [flags] = padded::<1>(flags)?;
        let flags = u8::from(flags & (SAMPLED | DEBUG) != 0);
        Self { trace_id: padded(trace)?, span_id: padded(span)?, flags }.named()
    }

    /// Returns None when an id is all zero, which is invalid.
    fn named(self) -> Option<Self> {
        (self.trace_id != [0; 16] && self.span_id != [0; 8]).then_some(self)
    }

    /// Encodes the context for a record of the log.
    pub fn to_bytes(self) -> [u8; TRACE_BYTES] {
        let mut out = [0; TRACE_BYTES];
        out[..16].copy_from_slice(&self.trace_id);
        out[16..24].copy_from_slice(&self.span_id);
        out[24] = self.flags;
        out
    }

    /// Decodes the context of a record of the log.
    pub fn from_bytes(bytes: &[u8; TRACE_BYTES]) -> Self {
        let (mut trace_id, mut span_id) = ([0; 16], [0; 8]);
        trace_id.copy_from_slice(&bytes[..16]);
        span_id.copy_from_slice(&bytes[16..24]);
        Self { trace_id, span_id, flags: bytes[24] }
    }

    /// The trace id in hex, as in Jaeger and in log lines.
    pub fn trace(&self) -> impl fmt::Display + use<> {
        Hex(self.trace_id)
    }
}

/// Formats the context as `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", Hex(self.trace_id), Hex(self.span_id), self.flags)
    }
}

struct Hex<const N: usize>([u8; N]);

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An unparsed context of a message or a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried<'a> {
    /// Text of a `traceparent`.
    Traceparent(&'a str),
    /// Text of an `uber-trace-id`.
    UberTraceId(&'a str),
}

impl<'a> Carried<'a> {
    /// Finds the context among user properties or headers: `traceparent` before `uber-trace-id`.
    pub fn find(named: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<Self> {
        let mut found = None;
        for (name, text) in named {
            if name.eq_ignore_ascii_case("traceparent") {
                return Some(Self::Traceparent(text));
            }
            if name.eq_ignore_ascii_case("uber-trace-id") {
                found = Some(Self::UberTraceId(text));
            }
        }
        found
    }

    /// Parses the context. An invalid text counts as none.
    pub fn read(self) -> Option<TraceContext> {
        match self {
            Self::Traceparent(text) => TraceContext::from_traceparent(text),
            Self::UberTraceId(text) => TraceContext::from_uber_trace_id(text),
        }
    }

    /// True when the sampled bit alone shows that the sender does not record the trace. False
    /// requires parsing.
    pub fn is_plainly_unsampled(self) -> bool {
        match self {
            Self::Traceparent(text) => {
                let bytes = text.as_bytes();
                bytes.len() == 55 && matches!(bytes[54], b'0' | b'2' | b'4' | b'6' | b'8' | b'a' | b'c' | b'e')
            }
            Self::UberTraceId(_) => false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Small,
    Any,
}

fn digit(byte: u8, case: Case) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' if case == Case::Any => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Parses exactly `N` bytes in hex.
fn hex<const N: usize>(text: &[u8], case: Case) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0], case)? << 4 | digit(pair[1], case)?;
    }
    Some(out)
}

/// Parses up to `N` bytes in hex, padded with leading zeros.
fn padded<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.is_empty() || text.len() > 2 * N {
        return None;
    }
    let mut out = [0_u8; N];
    for (place, byte) in text.iter().rev().enumerate() {
        out[N - 1 - place / 2] |= digit(*byte, Case::Any)? << (4 * (place % 2));
    }
    Some(out)
}
