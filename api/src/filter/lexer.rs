//! Splits a filter into tokens.

use super::FilterError;
use super::value::Comparator;

/// A token of a filter.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Word(String),
    /// In quotes: never a keyword, and a number only as text.
    Quoted(String),
    Comparator(Comparator),
    Open,
    Close,
    Minus,
}

/// A token and the column at which it begins, from 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spot {
    pub(super) token: Token,
    pub(super) column: usize,
}

/// Characters that end a word.
fn ends_word(c: char) -> bool {
    c.is_whitespace() || "()<>=!:\"'".contains(c)
}

pub(super) fn cut(text: &str) -> Result<Vec<Spot>, FilterError> {
    let chars: Vec<char> = text.chars().collect();
    let mut spots = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let column = at + 1;
        if c.is_whitespace() {
            at += 1;
            continue;
        }
        let (token, length) = match (c, chars.get(at + 1)) {
            ('(', _) => (Token::Open, 1),
            (')', _) => (Token::Close, 1),
            ('<', Some('=')) => (Token::Comparator(Comparator::LessOrEqual), 2),
            ('<', _) => (Token::Comparator(Comparator::Less), 1),
            ('>', Some('=')) => (Token::Comparator(Comparator::GreaterOrEqual), 2),
            ('>', _) => (Token::Comparator(Comparator::Greater), 1),
            ('!', Some('=')) => (Token::Comparator(Comparator::NotEqual), 2),
            ('=', _) => (Token::Comparator(Comparator::Equal), 1),
            (':', _) => (Token::Comparator(Comparator::Has), 1),
            ('!', _) => return Err(FilterError { column, problem: "`!` alone has no meaning: use NOT or !=".into() }),
            ('"' | '\'', _) => quoted(&chars[at..], column)?,
            ('-', _) if !after_comparator(&spots) => (Token::Minus, 1),
            _ => word(&chars[at..], after_comparator(&spots)),
        };
        at += length;
        spots.push(Spot { token, column });
    }
    Ok(spots)
}

fn after_comparator(spots: &[Spot]) -> bool {
    matches!(spots.last(), Some(Spot { token: Token::Comparator(_), .. }))
}

/// Reads a word. As an argument it may contain `:`, so that times need no quotes.
fn word(chars: &[char], argument: bool) -> (Token, usize) {
    let word: String = chars.iter().take_while(|c| !ends_word(**c) || (argument && **c == ':')).collect();
    let length = word.chars().count();
    (Token::Word(word), length)
}

fn quoted(chars: &[char], column: usize) -> Result<(Token, usize), FilterError> {
    let quote = chars[0];
    let mut text = String::new();
    let mut at = 1;
    while let Some(&c) = chars.get(at) {
        at += 1;
        match c {
            c if c == quote => return Ok((Token::Quoted(text), at)),
            '\\' => match chars.get(at) {
                Some(&escaped @ ('"' | '\'' | '\\')) => {
                    text.push(escaped);
                    at += 1;
                }
                _ => {
                    return Err(FilterError {
                        column: column + at - 1,
                        problem: "`\\` must be followed by \", ' or \\".into(),
                    });
                }
            },
            c => text.push(c),
        }
    }
    Err(FilterError { column, problem: "this quote is never closed".into() })
}
