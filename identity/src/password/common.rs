//! Passwords that are guessed first.

/// Passwords of eight characters and more that lists of leaked ones begin with, without digits and
/// signs at their end.
const COMMON: &[&str] = &[
    "1q2w3e4r",
    "1q2w3e4r5t",
    "1qaz2wsx",
    "access",
    "admin",
    "administrator",
    "asdfasdf",
    "asdfghjk",
    "asdfghjkl",
    "baseball",
    "basketball",
    "changeit",
    "changeme",
    "charlie",
    "chocolate",
    "computer",
    "controller",
    "corvette",
    "default",
    "dragon",
    "einstein",
    "firebird",
    "football",
    "gateway",
    "guest",
    "iloveyou",
    "internet",
    "jennifer",
    "letmein",
    "liverpool",
    "master",
    "maverick",
    "michelle",
    "midnight",
    "monkey",
    "mosquitto",
    "mqttmqtt",
    "mqttuser",
    "mustang",
    "nintendo",
    "p@ssw0rd",
    "p@ssword",
    "passw0rd",
    "password",
    "passwort",
    "pa$$w0rd",
    "pa$$word",
    "princess",
    "q1w2e3r4",
    "qazwsxedc",
    "qwer1234",
    "qwerasdf",
    "qwertyui",
    "qwertyuiop",
    "raspberry",
    "secret",
    "sensor",
    "shadow",
    "starwars",
    "sunshine",
    "superman",
    "temppass",
    "test1234",
    "testtest",
    "trustno1",
    "welcome",
    "zaq12wsx",
    "zxcvbnm",
];

/// True for a common password: one of the list, one of these names with digits and signs behind it,
/// a short part that is repeated, and characters in the order of the alphabet, up or down.
pub(super) fn is_common(lower: &str, names: &[&str]) -> bool {
    let is_tail = |c: char| c.is_ascii_digit() || c.is_ascii_punctuation();
    let has_tail_only = |name: &str| {
        !name.is_empty()
            && lower.strip_prefix(name).is_some_and(|tail| tail.chars().count() <= 6 && tail.chars().all(is_tail))
    };
    COMMON.iter().chain(names).any(|name| has_tail_only(name)) || is_repeated(lower) || is_run(lower)
}

/// True when it is a part of at most four characters, again and again.
fn is_repeated(text: &str) -> bool {
    let chars: Vec<char> = text.chars().collect();
    (1..=4).any(|part| chars.iter().zip(chars.iter().skip(part)).all(|(one, next)| one == next))
}

/// True when each character follows the one before in the alphabet, or precedes it.
fn is_run(text: &str) -> bool {
    let codes: Vec<i64> = text.chars().map(|c| i64::from(u32::from(c))).collect();
    [1, -1].iter().any(|step| codes.windows(2).all(|pair| pair[1] - pair[0] == *step || (pair[0], pair[1]) == (57, 48)))
}
