//! Parses a filter by recursive descent.

use super::lexer::{Spot, Token, cut};
use super::value::{self, Comparator, Type};
use super::{Fields, Filter, FilterError};

/// Maximum depth of nested parentheses and NOTs.
const MAX_DEPTH: usize = 32;

pub(super) fn parse(text: &str, fields: Fields) -> Result<Filter, FilterError> {
    let spots = cut(text)?;
    if spots.is_empty() {
        return Ok(Filter::Everything);
    }
    let mut parser = Parser { spots, at: 0, fields, end: text.chars().count() + 1 };
    let filter = parser.expression(0)?;
    match parser.spots.get(parser.at) {
        None => Ok(filter),
        Some(spot) => Err(FilterError { column: spot.column, problem: "nothing opens this `)`".into() }),
    }
}

struct Parser {
    spots: Vec<Spot>,
    at: usize,
    fields: Fields,
    /// Column after the last character.
    end: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.spots.get(self.at).map(|spot| &spot.token)
    }

    fn column(&self) -> usize {
        self.spots.get(self.at).map_or(self.end, |spot| spot.column)
    }

    fn error<T>(&self, problem: impl Into<String>) -> Result<T, FilterError> {
        Err(FilterError { column: self.column(), problem: problem.into() })
    }

    /// Consumes the keyword if it is next.
    fn keyword(&mut self, keyword: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(word)) if word == keyword);
        self.at += usize::from(found);
        found
    }

    fn expression(&mut self, depth: usize) -> Result<Filter, FilterError> {
        let mut all = vec![self.sequence(depth)?];
        while self.keyword("AND") {
            all.push(self.sequence(depth)?);
        }
        Ok(joined(all, Filter::All))
    }

    fn sequence(&mut self, depth: usize) -> Result<Filter, FilterError> {
        let mut all = vec![self.factor(depth)?];
        while !matches!(self.peek(), None | Some(Token::Close)) && !self.at_keyword("AND") {
            all.push(self.factor(depth)?);
        }
        Ok(joined(all, Filter::All))
    }

    fn at_keyword(&self, keyword: &str) -> bool {
        matches!(self.peek(), Some(Token::Word(word)) if word == keyword)
    }

    fn factor(&mut self, depth: usize) -> Result<Filter, FilterError> {
        let mut any = vec![self.term(depth)?];
        while self.keyword("OR") {
            any.push(self.term(depth)?);
        }
        Ok(joined(any, Filter::Any))
    }

    fn term(&mut self, depth: usize) -> Result<Filter, FilterError> {
        if depth >= MAX_DEPTH {
            return self.error(format!("more than {MAX_DEPTH} levels of parentheses"));
        }
        if self.keyword("NOT") || self.sign() {
            return Ok(Filter::Not(Box::new(self.simple(depth + 1)?)));
        }
        self.simple(depth)
    }

    fn sign(&mut self) -> bool {
        let found = self.peek() == Some(&Token::Minus);
        self.at += usize::from(found);
        found
    }

    fn simple(&mut self, depth: usize) -> Result<Filter, FilterError> {
        if self.peek() != Some(&Token::Open) {
            return self.restriction();
        }
        let column = self.column();
        self.at += 1;
        let inner = self.expression(depth + 1)?;
        if self.peek() != Some(&Token::Close) {
            return Err(FilterError { column, problem: "this `(` is never closed".into() });
        }
        self.at += 1;
        Ok(inner)
    }

    fn restriction(&mut self) -> Result<Filter, FilterError> {
        let column = self.column();
        let (word, bare) = match self.peek() {
            Some(Token::Word(word)) if !matches!(word.as_str(), "AND" | "OR" | "NOT") => (word.clone(), false),
            Some(Token::Quoted(text)) => (text.clone(), true),
            None => return self.error("the filter ends where a condition is expected"),
            Some(_) => return self.error("a condition is expected here"),
        };
        self.at += 1;
        let comparator = match self.peek() {
            Some(Token::Comparator(comparator)) if !bare => *comparator,
            Some(Token::Comparator(_)) => return self.error("a quoted text cannot be compared: name a field"),
            _ => return Ok(Filter::Contains(word)),
        };
        self.at += 1;
        self.comparison(&word, column, comparator)
    }

    fn comparison(&mut self, name: &str, column: usize, comparator: Comparator) -> Result<Filter, FilterError> {
        let known = |name: &str| self.fields.iter().find(|(field, _)| *field == name).copied();
        let keyed = || name.split_once('.').and_then(|(field, key)| Some((known(field)?, key)));
        let (field, kind, key) = match (known(name), keyed()) {
            (Some((field, kind)), _) => (field, kind, None),
            (None, Some(((field, Type::Map), key))) => (field, Type::Text, Some(key.to_owned())),
            _ => {
                let known: Vec<&str> = self.fields.iter().map(|(field, _)| *field).collect();
                let problem = format!("there is no field `{name}`: use one of {}", known.join(", "));
                return Err(FilterError { column, problem });
            }
        };
        let (text, quoted) = match self.peek() {
            Some(Token::Word(text)) => (text.clone(), false),
            Some(Token::Quoted(text)) => (text.clone(), true),
            _ => return self.error(format!("a value to compare `{name}` with is expected here")),
        };
        match value::operand(kind, comparator, &text, quoted) {
            Ok(operand) => {
                self.at += 1;
                Ok(match key {
                    None => Filter::Compare(field, comparator, operand),
                    Some(key) => Filter::CompareKey(field, key, comparator, operand),
                })
            }
            Err(problem) => self.error(problem),
        }
    }
}

fn joined(mut parts: Vec<Filter>, join: fn(Vec<Filter>) -> Filter) -> Filter {
    if parts.len() == 1 { parts.remove(0) } else { join(parts) }
}
