//! Value names as field names.
//!
//! A dot or a dollar sign in a field name cannot be reached by a path, and a zero byte cannot stand in one at all. They are
//! written as their wide forms `．` and `＄`, and what would then be read wrongly behind `％`. Ordinary names stay as they are.

use model::Kind;

const MARK: char = '％';

/// The field of a value name.
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

/// The field of a column that cannot stand in the field of its name: it has no value from which its type is seen, or
/// another column of that name has a value in the same row.
pub(super) fn field_of_kind(name: &str, kind: Kind) -> String {
    let mut field = field(name);
    field.extend([MARK, letter(kind)]);
    field
}

/// All fields that may hold values of a name.
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

/// The name, and the type where the field says it. `None` when no release ever wrote such a field.
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
        fn every_name_comes_back_and_no_field_holds_what_a_path_cannot(
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
