use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

fn token(kind: TokenKind) -> Token {
    Token::generate(kind).unwrap()
}

#[test]
fn a_token_is_read_as_it_was_written() {
    for kind in [TokenKind::DeviceSecret, TokenKind::ApiKey] {
        let token = token(kind);
        let text = token.text();
        assert_eq!(Token::parse(kind, text.expose().as_bytes()), Some(token));
        assert_eq!(text.expose().len(), kind.prefix().len() + 12 + 1 + 43 + 6);
    }
}

#[test]
fn a_token_of_the_other_kind_is_refused() {
    let text = token(TokenKind::DeviceSecret).text();
    assert_eq!(Token::parse(TokenKind::ApiKey, text.expose().as_bytes()), None);
}

#[test]
fn a_secret_above_256_bits_is_refused() {
    let mut text = format!("wd_{}_{}", "0".repeat(12), "z".repeat(43)).into_bytes();
    text.extend(checksum_of(&text));
    assert_eq!(Token::parse(TokenKind::DeviceSecret, &text), None);
    let mut zero = format!("wd_{}_{}", "0".repeat(12), "0".repeat(43)).into_bytes();
    zero.extend(checksum_of(&zero));
    assert!(Token::parse(TokenKind::DeviceSecret, &zero).is_some());
}

#[test]
fn two_tokens_differ_in_id_and_secret() {
    let (one, other) = (token(TokenKind::ApiKey), token(TokenKind::ApiKey));
    assert_ne!(one.id, other.id);
    assert_ne!(one.secret, other.secret);
}

#[test]
fn debug_shows_no_secret() {
    let token = token(TokenKind::DeviceSecret);
    let peppers = Peppers::generate().unwrap();
    let text = token.text();
    let secret = &text.expose()[16..59];
    let shown = format!("{token:?} {text:?} {peppers:?} {:?}", peppers.digest(&token));
    assert!(!shown.contains(secret), "{shown}");
    assert_eq!(
        shown,
        format!("Token(wd_{}_..) Secret(..) Peppers {{ current: 1, others: [] }} Digest(pepper 1)", token.id)
    );
}

#[test]
fn only_the_secret_of_the_row_is_right() {
    let peppers = Peppers::generate().unwrap();
    let kept = token(TokenKind::DeviceSecret);
    let digest = peppers.digest(&kept);
    assert_eq!(peppers.verify(&kept, Some(&digest)), Verdict::Right);
    let other = Token { secret: token(TokenKind::DeviceSecret).secret, ..kept.clone() };
    assert_eq!(peppers.verify(&other, Some(&digest)), Verdict::Wrong);
    let elsewhere = Token { id: token(TokenKind::DeviceSecret).id, ..kept.clone() };
    assert_eq!(peppers.verify(&elsewhere, Some(&digest)), Verdict::Wrong, "the code covers the id");
    let key = Token { kind: TokenKind::ApiKey, ..kept.clone() };
    assert_eq!(peppers.verify(&key, Some(&digest)), Verdict::Wrong, "the code covers the kind");
    assert_eq!(peppers.verify(&kept, None), Verdict::Wrong);
}

#[test]
fn a_pepper_is_valid_until_the_second_rotation() {
    let first = Peppers::generate().unwrap();
    let token = token(TokenKind::ApiKey);
    let digest = first.digest(&token);
    let second = first.rotated().unwrap();
    assert_eq!(second.verify(&token, Some(&digest)), Verdict::Old);
    assert_eq!(second.verify(&token, Some(&second.digest(&token))), Verdict::Right);
    let prepared = second.prepared().unwrap().unwrap();
    assert!(prepared.prepared().unwrap().is_none(), "one is enough");
    assert_eq!(prepared.verify(&token, Some(&digest)), Verdict::Old, "a preparation invalidates nothing");
    assert_eq!(prepared.digest(&token), second.digest(&token), "and is not used yet");
    let third = prepared.rotated().unwrap();
    assert_eq!(third.fingerprints()[0], prepared.fingerprints()[2], "the prepared one is used");
    assert_eq!(prepared.verify(&token, Some(&third.digest(&token))), Verdict::Right, "and known before");
    prepared.replace(&third);
    assert_eq!(prepared.fingerprints(), third.fingerprints());
    assert_eq!(third.verify(&token, Some(&digest)), Verdict::Wrong);
    assert!(!third.knows(digest.pepper));
}

#[test]
fn the_file_of_peppers_is_for_its_owner_only_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pepper");
    assert!(Peppers::read(&path).unwrap().is_none());
    let made = Peppers::open(&path).unwrap().rotated().unwrap();
    made.write(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Peppers::open(&path).unwrap().fingerprints(), made.fingerprints());
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    assert!(matches!(Peppers::open(&path), Err(PepperError::File(KeyFileError::Exposed(_)))));
}

#[test]
fn a_malformed_text_of_peppers_is_refused_without_showing_it() {
    let key = "ab".repeat(32);
    let bad = [
        String::new(),
        "# nothing\n".into(),
        key.clone(),
        format!("x {key}"),
        format!("1 {}", &key[1..]),
        format!("1 {}\u{e9}{}", &key[..31], &key[..31]),
        format!("1 {key}\n1 {key}"),
        format!("1 {key}\n2 {key}\n3 {key}\n4 {key}"),
        " ".repeat(5000),
    ];
    for text in bad {
        let error = Peppers::parse("WEIR_PEPPER", text.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("WEIR_PEPPER: ") && !error.contains("abab"), "{text:?}: {error}");
    }
    assert!(Peppers::parse("x", &[0xff]).is_err());
    assert_eq!(Peppers::parse("x", format!("7 {key}\n1 {key}\n").as_bytes()).unwrap().version(), 7);
}

proptest! {
    #[test]
    fn all_256_bits_survive_base_62(bytes in any::<[u8; 32]>()) {
        prop_assert_eq!(base62::decode_256(&base62::encode_256(&bytes)), Some(bytes));
    }

    #[test]
    fn any_bytes_are_parsed_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        prop_assert_eq!(Token::parse(TokenKind::ApiKey, &bytes), None);
        let text = [b"wd_".as_slice(), &bytes].concat();
        prop_assert_eq!(Token::parse(TokenKind::DeviceSecret, &text), None);
    }

    #[test]
    fn one_changed_byte_is_refused(at in 0_usize..65, byte in any::<u8>()) {
        let text = token(TokenKind::DeviceSecret).text();
        let mut changed = text.expose().as_bytes().to_vec();
        prop_assume!(changed[at] != byte);
        changed[at] = byte;
        prop_assert_eq!(Token::parse(TokenKind::DeviceSecret, &changed), None);
    }

    #[test]
    fn ids_are_parsed_without_a_panic(text in ".{0,16}") {
        prop_assert_eq!(CredentialId::parse(&text).is_some(), text.len() == 12 && text.bytes().all(|b| b.is_ascii_alphanumeric()));
    }
}
