//! Streamed JSON: names of nested objects are joined with `.`, elements of arrays are numbered from
//! 0, and an array of objects at the top holds several readings.

use super::lexer::{Lexer, Scalar, Token};
use super::scratch::{Scratch, Slot};
use super::{Class, JsonText, Refusal};
use crate::limits::Limits;

/// Reads a document. Names begin with `prefix`; a lone value is named `field`. Returns the position
/// of a further document.
pub(crate) fn json(
    text: JsonText<'_>,
    prefix: &str,
    field: &str,
    candidate: usize,
    limits: &Limits,
    scratch: &mut Scratch,
) -> Result<Option<usize>, Refusal> {
    scratch.set_prefix(prefix);
    let mut walk = Walk { lexer: Lexer::new(text), scratch, limits, candidate };
    match walk.lexer.token()? {
        Token::Object => {
            walk.scratch.begin_row(candidate, limits)?;
            walk.members(1)?;
        }
        Token::Array => walk.readings()?,
        token => {
            walk.scratch.set_name(field);
            walk.scratch.begin_row(candidate, limits)?;
            walk.value(token, 0)?;
            walk.scratch.refuse_quoted_json(text.lenient, limits)?;
        }
    }
    walk.lexer.end()
}

/// Names of other elements would be ambiguous; a route with `each` or `value` reads them.
pub(crate) const ARRAY_AT_THE_TOP: &str = "the elements of an array at the top have to be objects, each a reading: use `each` or `value` in the route for others";

struct Walk<'w, 'a> {
    lexer: Lexer<'a>,
    scratch: &'w mut Scratch,
    limits: &'w Limits,
    candidate: usize,
}

impl Walk<'_, '_> {
    /// Reads an array at the top: each object in it is a reading.
    fn readings(&mut self) -> Result<(), Refusal> {
        let mut first = true;
        while self.lexer.more(first, b']')? {
            first = false;
            if self.lexer.hole() {
                self.scratch.absent += 1;
                continue;
            }
            if self.lexer.token()? != Token::Object {
                return Err(Refusal::new(Class::Json, ARRAY_AT_THE_TOP));
            }
            self.scratch.begin_row(self.candidate, self.limits)?;
            self.members(2)?;
        }
        Ok(())
    }

    /// Reads the value that begins with `token`, inside `depth` others.
    fn value(&mut self, token: Token, depth: usize) -> Result<(), Refusal> {
        match token {
            Token::Object => self.members(depth + 1),
            Token::Array => self.elements(depth + 1),
            Token::Text => {
                let lexer = &mut self.lexer;
                let text = self.scratch.write(|out| lexer.text_into(out))?;
                self.scratch.add(Slot::Text(text), self.limits)
            }
            Token::Bare => {
                let slot = match self.lexer.scalar()? {
                    Scalar::Absent => {
                        self.scratch.absent += 1;
                        return Ok(());
                    }
                    Scalar::NotFinite => {
                        self.scratch.not_finite();
                        return Ok(());
                    }
                    Scalar::Bool(v) => Slot::Bool(v),
                    Scalar::Int(v) => Slot::Int(v),
                    Scalar::Float(v) => Slot::Float(v),
                    Scalar::Digits(digits) => Slot::Text(self.scratch.put(digits)),
                };
                self.scratch.add(slot, self.limits)
            }
        }
    }

    fn members(&mut self, depth: usize) -> Result<(), Refusal> {
        check_depth(depth, self.limits)?;
        let place = self.scratch.place();
        let mut first = true;
        while self.lexer.more(first, b'}')? {
            first = false;
            self.scratch.dot();
            self.lexer.key(&mut self.scratch.path)?;
            let token = self.lexer.token()?;
            self.value(token, depth)?;
            self.scratch.back_to(place);
        }
        Ok(())
    }

    fn elements(&mut self, depth: usize) -> Result<(), Refusal> {
        check_depth(depth, self.limits)?;
        let mut index = 0;
        while self.lexer.more(index == 0, b']')? {
            if self.lexer.hole() {
                self.scratch.absent += 1;
            } else {
                let token = self.lexer.token()?;
                self.element(token, index, depth)?;
            }
            index += 1;
        }
        Ok(())
    }

    fn element(&mut self, token: Token, index: usize, depth: usize) -> Result<(), Refusal> {
        let place = self.scratch.place();
        self.scratch.join_index(index);
        self.value(token, depth)?;
        self.scratch.back_to(place);
        Ok(())
    }
}

pub(super) fn check_depth(depth: usize, limits: &Limits) -> Result<(), Refusal> {
    if depth > limits.depth() {
        return Err(Refusal::limit(format!("nested deeper than {} levels", limits.depth())));
    }
    Ok(())
}
