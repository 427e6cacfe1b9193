//! Formats that Weir does not read, recognised when they arrive as a bare value.
//!
//! Stored as one text they would look like success. Each test asks for a form that a word, a number
//! or a sentence does not have.

/// Returns the format of a text that is not a bare value.
pub(super) fn recognise(text: &str, decimal_comma: bool) -> Option<&'static str> {
    if is_line_protocol(text) {
        Some("Influx line protocol")
    } else if is_markup(text) {
        Some("XML")
    } else if is_pairs(text) {
        Some("pairs of names and values")
    } else if is_table(text, decimal_comma) {
        Some("separated values (CSV)")
    } else if is_base64(text) {
        Some("base64")
    } else {
        None
    }
}

fn is_number(cell: &str) -> bool {
    let cell = cell.trim();
    cell.bytes().any(|b| b.is_ascii_digit())
        && cell.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E'))
        && cell.parse::<f64>().is_ok()
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/' | '[' | ']'))
}

/// `name,tag=a field=1,other=2i 1700000000`
fn is_line_protocol(text: &str) -> bool {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let is_point = |line: &str| {
        let mut parts = line.split(' ').filter(|part| !part.is_empty());
        let (Some(series), Some(fields)) = (parts.next(), parts.next()) else { return false };
        let mut tags = series.split(',');
        let pair = |part: &str| part.split_once('=').is_some_and(|(name, value)| !name.is_empty() && !value.is_empty());
        tags.next().is_some_and(is_name)
            && tags.all(pair)
            && fields.split(',').all(pair)
            && parts.next().is_none_or(|time| time.parse::<i64>().is_ok())
            && parts.next().is_none()
    };
    lines().next().is_some() && lines().all(is_point)
}

fn is_markup(text: &str) -> bool {
    text.ends_with('>')
        && text
            .strip_prefix('<')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic() || "?!".contains(c)))
}

/// `a=1&b=2`, `a:1;b:2`, `a|1|b|2` (Ultralight), `a=1 b=2`; one pair alone if it has a number.
fn is_pairs(text: &str) -> bool {
    let all = |between: &[char], inner: char| {
        let parts: Vec<&str> = text.split(between).map(str::trim).filter(|part| !part.is_empty()).collect();
        let pair = |part: &&str| {
            part.split_once(inner).is_some_and(|(name, value)| is_name(name.trim()) && !value.trim().is_empty())
        };
        let number = |part: &&str| part.split_once(inner).is_some_and(|(_, value)| is_number(value));
        parts.iter().all(pair) && parts.iter().any(number) && (parts.len() > 1 || inner == '=')
    };
    let cells: Vec<&str> = text.split('|').collect();
    let ultralight = cells.len() >= 2
        && cells.len().is_multiple_of(2)
        && cells.chunks(2).all(|pair| is_name(pair[0].trim()))
        && cells.chunks(2).any(|pair| is_number(pair[1]));
    ultralight || all(&['&'], '=') || all(&[',', ';', ' ', '\n'], '=') || all(&[',', ';', '\n'], ':')
}

/// Several numbers in one line or several. `49,5` is one number with a decimal comma.
fn is_table(text: &str, decimal_comma: bool) -> bool {
    [',', ';', '\t', '|'].iter().any(|separator| {
        if *separator == ',' && decimal_comma {
            return false;
        }
        text.lines().filter(|line| !line.trim().is_empty()).any(|line| {
            let cells: Vec<&str> = line.split(*separator).collect();
            let numbers = cells.iter().filter(|cell| is_number(cell)).count();
            let decimal =
                *separator == ',' && !line.contains('.') && !line.chars().skip(1).any(|c| matches!(c, '-' | ' '));
            match cells.len() {
                0 | 1 => false,
                2 => numbers == 2 && !decimal,
                _ => numbers >= 2 && numbers * 2 >= cells.len(),
            }
        })
    })
}

/// Padded, or long and mixed as no word is.
fn is_base64(text: &str) -> bool {
    let data = text.trim_end_matches('=');
    let padding = text.len() - data.len();
    let alphabet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_');
    if text.len() < 8 || !text.len().is_multiple_of(4) || padding > 2 || !data.bytes().all(alphabet) {
        return false;
    }
    let class = |b: u8| {
        if b.is_ascii_lowercase() {
            0
        } else if b.is_ascii_uppercase() {
            1
        } else {
            2
        }
    };
    let bytes = data.as_bytes();
    let has = |wanted: u8| bytes.iter().any(|b| class(*b) == wanted);
    // A capital before small letters begins a word.
    let changes =
        bytes.windows(2).filter(|w| class(w[0]) != class(w[1]) && (class(w[0]), class(w[1])) != (1, 0)).count();
    padding > 0 || (text.len() >= 16 && has(0) && has(1) && has(2) && changes * 4 >= bytes.len())
}

#[cfg(test)]
mod tests {
    use super::recognise;

    #[test]
    fn other_formats_are_recognised() {
        for (text, format) in [
            ("boiler,site=a power=4.5,on=t 1700000000", "Influx"),
            ("boiler power=4", "Influx"),
            ("t=21.5&h=40", "pairs"),
            ("t=21.5", "pairs"),
            ("temp:21.5;hum:40", "pairs"),
            ("t|21.5|h|40", "pairs"),
            ("21.5,40,3.9", "CSV"),
            ("2026-01-05 12:00:00;21.5;40", "CSV"),
            ("$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9", "CSV"),
            ("52.52,-13.4", "CSV"),
            ("time,t\n1700000000,21.5\n", "CSV"),
            ("<t unit=\"C\">21.5</t>", "XML"),
            ("CUQKfQ==", "base64"),
            ("q83vEjRWeJCrze8SNFZ4kKvN", "base64"),
        ] {
            let said = recognise(text, false);
            assert!(said.is_some_and(|said| said.contains(format)), "{text}: {said:?}");
        }
    }

    #[test]
    fn words_and_sentences_are_text() {
        for text in [
            "open",
            "#FF0000",
            "ON",
            "12:30",
            "12:30:45",
            "2026-01-05",
            "49,5",
            "21.5 °C",
            "mode=auto",
            "Heating, then idle",
            "v1.2.3",
            "192.168.1.7",
            "00:1b:44:11:3a:b7",
            "FirmwareUpdate42",
            "0649534b12cd34ef",
            "on/off",
            "a|b",
            "error: no sensor",
            "1,234",
            "kitchen lamp",
            "2 of 3",
            "<5",
            "PT15M",
            "f47ac10b-58cc-4372-a567-0e02b2c3d479",
            "Bewegung12345678",
        ] {
            assert_eq!(recognise(text, false), None, "{text}");
        }
    }
}
