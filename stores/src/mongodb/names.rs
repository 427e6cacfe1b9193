//! Value names as field names.
//!
//! A path cannot reach a field whose name contains a dot or a dollar sign, and a zero byte is not
//! allowed in one. Dots and dollar signs are written as their wide forms `．` and `＄`, and
//! characters that would then be ambiguous after `％`. Ordinary names stay as they are.

use model::Kind;

const MARK: char = '％';

/// Returns the field of a value name.
pub(super) fn field(name: &str) -> String {
    if name.is_empty() {
        return format!("{MARK}e");
    }
    let mut field = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '.' => field.push('．'),
            '$' => field.push('＄'),
            '．' => field.extend([MARK, 'd']),
            '＄' => field.extend([MARK, 's']),
            '\0' => field.extend([MARK, '0']),
            MARK => field.extend([MARK, MARK]),
            c => field.push(c),
        }
    }
    field
}

/// Returns the field of a column that cannot share the field of its name: it has no value that
/// would show its type, or another column of that name has a value in the same row.
pub(super) fn field_of_kind(name: &str, kind: Kind) -> String {
    let mut field = field(name);
    field.extend([MARK, letter(kind)]);
    field
}

/// Returns all fields that may hold values of a name.
pub(super) fn fields(name: &str) -> impl Iterator<Item = String> {
    let kinds = [Kind::Float, Kind::Int, Kind::Bool, Kind::Str];
    let name = name.to_owned();
    std::iter::once(field(&name)).chain(kinds.into_iter().map(move |kind| field_of_kind(&name, kind)))
}

fn letter(kind: Kind) -> char {
    match kind {
        Kind::Float => 'f',
        Kind::Int => 'i',
        Kind::Bool => 'b',
        Kind::Str => 't',
    }
}

/// Returns the name, and the type if the field holds it. `None` when no release ever wrote such a
/// field.
pub(super) fn name(field: &str) -> Option<(String, Option<Kind>)> {
    let mut name = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        match c {
            '．' => name.push('.'),
            '＄' => name.push('$'),
            MARK => {
                let kind = match chars.next()? {
                    'f' => Kind::Float,
                    'i' => Kind::Int,
                    'b' => Kind::Bool,
                    't' => Kind::Str,
                    'e' => continue,
                    other => {
                        name.push(escaped(other)?);
                        continue;
                    }
                };
                return chars.next().is_none().then_some((name, Some(kind)));
            }
            c => name.push(c),
        }
    }
    Some((name, None))
}

fn escaped(letter: char) -> Option<char> {
    match letter {
        'd' => Some('．'),
        's' => Some('＄'),
        '0' => Some('\0'),
        MARK => Some(MARK),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_names_stay_as_they_are_and_paths_stay_readable() {
        assert_eq!(field("temperature"), "temperature");
        assert_eq!(field("gps.lat"), "gps．lat");
        assert_eq!(field("$set"), "＄set");
    }

    proptest! {
        #[test]
        fn every_name_is_restored_and_every_field_can_be_reached_by_a_path(
            text in prop_oneof!["[.$％．＄\0a]{0,8}", ".{0,12}"],
        ) {
            let plain = field(&text);
            prop_assert!(!plain.is_empty() && !plain.contains(['.', '$', '\0']));
            prop_assert_eq!(name(&plain), Some((text.clone(), None)));
            for kind in [Kind::Float, Kind::Int, Kind::Bool, Kind::Str] {
                prop_assert_eq!(name(&field_of_kind(&text, kind)), Some((text.clone(), Some(kind))));
            }
        }
    }
}
