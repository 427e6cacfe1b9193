use std::path::Path;
use std::process::Output;

use rustix::process::Signal;

use crate::world::{World, err, out, run, wait};

fn backup(data: &Path, to: &Path) -> Output {
    run(&["backup", to.to_str().unwrap(), "--data-dir", data.to_str().unwrap()])
}

fn restore(from: &Path, to: &Path) -> Output {
    run(&["restore", from.to_str().unwrap(), "--to", to.to_str().unwrap()])
}

fn good(output: Output) -> String {
    assert!(output.status.success(), "{}", err(&output));
    err(&output)
}

/// The text of a refusal, which is one line.
fn refused(output: Output) -> String {
    let text = err(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("weir: ") && text.lines().count() == 1, "{text}");
    text
}

fn publish(world: &World, from: usize, count: usize) {
    let messages: Vec<String> = (from..from + count).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
    let messages: Vec<(&str, &str)> = messages.iter().map(|m| ("devices/d1/telemetry", m.as_str())).collect();
    world.publish(&messages);
}

/// A Weir with flushed readings, others, a dead letter, and a retained message.
fn filled() -> World {
    let world = World::start_with(&[("WEIR_HISTORY_FLUSH_INTERVAL_MS", "300")]);
    publish(&world, 0, 100);
    world.publish(&[("devices/d1/telemetry", "{")]);
    wait("some are flushed", || {
        let books = world.answer(&["books", "--format", "csv"]);
        if books.contains("history,101,100,0,0,1,true") { Ok(()) } else { Err(books) }
    });
    publish(&world, 100, 100);
    world
}

fn is_whole(world: &World, readings: usize) {
    let rows = world.answer(&["query", "d1", "--since", "1h", "--format", "json"]);
    assert_eq!(rows.lines().count(), readings, "{rows}");
    let letters = world.answer(&["dead-letters", "list", "--format", "json"]);
    assert_eq!(letters.lines().count(), 1, "{letters}");
    wait("the books balance", || {
        let books = world.answer(&["books", "--check", "--format", "csv"]);
        let line = format!("history,{},{readings},0,0,1,true,{readings},{readings}", readings + 1);
        if books.contains(&line) { Ok(()) } else { Err(books) }
    });
}

#[test]
fn a_backup_of_a_running_process_is_restored_after_a_kill() {
    let mut world = filled();
    let place = tempfile::tempdir().unwrap();
    let (copy, data) = (place.path().join("copy"), place.path().join("restored"));
    let taken = good(backup(&world.data(), &copy));
    assert!(taken.contains("holds every reading acknowledged before 2"), "{taken}");
    publish(&world, 200, 100);
    world.signal(Signal::KILL);
    world.ended();
    assert!(good(run(&["restore", copy.to_str().unwrap(), "--check"])).contains("are undamaged"));
    let told = good(restore(&copy, &data));
    assert!(told.contains("weir run --data-dir") && told.contains("weir books --check"), "{told}");
    for path in [&copy, &data] {
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path).unwrap());
        assert_eq!(mode & 0o777, 0o700, "{} is for its user alone", path.display());
    }
    let id = |data: &Path| std::fs::read_to_string(data.join("log/log.json")).unwrap();
    assert_ne!(id(&world.data()), id(&data), "a store tells the records of the two logs apart");
    let restored = World::start_on(&data);
    is_whole(&restored, 200);
    publish(&restored, 200, 10);
    is_whole(&restored, 210);
    // The original goes on beside it.
    world.up();
    is_whole(&world, 300);
}

#[test]
fn a_backup_of_a_stopped_process_is_whole_also_after_a_kill() {
    let mut world = filled();
    let place = tempfile::tempdir().unwrap();
    for (n, signal) in [Signal::TERM, Signal::KILL].into_iter().enumerate() {
        world.signal(signal);
        world.ended();
        let (copy, data) = (place.path().join(format!("copy{n}")), place.path().join(format!("data{n}")));
        good(backup(&world.data(), &copy));
        good(restore(&copy, &data));
        is_whole(&World::start_on(&data), 200);
        world.up();
    }
    is_whole(&world, 200);
}

#[test]
fn a_damaged_backup_is_refused_with_the_name_of_the_file() {
    let mut world = filled();
    let place = tempfile::tempdir().unwrap();
    let (copy, data) = (place.path().join("copy"), place.path().join("data"));
    good(backup(&world.data(), &copy));
    world.signal(Signal::KILL);
    world.ended();
    for name in ["log/00000000000000000000.seg", "log/cursors", "store/meta.redb", "secret", "manifest.json"] {
        let file = copy.join(name);
        let whole = std::fs::read(&file).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        std::fs::write(&file, flipped).unwrap();
        let text = refused(restore(&copy, &data));
        assert!(text.contains(file.to_str().unwrap()) && text.contains("damaged"), "{text}");
        let text = refused(run(&["restore", copy.to_str().unwrap(), "--check"]));
        assert!(text.contains(file.to_str().unwrap()), "{text}");
        std::fs::remove_file(&file).unwrap();
        let text = refused(restore(&copy, &data));
        assert!(text.contains(file.to_str().unwrap()) && text.contains("missing"), "{text}");
        assert!(!data.exists(), "nothing was written");
        std::fs::write(&file, whole).unwrap();
    }
    good(restore(&copy, &data));
}

#[test]
fn folders_that_hold_something_are_neither_overwritten_nor_taken_for_data() {
    let world = filled();
    let place = tempfile::tempdir().unwrap();
    let (copy, data) = (place.path().join("copy"), place.path().join("data"));
    let text = refused(backup(place.path(), &copy));
    assert!(text.contains("there is no data of a weir") && text.contains("--data-dir"), "{text}");
    good(backup(&world.data(), &copy));
    let text = refused(backup(&world.data(), &copy));
    assert!(text.contains("exists") && text.contains("copy"), "{text}");
    let text = refused(backup(&world.data(), &world.data().join("copy")));
    assert!(text.contains("lies in the data folder"), "{text}");
    let text = refused(restore(&copy, &world.data()));
    assert!(text.contains("a weir process uses"), "{text}");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("notes"), "").unwrap();
    let text = refused(restore(&copy, &data));
    assert!(text.contains("is not empty, it holds notes"), "{text}");
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 1, "nothing was written");
    // An interrupted restore.
    std::fs::rename(data.join("notes"), data.join("restoring")).unwrap();
    let start = run(&["run", "--data-dir", data.to_str().unwrap(), "--mqtt", "127.0.0.1:0"]);
    assert_eq!(start.status.code(), Some(1));
    for text in [refused(restore(&copy, &data)), err(&start)] {
        assert!(text.contains("holds an interrupted restore"), "{text}");
    }
    let doctor = out(&run(&["doctor", "--data-dir", data.to_str().unwrap()]));
    assert!(doctor.contains("fail  data folder") && doctor.contains("holds an interrupted restore"), "{doctor}");
    let (code, _) = world.get("/backup");
    assert_eq!(code, 405, "a backup is ordered with the token of the data folder");
}

#[test]
fn only_a_reader_of_the_data_folder_orders_a_backup() {
    use std::io::{Read, Write};
    let world = World::start();
    let place = tempfile::tempdir().unwrap();
    let order = format!(r#"{{"to":"{}"}}"#, place.path().join("copy").display());
    for given in ["", "Authorization: Bearer 00\r\n", "Authorization: Bearer\r\n"] {
        let mut stream = std::net::TcpStream::connect(world.address("http")).unwrap();
        let head = format!("POST /backup HTTP/1.1\r\nHost: weir\r\nContent-Type: application/json\r\n{given}");
        write!(stream, "{head}Content-Length: {}\r\nConnection: close\r\n\r\n{order}", order.len()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 403 "), "{text}");
    }
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn data_of_a_later_release_is_neither_copied_nor_restored() {
    let mut world = filled();
    let place = tempfile::tempdir().unwrap();
    let (copy, data) = (place.path().join("copy"), place.path().join("data"));
    good(backup(&world.data(), &copy));
    world.signal(Signal::TERM);
    world.ended();
    let identity = world.data().join("log/log.json");
    let text = std::fs::read_to_string(&identity).unwrap();
    std::fs::write(&identity, text.replace(r#""version":1"#, r#""version":9"#)).unwrap();
    let later = place.path().join("later");
    let text = refused(backup(&world.data(), &later));
    assert!(text.contains("log.json") && text.contains("format version 9"), "{text}");
    assert!(text.contains("start the release that wrote it") && !later.exists(), "{text}");
    let manifest = copy.join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace(r#""format": 1"#, r#""format": 2"#)).unwrap();
    let text = refused(restore(&copy, &data));
    assert!(text.contains("manifest.json has format 2") && !data.exists(), "{text}");
}
