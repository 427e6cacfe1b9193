//! The program from the outside.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn weir_sim() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-sim"));
    command.current_dir(std::env::temp_dir()).stdin(Stdio::null());
    command
}

/// An address that nothing listens on.
fn unused_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn a_run_against_nobody_ends_soon_and_fails() {
    let begun = Instant::now();
    let arguments = ["run", "steady", "--quiet", "--patience", "1s", "--broker", &unused_address()];
    let output = weir_sim().args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no device could connect to 127.0.0.1:") && text.contains("--broker"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn a_listener_that_does_not_speak_mqtt_is_nobody_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let output = weir_sim()
        .args(["run", "steady", "--devices", "0.01", "--quiet", "--patience", "1s", "--broker", &address])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn an_interrupt_ends_a_run_with_its_summary() {
    let mut child = weir_sim()
        .args(["run", "steady", "--devices", "0.01", "--patience", "1h", "--broker", &unused_address()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first line of its progress.
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains(", interrupted") && text.contains("messages sent"), "{text}");
}

#[test]
fn a_scenario_in_the_working_folder_is_played() {
    let dir = tempfile::tempdir().unwrap();
    let template = weir_sim().args(["scenarios", "steady"]).output().unwrap().stdout;
    std::fs::write(dir.path().join("mine.toml"), template).unwrap();
    let output = weir_sim()
        .current_dir(dir.path())
        .args(["run", "mine.toml", "--devices", "0.01", "--quiet", "--patience", "1s", "--broker", &unused_address()])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("no device could connect"), "{text}");
}

#[test]
fn a_file_of_authorities_that_is_missing_is_named() {
    let output = weir_sim()
        .args(["run", "steady", "--quiet", "--broker", "mqtts://localhost:1", "--ca", "missing/ca.pem"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("`--ca` = missing/ca.pem"), "{text}");
}

#[test]
fn all_addresses_of_a_broker_are_tried() {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap().to_string()).join(",");
    let (reached, reaches) = std::sync::mpsc::channel();
    for (number, listener) in listeners.into_iter().enumerate() {
        let reached = reached.clone();
        std::thread::spawn(move || listener.incoming().for_each(|_| reached.send(number).unwrap_or_default()));
    }
    drop(reached);
    let mut child = weir_sim()
        .args(["run", "steady", "--devices", "0.2", "--quiet", "--patience", "1h", "--broker", &addresses])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut seen = std::collections::HashSet::new();
    while seen.len() < 3 {
        seen.insert(reaches.recv_timeout(Duration::from_secs(30)).unwrap());
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
