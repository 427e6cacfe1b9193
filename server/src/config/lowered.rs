//! Values that a start lowers to what the machine has.

/// A key whose value a start lowers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lowered {
    /// The key and its value, with the reason.
    pub(crate) text: String,
    /// True when the operator has set the key: a default is meant to follow the machine.
    pub(crate) is_set: bool,
}

impl Lowered {
    /// `value` of `key` becomes `most`; `default` is its default.
    pub(crate) fn new(key: &str, value: u64, default: u64, most: u64, reason: &str) -> Self {
        let is_set = value != default;
        let text = if is_set {
            format!("`{key}` is {value}: lowered to {most}, {reason}")
        } else {
            format!("`{key}` is {most} on this machine, {reason}")
        };
        Self { text, is_set }
    }

    /// Logs a value that the operator has set; a default is logged at the level `debug`.
    pub(crate) fn log(&self) {
        if self.is_set {
            tracing::info!("{}", self.text);
        } else {
            tracing::debug!("{}", self.text);
        }
    }
}
