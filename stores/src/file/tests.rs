use std::path::Path;

use super::*;
use crate::contract::StoreError;
use crate::reading::tests::batch;

fn export(folder: &Path, rotate_bytes: u64) -> FileExport {
    FileExport::new("files", Config { folder: folder.to_owned(), rotate_bytes, ..Config::default() }).unwrap()
}

/// Names with an ending, sorted.
fn names(folder: &Path, ending: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = entries.filter(|name| name.ends_with(ending)).collect();
    names.sort();
    names
}

/// The values `n` of the lines of all files, in the order of their names.
fn lines(folder: &Path) -> Vec<i64> {
    let mut all = names(folder, ".ndjson");
    all.extend(names(folder, ".part"));
    all.sort();
    let text: String = all.iter().map(|name| std::fs::read_to_string(folder.join(name)).unwrap()).collect();
    text.lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["values"]["n"].as_i64().unwrap())
        .collect()
}

async fn deliver(export: &FileExport, offsets: &[u64]) -> Result<()> {
    export.write("log-1", vec![batch("t", "d", offsets)]).await?;
    export.commit("log-1", offsets.last().unwrap() + 1).await
}

#[tokio::test]
async fn a_file_is_closed_when_it_is_large_enough_and_the_next_begins_with_the_next_delivery() {
    let dir = tempfile::tempdir().unwrap();
    let export = export(dir.path(), 1);
    assert_eq!(export.join("log-1", 1).await.unwrap(), None);
    deliver(&export, &[0, 1]).await.unwrap();
    deliver(&export, &[2]).await.unwrap();
    assert_eq!((names(dir.path(), ".ndjson").len(), names(dir.path(), ".part").len()), (2, 0));
    assert_eq!(lines(dir.path()), [0, 1, 2]);
}

#[tokio::test]
async fn a_file_is_closed_when_it_is_old_enough() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { folder: dir.path().to_owned(), rotate_bytes: u64::MAX, rotate_secs: 1, ..Config::default() };
    let export = FileExport::new("files", config).unwrap();
    export.join("log-1", 1).await.unwrap();
    deliver(&export, &[0]).await.unwrap();
    assert_eq!(names(dir.path(), ".part").len(), 1);
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    deliver(&export, &[1]).await.unwrap();
    assert_eq!((names(dir.path(), ".ndjson").len(), names(dir.path(), ".part").len()), (1, 0));
}

#[tokio::test]
async fn what_was_not_committed_is_cut_at_the_next_start_and_a_torn_line_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = export(dir.path(), u64::MAX);
    first.join("log-1", 1).await.unwrap();
    deliver(&first, &[0, 1]).await.unwrap();
    first.write("log-1", vec![batch("t", "d", &[2, 3])]).await.unwrap();
    drop(first);
    let part = dir.path().join(&names(dir.path(), ".part")[0]);
    let torn = std::fs::read(&part).unwrap();
    std::fs::write(&part, &torn[..torn.len() - 5]).unwrap();
    let second = export(dir.path(), u64::MAX);
    assert_eq!(second.join("log-1", 2).await.unwrap(), Some(2));
    deliver(&second, &[2, 3, 4]).await.unwrap();
    assert_eq!(lines(dir.path()), [0, 1, 2, 3, 4]);
    assert_eq!(names(dir.path(), ".part").len(), 1, "the open file is gone on with");
}

#[tokio::test]
async fn a_file_that_was_never_committed_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let first = export(dir.path(), u64::MAX);
    first.join("log-1", 1).await.unwrap();
    first.write("log-1", vec![batch("t", "d", &[0])]).await.unwrap();
    let second = export(dir.path(), u64::MAX);
    assert_eq!(second.join("log-1", 1).await.unwrap(), None);
    assert_eq!(lines(dir.path()), [] as [i64; 0]);
}

#[tokio::test]
async fn readings_below_the_cursor_are_not_written_again_unless_it_was_rewound() {
    let dir = tempfile::tempdir().unwrap();
    let export = export(dir.path(), u64::MAX);
    export.join("log-1", 1).await.unwrap();
    deliver(&export, &[0, 1, 2]).await.unwrap();
    deliver(&export, &[1, 2, 3]).await.unwrap();
    assert_eq!(lines(dir.path()), [0, 1, 2, 3]);
    export.rewind("log-1", 1, 2).await.unwrap();
    deliver(&export, &[2, 3]).await.unwrap();
    assert_eq!(lines(dir.path()), [0, 1, 2, 3, 2, 3]);
    assert_eq!(export.join("log-1", 1).await.unwrap(), Some(4));
}

#[tokio::test]
async fn a_lower_epoch_may_not_write_where_a_higher_one_has_joined() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (export(dir.path(), u64::MAX), export(dir.path(), u64::MAX));
    old.join("log-1", 4).await.unwrap();
    deliver(&old, &[0]).await.unwrap();
    assert_eq!(new.join("log-1", 5).await.unwrap(), Some(1));
    let refused = old.join("log-1", 4).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Busy { reason, .. } if reason.contains("epoch 5")), "{refused}");
}

#[tokio::test]
async fn two_logs_do_not_touch_each_others_files() {
    let dir = tempfile::tempdir().unwrap();
    let export = export(dir.path(), u64::MAX);
    for log in ["log-1", "log-1-2", "log/1"] {
        export.join(log, 1).await.unwrap();
        export.write(log, vec![batch("t", "d", &[7])]).await.unwrap();
        export.commit(log, 8).await.unwrap();
    }
    assert_eq!(export.join("log-1", 2).await.unwrap(), Some(8));
    assert_eq!(lines(dir.path()), [7, 7, 7]);
}

#[tokio::test]
async fn an_open_file_whose_cursor_is_missing_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let export = export(dir.path(), u64::MAX);
    export.join("log-1", 1).await.unwrap();
    deliver(&export, &[0]).await.unwrap();
    std::fs::remove_file(dir.path().join("log-1.cursor")).unwrap();
    let refused = export.join("log-1", 1).await;
    assert!(
        matches!(&refused, Err(StoreError::NeedsOperator(reason)) if reason.contains("log-1.cursor")),
        "{refused:?}"
    );
    assert_eq!(lines(dir.path()), [0]);
}

#[test]
fn a_missing_folder_is_refused_with_the_name_of_the_export_and_the_key() {
    let error = FileExport::new("archive", Config::default()).unwrap_err().to_string();
    assert!(error.contains("\"archive\"") && error.contains("`folder`"), "{error}");
}

#[tokio::test]
async fn lines_are_sealed_with_keys_and_read_by_the_keyring_until_they_are_destroyed() {
    let dir = tempfile::tempdir().unwrap();
    let keys = envelope::testing::keyring(dir.path());
    let folder = dir.path().join("files");
    let config = Config { folder: folder.clone(), rotate_bytes: 1, ..Config::default() };
    let config = ExportType::with_keys(config, Some(keys.clone()));
    let export = FileExport::new("files", config).unwrap();
    export.join("log-1", 1).await.unwrap();
    export.write("log-1", vec![batch("a", "d", &[0, 2]), batch("b", "d", &[1, 3])]).await.unwrap();
    export.commit("log-1", 4).await.unwrap();
    let texts =
        || names(&folder, ".ndjson").into_iter().map(|name| std::fs::read_to_string(folder.join(name)).unwrap());
    let text: String = texts().collect();
    assert!(!text.contains("values") && text.lines().count() == 2, "{text}");
    let read = |keys: &Keyring| -> Vec<u8> {
        text.lines().flat_map(|line| decrypt(keys, line).unwrap().unwrap_or_default()).collect()
    };
    let lines = String::from_utf8(read(&keys)).unwrap();
    assert_eq!(lines.lines().filter(|line| line.contains("\"values\"")).count(), 4, "{lines}");
    assert_eq!(decrypt(&keys, "{\"n\":1}").unwrap().unwrap(), b"{\"n\":1}\n");
    let moved = text.lines().next().unwrap().replace("\"first\":0", "\"first\":9");
    assert!(decrypt(&keys, &moved).unwrap_err().contains("damaged"));
    keys.destroy("a").unwrap();
    assert_eq!(String::from_utf8(read(&keys)).unwrap().lines().count(), 2);
    export.write("log-1", vec![batch("a", "d", &[4])]).await.unwrap();
    export.commit("log-1", 5).await.unwrap();
    assert_eq!(texts().collect::<String>().lines().count(), 2);
    export.write("log-1", vec![batch("a \"quoted\" one", "d", &[5])]).await.unwrap();
    export.commit("log-1", 6).await.unwrap();
    let sealed: String = texts().collect();
    let line = sealed.lines().find(|line| line.contains("quoted")).unwrap();
    assert!(decrypt(&keys, line).unwrap().is_some());
}

/// As `weir refill` writes, beside the process that has the keyring.
#[tokio::test]
async fn a_writer_beside_the_process_of_the_keyring_sees_keys_that_are_made_and_destroyed() {
    let dir = tempfile::tempdir().unwrap();
    let keys = envelope::testing::keyring(dir.path());
    keys.prepare(["a"]).unwrap();
    let folder = dir.path().join("files");
    let read = Keyring::read(&envelope::testing::config(dir.path()), dir.path()).unwrap();
    let config = Config { folder: folder.clone(), rotate_bytes: 1, ..Config::default() };
    let export = FileExport::new("files", ExportType::with_keys(config, Some(read))).unwrap();
    export.join("refill", 1).await.unwrap();
    let lines = || {
        let files = names(&folder, ".ndjson").into_iter();
        files.map(|name| std::fs::read_to_string(folder.join(name)).unwrap().lines().count()).sum::<usize>()
    };
    keys.prepare(["b"]).unwrap();
    export.write("refill", vec![batch("a", "d", &[0]), batch("b", "d", &[1])]).await.unwrap();
    export.commit("refill", 2).await.unwrap();
    assert_eq!(lines(), 2);
    keys.destroy("a").unwrap();
    export.write("refill", vec![batch("a", "d", &[2]), batch("b", "d", &[3])]).await.unwrap();
    export.commit("refill", 4).await.unwrap();
    assert_eq!(lines(), 3, "nothing more of the destroyed tenant");
}
