//! The language of comments, messages and documents.
//!
//! `TIDY=broker,stores/src/kafka cargo test -p weir-server --test tidy language` checks these paths
//! only, those in [`NOT_YET`] too.

use std::path::Path;

use crate::files::{files, none, read, short, with_ending};
use crate::pieces::pieces;

/// Paths whose prose is still being rewritten.
const NOT_YET: &[&str] = &[];

const COMMENT_COLUMNS: usize = 100;
const MARKDOWN_COLUMNS: usize = 120;

/// Text files other than Rust whose words are checked as well.
const TEXTS: &[&str] = &["md", "proto", "py", "sh", "tf", "toml", "yaml", "yml"];

/// Words that English prose about programs does without, and how to write it.
const BANNED: &[(&str, &str)] = &[
    (concat!("no", "body"), "name the missing reader, caller or client"),
    (concat!("some", "body"), "name the reader, caller or client"),
    (concat!("every", "body"), "name the readers, callers or clients"),
    (concat!("who", "ever"), "name the caller, the client or the device"),
    (concat!("what", "ever"), "say which"),
    (concat!("a per", "son"), "write operator"),
    (concat!("any", " more"), "write \"no longer\""),
];

/// True for a file that is to be checked now.
fn is_due(path: &Path) -> bool {
    let name = short(path);
    let within = |folder: &str| name == folder || name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    match std::env::var("TIDY") {
        Ok(chosen) => chosen.split(',').any(|folder| within(folder.trim_end_matches('/'))),
        Err(_) => !NOT_YET.iter().any(|folder| within(folder)),
    }
}

fn due(ending: &str) -> Vec<(String, String)> {
    with_ending(ending).into_iter().filter(|path| is_due(path)).map(|path| (short(&path), read(&path))).collect()
}

#[test]
fn language_doc_comments_begin_with_a_noun_or_a_verb() {
    none(due("rs").iter().flat_map(|(name, text)| beginnings(name, text)).collect());
}

fn beginnings(name: &str, text: &str) -> Vec<String> {
    const QUESTIONS: &[&str] = &["What", "Those", concat!("Who", "ever"), "Who"];
    let mut faults = Vec::new();
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        let doc = ["///", "//!"].into_iter().find_map(|mark| line.trim_start().strip_prefix(mark));
        let first = doc.unwrap_or_default().trim_start().split(|c: char| !c.is_alphabetic()).next().unwrap_or_default();
        if !inside && QUESTIONS.contains(&first) {
            faults.push(format!("{name}:{}: the comment begins with \"{first}\": use a noun or a verb", number + 1));
        }
        inside = doc.is_some();
    }
    faults
}

#[test]
fn language_comments_fit_into_100_columns_and_markdown_into_120() {
    let mut faults: Vec<String> = due("rs").iter().flat_map(|(name, text)| wide(name, text, comment)).collect();
    faults.extend(due("proto").iter().flat_map(|(name, text)| wide(name, text, comment)));
    for ending in ["toml", "tf", "yaml", "yml"] {
        faults.extend(due(ending).iter().flat_map(|(name, text)| wide(name, text, hash_comment)));
    }
    faults.extend(due("md").iter().flat_map(|(name, text)| wide(name, text, all)));
    none(faults);
}

/// The text of a line that is a comment and nothing else.
fn comment(line: &str) -> Option<&str> {
    let text = line.trim_start().strip_prefix("//")?;
    Some(text.strip_prefix(['/', '!']).unwrap_or(text))
}

fn hash_comment(line: &str) -> Option<&str> {
    line.trim_start().strip_prefix('#')
}

/// In Markdown every line is prose.
fn all(line: &str) -> Option<&str> {
    Some(line)
}

/// Lines that are too wide, except for code, tables, and links and words that cannot be broken.
fn wide(name: &str, text: &str, prose: impl Fn(&str) -> Option<&str>) -> Vec<String> {
    let columns = if name.ends_with(".md") { MARKDOWN_COLUMNS } else { COMMENT_COLUMNS };
    let mut faults = Vec::new();
    let mut fenced = false;
    for (number, line) in text.lines().enumerate() {
        let Some(text) = prose(line) else {
            fenced = false;
            continue;
        };
        if text.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let indent = if name.ends_with(".rs") || name.ends_with(".md") { "     " } else { "  " };
        let is_code = fenced || text.starts_with(indent) || text.trim_start().starts_with('|');
        if !is_code && line.chars().count() > columns && width(line) > columns && text.split_whitespace().count() > 1 {
            faults.push(format!("{name}:{}: wider than {columns} columns: wrap it", number + 1));
        }
    }
    faults
}

/// Columns of a line without the targets of its links.
fn width(line: &str) -> usize {
    let mut kept = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("](") {
        kept.push_str(&rest[..at + 1]);
        rest = rest[at..].find(')').map_or("", |end| &rest[at + end + 1..]);
    }
    kept.push_str(rest);
    let address = |word: &&str| word.contains("://");
    kept.chars().count() - kept.split(' ').filter(address).map(|word| word.chars().count()).sum::<usize>()
}

#[test]
fn language_comments_on_private_items_add_to_the_name() {
    none(due("rs").iter().flat_map(|(name, text)| restated(name, text)).collect());
}

fn restated(name: &str, text: &str) -> Vec<String> {
    // There the comments are the texts of `--help`, of `weir config` and of scenarios.
    if ["clap::", "Deserialize"].iter().any(|user| text.contains(user)) {
        return Vec::new();
    }
    let lines: Vec<&str> = text.lines().collect();
    let is_comment = |at: usize| lines.get(at).is_some_and(|line| comment(line).is_some());
    let mut faults = Vec::new();
    for at in (0..lines.len()).filter(|at| is_comment(*at)) {
        let alone = !is_comment(at + 1) && (at == 0 || !is_comment(at - 1));
        let said = comment(lines[at]).unwrap_or_default();
        if !alone || said.split_whitespace().count() > 3 {
            continue;
        }
        let item = (at + 1..lines.len()).find(|line| !lines[*line].trim_start().starts_with("#["));
        let Some(named) = item.filter(|line| !is_in_public_trait(&lines, *line)).and_then(|l| private_item(lines[l]))
        else {
            continue;
        };
        if only_repeats(said, named) {
            faults.push(format!("{name}:{}: the comment only repeats the name `{named}`: delete it", at + 1));
        }
    }
    faults
}

/// The name of the item, field or variant that begins on this line, unless it is public.
fn private_item(line: &str) -> Option<&str> {
    let line = line.trim();
    let line = ["pub(crate) ", "pub(super) "].into_iter().find_map(|word| line.strip_prefix(word)).unwrap_or(line);
    let mut words = line.split([' ', '(', '<', ';', '{', '=', ':', ',']).filter(|word| !word.is_empty()).peekable();
    let kinds = ["async", "const", "enum", "fn", "mod", "static", "struct", "trait", "type", "union"];
    let is_item = words.next_if(|word| kinds.contains(word)).is_some();
    while words.next_if(|word| kinds.contains(word)).is_some() {}
    let name = words.next()?;
    let rest = line.split_once(name)?.1;
    let is_field = rest.starts_with(':') && !rest.starts_with("::");
    let is_variant = name.starts_with(char::is_uppercase) && (rest.is_empty() || rest.starts_with([',', '(', ' ']));
    let is_name = name.chars().all(|c| c.is_alphanumeric() || c == '_');
    ((is_item || is_field || is_variant) && is_name).then_some(name)
}

/// True within a public trait or enum, where the compiler requires documentation.
fn is_in_public_trait(lines: &[&str], at: usize) -> bool {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut level = indent(lines[at]);
    for line in lines[..at].iter().rev().filter(|line| !line.trim().is_empty()) {
        if indent(line) < level {
            level = indent(line);
            if ["pub trait", "pub enum"].iter().any(|item| line.trim_start().starts_with(item)) {
                return true;
            }
        }
    }
    false
}

/// True when every word of the comment stands in the name, in this or another form.
fn only_repeats(said: &str, name: &str) -> bool {
    const FILLERS: &[&str] = &["a", "an", "and", "by", "for", "in", "is", "it", "its", "of", "the", "this", "to"];
    let mut parts: Vec<String> = vec![String::new()];
    for c in name.chars() {
        if c == '_' || c.is_uppercase() {
            parts.push(String::new());
        }
        if c != '_' {
            parts.last_mut().unwrap().extend(c.to_lowercase());
        }
    }
    let said = said.to_lowercase();
    let words = said.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty() && !FILLERS.contains(word));
    let same = |word: &str, part: &str| {
        let shared = word.chars().zip(part.chars()).take_while(|(a, b)| a == b).count();
        word == part || shared >= 4 || (shared >= 3 && shared + 1 >= word.len().min(part.len()) && part.len() >= 3)
    };
    let mut words = words.peekable();
    words.peek().is_some() && words.all(|word| parts.iter().any(|part| !part.is_empty() && same(word, part)))
}

#[test]
fn language_prose_names_its_subjects() {
    let mut faults = Vec::new();
    for (name, text) in due("rs") {
        for piece in pieces(&text) {
            faults.extend(banned(&format!("{name}:{}", piece.line), &piece.text));
        }
    }
    let is_text = |path: &Path| path.extension().and_then(|e| e.to_str()).is_some_and(|e| TEXTS.contains(&e));
    for path in files().into_iter().filter(|path| is_text(path) && is_due(path)) {
        for (number, line) in read(&path).lines().enumerate() {
            faults.extend(banned(&format!("{}:{}", short(&path), number + 1), line));
        }
    }
    none(faults);
}

fn banned(place: &str, text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let is_word = |at: usize, word: &str| {
        let letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !letter(text[..at].chars().next_back()) && !letter(text[at + word.len()..].chars().next())
    };
    let found = |word: &str| text.match_indices(word).any(|(at, _)| is_word(at, word));
    let found = BANNED.iter().filter(|(word, _)| found(word));
    found.map(|(word, cure)| format!("{place}: \"{word}\": {cure}")).collect()
}

#[test]
fn language_rules_find_what_they_forbid_and_nothing_else() {
    let source = concat!(
        "/// What is here.\n/// What may continue.\nfn f() {}\n",
        "// Reads lines.\nfn read_line() {}\n// Reads bytes.\nfn read_line() {}\n",
        "/// The tenant.\npub struct Tenant;\npub trait T {\n    /// Reads.\n    fn read();\n}\n",
    );
    assert_eq!(beginnings("a.rs", source), ["a.rs:1: the comment begins with \"What\": use a noun or a verb"]);
    assert_eq!(restated("a.rs", source), ["a.rs:4: the comment only repeats the name `read_line`: delete it"]);
    let long = "word ".repeat(21);
    let wide_ones = format!("// {long}\nlet x = 1; // {long}\n/// ```\n/// {long}\n/// ```\n// {}\n", "x".repeat(120));
    assert_eq!(wide("a.rs", &wide_ones, comment), ["a.rs:1: wider than 100 columns: wrap it"]);
    let link = format!("[here]({}) is short\n| {long} {long} |\n", "x".repeat(120));
    assert_eq!(wide("a.md", &link, all), [""; 0]);

    let words: Vec<&str> = BANNED.iter().map(|(word, _)| *word).collect();
    let source = format!(
        "let c = '\"'; fn f<'a>() {{}} // {}\nlet s = r#\"a \" {}\"#; let {} = \"{}\\\" {}\";\n// any\n// more\n",
        words[0], words[1], words[2], words[3], words[4]
    );
    let found = pieces(&source).into_iter().flat_map(|piece| banned(&piece.line.to_string(), &piece.text));
    let found: Vec<String> = found.map(|fault| fault.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
    let expected = [(1, 0), (2, 1), (2, 3), (2, 4), (3, 6)];
    assert_eq!(found, expected.map(|(line, word)| format!("{line} \"{}\"", words[word])));
}
