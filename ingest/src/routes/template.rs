//! Text with `{capture}` and `{$.path}`; `{a??b}` is the first value present, `{a|lower}` applies a
//! filter.

use std::borrow::Cow;

use super::path::{Path, PathContext};
use super::topic::Captures;

/// A template, checked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    /// Literal text.
    Text(String),
    /// The first of these sources that has a value.
    Value(Vec<Source>, Vec<Filter>),
}

/// A source of a value in a template.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A capture of the topic template.
    Capture(String),
    /// The name of a member that `each` captured.
    Key(String),
    /// A path in the payload.
    Path(Path),
}

#[derive(Debug, Clone, Copy)]
enum Filter {
    Lower,
    Upper,
}

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (inside, tail) = after.split_once('}').ok_or_else(|| format!("`{{` without `}}` in `{text}`"))?;
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            parts.push(value(inside)?);
            rest = tail;
        }
        if rest.contains('}') {
            return Err(format!("`}}` without `{{` in `{text}`"));
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Ok(Self { text: text.into(), parts })
    }

    pub(crate) fn sources(&self) -> impl Iterator<Item = &Source> {
        self.parts.iter().flat_map(|part| match part {
            Part::Value(sources, _) => &sources[..],
            Part::Text(_) => &[],
        })
    }

    /// Marks the captures that are names of members.
    pub(crate) fn name_keys(&mut self, keyed: impl Fn(&str) -> bool) {
        for part in &mut self.parts {
            let Part::Value(sources, _) = part else { continue };
            for source in sources {
                if let Source::Capture(name) = source
                    && keyed(name)
                {
                    *source = Source::Key(std::mem::take(name));
                }
            }
        }
    }

    /// True when the result is the same for every message of a topic.
    pub(crate) fn is_fixed(&self) -> bool {
        self.sources().all(|source| matches!(source, Source::Capture(_)))
    }

    /// The text; `place` is needed for a template that is not fixed.
    ///
    /// # Errors
    /// The source without a value.
    pub(crate) fn render(&self, captures: &Captures, place: Option<PathContext<'_>>) -> Result<String, String> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Value(sources, filters) => {
                    let mut found = sources
                        .iter()
                        .find_map(|source| look_up(source, captures, place))
                        .ok_or_else(|| format!("`{}` of `{}` has no value", describe(sources), self.text))?;
                    for filter in filters {
                        found = match filter {
                            Filter::Lower => found.to_lowercase().into(),
                            Filter::Upper => found.to_uppercase().into(),
                        };
                    }
                    out.push_str(&found);
                }
            }
        }
        Ok(out)
    }
}

fn look_up<'t>(source: &Source, captures: &'t Captures, place: Option<PathContext<'t>>) -> Option<Cow<'t, str>> {
    match source {
        Source::Capture(name) => captures.get(name).map(Cow::Borrowed),
        Source::Key(name) => place?.keys.iter().find(|(n, _)| n == name).map(|(_, key)| Cow::Borrowed(*key)),
        Source::Path(path) => path.first(place?)?.to_text(),
    }
}

fn describe(sources: &[Source]) -> String {
    let names: Vec<String> = sources
        .iter()
        .map(|source| match source {
            Source::Capture(name) | Source::Key(name) => name.clone(),
            Source::Path(path) => path.to_string(),
        })
        .collect();
    names.join("??")
}

fn value(inside: &str) -> Result<Part, String> {
    let mut pieces = inside.split('|');
    let sources = pieces.next().unwrap_or_default().split("??").map(|source| match source.trim() {
        "" => Err(format!("`{{{inside}}}` has an empty name")),
        path if path.starts_with(['$', '@']) => Ok(Source::Path(Path::parse(path)?)),
        name => Ok(Source::Capture(name.into())),
    });
    let sources = sources.collect::<Result<_, _>>()?;
    let filters = pieces.map(|filter| match filter.trim() {
        "lower" => Ok(Filter::Lower),
        "upper" => Ok(Filter::Upper),
        other => Err(format!("`{other}` in `{{{inside}}}` is not a filter: use `lower` or `upper`")),
    });
    Ok(Part::Value(sources, filters.collect::<Result<_, _>>()?))
}
