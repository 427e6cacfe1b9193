use std::io::Cursor;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU16, Ordering};

use model::time::SECOND;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::*;
use crate::oauth::HttpFetch;
use crate::registry::{AuditRange, Denial, EmbeddedRegistry, Fault, Registry, RegistryWrites};

const START: Nanos = 1_700_000_000 * SECOND;

#[derive(Debug)]
struct Hand(AtomicI64);

impl model::Clock for Hand {
    fn now(&self) -> Nanos {
        self.0.load(Ordering::SeqCst)
    }
}

/// A registry, a folder for checkpoints, and a clock.
struct World {
    dir: tempfile::TempDir,
    clock: Arc<Hand>,
    registry: EmbeddedRegistry,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let registry = EmbeddedRegistry::open(dir.path().join("registry.redb")).unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        CheckpointKey::open(&dir.path().join("audit-key")).unwrap();
        Self { dir, clock: Arc::new(Hand(AtomicI64::new(START))), registry }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn pass(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds * SECOND, Ordering::SeqCst);
    }

    /// As after a start of the process.
    fn started(&self, targets: Vec<CheckpointTarget>) -> Checkpoints {
        let options = CheckpointOptions { events: 5, ..CheckpointOptions::default() };
        let registry = Arc::new(self.registry.clone());
        let (key, file) = (self.path("audit-key"), self.path("checkpoints.redb"));
        Checkpoints::new(registry, self.clock.clone(), key, file, options, targets)
    }

    fn folder(&self) -> CheckpointTarget {
        CheckpointTarget::Folder(self.path("out"))
    }

    /// The same events of any world have the same hashes.
    async fn events(&self, tenant: &str, from: u64, count: u64) {
        for n in from..from + count {
            let denial = Denial {
                tenant: tenant.into(),
                principal: String::new(),
                method: "Connect".into(),
                address: None,
                reason: format!("event {n}"),
                at: START,
                count: 1,
            };
            self.registry.record_denials(&[denial]).await.unwrap();
        }
    }

    fn keys(&self) -> CheckpointKeys {
        CheckpointKeys::read(&self.path("audit-key.pub")).unwrap()
    }

    /// The file of the folder.
    fn file(&self) -> Option<std::path::PathBuf> {
        let found: Vec<_> = std::fs::read_dir(self.path("out")).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(found.len() < 2, "{found:?}");
        found.into_iter().next()
    }

    fn lines(&self) -> Vec<String> {
        let text = self.file().map(|file| std::fs::read_to_string(file).unwrap()).unwrap_or_default();
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    fn sequences(&self) -> Vec<u64> {
        self.lines().iter().map(|line| serde_json::from_str::<SignedCheckpoint>(line).unwrap().sequence).collect()
    }

    fn read(&self, lines: &[String]) -> Result<CheckedCheckpoints, CheckpointError> {
        read(&self.keys(), &lines.join("\n"))
    }
}

fn read(keys: &CheckpointKeys, text: &str) -> Result<CheckedCheckpoints, CheckpointError> {
    let mut reader = CheckpointReader::new(keys);
    reader.read("file", Cursor::new(text))?;
    reader.finish()
}

fn fault(read: Result<CheckedCheckpoints, CheckpointError>) -> (usize, CheckpointFault) {
    match read {
        Err(CheckpointError::Line { line, fault, .. }) => (line, fault),
        other => panic!("{other:?}"),
    }
}

/// A world with three checkpoints of `t` and one of `u`.
async fn signed() -> (World, Vec<String>) {
    let world = World::new();
    let checkpoints = world.started(vec![world.folder()]);
    world.events("u", 1, 1).await;
    for from in [1, 3, 5] {
        world.events("t", from, 2).await;
        checkpoints.step_all().await;
        world.pass(60);
    }
    let lines = world.lines();
    assert_eq!(world.sequences(), [2, 1, 4, 6]);
    (world, lines)
}

#[tokio::test]
async fn a_chain_that_moved_is_signed_after_its_time_or_its_number_of_events() {
    let world = World::new();
    let checkpoints = world.started(vec![world.folder()]);
    checkpoints.step_all().await;
    assert_eq!(world.file(), None, "without events nothing is signed");
    world.events("t", 1, 2).await;
    checkpoints.step_all().await;
    assert_eq!(world.sequences(), [2], "the first one at once");
    world.events("t", 3, 4).await;
    world.pass(59);
    checkpoints.step_all().await;
    assert_eq!(world.sequences(), [2]);
    world.pass(1);
    checkpoints.step_all().await;
    assert_eq!(world.sequences(), [2, 6]);
    world.pass(600);
    checkpoints.step_all().await;
    assert_eq!(world.sequences(), [2, 6], "the chain has not moved");
    world.events("t", 7, 1).await;
    checkpoints.step_all().await;
    world.events("t", 8, 4).await;
    checkpoints.step_all().await;
    assert_eq!(world.sequences(), [2, 6, 7]);
    world.events("t", 12, 1).await;
    checkpoints.step_all().await;
    assert_eq!(world.sequences(), [2, 6, 7, 12], "five events are not kept waiting");
    let checked = world.read(&world.lines()).unwrap();
    assert_eq!((checked.lines, checked.events["t"].len()), (4, 4));
    for event in &checked.events["t"] {
        assert_eq!(world.registry.verify_audit("t", Some(*event)).await.unwrap().fault, None);
    }
    let mode = std::fs::metadata(world.path("audit-key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let status = &checkpoints.status()[0];
    assert_eq!(
        (status.delivered, status.newest, &status.problem),
        (4, Some(world.clock.0.load(Ordering::SeqCst)), &None)
    );
}

#[tokio::test]
async fn forged_reordered_and_missing_checkpoints_are_found() {
    let (world, lines) = signed().await;
    let whole = world.read(&lines).unwrap();
    assert_eq!(whole.events.keys().collect::<Vec<_>>(), ["t", "u"]);
    let at = |order: &[usize]| world.read(&order.iter().map(|n| lines[*n].clone()).collect::<Vec<_>>());
    assert_eq!(at(&[0, 0, 1, 2, 3, 3]).unwrap().events, whole.events, "handed over twice");
    assert_eq!(fault(at(&[0, 1, 3])), (3, CheckpointFault::Missing));
    assert_eq!(fault(at(&[1, 2, 3])), (2, CheckpointFault::Missing), "the first one");
    assert_eq!(fault(at(&[0, 1, 2, 3, 2])), (5, CheckpointFault::Reordered));
    assert_eq!(fault(at(&[2, 0])), (1, CheckpointFault::Missing));
    // Lines at the end that are gone leave the file whole: the signer says what it has handed over.
    let cut = at(&[0, 1, 2]).unwrap();
    let checkpoints = world.started(vec![world.folder()]);
    checkpoints.step_all().await;
    let newest = checkpoints.newest("t").remove(0);
    let key = (newest.signer.clone(), newest.tenant.clone());
    assert!(cut.newest[&key] < newest.sequence && whole.newest[&key] == newest.sequence);

    let forged = |change: &dyn Fn(&mut SignedCheckpoint)| {
        let mut checkpoint: SignedCheckpoint = serde_json::from_str(&lines[0]).unwrap();
        change(&mut checkpoint);
        fault(world.read(&[checkpoint.line()])).1
    };
    type Change = fn(&mut SignedCheckpoint);
    let changes: [Change; 7] = [
        |checkpoint| checkpoint.signer.push('x'),
        |checkpoint| checkpoint.tenant = "u".into(),
        |checkpoint| checkpoint.sequence = 1,
        |checkpoint| checkpoint.hash[0] ^= 1,
        |checkpoint| checkpoint.time += 1,
        |checkpoint| checkpoint.previous[31] ^= 1,
        |checkpoint| checkpoint.signature[5] ^= 1,
    ];
    for change in changes {
        assert_eq!(forged(&change), CheckpointFault::Forged);
    }
    assert_eq!(forged(&|checkpoint| checkpoint.key = "0123456789abcdef".into()), CheckpointFault::UnknownKey);
    let other = World::new();
    assert_eq!(fault(read(&other.keys(), &lines[0])), (1, CheckpointFault::UnknownKey));
    assert_eq!(fault(read(&world.keys(), "no checkpoint")), (1, CheckpointFault::Malformed));
}

#[tokio::test]
async fn a_line_that_a_crash_tore_is_written_again_and_accepted() {
    let (world, lines) = signed().await;
    let torn = &lines[3][..70];
    let text = format!("{}\n{}\n{}\n{torn}\n{}\n", lines[0], lines[1], lines[2], lines[3]);
    assert_eq!(read(&world.keys(), &text).unwrap().lines, 4);
    let text = format!("{}\n{}\n{}\n{torn}", lines[0], lines[1], lines[2]);
    assert_eq!(read(&world.keys(), &text).unwrap().incomplete.as_deref(), Some("file, line 4"));
    let text = format!("{}\n{torn}\n{}\n{}\n", lines[0], lines[1], lines[2]);
    assert_eq!(fault(read(&world.keys(), &text)), (2, CheckpointFault::Malformed), "not written again");
}

#[tokio::test]
async fn checkpoints_of_a_key_that_was_replaced_stay_valid() {
    let (world, old) = signed().await;
    let before = CheckpointKey::read(&world.path("audit-key")).unwrap().unwrap();
    let new = CheckpointKey::replace(&world.path("audit-key")).unwrap();
    assert_ne!(before.id(), new.id());
    let checkpoints = world.started(vec![world.folder()]);
    world.events("t", 7, 5).await;
    checkpoints.step_all().await;
    let lines = world.lines();
    let last: SignedCheckpoint = serde_json::from_str(&lines[4]).unwrap();
    assert_eq!((last.key.as_str(), last.sequence, &lines[..4]), (new.id(), 11, &old[..]));
    assert_eq!(world.read(&lines).unwrap().events["t"].len(), 4);
    let only = world.path("only.pub");
    std::fs::write(&only, new.public_pem()).unwrap();
    let unknown = read(&CheckpointKeys::read(&only).unwrap(), &lines.join("\n"));
    assert_eq!(fault(unknown), (1, CheckpointFault::UnknownKey));
    // A key that was put in place by hand becomes known too.
    std::fs::remove_file(world.path("audit-key.pub")).unwrap();
    CheckpointKey::open(&world.path("audit-key")).unwrap();
    assert_eq!(world.keys().ids().collect::<Vec<_>>(), [new.id()]);
    std::fs::set_permissions(world.path("audit-key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(CheckpointKey::open(&world.path("audit-key")).unwrap_err().to_string().contains("chmod 600"));
}

/// Puts other events in place of those of a world.
async fn with_events(world: World, events: &[(u64, u64)]) -> World {
    let other = World::new();
    for (from, count) in events {
        other.events("t", *from, *count).await;
    }
    World { registry: other.registry, dir: world.dir, clock: world.clock }
}

#[tokio::test]
async fn a_chain_that_was_computed_anew_or_cut_is_found_and_not_signed() {
    for (events, wanted) in [
        (vec![(1, 3), (50, 4)], Fault::Checkpoint(6)),
        (vec![(1, 4)], Fault::End { ends: 4, head: 6 }),
        (vec![], Fault::End { ends: 0, head: 6 }),
    ] {
        let (world, lines) = signed().await;
        let world = with_events(world, &events).await;
        let checked = world.read(&lines).unwrap();
        let known = checked.events["t"].clone();
        let report = world.registry.check_audit("t", &AuditRange { known, ..AuditRange::default() }).await.unwrap();
        let first = if events.len() == 2 { Fault::Checkpoint(4) } else { wanted.clone() };
        assert_eq!(report.fault, Some(first), "{events:?}");
        let checkpoints = world.started(vec![world.folder()]);
        checkpoints.step_all().await;
        if !events.is_empty() {
            assert_eq!(checkpoints.status()[0].altered, [format!("t: {wanted}")], "{events:?}");
        }
        assert_eq!(world.lines(), lines, "{events:?}");
    }
}

#[tokio::test]
async fn a_checkpoint_that_was_signed_before_a_crash_is_handed_over_after_it() {
    let world = World::new();
    world.events("t", 1, 2).await;
    let out = world.path("out");
    std::fs::remove_dir(&out).unwrap();
    let checkpoints = world.started(vec![world.folder()]);
    checkpoints.step_all().await;
    let problem = checkpoints.status()[0].problem.clone().unwrap();
    assert!(problem.contains("create its folder"), "{problem}");
    assert!(checkpoints.newest("t").is_empty(), "the target does not have it");
    drop(checkpoints);
    std::fs::create_dir(&out).unwrap();
    world.events("t", 3, 9).await;
    world.pass(3600);
    let checkpoints = world.started(vec![world.folder()]);
    checkpoints.step_all().await;
    assert_eq!(world.sequences(), [2, 11], "the same one, then one that covers all events since");
    assert_eq!(checkpoints.status()[0].problem, None);
    world.read(&world.lines()).unwrap();
    // A file that was cut within a line gets a new line.
    let file = world.file().unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, &text[..text.len() - 9]).unwrap();
    world.events("t", 12, 5).await;
    checkpoints.step_all().await;
    let last = std::fs::read_to_string(&file).unwrap().lines().last().unwrap().to_owned();
    assert_eq!(serde_json::from_str::<SignedCheckpoint>(&last).unwrap().sequence, 16);
}

#[tokio::test]
async fn a_target_without_space_is_reported_and_holds_up_no_other() {
    let world = World::new();
    world.events("t", 1, 2).await;
    let full = world.path("full");
    std::fs::create_dir(&full).unwrap();
    let targets = || vec![CheckpointTarget::Folder(full.clone()), world.folder()];
    let checkpoints = world.started(targets());
    let signer = {
        checkpoints.step_all().await;
        checkpoints.newest("t")[0].signer.clone()
    };
    let file = full.join(format!("checkpoints-{signer}.ndjson"));
    std::fs::remove_file(&file).unwrap();
    symlink("/dev/full", &file).unwrap();
    world.events("t", 3, 5).await;
    checkpoints.step_all().await;
    let problem = checkpoints.status()[0].problem.clone().unwrap();
    assert!(problem.contains("no space left") && problem.contains("free some"), "{problem}");
    assert_eq!(checkpoints.status()[1].problem, None);
    assert_eq!(world.sequences(), [2, 7]);
    std::fs::remove_file(&file).unwrap();
    checkpoints.step_all().await;
    assert_eq!(checkpoints.status()[0].problem, None);
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 1);
}

/// Answers each call with a status, and keeps the bodies that it accepted.
async fn hook(status: Arc<AtomicU16>) -> (String, Arc<parking_lot::Mutex<Vec<(String, String)>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/audit?key=hidden", listener.local_addr().unwrap());
    let accepted = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let kept = accepted.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                let lower = line.to_ascii_lowercase();
                length = lower.strip_prefix("content-length:").map_or(length, |rest| rest.trim().parse().unwrap());
                if line.trim().is_empty() {
                    break;
                }
                head.push_str(&lower);
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.unwrap();
            let status = status.load(Ordering::SeqCst);
            if status == 200 {
                kept.lock().push((head, String::from_utf8(body).unwrap()));
            }
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, accepted)
}

fn to_hook(url: &str, token: &Path) -> CheckpointTarget {
    let networks = vec!["127.0.0.0/8".parse().unwrap()];
    let http = HttpFetch::new(networks, None).unwrap();
    CheckpointTarget::Webhook(Webhook { url: url.to_owned(), token: Some(token.to_owned()), http })
}

#[tokio::test]
async fn a_webhook_that_was_away_gets_one_checkpoint_for_all_that_it_missed() {
    let world = World::new();
    let status = Arc::new(AtomicU16::new(503));
    let (url, accepted) = hook(status.clone()).await;
    let token = world.path("token");
    std::fs::write(&token, "secret-token\n").unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    let checkpoints = world.started(vec![to_hook(&url, &token), world.folder()]);
    for n in 0..20 {
        world.events("t", 1 + n * 5, 5).await;
        checkpoints.step_all().await;
        world.pass(3600);
    }
    let problem = checkpoints.status()[0].problem.clone().unwrap();
    assert!(problem.contains("503"), "{problem}");
    assert!(!checkpoints.status()[0].target.contains("hidden"));
    assert_eq!(world.sequences().len(), 20, "the other target has them all");
    status.store(200, Ordering::SeqCst);
    checkpoints.step_all().await;
    let bodies = std::mem::take(&mut *accepted.lock());
    assert!(bodies.iter().all(|(head, _)| head.contains("authorization: bearer secret-token")), "{bodies:?}");
    let text: String = bodies.iter().map(|(_, body)| body.as_str()).collect();
    let checked = read(&world.keys(), &text).unwrap();
    assert_eq!(checked.events["t"].iter().map(|event| event.sequence).collect::<Vec<_>>(), [5, 100]);
    assert_eq!(checkpoints.status()[0].problem, None);
}

#[tokio::test]
async fn a_checkpoint_for_a_call_needs_no_target() {
    let world = World::new();
    world.events("t", 1, 3).await;
    let checkpoints = world.started(Vec::new());
    let end = world.registry.verify_audit("t", None).await.unwrap().verified;
    let (checkpoint, public) = checkpoints.sign("t", end).unwrap();
    assert_eq!(world.keys().get(&checkpoint.key), Some(&public));
    let lines = [checkpoint.line(), checkpoint.line()];
    assert_eq!(world.read(&lines).unwrap().events["t"], [end]);
    assert!(!world.path("checkpoints.redb").exists());
}
