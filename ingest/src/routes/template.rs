//! Text with `{capture}` and `{$.payload.name}`.

use super::topic::Captures;

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// As it stands.
    Text(String),
    /// What the topic template captured.
    Capture(String),
    /// The value of this name in the payload.
    Payload(String),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Template(Vec<Part>);

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (inside, tail) = after.split_once('}').ok_or(format!("`{{` without `}}` in `{text}`"))?;
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            parts.push(match inside.strip_prefix("$.") {
                Some(name) if !name.is_empty() => Part::Payload(name.into()),
                None if !inside.is_empty() => Part::Capture(inside.into()),
                _ => return Err(format!("`{{{inside}}}` names nothing")),
            });
            rest = tail;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Ok(Self(parts))
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.0
    }

    /// True when it is the same for every message of a topic.
    pub(crate) fn is_fixed(&self) -> bool {
        !self.0.iter().any(|p| matches!(p, Part::Payload(_)))
    }

    /// The text, with values of the payload from `payload`.
    pub(crate) fn render(
        &self,
        captures: &Captures,
        payload: impl Fn(&str) -> Option<String>,
    ) -> Result<String, String> {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Capture(name) => out.push_str(captures.get(name).unwrap_or_default()),
                Part::Payload(name) => {
                    out.push_str(&payload(name).ok_or_else(|| format!("the payload has no {name}"))?);
                }
            }
        }
        Ok(out)
    }
}
