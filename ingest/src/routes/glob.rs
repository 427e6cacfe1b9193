//! Names by pattern: `*` is any run of characters.

#[derive(Debug, Clone)]
pub(crate) struct Glob(Vec<String>);

impl Glob {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.split('*').map(str::to_owned).collect())
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        let [first, middle @ .., last] = &self.0[..] else { return self.0[0] == name };
        let Some(mut rest) = name.strip_prefix(first.as_str()) else { return false };
        for piece in middle {
            match rest.find(piece.as_str()) {
                Some(at) => rest = &rest[at + piece.len()..],
                None => return false,
            }
        }
        rest.ends_with(last.as_str())
    }

    /// Orders globs: a whole name before patterns, more literal text before less.
    pub(crate) fn exactness(&self) -> (bool, usize) {
        (self.0.len() == 1, self.0.iter().map(String::len).sum())
    }
}
