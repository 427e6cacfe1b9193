//! Splits a Rust file into code, comments and string literals.

/// A comment or a string literal of a Rust file.
pub(crate) struct Piece {
    /// The line on which it begins, from 1.
    pub(crate) line: usize,
    pub(crate) is_comment: bool,
    /// Without markers, on one line: consecutive comment lines are one piece.
    pub(crate) text: String,
}

/// Comments and string literals in the order of the file.
pub(crate) fn pieces(source: &str) -> Vec<Piece> {
    let mut scanner = Scanner { rest: source, line: 1, found: Vec::new(), last_comment: 0 };
    while scanner.step() {}
    let one_line = |text: &str| text.replace("\\\n", " ").split_whitespace().collect::<Vec<_>>().join(" ");
    scanner.found.into_iter().map(|piece| Piece { text: one_line(&piece.text), ..piece }).collect()
}

struct Scanner<'a> {
    rest: &'a str,
    line: usize,
    found: Vec<Piece>,
    /// The line of the last line comment; the comment on the next line continues it.
    last_comment: usize,
}

impl<'a> Scanner<'a> {
    /// Reads one token; false at the end of the file.
    fn step(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else { return false };
        if self.rest.starts_with("//") {
            self.line_comment();
        } else if self.rest.starts_with("/*") {
            let end = self.rest.find("*/").map_or(self.rest.len(), |at| at + 2);
            self.keep(end, true);
        } else if let Some((start, end)) = raw_string(self.rest) {
            self.take(start);
            self.keep(end, false);
        } else if first == '"' {
            self.keep(string_end(self.rest), false);
        } else if first == '\'' {
            self.take(char_end(self.rest));
        } else if first.is_alphanumeric() || first == '_' {
            // A whole word at once, so that its last letter is not read as the `r` of a raw string.
            let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
            self.take(end);
        } else {
            self.take(first.len_utf8());
        }
        true
    }

    fn line_comment(&mut self) {
        let line = self.line;
        let end = self.rest.find('\n').unwrap_or(self.rest.len());
        let text = self.take(end).trim_start_matches('/').trim_start_matches('!').trim();
        match self.found.last_mut() {
            Some(piece) if piece.is_comment && self.last_comment + 1 == line => {
                piece.text.push('\n');
                piece.text.push_str(text);
            }
            _ => self.found.push(Piece { line, is_comment: true, text: text.to_owned() }),
        }
        self.last_comment = line;
    }

    fn keep(&mut self, end: usize, is_comment: bool) {
        let line = self.line;
        let text = self.take(end).to_owned();
        self.found.push(Piece { line, is_comment, text });
    }

    fn take(&mut self, end: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(end);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }
}

/// Where the quoted part of a raw string begins and its length, when `rest` starts with one.
fn raw_string(rest: &str) -> Option<(usize, usize)> {
    let start = ["br", "r"].into_iter().find(|mark| rest.starts_with(mark))?.len();
    let hashes = rest[start..].bytes().take_while(|b| *b == b'#').count();
    let start = start + hashes;
    let body = rest[start..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    Some((start, body.find(&close).map_or(body.len() + 1, |at| 1 + at + close.len())))
}

fn string_end(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The end of a character literal, or of the quote alone when it begins a lifetime.
fn char_end(rest: &str) -> usize {
    let body = &rest[1..];
    if let Some(escape) = body.strip_prefix('\\') {
        let skipped = escape.chars().next().map_or(0, char::len_utf8);
        return escape[skipped..].find('\'').map_or(rest.len(), |at| 2 + skipped + at + 1);
    }
    let first = body.chars().next().map_or(0, char::len_utf8);
    if body[first..].starts_with('\'') { 1 + first + 1 } else { 1 }
}
