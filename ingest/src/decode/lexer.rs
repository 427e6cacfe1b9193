//! JSON text, token by token.
//!
//! RFC 8259. Integers of any length keep their digits; other numbers become the nearest `f64`, or
//! keep their digits when they are out of its range.
//!
//! A lenient lexer also accepts what firmware really writes, where it has only one meaning: commas
//! too many (`[1,,2]` has a hole, `{"a":1,}` ends), `22.`, `.5` and `+5`, line ends and tabs in a
//! text, literals in any case, Python's `None`, and the words for a missing number: `NaN`,
//! `Infinity`, `inf`, with or without a sign, in any case. It never guesses: names without quotes,
//! single quotes, missing commas, brackets or values are errors.

use std::borrow::Cow;

use super::{Class, JsonText, Refusal};

/// The kind of the next value, by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Object,
    Array,
    Text,
    /// A number, or a word: `true`, `null`, `NaN`.
    Bare,
}

/// A value other than text, array or object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scalar<'a> {
    Absent,
    /// A word for a missing number.
    NotFinite,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// The digits of an integer outside `i64`, or of a number out of the range of a float.
    Digits(&'a str),
}

#[derive(Debug, Clone)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    lenient: bool,
}

/// Powers of ten that an `f64` represents exactly.
const EXACT: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

impl<'a> Lexer<'a> {
    pub(super) fn new(text: JsonText<'a>) -> Self {
        let JsonText { text, mut at, lenient } = text;
        if at == 0 && text.starts_with('\u{feff}') {
            at = 3;
        }
        Self { text, at, lenient }
    }

    #[cold]
    pub(super) fn wrong(&self, wanted: &str) -> Refusal {
        let before = &self.text.as_bytes()[..self.at];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        let column = 1 + before.iter().rev().take_while(|b| **b != b'\n').count();
        let found = match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(found) => format!("{found:?}"),
            None => "the end".into(),
        };
        Refusal::new(Class::Json, format!("not JSON: {wanted} expected, found {found} at line {line} column {column}"))
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn byte_after(&self, bytes: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + bytes).copied()
    }

    fn skip_space(&mut self) {
        loop {
            match self.byte() {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                // RFC 7464 begins a document with a record separator.
                Some(b'\x0b' | b'\x0c' | b'\x1e') if self.lenient => self.at += 1,
                _ => return,
            }
        }
    }

    /// Returns the kind of the next value, and enters it if it is an array or an object.
    pub(super) fn token(&mut self) -> Result<Token, Refusal> {
        self.skip_space();
        let (token, length) = match self.byte() {
            Some(b'{') => (Token::Object, 1),
            Some(b'[') => (Token::Array, 1),
            Some(b'"') => (Token::Text, 0),
            Some(_) => (Token::Bare, 0),
            None => return Err(self.wrong("a value")),
        };
        self.at += length;
        Ok(token)
    }

    /// True when the array or object has one more element or member.
    pub(super) fn more(&mut self, first: bool, close: u8) -> Result<bool, Refusal> {
        self.skip_space();
        match self.byte() {
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            Some(b',') if !first || (self.lenient && close == b'}') => {
                self.at += 1;
                if self.lenient { Ok(self.after_comma(close)) } else { Ok(true) }
            }
            _ if first => Ok(true),
            _ => Err(self.wrong(if close == b'}' { "`,` or `}`" } else { "`,` or `]`" })),
        }
    }

    /// Skips further commas of an object. False at the end of the object or array.
    fn after_comma(&mut self, close: u8) -> bool {
        self.skip_space();
        while close == b'}' && self.byte() == Some(b',') {
            self.at += 1;
            self.skip_space();
        }
        let ends = self.byte() == Some(close);
        self.at += usize::from(ends);
        !ends
    }

    /// True when the next element of an array is left out: `[1,,2]`.
    pub(super) fn hole(&mut self) -> bool {
        if !self.lenient {
            return false;
        }
        self.skip_space();
        self.byte() == Some(b',')
    }

    /// Appends the name of a member and skips its colon.
    pub(super) fn key(&mut self, out: &mut String) -> Result<(), Refusal> {
        self.skip_space();
        self.text_into(out)?;
        self.colon()
    }

    fn colon(&mut self) -> Result<(), Refusal> {
        self.skip_space();
        if self.byte() != Some(b':') {
            return Err(self.wrong("`:`"));
        }
        self.at += 1;
        Ok(())
    }

    /// Returns the name of a member.
    pub(super) fn key_cow(&mut self) -> Result<Cow<'a, str>, Refusal> {
        self.skip_space();
        let key = self.text_cow()?;
        self.colon()?;
        Ok(key)
    }

    /// Returns a text, borrowed when nothing in it is escaped.
    pub(super) fn text_cow(&mut self) -> Result<Cow<'a, str>, Refusal> {
        let begun = self.at;
        self.quote()?;
        let plain = self.run();
        if self.byte() == Some(b'"') {
            self.at += 1;
            return Ok(Cow::Borrowed(plain));
        }
        self.at = begun;
        let mut out = String::new();
        self.text_into(&mut out)?;
        Ok(Cow::Owned(out))
    }

    /// Appends a text.
    pub(super) fn text_into(&mut self, out: &mut String) -> Result<(), Refusal> {
        self.quote()?;
        loop {
            out.push_str(self.run());
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    let escaped = self.escape()?;
                    out.push(escaped);
                }
                Some(control @ (b'\n' | b'\r' | b'\t')) if self.lenient => {
                    self.at += 1;
                    out.push(char::from(control));
                }
                _ => return Err(self.wrong("the rest of a text")),
            }
        }
    }

    fn quote(&mut self) -> Result<(), Refusal> {
        if self.byte() != Some(b'"') {
            return Err(self.wrong("a text in quotes"));
        }
        self.at += 1;
        Ok(())
    }

    /// Returns the text up to the next quote, backslash or control character.
    fn run(&mut self) -> &'a str {
        let from = self.at;
        let rest = &self.text.as_bytes()[from..];
        let length = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)).unwrap_or(rest.len());
        self.at += length;
        // The byte that ends it is ASCII, so this is a boundary.
        &self.text[from..self.at]
    }

    fn escape(&mut self) -> Result<char, Refusal> {
        let plain = match self.byte() {
            Some(b @ (b'"' | b'\\' | b'/')) => char::from(b),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.wrong("an escape")),
        };
        self.at += 1;
        Ok(plain)
    }

    fn unicode(&mut self) -> Result<char, Refusal> {
        let first = self.hex()?;
        if let 0xD800..0xDC00 = first
            && self.text[self.at..].starts_with("\\u")
        {
            self.at += 2;
            let second = self.hex()?;
            if let 0xDC00..0xE000 = second {
                let code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                return char::from_u32(code).ok_or_else(|| self.wrong("a character"));
            }
            return Err(self.wrong("the second half of a character"));
        }
        char::from_u32(first).ok_or_else(|| self.wrong("the other half of a character"))
    }

    fn hex(&mut self) -> Result<u32, Refusal> {
        let mut code = 0;
        for _ in 0..4 {
            let digit =
                self.byte().and_then(|b| char::from(b).to_digit(16)).ok_or_else(|| self.wrong("four hex digits"))?;
            code = code << 4 | digit;
            self.at += 1;
        }
        Ok(code)
    }

    /// Reads a number or a word.
    pub(super) fn scalar(&mut self) -> Result<Scalar<'a>, Refusal> {
        match self.byte() {
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'.') if self.lenient => self.number(),
            Some(b'+') if self.lenient && matches!(self.byte_after(1), Some(b'0'..=b'9' | b'.')) => {
                self.at += 1;
                self.number()
            }
            _ => self.word(self.at),
        }
    }

    #[cold]
    fn word(&mut self, from: usize) -> Result<Scalar<'a>, Refusal> {
        let rest = &self.text[self.at..];
        let length = rest.bytes().position(|b| !b.is_ascii_alphabetic()).unwrap_or(rest.len());
        let word = &rest[..length];
        let scalar = match word {
            "true" if from == self.at => Scalar::Bool(true),
            "false" if from == self.at => Scalar::Bool(false),
            "null" if from == self.at => Scalar::Absent,
            word if self.lenient && super::is_not_finite(word) => Scalar::NotFinite,
            word if self.lenient && from == self.at => match word.to_ascii_lowercase().as_str() {
                "true" => Scalar::Bool(true),
                "false" => Scalar::Bool(false),
                "null" | "none" => Scalar::Absent,
                _ => return Err(self.wrong("a value")),
            },
            _ => return Err(self.wrong("a value")),
        };
        self.at += length;
        Ok(scalar)
    }

    fn digits(&mut self, mantissa: &mut u64) -> usize {
        let from = self.at;
        while let Some(digit @ b'0'..=b'9') = self.byte() {
            // May wrap around: the value is used only when there are few digits.
            *mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        self.at - from
    }

    fn number(&mut self) -> Result<Scalar<'a>, Refusal> {
        let from = self.at;
        let negative = self.byte() == Some(b'-');
        self.at += usize::from(negative);
        let mut mantissa = 0;
        let leading_zero = self.byte() == Some(b'0');
        let whole = self.digits(&mut mantissa);
        if whole == 0 && !(self.lenient && self.byte() == Some(b'.') && self.byte_after(1).is_some_and(is_digit)) {
            return self.word(from);
        }
        if leading_zero && whole > 1 {
            self.at = from;
            return Err(self.wrong("a number without leading zeros"));
        }
        let mut fraction = 0;
        if self.byte() == Some(b'.') {
            self.at += 1;
            fraction = self.digits(&mut mantissa);
            if fraction == 0 && !self.lenient {
                return Err(self.wrong("a digit"));
            }
        } else if !matches!(self.byte(), Some(b'e' | b'E')) {
            return Ok(self.integer(from, negative, whole, mantissa));
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            if self.digits(&mut 0) == 0 {
                return Err(self.wrong("a digit"));
            }
        } else if whole + fraction <= 15 {
            // Both sides of the division are exact, so it rounds once (Clinger 1990).
            #[expect(clippy::cast_precision_loss, reason = "below 10^15, so exact")]
            let value = mantissa as f64 / EXACT[fraction];
            return Ok(Scalar::Float(if negative { -value } else { value }));
        }
        let value: f64 = self.text[from..self.at].parse().map_err(|_| self.wrong("a number"))?;
        Ok(if value.is_finite() { Scalar::Float(value) } else { Scalar::Digits(&self.text[from..self.at]) })
    }

    fn integer(&self, from: usize, negative: bool, digits: usize, magnitude: u64) -> Scalar<'a> {
        let text = &self.text[from..self.at];
        if negative && magnitude == 0 && digits == 1 {
            return Scalar::Float(-0.0);
        }
        if digits <= 18 {
            let value = magnitude.cast_signed();
            return Scalar::Int(if negative { -value } else { value });
        }
        text.parse().map_or(Scalar::Digits(text), Scalar::Int)
    }

    /// Ends a document. Returns the position of the next one in a lenient reading of JSON lines;
    /// otherwise only white space may follow.
    pub(super) fn end(&mut self) -> Result<Option<usize>, Refusal> {
        self.skip_space();
        let next = match self.byte() {
            Some(b',') if self.lenient => {
                self.at += 1;
                self.skip_space();
                self.byte()
            }
            next => next,
        };
        if self.lenient && matches!(next, Some(b'{' | b'[')) {
            return Ok(Some(self.at));
        }
        // Some firmware sends the NUL at the end of its C string.
        while self.byte() == Some(0) {
            self.at += 1;
            self.skip_space();
        }
        if self.at == self.text.len() { Ok(None) } else { Err(self.wrong("nothing (trailing text)")) }
    }
}

fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit()
}
