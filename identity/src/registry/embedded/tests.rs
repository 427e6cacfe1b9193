use std::io::ErrorKind;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, ReadableTable, StorageBackend};

use super::*;
use crate::registry::contract::{self, contract, key, origin, secret, tenant};
use crate::registry::rules::CreateCredential;
use crate::registry::{Class, Credential, Fault, Origin, RegistryWrites, TenantState};

fn open() -> (tempfile::TempDir, EmbeddedRegistry) {
    let dir = tempfile::tempdir().unwrap();
    let registry = EmbeddedRegistry::open(path_in(dir.path())).unwrap();
    (dir, registry)
}

fn path_in(dir: &Path) -> PathBuf {
    dir.join("registry.redb")
}

contract!(open());

/// A registry with a chain of five events.
async fn with_chain() -> (tempfile::TempDir, EmbeddedRegistry) {
    let (dir, registry) = open();
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    registry.create_tenant(tenant("b"), &origin()).await.unwrap();
    for _ in 0..4 {
        registry.create_credential(key("a"), &origin()).await.unwrap();
    }
    (dir, registry)
}

/// Changes the stored event `sequence` of the tenant `a`.
async fn tamper(registry: &EmbeddedRegistry, sequence: u64, change: impl Fn(&mut Vec<u8>) + Send + 'static) {
    let edit = move |write: &WriteTransaction| {
        let mut table = write.open_table(rows::AUDIT)?;
        let mut bytes = table.get(("a", sequence))?.unwrap().value().to_vec();
        change(&mut bytes);
        table.insert(("a", sequence), bytes.as_slice())?;
        Ok(())
    };
    registry.write(edit).await.unwrap();
}

async fn remove(registry: &EmbeddedRegistry, sequence: u64) {
    let edit = move |write: &WriteTransaction| {
        write.open_table(rows::AUDIT)?.remove(("a", sequence))?;
        Ok(())
    };
    registry.write(edit).await.unwrap();
}

async fn fault(registry: &EmbeddedRegistry) -> (u64, Option<Fault>) {
    assert_eq!(registry.verify_audit("b", None).await.unwrap().fault, None, "the chain of another tenant is whole");
    let report = registry.verify_audit("a", None).await.unwrap();
    (report.verified.sequence, report.fault)
}

#[tokio::test]
async fn a_flipped_bit_of_any_byte_breaks_the_chain_at_its_event() {
    let (_dir, registry) = with_chain().await;
    assert_eq!(fault(&registry).await, (5, None));
    let length = registry
        .read(|database| Ok(database.begin_read()?.open_table(rows::AUDIT)?.get(("a", 3))?.unwrap().value().len()));
    for at in 0..length.await.unwrap() {
        tamper(&registry, 3, move |bytes| bytes[at] ^= 1).await;
        assert_eq!(fault(&registry).await, (2, Some(Fault::Changed(3))), "byte {at}");
        tamper(&registry, 3, move |bytes| bytes[at] ^= 1).await;
    }
    assert_eq!(fault(&registry).await, (5, None));
}

#[tokio::test]
async fn a_missing_event_breaks_the_chain() {
    for sequence in 1..=4 {
        let (_dir, registry) = with_chain().await;
        remove(&registry, sequence).await;
        assert_eq!(fault(&registry).await, (sequence - 1, Some(Fault::Missing(sequence))));
    }
}

#[tokio::test]
async fn swapped_events_break_the_chain() {
    let (_dir, registry) = with_chain().await;
    let swap = |write: &WriteTransaction| {
        let mut table = write.open_table(rows::AUDIT)?;
        let two = table.get(("a", 2))?.unwrap().value().to_vec();
        let three = table.get(("a", 3))?.unwrap().value().to_vec();
        table.insert(("a", 2), three.as_slice())?;
        table.insert(("a", 3), two.as_slice())?;
        Ok(())
    };
    registry.write(swap).await.unwrap();
    assert_eq!(fault(&registry).await, (1, Some(Fault::Changed(2))));
}

#[tokio::test]
async fn an_event_that_was_cut_short_breaks_the_chain() {
    let (_dir, registry) = with_chain().await;
    tamper(&registry, 2, |bytes| bytes.truncate(10)).await;
    assert_eq!(fault(&registry).await, (1, Some(Fault::Changed(2))));
}

#[tokio::test]
async fn a_missing_end_is_found_by_the_head_and_by_a_checkpoint_when_the_head_was_changed_too() {
    let (_dir, registry) = with_chain().await;
    let noted = registry.verify_audit("a", None).await.unwrap().verified;
    remove(&registry, 5).await;
    assert_eq!(fault(&registry).await, (4, Some(Fault::End { ends: 4, head: 5 })));
    let fourth = registry.audit("a", None, 1).await.unwrap()[0].hash;
    registry.write(move |write| rows::put(write, rows::HEADS, "a", &(4_u64, fourth))).await.unwrap();
    assert_eq!(fault(&registry).await, (4, None));
    let report = registry.verify_audit("a", Some(noted)).await.unwrap();
    assert_eq!(report.fault, Some(Fault::End { ends: 4, head: 5 }));
}

#[tokio::test]
async fn a_change_whose_event_cannot_be_written_is_not_made() {
    let (_dir, registry) = with_chain().await;
    let damage = |write: &WriteTransaction| {
        write.open_table(rows::HEADS)?.insert("a", b"no head".as_slice())?;
        Ok(())
    };
    registry.write(damage).await.unwrap();
    let before = registry.changes(0, 99).await.unwrap();
    let credential = secret("a", "d");
    let refused = registry.create_credential(credential.clone(), &origin()).await;
    assert!(matches!(&refused, Err(Error::Unavailable(reason)) if reason.contains("registry.redb")), "{refused:?}");
    let refused = registry.set_tenant_state("a", TenantState::Suspended, &origin()).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    assert_eq!(registry.credential(credential.id).await.unwrap(), None);
    assert!(registry.device_credentials("a", None, None, 9).await.unwrap().is_empty());
    assert_eq!(registry.tenant("a").await.unwrap().unwrap().state, TenantState::Active);
    assert_eq!(registry.changes(0, 99).await.unwrap(), before);
    assert!(matches!(fault(&registry).await, (5, Some(Fault::End { .. }))));
}

#[tokio::test]
async fn a_tenant_has_at_most_1000_api_keys_and_expired_ones_make_room() {
    const MOST: usize = 1000;
    let (_dir, registry) = open();
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let fill = |write: &WriteTransaction| {
        for n in 0..MOST {
            let expires = (n % 100 == 0).then_some(contract::NOW + 10);
            changes::make(write, &CreateCredential(Credential { expires, ..key("a") }, origin()))?;
        }
        Ok(())
    };
    registry.write(fill).await.unwrap();
    let refused = registry.create_credential(key("a"), &origin()).await;
    assert!(matches!(refused, Err(Error::Limit { most: MOST, .. })), "{refused:?}");
    let later = Origin { at: contract::NOW + 10, ..origin() };
    registry.create_credential(key("a"), &later).await.unwrap();
    assert_eq!(registry.tenant_credentials("a", Class::ApiKey, None, 2000).await.unwrap().len(), MOST - 10 + 1);
}

#[tokio::test]
async fn a_follower_that_fell_behind_learns_of_the_gap() {
    let (_dir, registry) = open();
    let fill = |write: &WriteTransaction| {
        for _ in 0..10_003 {
            audit::control(write, "a", crate::ChangeKind::TenantActive)?;
        }
        Ok(())
    };
    registry.write(fill).await.unwrap();
    let changes = async |after| registry.changes(after, 1).await.unwrap();
    assert!(changes(0).await.has_gap && changes(2).await.has_gap);
    assert!(!changes(3).await.has_gap);
    assert_eq!(changes(3).await.entries[0].number, 4);
}

#[tokio::test]
async fn a_damaged_row_is_refused_and_named() {
    let (_dir, registry) = open();
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let id = registry.create_credential(secret("a", "d"), &origin()).await.unwrap().row.id;
    let damage = move |write: &WriteTransaction| {
        let mut table = write.open_table(rows::CREDENTIALS)?;
        let mut bytes = table.get(id.as_str())?.unwrap().value().to_vec();
        bytes[20] ^= 1;
        table.insert(id.as_str(), bytes.as_slice())?;
        Ok(())
    };
    registry.write(damage).await.unwrap();
    let refused = registry.credential(id).await.unwrap_err().to_string();
    assert!(refused.contains(id.as_str()) && refused.contains("restore"), "{refused}");
}

#[tokio::test]
async fn all_is_found_again_after_a_restart_and_one_process_has_the_file() {
    let (dir, registry) = with_chain().await;
    let second = EmbeddedRegistry::open(path_in(dir.path()));
    assert!(matches!(&second, Err(Error::Unavailable(reason)) if reason.contains("another process")), "{second:?}");
    let keys = registry.tenant_credentials("a", Class::ApiKey, None, 9).await.unwrap();
    drop(registry);
    let again = EmbeddedRegistry::open(path_in(dir.path())).unwrap();
    assert_eq!(again.tenant_credentials("a", Class::ApiKey, None, 9).await.unwrap(), keys);
    again.create_credential(key("a"), &origin()).await.unwrap();
    assert_eq!(fault(&again).await, (6, None));
}

const PAGE: u64 = 4096;

/// A file on a disk that can be full: then only the first page, which holds the header, can be
/// written over.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    full: Arc<AtomicBool>,
}

impl Disk {
    fn space(&self) -> std::io::Result<()> {
        if self.full.load(Ordering::SeqCst) { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> std::io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.space().and_then(|()| self.file.set_len(len))
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        if offset >= PAGE {
            self.space()?;
        }
        self.file.write(offset, data)
    }

    fn close(&self) -> std::io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> std::result::Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> std::result::Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}

/// A registry with the tenant `a` on a disk that is full while the flag is set.
async fn on_disk() -> (tempfile::TempDir, EmbeddedRegistry, Arc<AtomicBool>) {
    let dir = tempfile::tempdir().unwrap();
    let full = Arc::new(AtomicBool::new(false));
    let disk = Arc::clone(&full);
    let open = move |path: &Path| {
        let file = std::fs::File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        Database::builder().create_with_backend(Disk { file: FileBackend::new(file)?, full: Arc::clone(&disk) })
    };
    let registry = EmbeddedRegistry::open_with(path_in(dir.path()), Arc::new(open)).unwrap();
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    (dir, registry, full)
}

#[tokio::test]
async fn a_full_disk_refuses_changes_whole_and_space_alone_ends_it() {
    let (_dir, registry, full) = on_disk().await;
    full.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let refused = registry.create_credential(key("a"), &origin()).await;
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    }
    full.store(false, Ordering::SeqCst);
    registry.create_credential(key("a"), &origin()).await.unwrap();
    assert_eq!(registry.tenant_credentials("a", Class::ApiKey, None, 9).await.unwrap().len(), 1);
    let report = registry.verify_audit("a", None).await.unwrap();
    assert_eq!((report.verified.sequence, report.fault), (2, None));
}

#[tokio::test]
async fn credentials_and_changes_are_read_while_the_disk_is_full() {
    let (_dir, registry, full) = on_disk().await;
    let known = registry.create_credential(key("a"), &origin()).await.unwrap().row;
    full.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let refused = registry.create_credential(key("a"), &origin()).await;
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
        let found = registry.credential(known.id).await.unwrap().unwrap();
        assert_eq!(found.credential, known);
        assert_eq!(registry.changes(0, 9).await.unwrap().newest, 2);
    }
}

#[tokio::test]
async fn a_file_that_is_gone_is_named_and_no_empty_one_takes_its_place() {
    let (dir, registry, full) = on_disk().await;
    let known = registry.create_credential(key("a"), &origin()).await.unwrap().row;
    full.store(true, Ordering::SeqCst);
    registry.create_credential(key("a"), &origin()).await.unwrap_err();
    full.store(false, Ordering::SeqCst);
    let (path, away) = (path_in(dir.path()), dir.path().join("away"));
    std::fs::rename(&path, &away).unwrap();
    for _ in 0..2 {
        let refused = registry.credential(known.id).await;
        assert!(matches!(&refused, Err(Error::Unavailable(reason)) if reason.contains("is gone")), "{refused:?}");
        assert!(!path.exists());
    }
    std::fs::rename(&away, &path).unwrap();
    assert_eq!(registry.credential(known.id).await.unwrap().unwrap().credential, known);
}

#[tokio::test]
async fn a_table_that_a_file_lacks_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::create(path_in(dir.path())).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(rows::TENANTS).unwrap();
    write.commit().unwrap();
    drop(database);
    let registry = EmbeddedRegistry::open(path_in(dir.path())).unwrap();
    assert!(registry.tenant_credentials("a", Class::ApiKey, None, 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_copy_holds_the_registry_of_one_moment() {
    let (dir, registry) = with_chain().await;
    let path = dir.path().join("copy.redb");
    let taken = registry.clone();
    let to = path.clone();
    tokio::task::spawn_blocking(move || taken.copy_to(&to)).await.unwrap().unwrap();
    registry.create_credential(key("a"), &origin()).await.unwrap();
    let copy = EmbeddedRegistry::open(path.clone()).unwrap();
    let ids = |keys: Vec<Listed>| keys.iter().map(|key| key.credential.id).collect::<Vec<_>>();
    let (own, copied) = (
        registry.tenant_credentials("a", Class::ApiKey, None, 100).await.unwrap(),
        copy.tenant_credentials("a", Class::ApiKey, None, 100).await.unwrap(),
    );
    let (own, copied) = (ids(own), ids(copied));
    assert_eq!((own.len(), copied.len()), (5, 4));
    assert!(copied.iter().all(|id| own.contains(id)));
    let report = copy.verify_audit("a", None).await.unwrap();
    assert_eq!((report.verified.sequence, report.fault), (5, None));
    assert_eq!(copy.audit("a", None, 100).await.unwrap().len(), 5);
    drop(copy);
    assert!(registry.copy_to(&path.join("below-a-file")).is_err());
}
